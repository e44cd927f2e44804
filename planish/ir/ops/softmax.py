"""Softmax and log_softmax: ratios of exponentials, safe at any magnitude.

The maximum is subtracted first, so nothing overflows. A row of minus infinities only (every key
masked) has softmax 0, not NaN; its log_softmax is minus infinity.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir.errors import AxisError, ShapeError
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Composite, axis_of, const, need_float, promoted
from planish.ir.types import TensorType


def row_max(x: Node, axis: int) -> Node:
    """The maximum along `axis`, kept; 0 where all is minus infinity, so that x - max stays -inf."""
    found = OPS["max"](x, axes=(axis,), keep=True)
    hidden = OPS["eq"](found, const(-np.inf, x.dtype))
    return OPS["select"](hidden, const(0.0, x.dtype), found)


def row_sum(x: Node, axis: int) -> Node:
    """The sum along `axis`, kept."""
    return OPS["sum"](x, axes=(axis,), keep=True)


def exp_and_sum(x: Node, axis: int) -> tuple[Node, Node, Node]:
    """x - max, exp of that, and its sum along `axis`.

    The largest element contributes exp(0), so the sum is at least 1; only that of a row of minus
    infinities is 0, and is made 1.
    """
    shifted = x - row_max(x, axis)
    e = OPS["exp"](shifted)
    return shifted, e, OPS["maximum"](row_sum(e, axis), 1.0)


def shifted_by_max(x: np.ndarray, axis: int) -> np.ndarray:
    """x - max along `axis` in at least single precision; a masked row stays minus infinity."""
    wide = x.astype(np.result_type(x.dtype, np.float32))
    top = wide.max(axis, keepdims=True)
    return wide - np.where(np.isneginf(top), np.zeros_like(top), top)


class _AlongAxis(Composite):
    """A function of the rows of a floating-point array along `axis`."""

    arity, own_vjp = 1, True

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        (x,) = promoted(operands, at_least_float=True)
        return (x,), {**attrs, "axis": axis_of(self.name, attrs.get("axis", -1), x.type.rank)}

    def infer(self, x: TensorType, *, axis: int) -> TensorType:
        """The operand's type."""
        need_float(self.name, x)
        if axis_of(self.name, axis, x.rank) != axis:
            raise AxisError(f"{self.name}: axis {axis} must be counted from the front")
        if x.shape[axis] == 0:
            raise ShapeError(f"{self.name}: {x} has no elements along axis {axis}")
        return x


class Softmax(_AlongAxis):
    """exp(x) / sum(exp(x)) along `axis`; 0 in a row of minus infinities."""

    name = "softmax"

    def ref(self, x: np.ndarray, *, axis: int) -> np.ndarray:
        e = np.exp(shifted_by_max(x, axis))
        total = e.sum(axis, keepdims=True)
        return (e / np.where(total == 0, np.ones_like(total), total)).astype(x.dtype)

    def expand(self, x: Node, *, axis: int) -> Node:
        _, e, total = exp_and_sum(x, axis)
        return e * OPS["reciprocal"](total)

    def vjp(self, y: Node, dy: Node, x: Node, *, axis: int) -> tuple[Node | None, ...]:
        return (y * (dy - row_sum(dy * y, axis)),)


class LogSoftmax(_AlongAxis):
    """log(softmax(x)) along `axis`, exact where softmax underflows."""

    name = "log_softmax"

    def ref(self, x: np.ndarray, *, axis: int) -> np.ndarray:
        shifted = shifted_by_max(x, axis)
        total = np.exp(shifted).sum(axis, keepdims=True)
        return (shifted - np.log(np.where(total == 0, np.ones_like(total), total))).astype(x.dtype)

    def expand(self, x: Node, *, axis: int) -> Node:
        shifted, _, total = exp_and_sum(x, axis)
        return shifted - OPS["log"](total)

    def vjp(self, y: Node, dy: Node, x: Node, *, axis: int) -> tuple[Node | None, ...]:
        return (dy - OPS["exp"](y) * row_sum(dy, axis),)


softmax = register(Softmax)
log_softmax = register(LogSoftmax)
