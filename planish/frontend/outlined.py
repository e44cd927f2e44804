"""A function of nodes that is traced once for all operands of equal types.

    update = Outlined("update", lambda p, g: (p - 0.1 * g,))
    (new,) = update(p, g)          # fused @update(%p, %g)

A model has few kinds of parameters, and many of each: what updates them is one body for each kind,
and passes that look at a graph node by node find one node for each parameter.
"""

from __future__ import annotations

from collections.abc import Callable

from planish.ir.graph import Graph
from planish.ir.groups import body_of, classify
from planish.ir.node import OPS, Node
from planish.ir.types import TensorType
from planish.passes.pipelines import CLEAN

Nodes = tuple[Node, ...]


class Outlined:
    """`function` as one node for each call, where that is an elementwise kernel; else its nodes."""

    def __init__(self, name: str, function: Callable[..., Nodes]) -> None:
        self.name, self.function = name, function
        self._made: dict[tuple[TensorType, ...], tuple[Graph, tuple[int, ...]] | None] = {}

    def __call__(self, *operands: Node) -> Nodes:
        """The results."""
        types = tuple(x.type for x in operands)
        if types not in self._made:
            self._made[types] = self._body(types)
        made = self._made[types]
        if made is None:
            return self.function(*operands)
        body, places = made
        node = OPS["fused"](*(operands[i] for i in places), body=body)
        if len(body.outputs) == 1:
            return (node,)
        return tuple(OPS["get"](node, index=i) for i in range(len(body.outputs)))

    def _body(self, types: tuple[TensorType, ...]) -> tuple[Graph, tuple[int, ...]] | None:
        """The body for operands of these types, and which of them it reads."""
        given = tuple(OPS["input"](name=f"x{i}", type=x) for i, x in enumerate(types))
        clean = CLEAN.run(Graph(self.name, given, self.function(*given)))
        body, read = body_of(clean.nodes, clean.outputs, self.name)
        if classify(body).kind != "map" or not set(clean.outputs).isdisjoint(given):
            return None
        return body, tuple(map(given.index, read))
