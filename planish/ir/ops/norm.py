"""Normalisations over the last axis: layer_norm and rms_norm."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir.attributes import as_float
from planish.ir.errors import IRError, ShapeError
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Composite, need_float, promoted
from planish.ir.types import TensorType


def row_mean(x: Node) -> Node:
    """The mean over the last axis, kept with size 1."""
    return OPS["mean"](x, axes=(x.type.rank - 1,), keep=True)


class _Norm(Composite):
    """x, normalised, times weight (and plus bias), which have the size of the last axis."""

    own_vjp = True
    default_eps = 0.0

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        eps = as_float(self.name, "eps", attrs.get("eps", self.default_eps))
        return promoted(operands, at_least_float=True), {**attrs, "eps": eps}

    def checked(self, x: TensorType, others: tuple[TensorType, ...], eps: float) -> TensorType:
        """The type of `x`, where weight and bias are rows of it."""
        need_float(self.name, x, *others)
        if x.rank == 0 or any(other != x.with_shape(x.shape[-1:]) for other in others):
            listed = ", ".join(map(str, (x, *others)))
            raise ShapeError(f"{self.name} takes x [..., n], then [n] of its dtype; got {listed}")
        if not eps >= 0.0:
            raise IRError(f"{self.name}: eps must be at least 0, got {eps}")
        return x


class LayerNorm(_Norm):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis; the bias may be absent.

    The variance is the mean squared distance from the mean (not the n - 1 estimate).
    """

    name, at_least, default_eps = "layer_norm", 2, 1e-5

    def infer(self, x: TensorType, weight: TensorType, *bias: TensorType, eps: float) -> TensorType:
        """The type of `x`."""
        if len(bias) > 1:
            raise IRError("layer_norm takes x, weight and at most one bias")
        return self.checked(x, (weight, *bias), eps)

    def ref(self, x: np.ndarray, weight: np.ndarray, *bias: np.ndarray, eps: float) -> np.ndarray:
        wide = x.astype(np.result_type(x.dtype, np.float32))
        scale = np.sqrt(wide.var(-1, keepdims=True) + eps)
        y = (wide - wide.mean(-1, keepdims=True)) / scale * weight
        return (y + bias[0] if bias else y).astype(x.dtype)

    def expand(self, x: Node, weight: Node, *bias: Node, eps: float) -> Node:
        y = _standardised(x, eps)[0] * weight
        return y + bias[0] if bias else y

    def vjp(
        self, y: Node, dy: Node, x: Node, weight: Node, *bias: Node, eps: float
    ) -> tuple[Node | None, ...]:
        # gradients of weight and bias have the shape of x here; autodiff sums the rows
        unit, scale = _standardised(x, eps)
        g = dy * weight
        dx = (g - row_mean(g) - unit * row_mean(g * unit)) * scale
        return (dx, dy * unit, *[dy for _ in bias])


def _standardised(x: Node, eps: float) -> tuple[Node, Node]:
    """(x - mean) / deviation, and 1 / deviation."""
    centred = x - row_mean(x)
    scale = OPS["rsqrt"](row_mean(centred * centred) + eps)
    return centred * scale, scale


class RMSNorm(_Norm):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""

    name, arity, default_eps = "rms_norm", 2, 1e-5

    def infer(self, x: TensorType, weight: TensorType, *, eps: float) -> TensorType:
        """The type of `x`."""
        return self.checked(x, (weight,), eps)

    def ref(self, x: np.ndarray, weight: np.ndarray, *, eps: float) -> np.ndarray:
        wide = x.astype(np.result_type(x.dtype, np.float32))
        return (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight).astype(x.dtype)

    def expand(self, x: Node, weight: Node, *, eps: float) -> Node:
        return x * _inverse_rms(x, eps) * weight

    def vjp(
        self, y: Node, dy: Node, x: Node, weight: Node, *, eps: float
    ) -> tuple[Node | None, ...]:
        scale = _inverse_rms(x, eps)
        unit = x * scale
        g = dy * weight
        return (g - unit * row_mean(g * unit)) * scale, dy * unit


def _inverse_rms(x: Node, eps: float) -> Node:
    return OPS["rsqrt"](row_mean(x * x) + eps)


layer_norm = register(LayerNorm)
rms_norm = register(RMSNorm)
