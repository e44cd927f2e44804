"""Arrays with many zeros, kept as a bit for each element and the others in a row.

    mask    i64[ceil(n / 64)]    bit i of word b: whether element 64 b + i is kept
    starts  i32[ceil(n / 256)]   how many are kept before each run of four words
    values  [kept]               those, in order, and zeros up to a 64th of n, or a multiple

Layers of one size then have values of one size more often than not, and share their kernels.

n elements of s bytes take n / 8 + n / 64 bytes and s for each that is not 0. `starts` makes the
place of an element a matter of four words, so that a row of a table can be had without the others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.errors import DataError, DTypeError, ShapeError
from planish.ir.loops import Const, Expr, as_index, cast, scalar, select, size_expr
from planish.ir.node import Node, register
from planish.ir.ops.base import Index, Indexing
from planish.ir.ops.indexing import Reads, Types, guarded
from planish.ir.ops.view import check_shape, refuse_negative
from planish.ir.types import TensorType

WORD = 64  # bits of a word of the mask
RUN = 4  # words between two starts


class ExpandBitmap(Indexing):
    """The array of `shape` whose elements are 0 where the bit of a mask is, else values in order.

    The program refuses starts that lead out of the values.
    """

    name, arity = "expand_bitmap", 3
    no_vjp = "what is stored so is not trained"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        if "shape" in attrs:
            attrs = {**attrs, "shape": check_shape(self.name, attrs["shape"])}
        return operands, attrs

    def infer(
        self, mask: TensorType, starts: TensorType, values: TensorType, *, shape: tuple[int, ...]
    ) -> TensorType:
        """`shape`, in the dtype of the values."""
        if not all(isinstance(s, int) for s in check_shape(self.name, shape)):
            raise ShapeError(f"expand_bitmap: weights have known sizes, got {list(shape)}")
        if (mask.dtype, starts.dtype) != (t.i64, t.i32) or values.dtype == t.i4:
            raise DTypeError(
                f"expand_bitmap takes i64, i32 and values of whole bytes, got {mask}, {starts} "
                f"and {values}"
            )
        refuse_negative(self.name, shape)
        size = math.prod(shape)
        wanted = (-(-size // WORD),), (-(-size // (WORD * RUN)),)
        if (mask.shape, starts.shape) != wanted or values.rank != 1 or values.shape[0] == 0:
            raise ShapeError(
                f"expand_bitmap: {list(shape)} has a mask i64{list(wanted[0])}, starts "
                f"i32{list(wanted[1])} and at least one value, got {mask}, {starts} and {values}"
            )
        return values.with_shape(shape)

    def ref(
        self, mask: np.ndarray, starts: np.ndarray, values: np.ndarray, *, shape: tuple[int, ...]
    ) -> np.ndarray:
        bits = bits_of(mask)
        kept = int(bits.sum())
        if not np.array_equal(starts, starts_of(mask)) or kept > len(values):
            raise DataError(f"expand_bitmap: {len(values)} values do not fit a mask of {kept} bits")
        found = np.zeros(bits.size, values.dtype)
        found[bits] = values[:kept]
        return found[: math.prod(shape)].reshape(shape)

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, *, shape
    ) -> Expr:
        at: Expr = as_index(0)
        for axis, i in enumerate(out):
            at = at + i * size_expr(product(shape[axis + 1 :]))
        word, bit = at // WORD, at % WORD
        first, last = word // RUN * RUN, size_expr(types[0].shape[0]) - 1
        place = cast(reads[1]((at // (WORD * RUN),)), t.i64)
        for k in range(RUN - 1):
            before = scalar("popcount", reads[0]((scalar("min", first + k, last),)))
            place = place + select(scalar("lt", first + k, word), before, Const(0, t.i64))
        bits = reads[0]((word,))
        there = is_set(bits, bit)
        place = select(there, place + rank(bits, bit), Const(0, t.i64))
        value = reads[2]((guarded(place, types[2].shape[0], "value of a bitmap"),))
        return select(there, value, Const(0.0 if value.type.is_float else 0, value.type))


def is_set(bits: Expr, i: Expr) -> Expr:
    """Whether bit i of a word is 1."""
    return scalar("ne", bits >> i & Const(1, t.i64), Const(0, t.i64))


def rank(bits: Expr, i: Expr) -> Expr:
    """How many bits of a word below bit i are 1."""
    return scalar("popcount", bits & ((Const(1, t.i64) << i) - 1))


def bits_of(mask: np.ndarray) -> np.ndarray:
    """The bits of a mask, as many as its words have."""
    return np.unpackbits(mask.astype("<i8").view(np.uint8), bitorder="little").view(bool)


def starts_of(mask: np.ndarray) -> np.ndarray:
    """How many are kept before each run of words."""
    words = np.zeros(-(-mask.size // RUN) * RUN, np.int64)
    words[: mask.size] = np.bitwise_count(mask.view(np.uint64))
    counts = words.reshape(-1, RUN).sum(1)
    return (np.cumsum(counts) - counts).astype(np.int32)


def is_kept(array: np.ndarray) -> np.ndarray:
    """Which elements are not 0; -0.0 is kept, so that nothing changes."""
    plain = np.ascontiguousarray(array)
    return plain.view(f"u{plain.dtype.itemsize}").reshape(array.shape) != 0


def mask_of(kept: np.ndarray) -> np.ndarray:
    """The words whose bits say which elements, in a row, are kept."""
    bits = np.zeros(-(-kept.size // WORD) * WORD, bool)
    bits[: kept.size] = kept.reshape(-1)
    return np.packbits(bits, bitorder="little").view("<i8").astype(np.int64)


def bitmap_of(array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mask, starts and values of an array."""
    kept = is_kept(array)
    mask, found = mask_of(kept), array[kept]
    values = np.zeros(length_of(kept.size, len(found)), array.dtype)
    values[: len(found)] = found
    return mask, starts_of(mask), values


def length_of(size: int, kept: int) -> int:
    """How many values are stored of so many elements."""
    step = max(1, size // WORD)
    return max(1, -(-kept // step)) * step


def bitmap_bytes(array: np.ndarray) -> int:
    """Bytes that an array takes so."""
    words, kept = -(-array.size // WORD), int(is_kept(array).sum())
    values = length_of(array.size, kept) * array.dtype.itemsize
    return 8 * words + 4 * -(-words // RUN) + values


expand_bitmap = register(ExpandBitmap)
