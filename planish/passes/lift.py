"""Turn weights into arguments, so that a program can be given new ones, or update them in place.

    graph f(%x: f32[4]) {
      %w = param : f32[4]
      %0 = mul(%x, %w) : f32[4]
      return %0
    }
becomes
    graph f(%x: f32[4], %w: f32[4]) {
      %0 = mul(%x, %w) : f32[4]
      return %0
    }
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.types import TensorType


@dataclass(frozen=True)
class LiftParams:
    """Make the named params inputs, after the present ones and in this order; None: all of them."""

    names: tuple[str, ...] | None = None

    def __call__(self, graph: Graph) -> Graph:
        names = tuple(graph.params) if self.names is None else self.names
        for name in names:
            if name not in graph.params:
                raise IRError(f"lift: {graph.name} has no param {name!r}")
            if any(x.attrs["name"] == name for x in graph.inputs):
                raise IRError(f"lift: {graph.name} already has an input {name!r}")
        made = {name: lifted(graph, name) for name in names}

        def step(node: Node) -> Node:
            return made.get(node.attrs["name"], node) if node.op.name == "param" else node

        graph = graph.map(step)
        return replace(
            graph,
            inputs=(*graph.inputs, *made.values()),
            params={name: x for name, x in graph.params.items() if name not in made},
        )


def lifted(graph: Graph, name: str) -> Node:
    """The input that stands for a param."""
    array = graph.params[name]
    return OPS["input"](name=name, type=TensorType(t.dtype(array.dtype), array.shape))
