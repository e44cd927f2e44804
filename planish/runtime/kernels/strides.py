"""How far apart the elements of an operand lie in memory, seen through its views."""

from __future__ import annotations

from functools import lru_cache

from planish.ir.graph import Graph
from planish.ir.index import Poly, coefficient, linear_index, to_poly
from planish.ir.loops import Load, Var, size_expr
from planish.ir.node import Node
from planish.runtime.kernels.nest import Nest, Pull


@lru_cache(maxsize=64)  # products ask several times for those of an operand
def strides(body: Graph, x: Node) -> tuple[Poly | None, ...]:
    """How many elements apart neighbours of `x` along each axis lie; None where unevenly."""
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    index = tuple(Var(f"b{a}") for a in range(x.type.rank))
    nest.ranges.update({v.name: size_expr(s) for v, s in zip(index, x.shape, strict=True)})
    found = pull(x, index)
    if not isinstance(found, Load):
        return (None,) * x.type.rank
    node, buffer = next(
        x for x in (*pull.flat.items(), *pull.buffers.items()) if x[1] == found.buffer
    )
    shape = (node.type.size,) if node in pull.flat and buffer is pull.flat[node] else node.shape
    poly = to_poly(linear_index(found.index, shape, nest.ranges), nest.ranges)
    return tuple(coefficient(poly, v) for v in index)


def is_turned(body: Graph, a: Node) -> bool:
    """Whether neighbours in a column of `a`, not those in a row, lie side by side."""
    return strides(body, a)[-2] == {(): 1}


def whole(b: Node) -> Node:
    """The matrix [P * K, N] whose rows `b` [P, K, N] has in parts: they read its panels."""
    if b.op.name != "reshape" or b.type.rank != 3 or b.inputs[0].type.rank != 2:
        return b
    return b.inputs[0] if b.inputs[0].shape[1] == b.shape[2] else b
