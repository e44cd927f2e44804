"""Kernels of matrix products by `Gemm`: of a few rows, several panels are read side by side.

One row of A makes no use of what is in registers: its product takes as long as reading B. A core
that reads one panel waits at the end of each page, and for the sum before; with more of them it has
more lines under way, and sums that do not wait for each other. Zen 1, two threads, 2026-11-26, us:

    python benchmarks/tune.py --shapes 1x384x512,1x1536x512,1x1024x10240
                              --tiles 2x4x1,2x4x2,2x4x4 --threads 2 --seconds 2

    B, a thread        one panel   two panels   four
    384 KB (L2)             21.0         15.8   15.3
    1.5 MB (L3)             59.2         37.7   36.8
    20 MB (memory)         1,550        1,480  1,476

Of the projections to q, k and v a thread computes those of its heads, where attention is by heads
too: it reads what it has written itself, and need not wait for the others.

Bytes gain besides, as each step takes apart an element of A for all panels. Panels side by side
are far apart, so that each of them is read on where the last one ended. Zen 3, 2026-11-27, us:

    python benchmarks/tune.py --forms int8 --shapes 1x384x1536,1x768x3072
                              --tiles 2x4x1,2x4x2,2x4x4

    B, bytes           one panel   two panels   four
    590 KB (L3)             14.5         12.5   12.1
    2.4 MB (L3)             47.1         37.3   35.8
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from math import gcd

from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.loops import Buffer, Expr, as_index, scalar, size_expr
from planish.ir.node import Node
from planish.runtime.kernels.gemm import SPLIT_K, Gemm, Roles
from planish.runtime.kernels.nest import Index, Lowered, lowered, minimum
from planish.runtime.kernels.row_blocks import RowGemm, takes_blocks
from planish.runtime.kernels.strides import whole
from planish.runtime.kernels.tiles import WAITING
from planish.runtime.target import Target

# Vector registers -> vectors of B, at most, that are read in a step of floats. With 12, q, k and v
# of a head of 64 are read side by side by AVX-512, and its attention needs no meeting; 16 gain
# nothing beyond that.
VECTORS = {16: 8, 32: 12}
MANY = 32  # groups of panels: one more or less for a thread, or one not full, is no matter


class SideGemm(Gemm):
    """A matmul kernel being written, of so few rows that a tile has them all: `beside` panels.

    With `heads`, an iteration has all panels of a head, `wide` side by side in each part. Of a B in
    parts it has one of those. Of panels that are wider than what heads share, it reads `cut`ths.
    """

    beside: int
    heads, wide, cut = 0, 0, 1

    def of(self, count: int, size: int) -> None:
        """Write iterations of `count` heads of `size` columns."""
        width = gcd(self.nr, size)
        self.heads, self.wide, self.cut, self.nr = count, size // width, self.nr // width, width

    def _b(self, batch: Index, panel: Expr, k: Expr, j: Expr) -> Expr:
        if self.cut == 1:
            return super()._b(batch, panel, k, j)
        place, first = (self.nest.let(x) for x in (panel // self.cut, panel % self.cut * self.nr))
        return super()._b(batch, place, k, first + j)

    def write(self) -> None:
        """One parallel iteration for each group of panels, or for each head."""
        nest = self.nest
        count, width = panels_of(self), self.beside
        if self.product.batch:
            with nest.loop("p", self.product.batch[0], "parallel") as part:
                with nest.loop("g", count // width) as at:
                    self.group([nest.let(at * width + i) for i in range(width)], (part,))
            return
        if not self.heads:
            apart = -(-count // width)
            with nest.loop("p", apart, "parallel") as at:
                self.group([nest.let(at + i * apart) for i in range(width)])
            return
        with nest.loop("p", self.heads, "parallel") as head:
            parts = count // (self.heads * self.wide)
            places = [(part, i) for part in range(parts) for i in range(self.wide)]
            firsts = [nest.let((head + part * self.heads) * self.wide) for part in range(parts)]
            panels = [nest.let(firsts[part] + i) for part, i in places]
            share = self.heads * self.wide * self.nr
            among = [(part * share, (part + 1) * share) for part, _ in places]
            for start in range(0, len(panels), width):
                end = start + width
                self.group(panels[start:end], among=among[start:end])

    def group(
        self, panels: list[Expr], part: Index = (), among: Sequence[tuple[int, int] | None] = ()
    ) -> None:
        """The columns of these panels, of a part of B; they are `among` those: see `finish`."""
        rows, columns = (size_expr(x) for x in (product(self.product.rows), self.product.columns))
        count, dealt = as_index(panels_of(self)), not (self.heads or part)
        beyond = dealt and panels_of(self) % self.beside != 0
        there = [self.nest.let(minimum(x, count - 1)) for x in panels] if beyond else panels
        tiles = self.side_by_side(there, rows, part)
        known = among or [None] * len(panels)
        for panel, tile, span in zip(panels, tiles, known, strict=True):
            self.tile = tile
            with self.nest.when(scalar("lt", panel, count)) if beyond else nullcontext():
                self.finish(part, panel, as_index(0), rows, columns, span)

    def side_by_side(self, panels: list[Expr], rows: Expr, part: Index) -> list[Buffer]:
        """The tiles of these panels, each the sum over k in order."""
        nest, zero = self.nest, as_index(0)
        of_a = self._rows_of_a(part, zero, zero, rows)
        sums, tiles = (
            [nest.local(f"{name}{n}", self.dtype, self.mr, self.nr) for n in range(len(panels))]
            for name in ("acc", "tile")
        )
        starts = self._starts(part, of_a)
        for acc, panel in zip(sums, panels, strict=True):
            self._fill(acc, partial(starts, panel))

        def step(k: Expr) -> None:
            for acc, panel in zip(sums, panels, strict=True):
                self._step(acc, of_a, part, panel, k)

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
    """How many panels are better read side by side: of few rows, as many as have their
    sums in registers and can be shared out evenly among two threads; of few panels half, even where
    one is then read for nothing: their sums do not wait for each other."""
    for many in (4, 2):
        panels = panels_of(gemm) if may_read_beside(gemm, many) else 1
        if gemm.product.batch and panels % many == 0:
            return many
        if panels % (2 * many) == 0 or panels >= MANY * many:
            return many
    if gemm.product.batch or not may_read_beside(gemm, 1):
        return 1  # columns may have no number yet
    half = -(-panels_of(gemm) // 2)
    return half if may_read_beside(gemm, half) else 1


def may_read_beside(gemm: Gemm, many: int, width: int = 0) -> bool:
    """Whether a product has few rows, and the sums of so many panels, or of `width` columns of
    each, are in registers."""
    p, rows = gemm.product, product(gemm.product.rows)
    if not (isinstance(rows, int) and isinstance(p.columns, int)):
        return False
    if p.batch and whole(gemm.b) is gemm.b:
        return False
    if gemm.panel is None or gemm.matrix:
        return False
    vectors = (width or gemm.nr) // gemm.target.lanes(gemm.dtype) * many
    registers = gemm.target.vector_registers
    most = VECTORS[registers] if gemm.dtype.is_float else registers // 2
    fits = vectors <= most and (vectors + 1) * gemm.mr < registers
    return fits and rows <= min(gemm.mr, WAITING)


def of_heads(gemm: Gemm, heads: tuple[int, int]) -> int:
    """How many panels are read side by side where threads have (heads, columns of each) of their
    own; 0 where that cannot be, or would not be shared out evenly among two threads. Bytes lose
    more by reading short panels here and there than they gain: heads have whole ones."""
    count, size = heads
    rows, columns = product(gemm.product.rows), gemm.product.columns
    width = gcd(size, gemm.nr)
    uneven = width % gemm.target.lanes(gemm.dtype)
    short = not gemm.dtype.is_float and width != gemm.nr
    if rows != 1 or count % 2 or uneven or short:
        return 0
    if not isinstance(columns, int) or columns % (count * size):
        return 0
    panels = columns // count // width
    fitting = (n for n in (6, 4, 3, 2, 1) if panels % n == 0 and may_read_beside(gemm, n, width))
    return next(fitting, 0)


def gemm_kernel(
    body: Graph, anchor: Node, roles: Roles, name: str, target: Target, packed: bool,
    heads: tuple[int, int] | None = None, before: Graph | None = None,
) -> Lowered:  # fmt: skip
    """The kernel of a contraction body. Packed B, if any, is the argument ("packed", 0).

    Its columns are read by so many `heads`, each so many columns of every part; `before` makes the
    rows that are its last input.
    """
    gemm = _gemm(body, anchor, roles, target, packed, 1, heads, before)
    divisor = gemm.nest.divisions.get("k", 1)
    depth = gemm.product.depth
    if 1 < divisor <= SPLIT_K and isinstance(depth, int) and depth % divisor == 0:
        gemm = _gemm(body, anchor, roles, target, packed, divisor, heads, before)
    return lowered(gemm.nest, gemm.pull, name)


def _gemm(
    body: Graph, anchor: Node, roles: Roles, target: Target, packed: bool, split: int,
    heads: tuple[int, int] | None, before: Graph | None,
) -> Gemm:  # fmt: skip
    """A written kernel."""
    gemm = Gemm(body, anchor, roles, target, packed, split)
    apart = of_heads(gemm, heads) if heads else 0
    many = apart or panels_beside(gemm)
    if apart or many > 1:
        gemm = SideGemm(body, anchor, roles, target, packed, split)
        gemm.beside = many
        if apart and heads:
            gemm.of(*heads)
    elif takes_blocks(gemm):
        gemm = RowGemm(body, anchor, roles, target, packed, split)
        gemm.before = before
    gemm.write()
    return gemm
