"""Pairs of bf16 as 32-bit words: how a matmul of bf16 reads its operands, two steps of k at a time.

    a[m, k], b[k, n] of bf16  ->  a[m, w], b[w, n] of u32, where w is k // 2; dpbf16 multiplies them

Rows of A are words already, where k is contiguous and even: the same memory is seen as u32. Words
of B are made when it is packed into panels. An odd k is padded with a zero.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import Shape
from planish.ir.loops import Expr, bitcast, cast
from planish.ir.node import OPS, Node
from planish.ir.ops.base import Elementwise
from planish.ir.ops.leaf import input_
from planish.ir.types import TensorType


def word(low: Expr, high: Expr) -> Expr:
    """The word that two bf16 make."""
    lower, upper = (bitcast(cast(x, t.f32), t.u32) for x in (low, high))
    return upper | lower >> 16


class Pair(Elementwise):
    """The word that two bf16 make, the first one in its lower half. Only lowering makes it."""

    name, arity = "pair", 2

    def infer(self, *types: TensorType) -> TensorType:
        """Words."""
        return types[0].with_dtype(t.u32)

    @staticmethod
    def function(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """By their bits; where the pairs lie side by side, they are the words already."""
        if (words := _in_place(low, high)) is not None:
            return words
        lower, upper = (np.ascontiguousarray(x).view(np.uint16) for x in (low, high))
        return lower | upper.astype(np.uint32) << np.uint32(16)

    def scalar(self, low: Expr, high: Expr, **attrs: Any) -> Expr:
        return word(low, high)


def _in_place(low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
    """The memory of two interleaved views of one array, seen as words."""
    given, (start, _) = low.__array_interface__, low.__array_interface__["data"]
    apart = high.__array_interface__["data"][0] - start
    even = start % 4 == 0 and all(step % 4 == 0 for step in low.strides)
    if apart != 2 or low.strides != high.strides or not even or sys.byteorder != "little":
        return None

    class View:
        __array_interface__ = {
            **given,
            "typestr": "<u4",
            "descr": [("", "<u4")],
            "strides": low.strides,
        }
        array = low  # the memory lives as long as this

    return np.asarray(View())


pair = Pair()


def takes_words(anchor: Node) -> bool:
    """Whether a matmul reads words: operands of bf16, whose depth is known now."""
    return anchor.inputs[0].dtype == t.bf16 and isinstance(anchor.inputs[0].shape[-1], int)


def is_dot(anchor: Node) -> bool:
    """Whether a matmul's operands are words."""
    return anchor.inputs[0].dtype == t.u32 and anchor.dtype.is_float


def padded(x: Node, axis: int) -> Node:
    """`x` with an even size along `axis`, counted from the end."""
    if x.shape[axis] % 2 == 0:
        return x
    high = [0] * x.type.rank
    high[axis] = 1
    return OPS["pad"](x, low=(0,) * x.type.rank, high=tuple(high), value=0.0)


def column_words(b: Node) -> Node:
    """Neighbours along the last but one axis as words."""
    halves = []
    for start in (0, 1):
        starts, steps = [0] * b.type.rank, [1] * b.type.rank
        starts[-2], steps[-2] = start, 2
        halves.append(OPS["slice"](b, starts=tuple(starts), stops=b.shape, steps=tuple(steps)))
    return pair(*halves)


def words_in(a: Node) -> Node | None:
    """The leaf in whose memory the rows of `a` are words; None where they are in none."""
    while a.op.kind != "leaf":
        if not _keeps_pairs(a):
            return None
        a = a.inputs[0]
    return a if _has_pairs(a.shape) else None


def as_words(leaf: Node) -> Node:
    """An input that is the memory of `leaf` as words."""
    return input_(name="words", type=TensorType(t.u32, _halved(leaf.shape)))


def seen_through(a: Node, leaf: Node) -> Node:
    """Words of `leaf` through the views that `a` is of its own leaf."""
    views: list[Node] = []
    while a.op.kind != "leaf":
        views.append(a)
        a = a.inputs[0]
    for view in reversed(views):
        leaf = view.op(leaf, **_of_words(view))
    return leaf


def _has_pairs(shape: Shape) -> bool:
    return bool(shape) and isinstance(shape[-1], int) and shape[-1] % 2 == 0


def _halved(shape: Shape) -> Shape:
    return (*shape[:-1], shape[-1] // 2)


def _keeps_pairs(view: Node) -> bool:
    """Whether neighbours along the last axis of a view are neighbours in its operand."""
    before, after = view.inputs[0].shape, view.shape
    if not _has_pairs(before) or not _has_pairs(after):
        return False
    if view.op.name == "slice":
        starts, steps = view.attrs["starts"], view.attrs["steps"]
        return isinstance(starts[-1], int) and starts[-1] % 2 == 0 and steps[-1] == 1
    last = len(after) - 1
    return view.op.name == "reshape" or (
        view.op.name == "transpose" and view.attrs["perm"][last] == last
    )


def _of_words(view: Node) -> dict[str, Any]:
    """The attributes of a view that does the same with words."""
    attrs = dict(view.attrs)
    for name in ("shape", "starts", "stops"):
        if name in attrs:
            attrs[name] = _halved(attrs[name])
    return attrs
