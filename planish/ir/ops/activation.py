"""Activations: relu, silu, gelu."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from planish.ir.errors import IRError
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Composite, const, need_float, promoted
from planish.ir.types import TensorType

_erf = np.vectorize(math.erf, otypes=[np.float64])


class _Activation(Composite):
    """A function of each element of a floating-point array."""

    arity, own_vjp = 1, True

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        return promoted(operands, at_least_float=True), attrs

    def infer(self, x: TensorType) -> TensorType:
        """The operand's type."""
        need_float(self.name, x)
        return x


class Relu(_Activation):
    """max(x, 0); its gradient at 0 is 0."""

    name = "relu"

    def ref(self, x: np.ndarray) -> np.ndarray:
        return np.where(x <= 0, np.zeros_like(x), x)

    def expand(self, x: Node) -> Node:
        return OPS["maximum"](x, 0.0)

    def vjp(self, y: Node, dy: Node, x: Node) -> tuple[Node | None, ...]:
        return (OPS["select"](OPS["gt"](y, 0.0), dy, const(0.0, dy.dtype)),)


class Silu(_Activation):
    """x * sigmoid(x), also called swish."""

    name = "silu"

    def ref(self, x: np.ndarray) -> np.ndarray:
        wide = x.astype(np.result_type(x.dtype, np.float32))
        with np.errstate(over="ignore", invalid="ignore"):
            return (wide / (1 + np.exp(-wide))).astype(x.dtype)

    def expand(self, x: Node) -> Node:
        return x * OPS["sigmoid"](x)

    def vjp(self, y: Node, dy: Node, x: Node) -> tuple[Node | None, ...]:
        s = OPS["sigmoid"](x)
        return (dy * (s * (1.0 + x * (1.0 - s))),)


class Gelu(_Activation):
    """x * P(N <= x) for a standard normal N.

    `approximate` is "none" for the definition by erf, or "tanh" for
    x / 2 * (1 + tanh(u)), u = sqrt(2 / pi) * (x + 0.044715 x^3), as GPT-2 has it.
    """

    name = "gelu"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        return super().prepare(operands, {"approximate": "tanh", **attrs})

    def infer(self, x: TensorType, *, approximate: str = "tanh") -> TensorType:
        """The operand's type."""
        if approximate not in ("tanh", "none"):
            raise IRError(f'gelu: approximate is "tanh" or "none", got {approximate!r}')
        return super().infer(x)

    def ref(self, x: np.ndarray, *, approximate: str) -> np.ndarray:
        wide = x.astype(np.result_type(x.dtype, np.float32))
        with np.errstate(over="ignore", invalid="ignore"):
            if approximate == "none":
                inner = _erf(wide.astype(np.float64) / math.sqrt(2.0))
            else:
                inner = np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
            return (0.5 * wide * (1 + inner)).astype(x.dtype)

    def expand(self, x: Node, *, approximate: str) -> Node:
        return x * _gate(x, approximate)

    def vjp(self, y: Node, dy: Node, x: Node, *, approximate: str) -> tuple[Node | None, ...]:
        gate = _gate(x, approximate)
        if approximate == "none":
            slope = OPS["exp"](x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        else:  # gate = sigmoid(2u)
            slope = gate * (1.0 - gate) * (_TANH_SCALE + (3 * 0.044715 * _TANH_SCALE) * (x * x))
        return (dy * (gate + x * slope),)


_TANH_SCALE = 2 * math.sqrt(2 / math.pi)


def _gate(x: Node, approximate: str) -> Node:
    """gelu(x) / x. The sigmoid of 2u is (1 + tanh(u)) / 2 without its cancellation below 0."""
    if approximate == "none":
        return 0.5 + 0.5 * OPS["erf"](x * math.sqrt(0.5))
    return OPS["sigmoid"](x * (_TANH_SCALE + (0.044715 * _TANH_SCALE) * (x * x)))


relu = register(Relu)
silu = register(Silu)
gelu = register(Gelu)
