"""What the scalar operations of loop IR mean, on NumPy scalars and on arrays of lanes.

Every operation works in the dtype of its operands: integers wrap, f32 rounds to f32, fma rounds
once. Callers silence NumPy's floating-point warnings (`np.errstate`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from planish.ir.types import DType, i4

Value = Any  # a NumPy scalar or an array of lanes


def select(cond: Value, yes: Value, no: Value) -> Value:
    """`yes` where `cond` holds, else `no`."""
    if np.ndim(cond) == 0:
        return yes if cond else no
    return np.where(cond, yes, no)


def two_product(a: Value, b: Value) -> tuple[Value, Value]:
    """(p, e) with p + e == a * b to 2^-105, in f64 (Dekker 1971), where nothing overflows."""
    p = a * b
    a_high, b_high = _upper_half(a), _upper_half(b)
    a_low, b_low = a - a_high, b - b_high
    return p, a_low * b_low - (((p - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _upper_half(x: Value) -> Value:
    return (np.asarray(x).view(np.int64) & np.int64(-(1 << 27))).view(np.float64)


def two_sum(a: Value, b: Value) -> tuple[Value, Value]:
    """(s, e) with s + e == a + b exactly (Knuth 1969)."""
    s = a + b
    other = s - a
    return s, (a - (s - other)) + (b - other)


def fma(a: Value, b: Value, c: Value) -> Value:
    """a * b + c rounded once: exact for f32 and narrower, within half an ulp more for f64."""
    dtype = np.result_type(a)
    if dtype.kind in "iu":
        return a * b + c
    if dtype == np.float64:
        return _fma64(a, b, c)
    # The product is exact in f64. Rounding the sum to odd makes the second rounding harmless
    # (Boldo and Melquiond 2008). The error of a sum that is not finite is NaN.
    total, error = two_sum(np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64))
    odd = (np.abs(error) > 0) & (total.view(np.int64) & 1 == 0)
    toward = np.copysign(np.inf, error)
    rounded: Value = np.where(odd, np.nextafter(total, toward), total)
    return rounded.astype(dtype)[()]


def _fma64(a: Value, b: Value, c: Value) -> Value:
    product, product_error = two_product(a, b)
    total, sum_error = two_sum(product, c)
    better = total + (product_error + sum_error)
    plain = a * b + c
    return np.where(np.isfinite(better), better, plain)[()]


def cast(x: Value, dtype: DType) -> Value:
    """Numeric conversion; float to int truncates, saturates, and takes NaN to 0."""
    x = np.asarray(x)
    is_float = x.dtype.kind not in "iub" and x.dtype != i4.numpy
    if dtype.kind == "b":
        return (x != 0)[()]
    if not dtype.is_int or not is_float:
        return x.astype(dtype.numpy)[()]
    low, high = integer_range(dtype)
    wide = np.trunc(x.astype(np.float64))
    inside = np.where((wide > low) & (wide < high), wide, 0).astype(np.int64)
    whole = np.where(wide >= high, high, np.where(wide <= low, low, inside))
    return whole.astype(dtype.numpy)[()]


def integer_range(dtype: DType) -> tuple[int, int]:
    """The least and the greatest value of an integer dtype."""
    if dtype.kind == "u":
        return 0, (1 << dtype.bits) - 1
    return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1


def bitcast(x: Value, dtype: DType) -> Value:
    """The same bits as another dtype."""
    return np.asarray(x).view(dtype.numpy)[()]


def dot_pairs(total: Value, a: Value, b: Value) -> Value:
    """total + upper(a) * upper(b) + lower(a) * lower(b), where words are pairs of bf16.

    Products of bf16 are exact in f32, so there are two roundings, in that order. So does vdpbf16ps;
    but it also takes subnormal numbers to zero.
    """
    upper = [np.asarray(x & np.uint32(0xFFFF0000)).view(np.float32) for x in (a, b)]
    lower = [np.asarray(x << np.uint32(16)).view(np.float32) for x in (a, b)]
    return fma(lower[0], lower[1], fma(upper[0], upper[1], total))


def dot_bytes(total: Value, a: Value, b: Value, kind: type[np.number]) -> Value:
    """total + the sum of a's bytes, of this kind, by b's signed ones, where words are four."""
    x, y = (np.asarray(words).astype("<u4")[..., None] for words in (a, b))
    products = x.view(kind).astype(np.int32) * y.view(np.int8)
    return total + products.sum(-1, dtype=np.int32)


def dot_flipped(total: Value, a: Value, b: Value) -> Value:
    """total + the sum of the products of signed bytes, less the magnitudes of negative ones of a.

    Those are multiplied by ~b = -b - 1, others by b: two products are from -2 * 128 * 128 to
    2 * 128 * 127, which 16 bits hold.
    """
    x, y = (np.asarray(words).astype("<u4")[..., None].view(np.int8) for words in (a, b))
    sizes = np.abs(x).view(np.uint8).astype(np.int32)
    return total + (sizes * np.where(x < 0, ~y, y)).sum(-1, dtype=np.int32)


def dot_halves(total: Value, a: Value, b: Value) -> Value:
    """total + the sum of the products of signed halves of words."""
    x, y = (np.asarray(w).astype("<u4")[..., None].view("<i2").astype(np.int32) for w in (a, b))
    return total + (x * y).sum(-1, dtype=np.int32)


def dot_into_halves(total: Value, a: Value, b: Value) -> Value:
    """To each half of total the sum of two products of unsigned bytes of a by signed ones of b is
    added, which is cut off where it does not fit in 16 bits; the sum with total wraps."""
    x, y = (np.asarray(w).astype("<u4")[..., None] for w in (a, b))
    products = x.view(np.uint8).astype(np.int32) * y.view(np.int8).astype(np.int32)
    sums = np.clip(products[..., ::2] + products[..., 1::2], -32768, 32767).astype("<i2")
    halves = np.asarray(total).astype("<u4")[..., None].view("<i2") + sums
    return np.ascontiguousarray(halves).view("<u4")[..., 0].astype(np.uint32)[()]


def high_product(a: Value, b: Value) -> Value:
    """The upper half of the unsigned product of two integers."""
    dtype = np.asarray(a).dtype
    if dtype.itemsize <= 4:
        bits = 8 * dtype.itemsize
        mask = np.uint64((1 << bits) - 1)
        wide = (np.asarray(a).astype(np.uint64) & mask) * (np.asarray(b).astype(np.uint64) & mask)
        return (wide >> np.uint64(bits)).astype(dtype)[()]
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = np.asarray(a).view(np.uint64), np.asarray(b).view(np.uint64)
    x0, x1, y0, y1 = x & mask, x >> half, y & mask, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    carry = x0 * y1 + (middle & mask)
    return (x1 * y1 + (middle >> half) + (carry >> half)).view(dtype)[()]


def popcount(x: Value) -> Value:
    """How many bits of an integer are 1; a negative one is its two's complement."""
    bits = np.asarray(x)
    return np.bitwise_count(bits.view(f"u{bits.dtype.itemsize}")).astype(bits.dtype)[()]


OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "floor_div": np.floor_divide, "mod": np.remainder, "neg": np.negative, "fma": fma,
    "min": np.minimum, "max": np.maximum, "abs": np.abs, "sign": np.sign, "sqrt": np.sqrt,
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "not": np.invert, "shl": np.left_shift, "shr": np.right_shift,
    "umulhi": high_product, "popcount": popcount, "select": select, "dpbf16": dot_pairs,
    "dpbusd": partial(dot_bytes, kind=np.uint8), "dpbssd": partial(dot_bytes, kind=np.int8),
    "dpflip": dot_flipped, "dpwssd": dot_halves, "dpbusw": dot_into_halves,
}  # fmt: skip

# Those that Python has a sign for: the same on arrays, and sooner on NumPy's scalars; functions of
# NumPy accumulate, too.
SIGNS: dict[str, Callable[..., Value]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
    "floor_div": operator.floordiv, "mod": operator.mod, "neg": operator.neg,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge, "and": operator.and_, "or": operator.or_,
}  # fmt: skip

# What the functions of planish.ir.math approximate.
LIBRARY: dict[str, Callable[..., Value]] = {
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2,
    "log1p": np.log1p, "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "pow": np.power,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "rsqrt": lambda x: 1 / np.sqrt(x),
}  # fmt: skip
