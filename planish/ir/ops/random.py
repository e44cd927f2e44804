"""Random numbers: bits from a key and a counter, and the distributions made of them.

A key is u32[2]. Element i of `random_bits(key)` is Threefry of the key and the counter i, so the
same key gives the same numbers on any machine at any thread count; a key used twice gives the same
numbers twice. `fold_in(key, n)` is a new key, whose counters no `random_bits` ever uses.

Keys may be batched, u32[K..., 2]: row k of the result is then what key k alone gives.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import Shape
from planish.ir.draws import FOLD, folded, low_word, threefry, words
from planish.ir.errors import DTypeError, IRError, ShapeError
from planish.ir.loops import Const, Expr, scalar, size_expr
from planish.ir.loops import cast as cast_expr
from planish.ir.node import Node, Op, register
from planish.ir.ops.base import Composite, Index, as_node, need_float
from planish.ir.ops.elementwise import cast, cos, log, lt, mul, select, shift_right, sqrt
from planish.ir.ops.view import check_shape, refuse_negative
from planish.ir.types import DType, TensorType

DIGITS = 24  # random bits of a number in [0, 1): what an f32 holds exactly


def need_key(name: str, key: TensorType, shape: Shape | None = None) -> None:
    """Refuse what is not a key u32[2], or keys u32[K..., 2] for a shape [K..., ...]."""
    if key.dtype != t.u32 or key.shape[-1:] != (2,):
        raise (ShapeError if key.dtype == t.u32 else DTypeError)(
            f"{name} takes a key, which is u32[2], or keys u32[K..., 2], got {key}"
        )
    if shape is not None and shape[: key.rank - 1] != key.shape[:-1]:
        raise ShapeError(f"{name}: keys {key} do not fit the shape {list(shape)}")


def need_shape(name: str, shape: object) -> Shape:
    """`shape` as a tuple of sizes, none of them negative."""
    found = check_shape(name, shape)
    refuse_negative(name, found)
    return found


class RandomBits(Op):
    """u32[shape] of random bits: element i, counted in row-major order, is Threefry(key, i).

    With keys u32[K..., 2] the shape begins with K..., and each key counts from 0.
    """

    name, kind, arity = "random_bits", "random", 1
    no_vjp = "random bits have no gradient"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        if "shape" in attrs:
            attrs = {**attrs, "shape": need_shape(self.name, attrs["shape"])}
        return operands, attrs

    def infer(self, key: TensorType, *, shape: Shape) -> TensorType:
        """u32 at `shape`."""
        need_key(self.name, key, need_shape(self.name, shape))
        return TensorType(t.u32, shape)

    def ref(self, key: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
        place = np.arange(math.prod(shape[key.ndim - 1 :]), dtype=np.int64)
        with np.errstate(over="ignore"):
            return threefry(words(key), low_word(place >> 32), low_word(place)).reshape(shape)

    def element(self, out_index: Index, reads, in_types, out_type, *, shape: Shape):
        rows = in_types[0].rank - 1
        place: Expr = Const(0, t.i64)
        for i, size in zip(out_index[rows:], out_type.shape[rows:], strict=True):
            place = place * size_expr(size) + i
        high, low = cast_expr(place >> 32, t.u32), cast_expr(place, t.u32)
        return bits_at(reads[0], out_index[:rows], high, low)


def bits_at(read, row: Index, high: Expr, low: Expr) -> Expr:
    """Threefry of the key in a row of keys and a counter, in loop IR."""
    key = [read((*row, Const(i, t.i64))) for i in range(2)]
    return scalar("threefry", *key, high, low)


class FoldIn(Op):
    """A new key from a key and an integer, such as the number of a layer or of a step.

    With keys u32[K..., 2] the integers may be [K...], one for each key. Only the lower 32 bits of
    an integer count.
    """

    name, kind, arity = "fold_in", "random", 2
    no_vjp = "a key has no gradient"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        key, data = operands
        if isinstance(data, int) and not isinstance(data, bool):
            data = as_node(data & 0xFFFFFFFF, t.i64)
        return super().prepare((key, data), attrs)

    def infer(self, key: TensorType, data: TensorType) -> TensorType:
        """The type of the key."""
        need_key(self.name, key)
        if not data.dtype.is_int or data.dtype.bits < 32 or data.shape not in ((), key.shape[:-1]):
            many = f", or integers {list(key.shape[:-1])}" if key.rank > 1 else ""
            raise DTypeError(f"fold_in takes a key and an integer scalar{many}, got {data}")
        return key

    def ref(self, key: np.ndarray, data: np.ndarray) -> np.ndarray:
        return folded(key, data)

    def element(self, out_index: Index, reads, in_types, out_type):
        first = cast_expr(out_index[-1], t.u32) + Const(FOLD, t.u32)
        data = reads[1](out_index[:-1] if in_types[1].rank else ())
        return bits_at(reads[0], out_index[:-1], first, cast_expr(data, t.u32))


class Distribution(Composite):
    """Numbers drawn with a key: attributes `shape` and `dtype` (f32 or f64)."""

    arity = 1
    no_vjp = "random numbers have no gradient by their key"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        if "shape" in attrs:
            attrs = {**attrs, "shape": need_shape(self.name, attrs["shape"])}
        if "dtype" in self.attr_names:
            attrs = {**attrs, "dtype": t.dtype(attrs.get("dtype", t.f32))}
        return operands, attrs

    def infer(self, key: TensorType, *, shape: Shape, dtype: DType) -> TensorType:
        """`dtype` at `shape`."""
        need_key(self.name, key, shape)
        if dtype not in (t.f32, t.f64):
            raise DTypeError(f"{self.name} makes f32 or f64, got {dtype!r}; cast the result")
        return TensorType(dtype, need_shape(self.name, shape))


class Uniform(Distribution):
    """Numbers in [0, 1), multiples of 2 ** -24."""

    name = "uniform"

    def expand(self, key: Node, *, shape: Shape, dtype: DType) -> Node:
        bits = shift_right(random_bits(key, shape=shape), 32 - DIGITS)
        return mul(cast(bits, dtype=dtype), 2.0**-DIGITS)

    def ref(self, key: np.ndarray, *, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
        bits = random_bits.ref(key, shape=shape) // np.uint32(1 << (32 - DIGITS))
        return (bits / 2**DIGITS).astype(dtype.numpy)


class Normal(Distribution):
    """Numbers with mean 0 and variance 1, by the method of Box and Muller; at most 5.8 in size."""

    name = "normal"

    def expand(self, key: Node, *, shape: Shape, dtype: DType) -> Node:
        radius, angle = (uniform(fold_in(key, n), shape=shape, dtype=dtype) for n in range(2))
        length = sqrt(mul(log(1.0 - radius), -2.0))
        return mul(length, cos(mul(angle, 2.0 * math.pi)))

    def ref(self, key: np.ndarray, *, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
        one, two = (
            uniform.ref(fold_in.ref(key, np.asarray(n)), shape=shape, dtype=t.f64) for n in range(2)
        )
        found = np.sqrt(-2.0 * np.log(1.0 - one)) * np.cos(2.0 * np.pi * two)
        return found.astype(dtype.numpy)


def need_probability(name: str, what: str, p: object) -> None:
    """Refuse what is not a number from 0 to 1."""
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise IRError(f"{name}: {what} is a number from 0 to 1, got {p!r}")


class Bernoulli(Distribution):
    """Bools that are true with probability p."""

    name = "bernoulli"

    def infer(self, key: TensorType, *, p: float, shape: Shape) -> TensorType:
        """bool at `shape`."""
        need_key(self.name, key, shape)
        need_probability(self.name, "p", p)
        return TensorType(t.boolean, need_shape(self.name, shape))

    def expand(self, key: Node, *, p: float, shape: Shape) -> Node:
        return lt(shift_right(random_bits(key, shape=shape), 32 - DIGITS), threshold(p))

    def ref(self, key: np.ndarray, *, p: float, shape: tuple[int, ...]) -> np.ndarray:
        return random_bits.ref(key, shape=shape) < np.uint64(threshold(p) << (32 - DIGITS))


def threshold(p: float) -> int:
    """How many of the 2 ** 24 equally likely numbers lie below p."""
    return round(p * 2**DIGITS)


class Dropout(Composite):
    """x with elements set to 0 with probability `rate`, the others scaled to keep the mean."""

    name, arity = "dropout", 2

    def infer(self, x: TensorType, key: TensorType, *, rate: float) -> TensorType:
        """The type of x."""
        need_float(self.name, x)
        need_key(self.name, key, x.shape)
        need_probability(self.name, "rate", rate)
        return x

    def expand(self, x: Node, key: Node, *, rate: float) -> Node:
        kept = bernoulli(key, p=1.0 - rate, shape=x.shape)
        return select(kept, x * scale(rate), 0.0)

    def ref(self, x: np.ndarray, key: np.ndarray, *, rate: float) -> np.ndarray:
        kept = bernoulli.ref(key, p=1.0 - rate, shape=x.shape)
        return np.where(kept, x * np.asarray(scale(rate), x.dtype), np.zeros_like(x))


def scale(rate: float) -> float:
    """What the elements that are kept are multiplied by."""
    return 1.0 / (1.0 - rate) if rate < 1 else 0.0


random_bits = register(RandomBits)
fold_in = register(FoldIn)
uniform = register(Uniform)
normal = register(Normal)
bernoulli = register(Bernoulli)
dropout = register(Dropout)
