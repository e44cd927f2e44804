"""Products of many rows by few weights: an iteration multiplies a block of rows by all panels.

Panels stay in the L2 cache. Threads have rows of their own, with which they go on in the next step
without a meeting, see `planish.runtime.schedule`; and rows that are made of earlier ones, such as
those of a norm, are made where they are multiplied, and stay in the L1 cache: a prologue.
"""

from __future__ import annotations

from functools import partial

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.loops import Buffer, Expr, size_expr
from planish.ir.node import Node
from planish.runtime.kernels.gemm import Along, Gemm, Roles
from planish.runtime.kernels.nest import Index
from planish.runtime.kernels.rows import row_into
from planish.runtime.kernels.tiles import group
from planish.runtime.target import Target

EVEN = 8  # blocks, of which there is a multiple: two, four or eight threads have equally many


def takes_blocks(gemm: Gemm) -> bool:
    """Whether all panels stay in the L2 cache, and rows make whole blocks that are shared out
    evenly."""
    p, rows = gemm.product, product(gemm.product.rows)
    known = isinstance(p.depth, int) and isinstance(p.columns, int) and isinstance(rows, int)
    if gemm.panel is None or gemm.strips is not None or gemm.matrix or p.batch or not known:
        return False
    panel = gemm.nr * gemm.b.dtype.itemsize * p.depth  # type: ignore[operator]
    stay = -(-p.columns // gemm.nr) <= group(gemm.target, panel)  # type: ignore[operator]
    return stay and rows % (EVEN * gemm.mr) == 0  # type: ignore[operator]


def makes_rows(body: Graph, anchor: Node, roles: Roles, packed: bool, target: Target) -> bool:
    """Whether a product makes its rows: they are no words, and met by all panels."""
    plain = roles.dot is None and not roles.swapped and roles.a.dtype == t.f32
    return (
        packed and plain and takes_blocks(Gemm(body, anchor, roles, target, packed=True, split=1))
    )


class RowGemm(Gemm):
    """A matmul kernel being written; with `before`, that makes rows of A, the last input."""

    before: Graph | None = None
    made: Buffer | None = None

    def write(self) -> None:
        """One parallel iteration for each block of rows."""
        nest, p = self.nest, self.product
        rows, columns = size_expr(product(p.rows)), size_expr(p.columns)
        with nest.loop("p", rows // self.mr, "parallel") as block:
            first = nest.let(block * self.mr)
            if self.before is not None:
                self.made = nest.local("rows", self.a.dtype, self.mr, p.depth)
                with nest.loop("r", self.mr) as i:
                    row = nest.let(first + i)
                    row_into(self.made, i, self.before, row, nest, self.pull, self.target)
            with nest.loop("panel", (columns + (self.nr - 1)) // self.nr) as panel:
                self.accumulate((), panel, self._rows_of_a((), block, first, rows))
                self.finish((), panel, first, rows, columns)

    def _rows_of_a(self, batch: Index, block: Expr, first: Expr, rows: Expr) -> list[Along]:
        if (made := self.made) is not None:
            return [partial(self.nest.load, made, i) for i in range(self.mr)]
        return [partial(self._in_a, batch, self.nest.let(first + i)) for i in range(self.mr)]
