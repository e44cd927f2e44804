"""Compute at compile time what does not depend on the inputs.

    %c0 = const 2.0 : f32[]
    %c1 = const 3.0 : f32[]
    %0 = mul(%c0, %c1) : f32[]
    %1 = add(%x, %0) : f32[4]
becomes
    %c0 = const 6.0 : f32[]
    %0 = add(%x, %c0) : f32[4]

Scalars become constants, arrays new params. What a kernel computes as fast as it would load it
stays: views of weights, masks made from iota. An array larger by `GROWTH` bytes than what it is
made from stays too, so that one number broadcast to a terabyte is never computed; and what is kept
narrow is not made wide: casts of weights to wider numbers, and `dequantize`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from planish.ir.errors import PlanishError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node, viewed_of
from planish.ir.ops.arithmetic import Pow
from planish.ir.ops.base import const
from planish.ir.ops.functions import FloatUnary

GROWTH = 1 << 20  # bytes; tables of positions and masks fit, whole weights made from nothing do not
FREE = ("leaf", "view", "random")  # costs a kernel nothing, or would make a large table
CHEAP = ("elementwise", "indexing", *FREE)


def fold(graph: Graph) -> Graph:
    """Replace the last nodes of every constant expression by their values."""
    constant = constants(graph)
    chosen = {x for x in worthwhile(graph, constant) if x.op.kind not in FREE}
    roots = [x for x in graph.nodes if x in chosen and is_wanted(graph, x, chosen)]
    values = dict(computed(graph, roots))
    if not values:
        return graph
    params, made, new = dict(graph.params), dict(graph.made), {}
    for node, value in values.items():
        name = fresh(node, params) if node.shape else ""
        source = made_of(node, graph)
        if name or source.params:
            made[name] = source
        if name:
            value.flags.writeable = False
            params[name] = value
            new[node] = OPS["param"](name=name, type=node.type).at(node.loc)
        else:
            new[node] = const(value.item(), node.dtype).at(node.loc)
    return without_unread(replace(substituted(graph, new), params=params, made=made), graph)


def made_of(node: Node, graph: Graph) -> Graph:
    """The graph of one value, with the arrays that it reads."""
    part = Graph("made", (), (node,))
    return replace(part, params={name: graph.params[name] for name in part.param_nodes})


def constants(graph: Graph) -> set[Node]:
    """The nodes whose value is known and small enough to compute."""
    found: set[Node] = set()
    for node in graph.nodes:
        known = known_leaf(graph, node) or (node.inputs and found.issuperset(node.inputs))
        foldable = node.op.kind not in ("fused", "get", "random") and not widens(node)
        if known and foldable and fits(node):
            found.add(node)
    return found


def known_leaf(graph: Graph, node: Node) -> bool:
    """Whether a node without operands has a known value."""
    if node.op.name == "param":
        return node.attrs["name"] in graph.params
    return node.op.name in ("const", "iota")


def widens(node: Node) -> bool:
    """Whether a node makes wider numbers, or more of them, of an array that is stored."""
    if node.op.name == "expand_bitmap":
        return True
    narrow = node.op.name in ("cast", "dequantize") and node.inputs[0]
    if not narrow or not node.shape or narrow.dtype.bits >= node.dtype.bits:
        return False
    return viewed_of(narrow).op.name in ("param", "quantize")


def fits(node: Node) -> bool:
    """Whether the value is not much larger than what it is made from."""
    size = nbytes(node)
    if size is None or node.op.name == "param":
        return size is not None
    return size <= GROWTH + sum(nbytes(x) or 0 for x in node.inputs)


def nbytes(node: Node) -> int | None:
    """Bytes of the value; None where its size is symbolic."""
    if any(not isinstance(size, int) for size in node.shape):
        return None
    return math.prod(node.shape) * node.dtype.itemsize


def worthwhile(graph: Graph, constant: set[Node]) -> set[Node]:
    """Scalars, and arrays that are made from weights or at some cost."""
    found: set[Node] = set()
    for node in graph.nodes:
        costly = node.op.kind not in CHEAP or isinstance(node.op, (FloatUnary, Pow))
        if node in constant and (
            costly
            or node.op.name == "param"
            or not (node.shape or node.op.kind == "leaf")
            or not found.isdisjoint(node.inputs)
        ):
            found.add(node)
    return found


def is_wanted(graph: Graph, node: Node, chosen: set[Node]) -> bool:
    """Whether `node` is read by something that is not folded itself."""
    users = graph.users[node]
    return not users or node in graph.outputs or any(x not in chosen for x in users)


def computed(graph: Graph, roots: list[Node]) -> list[tuple[Node, np.ndarray]]:
    """The values of `roots`; what cannot be computed is left for the program to report."""
    part = Graph("fold", (), tuple(roots), graph.params)
    try:
        return list(zip(roots, evaluate(part), strict=True)) if roots else []
    except PlanishError:
        if len(roots) == 1:
            return []
        middle = len(roots) // 2
        return computed(graph, roots[:middle]) + computed(graph, roots[middle:])


def fresh(node: Node, taken: dict[str, np.ndarray]) -> str:
    """A name for a folded array: that of the weight it is made from, and the op."""
    source = node
    while source.inputs and source.op.name != "param":
        source = max(source.inputs, key=lambda x: nbytes(x) or 0)
    name = source.attrs.get("name", "folded") + "." + node.op.name
    numbered = (name, *(f"{name}{i}" for i in range(2, len(taken) + 3)))
    return next(n for n in numbered if n not in taken)


def substituted(graph: Graph, new: dict[Node, Node]) -> Graph:
    """`graph` with nodes replaced."""
    built: dict[Node, Node] = {}
    for node in graph.nodes:
        built[node] = new.get(node) or node.with_inputs(tuple(built[x] for x in node.inputs))
    return graph.with_outputs(tuple(built[x] for x in graph.outputs))


def without_unread(graph: Graph, before: Graph) -> Graph:
    """`graph` without the params that were read before and no longer are."""
    unread = before.param_nodes.keys() - graph.param_nodes.keys()
    return replace(graph, params={n: x for n, x in graph.params.items() if n not in unread})
