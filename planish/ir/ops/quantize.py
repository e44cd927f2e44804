"""Integers for floats: quantize, dequantize, and the scales between them.

Symmetric: x is about q * scale, and 0 is 0. Asymmetric: x is about (q - zero) * scale, and 0 is the
integer `zero`. What a scale counts for follows from its shape, which broadcasts to that of x: one
for the tensor [], for each row [..., M, 1], for each channel [N], or for groups of a reshaped x.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.errors import DTypeError, IRError, ShapeError
from planish.ir.loops import Const, Expr, scalar
from planish.ir.loops import cast as cast_expr
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Elementwise, broadcast_shapes, promoted
from planish.ir.types import DType, TensorType

QUANTIZED = (t.i8, t.i4)


def wide_of(x: Expr) -> DType:
    """The dtype in which x is scaled."""
    return x.type if x.type == t.f64 else t.f32


def rounded(x: Expr, scale: Expr, dtype: DType, *zero: Expr) -> Expr:
    """x over its scale, rounded to an integer of `dtype`, still a float."""
    wide = wide_of(x)
    most, one = Const(float(dtype.most), wide), Const(1.0, wide)
    scaled = scalar("round", cast_expr(x, wide) * (one / cast_expr(scale, wide)))
    for shift in zero:
        scaled = scaled + cast_expr(shift, wide)
    return scalar("max", scalar("min", scaled, most), -float(dtype.most))


class Quantize(Elementwise):
    """x * (1 / scale), rounded half to even, as integers between -most and most of `dtype`.

    A third operand `zero`, whole numbers as floats, is added before the range is cut. NaN becomes
    0. The product is formed in f32, that of f64 in f64.
    """

    name, at_least, domain = "quantize", 2, "float"
    no_vjp = "it is constant between its steps"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        return operands, {**attrs, "dtype": t.dtype(attrs.get("dtype", t.i8))}

    def infer(
        self, x: TensorType, scale: TensorType, *zero: TensorType, dtype: DType
    ) -> TensorType:
        """The shape of x."""
        if len(zero) > 1:
            raise IRError(f"{self.name} takes 2 or 3 operands, got {2 + len(zero)}")
        if dtype not in QUANTIZED:
            raise DTypeError(f"{self.name} gives i8 or i4, not {dtype}")
        found = self.joined((x, scale, *zero))
        if found.shape != x.shape:
            given = f"{self.name}({', '.join(map(str, (x, scale, *zero)))})"
            raise ShapeError(f"{given}: the scale has not the shape of x, or of 1s")
        return found.with_dtype(dtype)

    @staticmethod
    def function(x: np.ndarray, scale: np.ndarray, *zero: np.ndarray, dtype: DType) -> np.ndarray:
        """By NumPy, clipped before the cast."""
        wide = np.float64 if x.dtype == np.float64 else np.float32
        scaled = np.empty(x.shape, wide)  # the only large array: the rest happens in place
        np.multiply(x, np.reciprocal(scale.astype(wide)), out=scaled)
        np.rint(scaled, out=scaled)
        for shift in zero:
            scaled += shift.astype(wide)
        unknown = np.isnan(scaled)
        if unknown.any():
            scaled[unknown] = 0
        np.clip(scaled, -dtype.most, dtype.most, out=scaled)
        return scaled.astype(np.int8).astype(dtype.numpy, copy=False)

    def scalar(self, x: Expr, scale: Expr, *zero: Expr, dtype: DType) -> Expr:
        return cast_expr(rounded(x, scale, dtype, *zero), dtype)


class Dequantize(Elementwise):
    """q * scale, in the dtype of the scale."""

    name, arity = "dequantize", 2

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        q, scale = operands
        return (q, promoted((scale,))[0]), attrs

    def infer(self, q: TensorType, scale: TensorType) -> TensorType:
        """The broadcast of both."""
        if not q.dtype.is_int or not scale.dtype.is_float:
            raise DTypeError(f"dequantize takes integers and a float scale, got {q} and {scale}")
        return scale.with_shape(broadcast_shapes(self.name, q.shape, scale.shape))

    @staticmethod
    def function(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """By NumPy."""
        return q.astype(scale.dtype) * scale

    def scalar(self, q: Expr, scale: Expr) -> Expr:
        return cast_expr(q, scale.type) * scale

    def vjp(self, y: Node, dy: Node, q: Node, scale: Node) -> tuple[Node | None, ...]:
        return None, dy * OPS["cast"](q, dtype=scale.dtype)


class FakeQuantize(Elementwise):
    """dequantize(quantize(x, scale), scale): what x is after rounding, for training.

    The gradient is dy where x is in the range of `dtype`, 0 outside, and none for the scale.
    """

    name, arity, domain = "fake_quantize", 2, "float"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        return operands, {**attrs, "dtype": t.dtype(attrs.get("dtype", t.i8))}

    def infer(self, x: TensorType, scale: TensorType, *, dtype: DType) -> TensorType:
        """The type of x."""
        Quantize.infer(self, x, scale, dtype=dtype)  # type: ignore[arg-type]
        return x

    @staticmethod
    def function(x: np.ndarray, scale: np.ndarray, *, dtype: DType) -> np.ndarray:
        """By NumPy."""
        kept = Quantize.function(x, scale, dtype=dtype)
        return (kept.astype(scale.dtype) * scale).astype(x.dtype)

    def scalar(self, x: Expr, scale: Expr, *, dtype: DType) -> Expr:
        return cast_expr(rounded(x, scale, dtype) * cast_expr(scale, wide_of(x)), x.type)

    def vjp(
        self, y: Node, dy: Node, x: Node, scale: Node, *, dtype: DType
    ) -> tuple[Node | None, ...]:
        inside = OPS["le"](OPS["abs"](x), scale * (dtype.most + 0.5))
        return OPS["select"](inside, dy, 0.0), None


quantize = register(Quantize)
fake_quantize = register(FakeQuantize)
dequantize = register(Dequantize)


def scale_of(x: Node, axes: tuple[int, ...], dtype: DType = t.i8) -> Node:
    """The scale at which the largest magnitude along `axes` becomes the largest integer.

    1 where all is 0. The axes are kept.
    """
    largest = OPS["max"](OPS["abs"](x), axes=axes, keep=True)
    return OPS["select"](OPS["eq"](largest, 0.0), 1.0, largest / float(dtype.most))


def group_scale_of(x: Node, axis: int) -> Node:
    """The scale of each group along `axis` of weights of 4 bits, as it is stored: rounded to bf16.

    That moves the largest by less than 1/256 of a step in 7; all are rounded to what is stored.
    """
    return OPS["cast"](scale_of(x, (axis,), t.i4), dtype=t.bf16)


def range_of(x: Node, axis: int) -> tuple[Node, Node]:
    """The scale and the zero at which what x has along `axis`, and 0, spans all integers of i8.

    1 and -127 where all is 0. The axis is kept.
    """
    low, high = (
        limit(OPS[name](x, axes=(axis,), keep=True), 0.0)
        for name, limit in (("min", OPS["minimum"]), ("max", OPS["maximum"]))
    )
    span = high - low
    scale = OPS["select"](OPS["eq"](span, 0.0), 1.0, span / (2.0 * t.i8.most))
    return scale, -float(t.i8.most) - OPS["round"](low * (1.0 / scale))
