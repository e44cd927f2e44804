"""Contractions: matmul."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.errors import DTypeError, ShapeError
from planish.ir.node import OPS, Node, Op, register
from planish.ir.ops.base import broadcast_shapes, promoted
from planish.ir.types import TensorType


def swap_last(x: Node) -> Node:
    """The last two axes exchanged."""
    rank = x.type.rank
    return OPS["transpose"](x, perm=(*range(rank - 2), rank - 1, rank - 2))


def as_matrix(x: Node) -> Node:
    """All axes but the last merged into one."""
    return OPS["reshape"](x, shape=(product(x.shape[:-1]), x.shape[-1]))


class Matmul(Op):
    """a[..., m, k] @ b[..., k, n]; the axes before the last two broadcast.

    Integers wrap in their own dtype: cast first where sums may be large.
    """

    name, kind, arity = "matmul", "contraction", 2

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        return promoted(operands), attrs

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        """The broadcast of the batch axes, then [m, n]."""
        if a.dtype != b.dtype or a.dtype == t.boolean:
            raise DTypeError(f"matmul takes numbers of one dtype, got {a} and {b}")
        if a.rank < 2 or b.rank < 2:
            raise ShapeError(f"matmul({a}, {b}): both need at least 2 axes")
        if a.shape[-1] != b.shape[-2]:
            raise ShapeError(
                f"matmul({a}, {b}): inner sizes differ, {a.shape[-1]} != {b.shape[-2]}"
            )
        batch = broadcast_shapes(f"matmul({a}, {b})", a.shape[:-2], b.shape[:-2])
        return a.with_shape((*batch, a.shape[-2], b.shape[-1]))

    def ref(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype.kind in "iu":
            return np.matmul(a, b)
        wide = np.result_type(a.dtype, np.float32)  # 16-bit floats add up in 32 bits
        return np.matmul(a.astype(wide), b.astype(wide)).astype(a.dtype)

    def vjp(self, y: Node, dy: Node, a: Node, b: Node) -> tuple[Node | None, ...]:
        da = dy @ swap_last(b)
        if b.type.rank == 2 and a.type.rank > 2:  # one product, not one per batch and their sum
            return da, swap_last(as_matrix(a)) @ as_matrix(dy)
        return da, swap_last(a) @ dy


matmul = register(Matmul)
