"""Replace composites by their definition in primitives.

    %0 = relu(%x) : f32[4]
becomes
    %c0 = const 0.0 : f32[]
    %0 = maximum(%x, %c0) : f32[4]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planish.ir.graph import Graph
from planish.ir.groups import KERNEL_COMPOSITES
from planish.ir.node import Node
from planish.passes.rewrite import rewritten, walk


@dataclass(frozen=True)
class Expand:
    """Expand every composite but those named in `keep`, which have kernels of their own."""

    keep: tuple[str, ...] = tuple(sorted(KERNEL_COMPOSITES))

    def __call__(self, graph: Graph) -> Graph:
        return expand_where(graph, lambda node: node.op.name not in self.keep)


expand = Expand()


def expand_where(graph: Graph, wanted: Callable[[Node], bool]) -> Graph:
    """Expand the composites that are `wanted`, and those that appear in their definitions."""

    def step(node: Node) -> Node:
        if node.op.kind != "composite" or not wanted(node):
            return node
        found = node.op.expand(*node.inputs, **node.attrs)  # type: ignore[attr-defined]
        new = {x: x for x in node.inputs}
        for x in walk([found], node.inputs):
            new[x] = step(x.with_inputs(tuple([new[y] for y in x.inputs])))
        return new[found]

    return rewritten(graph, step)
