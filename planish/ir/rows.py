"""Evaluation of what is computed row by row, some rows at a time: in the caches, on all cores.

    graph made(%x: f32[384, 128]) {           graph made[N](%x: f32[N, 128]) {
      %0 = abs(%x) : f32[384, 128]              %0 = abs(%x) : f32[N, 128]
      ...                              becomes  ...

So are weights rounded. Bits are those of `evaluate` on the whole: of reductions only those count
as computed row by row whose order does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from planish.ir.dims import Dim, Size
from planish.ir.errors import PlanishError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.ops.base import make
from planish.ir.types import TensorType

PIECE = 1 << 20  # bytes of the largest operand that are computed at once, with some temporaries
ROWS = Dim("N")
ORDERLESS = ("max", "min")


def by_rows(graph: Graph) -> Graph:
    """The graph for any number of rows; itself where its rows depend on each other."""
    counts = {x.shape[:1] for x in graph.outputs}
    new: dict[Node, Node] = {}
    try:
        for node in graph.nodes:
            new[node] = _for_any(node, tuple([new[x] for x in node.inputs]), counts)
    except (PlanishError, _NotByRows):
        return graph
    outputs = tuple([new[x] for x in graph.outputs])
    if not outputs or not all(map(_has_rows, outputs)):
        return graph
    return Graph(graph.name, tuple([new[x] for x in graph.inputs]), outputs)


class _NotByRows(Exception):
    """Rows of a node depend on several rows of its operands."""


def _has_rows(x: Node) -> bool:
    return x.shape[:1] == (ROWS,)


def _for_any(node: Node, inputs: tuple[Node, ...], counts: set[tuple]) -> Node:
    """A node on inputs that may have any number of rows; their first axis, and no other, says."""
    name, attrs = node.op.name, dict(node.attrs)
    if name == "input" and node.type.rank > 1 and node.shape[:1] in counts:
        found = TensorType(node.dtype, (ROWS, *node.shape[1:]))
        return OPS["input"](name=attrs["name"], type=found)
    if not any(map(_has_rows, inputs)):
        return node.with_inputs(inputs)
    if name == "reshape" and attrs["shape"][:1] in counts:
        attrs["shape"] = (ROWS, *attrs["shape"][1:])
    elif node.op.kind == "elementwise":
        if any(_has_rows(x) and x.type.rank != node.type.rank for x in inputs):
            raise _NotByRows
    elif name not in ORDERLESS or 0 in attrs["axes"]:
        raise _NotByRows
    return make(node.op, inputs, attrs)


def jobs(
    graph: Graph, arrays: Sequence[np.ndarray], results: Sequence[np.ndarray],
    check: Callable[[np.ndarray], None],
) -> Iterator[Callable[[], None]]:  # fmt: skip
    """What computes the outputs of a graph into `results`, in any order, on any threads.

    `check` sees what is read.
    """
    cut = [_has_rows(x) for x in graph.inputs]
    if not any(cut):
        yield partial(_whole, graph, arrays, results, check)
        return
    count = results[0].shape[0]
    most = max(x.nbytes for x, by in zip(arrays, cut, strict=True) if by)
    step = max(1, PIECE * count // max(1, most))
    for first in range(0, count, step):
        part = slice(first, first + step)
        given = [x[part] if by else x for x, by in zip(arrays, cut, strict=True)]
        yield partial(_whole, graph, given, [x[part] for x in results], check)


def _whole(
    graph: Graph, arrays: Sequence[np.ndarray], results: Sequence[np.ndarray],
    check: Callable[[np.ndarray], None],
) -> None:  # fmt: skip
    for x in arrays:
        check(x)
    for target, found in zip(results, evaluate(graph, *arrays), strict=True):
        target[...] = found


def empty(node: Node, arrays: Sequence[np.ndarray], inputs: Sequence[Node]) -> np.ndarray:
    """Room for an output, as many rows as the arrays for `inputs` have."""
    shape = node.shape
    if isinstance(shape[:1] and shape[0], Size):
        rows = next(len(a) for a, x in zip(arrays, inputs, strict=True) if _has_rows(x))
        shape = (rows, *shape[1:])
    return np.empty(shape, node.dtype.numpy)
