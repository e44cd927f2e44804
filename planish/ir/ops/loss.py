"""Losses: cross_entropy, mse, bce_with_logits. All are means, so they are scalars."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.errors import DTypeError, ShapeError
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Composite, as_node, const, need_float, need_int, promoted
from planish.ir.ops.indexing import check_range
from planish.ir.ops.softmax import shifted_by_max
from planish.ir.types import DType, TensorType


def count_of(x: Node, dtype: DType) -> Node:
    """The number of elements of `x`, at least 1, as a float scalar."""
    size = x.type.size
    if isinstance(size, int):
        return const(max(size, 1), dtype)
    return OPS["maximum"](OPS["cast"](OPS["size"](size=size), dtype=dtype), 1.0)


class CrossEntropy(Composite):
    """Mean over the targets of -log(softmax(logits)[target]); targets index the last axis.

    Targets equal to `ignore_index` do not count; without any other the loss is 0. Every other
    target outside the last axis is refused.
    """

    name, arity, own_vjp = "cross_entropy", 2, True

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, {"ignore_index": -100, **attrs})
        return (*promoted(operands[:1], at_least_float=True), *operands[1:]), attrs

    def infer(
        self, logits: TensorType, targets: TensorType, *, ignore_index: int | None = -100
    ) -> TensorType:
        """A scalar."""
        need_float(self.name, logits)
        need_int(self.name, targets)
        if logits.rank == 0 or logits.shape[:-1] != targets.shape or logits.shape[-1] == 0:
            raise ShapeError(
                f"cross_entropy takes logits [..., classes] and targets [...], "
                f"got {logits} and {targets}"
            )
        return logits.with_shape(())

    def ref(
        self, logits: np.ndarray, targets: np.ndarray, *, ignore_index: int | None
    ) -> np.ndarray:
        ids = np.asarray(targets).astype(np.int64)
        counts = np.ones_like(ids, bool) if ignore_index is None else ids != ignore_index
        ids = np.where(counts, ids, 0)
        check_range("target id", ids, logits.shape[-1])
        shifted = shifted_by_max(logits, -1)
        chosen = np.take_along_axis(shifted, ids[..., None], -1)[..., 0]
        loss = np.log(np.exp(shifted).sum(-1)) - chosen
        total = np.where(counts, loss, np.zeros_like(loss)).sum()
        return (total / max(int(counts.sum()), 1)).astype(logits.dtype)

    def expand(self, logits: Node, targets: Node, *, ignore_index: int | None) -> Node:
        axis = logits.type.rank - 1
        counts, ids, count = _targets(logits, targets, ignore_index)
        chosen = OPS["take_along"](logits, ids, axis=axis, what="target id")
        loss = OPS["logsumexp"](logits, axes=(axis,), keep=True) - chosen
        if counts is not None:
            loss = OPS["select"](counts, loss, const(0.0, loss.dtype))
        return OPS["sum"](loss) / count

    def vjp(
        self, y: Node, dy: Node, logits: Node, targets: Node, *, ignore_index: int | None
    ) -> tuple[Node | None, ...]:
        # softmax - one_hot, scaled; the logsumexp is the forward pass's, so no row is summed again
        axis = logits.type.rank - 1
        counts, ids, count = _targets(logits, targets, ignore_index)
        p = OPS["exp"](logits - OPS["logsumexp"](logits, axes=(axis,), keep=True))
        place = OPS["iota"](shape=logits.shape, axis=axis, dtype=t.i32)
        ids = as_node(ids, t.i32)  # the forward pass has refused what does not fit
        error = OPS["select"](OPS["eq"](place, ids), p - 1.0, p)
        scale = dy / count
        if counts is not None:
            scale = OPS["select"](counts, scale, const(0.0, dy.dtype))
        return error * scale, None


def _targets(
    logits: Node, targets: Node, ignore_index: int | None
) -> tuple[Node | None, Node, Node]:
    """Whether each target counts (None: all), ids with 0 for those that do not, and how many do.

    The first two have shape [..., 1], beside the logits; the last is a float scalar, at least 1.
    """
    column = OPS["reshape"](targets, shape=(*targets.shape, 1))
    if ignore_index is None:
        return None, column, count_of(targets, logits.dtype)
    wide = t.promote(targets.dtype, t.i32)  # so that ignore_index fits
    column = column if wide == column.dtype else OPS["cast"](column, dtype=wide)
    counts = OPS["ne"](column, const(ignore_index, wide))
    total = OPS["sum"](OPS["cast"](counts, dtype=logits.dtype))
    return counts, OPS["select"](counts, column, const(0, wide)), OPS["maximum"](total, 1.0)


class _MeanLoss(Composite):
    """The mean of an elementwise loss of x against y, which have one shape."""

    arity = 2

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        return promoted(operands, at_least_float=True), attrs

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        """A scalar."""
        need_float(self.name, x, y)
        if x.dtype != y.dtype:
            raise DTypeError(f"{self.name} takes one dtype, got {x} and {y}")
        if x.shape != y.shape:
            raise ShapeError(f"{self.name} takes two arrays of one shape, got {x} and {y}")
        return x.with_shape(())


def _mean(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (x.sum() / max(x.size, 1)).astype(dtype)


class MeanSquaredError(_MeanLoss):
    """Mean of (x - y)^2; 0 for empty arrays."""

    name, own_vjp = "mse", True

    def ref(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return _mean(np.square(x.astype(np.result_type(x.dtype, np.float32)) - y), x.dtype)

    def expand(self, x: Node, y: Node) -> Node:
        d = x - y
        return OPS["sum"](d * d) / count_of(x, x.dtype)

    def vjp(self, out: Node, dy: Node, x: Node, y: Node) -> tuple[Node | None, ...]:
        dx = (x - y) * (dy * 2.0 / count_of(x, x.dtype))
        return dx, -dx


class BinaryCrossEntropy(_MeanLoss):
    """Mean of -(y log p + (1 - y) log(1 - p)) at p = sigmoid(x), for logits x, without overflow."""

    name, own_vjp = "bce_with_logits", True

    def ref(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        wide = x.astype(np.result_type(x.dtype, np.float32))
        return _mean(np.logaddexp(np.zeros_like(wide), wide) - wide * y, x.dtype)

    def expand(self, x: Node, y: Node) -> Node:
        tail = OPS["log1p"](OPS["exp"](-OPS["abs"](x)))
        loss = OPS["maximum"](x, 0.0) - x * y + tail
        return OPS["sum"](loss) / count_of(x, x.dtype)

    def vjp(self, out: Node, dy: Node, x: Node, y: Node) -> tuple[Node | None, ...]:
        scale = dy / count_of(x, x.dtype)
        return (OPS["sigmoid"](x) - y) * scale, -x * scale


cross_entropy = register(CrossEntropy)
mse = register(MeanSquaredError)
bce_with_logits = register(BinaryCrossEntropy)
