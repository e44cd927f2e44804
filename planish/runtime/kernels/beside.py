"""Kernels of matrix products by `Gemm`: of a few rows, several panels are read side by side.

One row of A makes no use of what is in registers: its product takes as long as reading B. A core
that reads one panel waits at the end of each page, and for the sum before; with more of them it has
more lines under way, and sums that do not wait for each other. Zen 1, two threads, C loops of 8
vectors of sums, GB/s of B:

    B, a thread        one panel   two panels
    384 KB (L2)              140          149
    1,600 KB (L3)            115          145
    20 MB (memory)            28           31

Sums of integers have no order to keep: they read one panel in several places, see `tiles.streams`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.loops import Buffer, Const, Expr, as_index, size_expr
from planish.ir.node import Node
from planish.runtime.kernels.gemm import SPLIT_K, Gemm, Roles
from planish.runtime.kernels.nest import Lowered, lowered
from planish.runtime.kernels.tiles import WAITING
from planish.runtime.target import Target

VECTORS = 8  # of B, at most, that are read in a step
MANY = 32  # groups of panels: one more or less for a thread is no matter


class SideGemm(Gemm):
    """A matmul kernel being written, of so few rows that a tile has them all: `beside` panels."""

    beside: int

    def write(self) -> None:
        """One parallel iteration for each group of panels."""
        nest, p = self.nest, self.product
        rows, columns = size_expr(product(p.rows)), size_expr(p.columns)
        with nest.loop("p", panels_of(self) // self.beside, "parallel") as at:
            group = [nest.let(at * self.beside + i) for i in range(self.beside)]
            for panel, tile in zip(group, self.side_by_side(group, rows), strict=True):
                self.tile = tile
                self.finish((), panel, as_index(0), rows, columns)

    def side_by_side(self, panels: list[Expr], rows: Expr) -> list[Buffer]:
        """The tiles of these panels, each the sum over k in order."""
        nest, zero = self.nest, as_index(0)
        of_a = self._rows_of_a((), zero, zero, rows)
        sums, tiles = (
            [nest.local(f"{name}{n}", self.dtype, self.mr, self.nr) for n in range(len(panels))]
            for name in ("acc", "tile")
        )
        for acc in sums:
            self._fill(acc, lambda i, j: Const(0.0, self.dtype))

        def step(k: Expr) -> None:
            for acc, panel in zip(sums, panels, strict=True):
                self._step(acc, of_a, (), panel, k)

        self._over_k(step)
        for acc, tile in zip(sums, tiles, strict=True):
            self._fill(tile, partial(nest.load, acc))
        return tiles

    def _fill(self, buffer: Buffer, value: Callable[[Expr, Expr], Expr]) -> None:
        """buffer[i, j] = value(i, j)."""
        self._tile(lambda i, j: self.nest.store(buffer, (i, j), value(i, j)))


def panels_of(gemm: Gemm) -> int:
    """How many panels the columns make."""
    return -(-int(gemm.product.columns) // gemm.nr)  # type: ignore[arg-type]


def panels_beside(gemm: Gemm) -> int:
    """How many panels are better read side by side: of few rows and floats, as many as have their
    sums in registers and can be shared out evenly among two threads."""
    p, rows = gemm.product, product(gemm.product.rows)
    if not (isinstance(rows, int) and isinstance(p.columns, int)) or p.batch:
        return 1
    if gemm.panel is None or gemm.matrix or not gemm.dtype.is_float:
        return 1
    vectors = gemm.nr // gemm.target.lanes(gemm.dtype)
    panels, registers = panels_of(gemm), gemm.target.vector_registers
    if rows > min(gemm.mr, WAITING):
        return 1
    for many in (4, 2):
        fits = many * vectors <= VECTORS and (many * vectors + 1) * gemm.mr < registers
        even = panels % (2 * many) == 0 or (panels % many == 0 and panels >= MANY * many)
        if fits and even:
            return many
    return 1


def gemm_kernel(
    body: Graph, anchor: Node, roles: Roles, name: str, target: Target, packed: bool
) -> Lowered:
    """The kernel of a contraction body. Packed B, if any, is the argument ("packed", 0)."""
    gemm = _gemm(body, anchor, roles, target, packed, 1)
    divisor = gemm.nest.divisions.get("k", 1)
    depth = gemm.product.depth
    if 1 < divisor <= SPLIT_K and isinstance(depth, int) and depth % divisor == 0:
        gemm = _gemm(body, anchor, roles, target, packed, divisor)
    return lowered(gemm.nest, gemm.pull, name)


def _gemm(
    body: Graph, anchor: Node, roles: Roles, target: Target, packed: bool, split: int
) -> Gemm:
    """A written kernel."""
    gemm = Gemm(body, anchor, roles, target, packed, split)
    if (many := panels_beside(gemm)) > 1:
        gemm = SideGemm(body, anchor, roles, target, packed, split)
        gemm.beside = many
    gemm.write()
    return gemm
