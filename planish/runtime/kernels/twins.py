"""Kernels of matrix products by `Gemm`: of a few rows by panels, two panels are read side by side.

One row of A makes no use of what is in registers: its product takes as long as reading B. A core
that reads one panel waits at the end of each page, and for the sum before; with two it has more
lines under way. Zen 1, two threads, C loops of 4 vectors, GB/s of B:

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
from planish.runtime.kernels.nest import Lowered, lowered, minimum
from planish.runtime.kernels.tiles import WAITING
from planish.runtime.target import Target

EVEN = 4  # panels: pairs of so many, or of a multiple, are shared out evenly among two threads
MANY = 64  # panels: one pair more or less for a thread is no matter


class TwinGemm(Gemm):
    """A matmul kernel being written, of so few rows that a tile has them all."""

    def write(self) -> None:
        """One parallel iteration for each pair of panels; an odd last one is its own twin."""
        nest, p = self.nest, self.product
        rows, columns = size_expr(product(p.rows)), size_expr(p.columns)
        panels = panels_of(self)
        with nest.loop("p", -(-panels // 2), "parallel") as pair:
            second: Expr = pair * 2 + 1
            second = minimum(second, as_index(panels - 1)) if panels % 2 else second
            pairs = [nest.let(pair * 2), nest.let(second)]
            for panel, tile in zip(pairs, self.side_by_side(pairs, rows), strict=True):
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


def pays_pairs(gemm: Gemm) -> bool:
    """Whether panels are better read in pairs: few rows, floats, sums of two in the registers."""
    p, rows = gemm.product, product(gemm.product.rows)
    if not (isinstance(rows, int) and isinstance(p.columns, int)) or p.batch:
        return False
    if gemm.panel is None or gemm.matrix or not gemm.dtype.is_float:
        return False
    vectors = gemm.nr // gemm.target.lanes(gemm.dtype)
    fits = 2 * gemm.mr * vectors + gemm.mr < gemm.target.vector_registers
    panels = panels_of(gemm)
    return rows <= min(gemm.mr, WAITING) and fits and (panels % EVEN == 0 or panels >= MANY)


def gemm_kernel(
    body: Graph, anchor: Node, roles: Roles, name: str, target: Target, packed: bool
) -> Lowered:
    """The kernel of a contraction body. Packed B, if any, is the argument ("packed", 0)."""
    given = body, anchor, roles, target, packed
    kind = TwinGemm if pays_pairs(Gemm(*given, 1)) else Gemm
    gemm = kind(*given, 1)
    gemm.write()
    divisor = gemm.nest.divisions.get("k", 1)
    depth = gemm.product.depth
    if 1 < divisor <= SPLIT_K and isinstance(depth, int) and depth % divisor == 0:
        gemm = kind(*given, divisor)
        gemm.write()
    return lowered(gemm.nest, gemm.pull, name)
