"""Contractions: matmul, and that by integers whose scale changes along k."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.errors import DTypeError, ShapeError
from planish.ir.loop_scalars import fma
from planish.ir.node import OPS, Node, Op, register
from planish.ir.ops.base import as_node, broadcast_shapes, promoted
from planish.ir.types import DType, TensorType


def swap_last(x: Node) -> Node:
    """The last two axes exchanged."""
    rank = x.type.rank
    return OPS["transpose"](x, perm=(*range(rank - 2), rank - 1, rank - 2))


def as_matrix(x: Node) -> Node:
    """All axes but the last merged into one."""
    return OPS["reshape"](x, shape=(product(x.shape[:-1]), x.shape[-1]))


def sums_in(result: DType) -> DType:
    """The dtype in which the sums of a matmul with this result are formed."""
    return t.f32 if result in (t.f16, t.bf16) else result


class Matmul(Op):
    """a[..., m, k] @ b[..., k, n]; the axes before the last two broadcast.

    The result has the dtype of the operands, or the wider `out` of their kind. Sums are formed in
    the dtype of the result, those of 16-bit floats in f32. Integers wrap: where sums may be large,
    `out` is wide.
    """

    name, kind, arity = "matmul", "contraction", 2

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        inputs, out = promoted(operands), attrs.pop("out", None)
        if out is not None and t.dtype(out) != inputs[0].dtype:
            attrs["out"] = t.dtype(out)
        return inputs, attrs

    def infer(self, a: TensorType, b: TensorType, *, out: DType | None = None) -> TensorType:
        """The broadcast of the batch axes, then [m, n]."""
        if a.dtype != b.dtype or a.dtype == t.boolean:
            raise DTypeError(f"matmul takes numbers of one dtype, got {a} and {b}")
        if a.rank < 2 or b.rank < 2:
            raise ShapeError(f"matmul({a}, {b}): both need at least 2 axes")
        if a.shape[-1] != b.shape[-2]:
            raise ShapeError(
                f"matmul({a}, {b}): inner sizes differ, {a.shape[-1]} != {b.shape[-2]}"
            )
        result = a.dtype if out is None else out
        if result != a.dtype and (result.bits <= a.dtype.bits or result.kind != a.dtype.kind):
            raise DTypeError(f"matmul({a}, {b}): out is {a.dtype} or wider, got {result}")
        batch = broadcast_shapes(f"matmul({a}, {b})", a.shape[:-2], b.shape[:-2])
        return TensorType(result, (*batch, a.shape[-2], b.shape[-1]))

    def ref(self, a: np.ndarray, b: np.ndarray, *, out: DType | None = None) -> np.ndarray:
        result = a.dtype if out is None else out.numpy
        kind = t.dtype(a.dtype)
        # sums of 8-bit products are exact in f64, which NumPy multiplies a hundred times faster
        exact = kind.is_int and kind.bits <= 8 and t.dtype(result).bits >= 32
        if exact:
            sums = np.matmul(a.astype(np.float64), b.astype(np.float64))
            return sums.astype(np.int64).astype(result)
        wide = sums_in(t.dtype(result)).numpy
        return np.matmul(a.astype(wide), b.astype(wide)).astype(result)

    def vjp(
        self, y: Node, dy: Node, a: Node, b: Node, *, out: DType | None = None
    ) -> tuple[Node | None, ...]:
        dy = as_node(dy, a.dtype)
        da = dy @ swap_last(b)
        if b.type.rank == 2 and a.type.rank > 2:  # one product, not one per batch and their sum
            return da, swap_last(as_matrix(a)) @ as_matrix(dy)
        return da, swap_last(a) @ dy


matmul = register(Matmul)


class ScaledMatmul(Op):
    """a[..., m, k] @ (b[k, n] * scale[g, n]), where k is g groups of equal size, each with scales.

    a is f32, or i8 of which the sums of a group are exact; b is i4 or i8. The sums of the groups,
    times their scales, are added in f32, in order, each product and sum rounded as one. Scales are
    bf16: half the bytes, and far finer than the steps that they are the size of.
    """

    name, kind, arity = "scaled_matmul", "contraction", 3
    no_vjp = "its weights are integers, which are constant between their steps"

    def infer(self, a: TensorType, b: TensorType, scale: TensorType) -> TensorType:
        """The rows of a, the columns of b."""
        given = f"scaled_matmul({a}, {b}, {scale})"
        if a.dtype not in (t.f32, t.i8) or b.dtype not in (t.i4, t.i8) or scale.dtype != t.bf16:
            raise DTypeError(f"{given} takes a of f32 or i8, b of i4 or i8, and scales of bf16")
        if a.rank < 2 or b.rank != 2 or scale.rank != 2:
            raise ShapeError(f"{given}: a needs at least 2 axes, b and scale have 2")
        sizes = a.shape[-1], *b.shape, *scale.shape
        if any(not isinstance(s, int) for s in sizes):
            raise ShapeError(f"{given}: k, n and the number of groups must be known")
        if a.shape[-1] != b.shape[0] or b.shape[1] != scale.shape[1]:
            raise ShapeError(f"{given}: a is [..., k], b [k, n], scale [groups, n]")
        k, groups = int(b.shape[0]), int(scale.shape[0])  # type: ignore[arg-type]
        if not groups or k % groups:
            raise ShapeError(f"{given}: {groups} groups do not divide k = {k}")
        return TensorType(t.f32, (*a.shape[:-1], b.shape[1]))

    def ref(self, a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> np.ndarray:
        wide = np.float64 if scale.dtype == np.float64 else np.float32
        total = np.zeros((*a.shape[:-1], b.shape[1]), wide)
        exact = np.float64 if a.dtype == np.int8 else wide
        size = len(b) // len(scale)
        for group, factors in enumerate(scale):
            part = slice(group * size, (group + 1) * size)
            sums = np.matmul(a[..., part].astype(exact), b[part].astype(np.int8).astype(exact))
            total = fma(sums.astype(wide), np.broadcast_to(factors.astype(wide), sums.shape), total)
        return total


scaled_matmul = register(ScaledMatmul)
