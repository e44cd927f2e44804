"""Pairs of bf16 and quads of bytes as 32-bit words: how a matmul reads them, a word of k at a time.

    a[m, k], b[k, n] of bf16  ->  a[m, w], b[w, n] of u32, where w is k // 2; dpbf16 multiplies them
    a[m, k], b[k, n] of i8    ->  a[m, w], b[w, n] of u32, where w is k // 4; see `dot_of`

Rows of A are words already, where k is contiguous and makes whole words: the same memory is seen as
u32. Words of B are made when it is packed into panels. A k that makes no whole words is padded with
zeros.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import AnySize, Shape
from planish.ir.loops import Buffer, Const, Expr, as_index, bitcast, cast, scalar
from planish.ir.node import OPS, Node
from planish.ir.ops.base import Elementwise
from planish.ir.ops.leaf import input_
from planish.ir.types import DType, TensorType
from planish.runtime.kernels.nest import Nest
from planish.runtime.kernels.strides import whole
from planish.runtime.target import Target


def word(low: Expr, high: Expr) -> Expr:
    """The word that two bf16 make."""
    lower, upper = (bitcast(cast(x, t.f32), t.u32) for x in (low, high))
    return upper | lower >> 16


class Word(Elementwise):
    """The word that neighbours make, the first one in its lowest bits. Only lowering makes it."""

    def __init__(self, name: str, arity: int):
        self.name, self.arity = name, arity

    def infer(self, *types: TensorType) -> TensorType:
        """Words."""
        return types[0].with_dtype(t.u32)

    @staticmethod
    def function(*parts: np.ndarray) -> np.ndarray:
        """By their bits; where the parts lie side by side, they are the words already."""
        if (words := _in_place(parts)) is not None:
            return words
        bits = f"u{parts[0].dtype.itemsize}"
        found = np.zeros(parts[0].shape, np.uint32)
        for i, part in enumerate(parts):
            one = np.ascontiguousarray(part).view(bits).astype(np.uint32)
            found |= one << np.uint32(32 // len(parts) * i)
        return found

    def scalar(self, *parts: Expr, **attrs: Any) -> Expr:
        if len(parts) == 2:
            return word(*parts)
        first, *others = (cast(bitcast(x, t.u8), t.u32) for x in parts)
        for i, x in enumerate(others, 1):
            first = first | x << 8 * i
        return first


def _in_place(parts: Sequence[np.ndarray]) -> np.ndarray | None:
    """The memory of interleaved views of one array, seen as words."""
    low, size = parts[0], parts[0].dtype.itemsize
    starts = [x.__array_interface__["data"][0] for x in parts]
    apart = starts != [starts[0] + size * i for i in range(len(parts))]
    even = starts[0] % 4 == 0 and all(step % 4 == 0 for step in low.strides)
    alike = all(x.strides == low.strides for x in parts)
    if apart or not alike or not even or sys.byteorder != "little":
        return None

    class View:
        __array_interface__ = {
            **low.__array_interface__,
            "typestr": "<u4",
            "descr": [("", "<u4")],
            "strides": low.strides,
        }
        array = low  # the memory lives as long as this

    return np.asarray(View())


WORDS = {2: Word("pair", 2), 4: Word("quad", 4)}


def _unsigned_sums(b: np.ndarray) -> np.ndarray:
    return -128 * b.sum(-2, dtype=np.int32)


def _negative_sums(b: np.ndarray) -> np.ndarray:
    zeros = np.zeros((b.shape[-2], 1), np.int8)  # NumPy is slow where one number is on all sides
    return -np.minimum(b, zeros).sum(-2, dtype=np.int32)


# What sums over bytes of B [..., K, N] start with, i32 [..., N], so that dots add up to products of
# signed bytes: dpbusd takes bytes of A that are 128 more, dpflip leaves out magnitudes.
STARTS = {"dpbusd": _unsigned_sums, "dpflip": _negative_sums}


def row_starts(
    nest: Nest, of_a: Sequence[Callable[[Expr], Expr]], depth: AnySize, lanes: int
) -> Buffer:
    """What sums of each row start with where dpflip leaves out magnitudes of A."""
    starts, zero = nest.local("starts", t.i32, len(of_a)), Const(0, t.i32)
    for i, along in enumerate(of_a):
        nest.store(starts, (as_index(i),), zero)
        with nest.loop("w", depth, "vector", lanes) as w:
            short = -scalar("dpflip", zero, along(w), Const(0, t.u32))
            nest.accumulate(starts, (as_index(i),), "add", short)
    return starts


def takes_words(anchor: Node) -> bool:
    """Whether a matmul reads words: operands of bf16 or i8, whose depth is known now."""
    narrow = anchor.inputs[0].dtype
    fits = narrow == t.bf16 or (narrow, anchor.dtype) == (t.i8, t.i32)
    return fits and isinstance(anchor.inputs[0].shape[-1], int)


def in_word(dtype: DType) -> int:
    """How many elements make a word."""
    return 4 // dtype.itemsize


def dot_of(anchor: Node, target: Target, weights: bool) -> str:
    """The scalar that multiplies the words of a matmul of bf16 or i8, whose B may be `weights`.

    With those sums may start with what `STARTS` says, which is found when they are packed.
    """
    if anchor.dtype.is_float:
        return "dpbf16"
    if not weights or target.arch != "x86_64":
        return "dpbssd"
    return "dpbusd" if target.has_byte_dot else "dpflip" if target.has_byte_pairs else "dpbssd"


def padded(x: Node, axis: int) -> Node:
    """`x` with a size along `axis`, counted from the end, that makes whole words."""
    rest = -x.shape[axis] % in_word(x.dtype)
    if rest == 0:
        return x
    high = [0] * x.type.rank
    high[axis] = rest
    return OPS["pad"](x, low=(0,) * x.type.rank, high=tuple(high), value=0)


def column_words(b: Node) -> Node:
    """Neighbours along the last but one axis as words; rows in parts stay those of one matrix."""
    count, parts = in_word(b.dtype), []
    if (matrix := whole(b)) is not b and b.shape[1] % count == 0:  # type: ignore[operator]
        deep = b.shape[1] // count  # type: ignore[operator]
        return OPS["reshape"](column_words(matrix), shape=(b.shape[0], deep, b.shape[2]))
    for start in range(count):
        starts, steps = [0] * b.type.rank, [1] * b.type.rank
        starts[-2], steps[-2] = start, count
        parts.append(OPS["slice"](b, starts=tuple(starts), stops=b.shape, steps=tuple(steps)))
    return WORDS[count](*parts)


def before_words(b: Node) -> Node | None:
    """The matrix of which `column_words` made `b`; None where it did not."""
    if not isinstance(b.op, Word) or b.inputs[0].op.name != "slice":
        return None
    matrix = b.inputs[0].inputs[0]
    parts = [[(x.op, x.inputs, x.attrs) for x in y.inputs] for y in (b, column_words(matrix))]
    return matrix if parts[0] == parts[1] else None


def words_in(a: Node) -> Node | None:
    """The leaf in whose memory the rows of `a` are words; None where they are in none."""
    count = in_word(a.dtype)
    while a.op.kind != "leaf":
        if not _keeps_words(a, count):
            return None
        a = a.inputs[0]
    return a if _has_words(a.shape, count) else None


def as_words(leaf: Node) -> Node:
    """An input that is the memory of `leaf` as words."""
    return input_(name="words", type=TensorType(t.u32, _fewer(leaf.shape, in_word(leaf.dtype))))


def seen_through(a: Node, leaf: Node) -> Node:
    """Words of `leaf` through the views that `a` is of its own leaf."""
    views: list[Node] = []
    count = in_word(a.dtype)
    while a.op.kind != "leaf":
        views.append(a)
        a = a.inputs[0]
    for view in reversed(views):
        leaf = view.op(leaf, **_of_words(view, count))
    return leaf


def _has_words(shape: Shape, count: int) -> bool:
    return bool(shape) and isinstance(shape[-1], int) and shape[-1] % count == 0


def _fewer(shape: Shape, count: int) -> Shape:
    return (*shape[:-1], shape[-1] // count)


def _keeps_words(view: Node, count: int) -> bool:
    """Whether words along the last axis of a view are words of its operand."""
    before, after = view.inputs[0].shape, view.shape
    if not _has_words(before, count) or not _has_words(after, count):
        return False
    if view.op.name == "slice":
        starts, steps = view.attrs["starts"], view.attrs["steps"]
        return isinstance(starts[-1], int) and starts[-1] % count == 0 and steps[-1] == 1
    last = len(after) - 1
    return view.op.name == "reshape" or (
        view.op.name == "transpose" and view.attrs["perm"][last] == last
    )


def _of_words(view: Node, count: int) -> dict[str, Any]:
    """The attributes of a view that does the same with words."""
    attrs = dict(view.attrs)
    for name in ("shape", "starts", "stops"):
        if name in attrs:
            attrs[name] = _fewer(attrs[name], count)
    return attrs
