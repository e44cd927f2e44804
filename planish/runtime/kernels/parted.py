"""What products by panels of several arrays have in common: see `planish.runtime.bitmaps`."""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.loops import Buffer, Const, Expr, bitcast, size_expr
from planish.ir.node import Node
from planish.ir.types import DType
from planish.runtime.kernels.gemm import Gemm, Roles
from planish.runtime.kernels.nest import Index
from planish.runtime.target import Target


class PartedGemm(Gemm):
    """A matmul kernel being written whose panels of B, `nr` columns wide, are several arrays.

    They are the arguments ("packed", 1 ..): two that say where what is kept belongs, what is kept,
    and for bytes of an unsigned A the sums that go before.
    """

    def __init__(
        self, body: Graph, anchor: Node, roles: Roles, target: Target, mr: int, nr: int
    ) -> None:
        super().__init__(body, anchor, roles, target, packed=False, split=1)
        self.mr, self.nr = mr, nr
        self.count = -(-self.product.columns // nr)  # type: ignore[operator]
        self.starts = self.part(1, t.i64, self.count + 1)
        self.first = self.part(3, t.u32, self.count, nr) if self.ahead else None

    @property
    def flips_a(self) -> bool:
        """Never: rows of B that are not there would leave out nothing."""
        return False

    def part(self, number: int, dtype: DType, *shape: object) -> Buffer:
        """One of the arrays."""
        buffer = Buffer(f"packed{number}", dtype, tuple(map(size_expr, shape)))  # type: ignore
        self.nest.params.append(buffer)
        return buffer

    def _start(self, batch: Index, panel: Expr, j: Expr) -> Expr:
        if self.first is None:
            return Const(0.0 if self.dtype.is_float else 0, self.dtype)
        return bitcast(self.nest.load(self.first, panel, j), self.dtype)
