"""What the kernels of attention share: which keys a query sees, and which weights are kept."""

from __future__ import annotations

from functools import partial

from planish.ir import types as t
from planish.ir.loops import Const, Expr, as_index, cast, scalar, select, size_expr
from planish.ir.node import Node
from planish.ir.ops.attention import extras
from planish.ir.ops.ragged import bounds
from planish.ir.ops.random import DIGITS, scale, threshold
from planish.runtime.kernels.nest import Index, Pull, minimum, unflatten


def options(anchor: Node) -> tuple[Node | None, Node | None]:
    """The offset and the random key of an attention or its gradient."""
    rest = anchor.inputs[anchor.op.at_least :]
    return extras(rest, anchor.attrs.get("dropout", 0.0))


def before(anchor: Node, pull: Pull, b: Expr) -> Expr:
    """The number of keys before the first query of batch `b`, where the attention is causal."""
    offset, _ = options(anchor)
    if offset is not None:
        return cast(pull(offset, (b,) if offset.shape else ()), t.i64)
    return size_expr(anchor.inputs[1].shape[2] - anchor.inputs[0].shape[2])


def visible(anchor: Node, pull: Pull, b: Expr, row: Expr) -> Expr:
    """How many keys query `row` of batch `b` sees: all, or up to its own position, at most S."""
    keys = size_expr(anchor.inputs[1].shape[2])
    if not anchor.attrs["causal"]:
        return keys
    # a query before the first key sees none
    return scalar("max", minimum(before(anchor, pull, b) + row + 1, keys), as_index(0))


def heads_in(anchor: Node, p: Expr) -> tuple[Index, Index]:
    """The head number `p` of an attention: where it lies in q, and in keys and values.

    Those of ragged rows go head by head, so that threads which share them out have a part of each
    row, however long.
    """
    (batch, heads), groups = anchor.inputs[0].shape[:2], anchor.inputs[1].shape[1]
    if anchor.attrs.get("ragged"):
        h, b = unflatten(p, (heads, anchor.inputs[1].shape[0]))
        row = as_index(0)
    else:
        b, h = unflatten(p, (batch, heads))
        row = b
    return (row, h), (b, h if groups == heads else h // (heads // groups))


def queries_of(anchor: Node, pull: Pull, b: Expr) -> tuple[Expr, Expr]:
    """Where the queries of batch `b` begin in q, and how many they are."""
    size = anchor.inputs[0].shape[2]
    if not anchor.attrs.get("ragged"):
        return as_index(0), size_expr(size)
    first, count = bounds(partial(pull, anchor.inputs[4]), b, anchor.inputs[1].shape[0], size)
    return pull.nest.let(first), pull.nest.let(count)


def kept(anchor: Node, pull: Pull, place: Index, x: Expr) -> Expr:
    """`x` after dropout, for the weight at `place` (b, h, query, key)."""
    stays = survives(anchor, pull, place)
    return x if stays is None else select(stays, x * share(anchor), Const(0.0, x.type))


def share(anchor: Node) -> float:
    """What dropout multiplies the weights by that it keeps."""
    return scale(anchor.attrs["dropout"])


def survives(anchor: Node, pull: Pull, place: Index) -> Expr | None:
    """Whether the weight at `place` (b, h, query, key) is kept; None where all are."""
    _, key = options(anchor)
    if key is None:
        return None
    b, h, row, j = place
    heads, queries, keys = *anchor.inputs[0].shape[1:3], anchor.inputs[1].shape[2]
    at = (b * heads + h) * size_expr(queries) + row
    at = pull.nest.let(at * size_expr(keys)) + j
    words = [pull.nest.let(pull(key, (as_index(i),))) for i in range(2)]
    bits = scalar("threefry", *words, cast(at >> 32, t.u32), cast(at, t.u32))
    return (bits >> (32 - DIGITS)) < Const(threshold(1.0 - anchor.attrs["dropout"]), t.u32)
