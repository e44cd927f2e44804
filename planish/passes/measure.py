"""What a graph costs, counted without running it: bytes, floating-point operations, memory.

Sizes are the given ones (`sizes`, name -> int), else the largest that the symbolic sizes can be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from planish.ir.dims import AnySize, upper, value
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.ir.order import run_order
from planish.ir.types import TensorType, TupleType

# products of an attention as wide as q, and as wide as v
PRODUCTS = {"attention": (1, 1), "attention_grad": (3, 2)}
FREE = ("cast", "stop_gradient", "again")  # elementwise, but no arithmetic
NOMINAL = 128  # stands for a symbolic size without a maximum
Sizes = Mapping[str, int] | None


def number(size: AnySize, sizes: Sizes = None) -> int:
    """A size as a number."""
    if isinstance(size, int):
        return size
    if sizes is not None:
        return value(size, sizes)
    largest = upper(size)
    return NOMINAL if largest is None else largest


def elements(x: TensorType, sizes: Sizes = None) -> int:
    """Number of elements of an array."""
    return math.prod(number(size, sizes) for size in x.shape)


def nbytes(node: Node, sizes: Sizes = None) -> int:
    """Bytes of a value."""
    items = node.type.items if isinstance(node.type, TupleType) else (node.type,)
    return sum(elements(x, sizes) * x.dtype.itemsize for x in items)


def weight_bytes(graph: Graph) -> int:
    """Bytes of the weights that a graph reads, those of 4 bits two in a byte."""
    return sum(
        -(-x.type.size * x.dtype.bits // 8)  # type: ignore[operator]
        for x in graph.param_nodes.values()
    )


def kernels(graph: Graph) -> int:
    """How many kernels run: the nodes but for leaves, views and parts of results."""
    return sum(node.op.kind not in ("leaf", "get", "view") for node in graph.nodes)


def bytes_moved(graph: Graph, sizes: Sizes = None) -> int:
    """Bytes that kernels read and write, if none stay in a cache from one to the next."""
    total = 0
    for node in graph.nodes:
        if node.op.kind not in ("leaf", "get", "view"):
            total += nbytes(node, sizes) + sum(nbytes(x, sizes) for x in dict.fromkeys(node.inputs))
    return total


def flops(graph: Graph, sizes: Sizes = None) -> int:
    """Arithmetic operations; a function such as exp counts as one."""
    total = 0
    for node in graph.nodes:
        if node.op.name == "fused":
            total += flops(node.attrs["body"], sizes)
        elif node.op.kind == "contraction":
            total += 2 * elements(node.type, sizes) * number(node.inputs[0].shape[-1], sizes)
        elif node.op.name in PRODUCTS:  # half of the scores are masked where it is causal
            q, k, v = (x.type for x in node.inputs[:3])
            scores = elements(q.with_shape((*q.shape[:3], k.shape[2])), sizes)
            with_q, with_v = (number(x.shape[3], sizes) for x in (q, v))
            times = PRODUCTS[node.op.name]
            both = 2 * scores * (times[0] * with_q + times[1] * with_v)
            total += both // (2 if node.attrs["causal"] else 1)
        elif node.op.kind in ("reduction", "special", "composite"):
            total += max(elements(x.type, sizes) for x in (node, *node.inputs))
        elif node.op.kind == "elementwise" and node.op.name not in FREE:
            total += elements(node.type, sizes)
    return total


def stored_bytes(graph: Graph, sizes: Sizes = None) -> int:
    """Bytes of all values, apart from inputs and weights: no more are alive at once."""
    return sum(nbytes(x, sizes) for x in graph.nodes if x.op.kind not in ("leaf", "view"))


def live_bytes(graph: Graph, sizes: Sizes = None, nodes: Sequence[Node] = ()) -> int:
    """Peak of the bytes that are alive at once, apart from inputs and weights: an estimate.

    A view is a name for its operand; the results of a fused node live and die one by one. Nodes run
    in the order that lowering gives them, or in that of `nodes`.
    """
    nodes = nodes or run_order(graph)
    place = {node: i for i, node in enumerate(nodes)}
    home: dict[Node, Node] = {}
    last: dict[Node, int] = {}
    for node in nodes:
        home[node] = home[node.inputs[0]] if node.op.kind == "view" else node
        for x in node.inputs:
            last[home[x]] = place[node]
    for x in graph.outputs:
        last[home[x]] = len(nodes)
    change = [0] * (len(nodes) + 2)
    for node, end in last.items():
        if node.op.kind != "leaf" and not isinstance(node.type, TupleType):
            start = place[node.inputs[0]] if node.op.kind == "get" else place[node]
            change[start] += nbytes(node, sizes)
            change[end + 1] -= nbytes(node, sizes)
    return max(accumulate(change))
