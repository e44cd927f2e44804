"""The order in which the tiles of a product are made, and what is fetched meanwhile.

Rows are cut into parts, two at least: with two threads each has rows of its own, which it then
finds in its cache when it goes on with them row by row. In a part there are groups of panels, in a
group its row blocks, for each of those its panels.

    rows stay    a part of A fits into half of the L2 cache; panels pass, one at a time, and while
                 one is multiplied by all row blocks the next is fetched, a line every few steps
    panels stay  a group of them fits into half of it, and rows of A pass: they are read once for
                 each group, B once; where there are few rows, or panels are long

Weights that no cache holds come from memory that way while there is something else to do; fetched
all at once, at the beginning of a tile, what the tile needs itself waits for memory. Zen 5, two
threads, memory that gives 60 GB/s, 256 tokens of gpt2, ms of all products of a kind before this
order and with it, two trees in turns, by planish profile MODEL --pipeline int8_cache --workload
prefill, 2026-11-27; of float32 the panels of c_proj are too long, and stay:

    c_attn               5.93   5.59 to 5.72
    c_fc                 8.08   7.80 to 7.98
    c_proj of the MLP    6.92   6.66 to 6.84
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planish.ir.dims import product
from planish.ir.loops import Const, Expr, Load, as_index, size_expr
from planish.runtime.kernels.nest import Index, Nest, minimum
from planish.runtime.kernels.tiles import group
from planish.runtime.sizes import LINE

if TYPE_CHECKING:
    from planish.runtime.kernels.gemm import Gemm

LEAST = 64  # rows of a part: with fewer, panels pass faster than memory gives them


@dataclass(frozen=True)
class Walk:
    """The order: `high` row blocks in a part, 0 for all of them; `wide` panels in a group.

    `fetch` steps pass from one line of the next panel that is fetched to the next one; 0: no line.
    """

    high: int = 0
    wide: int = 1
    fetch: int = 0

    @staticmethod
    def of(gemm: Gemm) -> Walk:
        """The order of the tiles of a product."""
        p, room = gemm.product, gemm.target.core.l2 // 2
        rows, depth = product(p.rows), p.depth
        if not isinstance(depth, int):
            return Walk()
        panel, row = (n * depth for n in (gemm.nr * gemm.b.dtype.itemsize, gemm.a.dtype.itemsize))
        passing = gemm.panel is not None and not (p.batch or gemm.matrix)
        if passing and isinstance(rows, int) and 2 * panel <= room:
            parts = max(2, -(-rows * row // room))
            if rows >= parts * LEAST:
                high = -(-rows // (gemm.mr * parts))
                most = max(1, high * gemm.target.lanes(gemm.dtype) // gemm.nr)
                whole = next(x for x in range(most, 0, -1) if depth % x == 0)
                return Walk(high, fetch=whole)
        return Walk(wide=group(gemm.target, panel))

    def place(self, nest: Nest, tile: Expr, down: Expr, across: Expr) -> tuple[Expr, Expr, Expr]:
        """The panel of a tile, its row block, and the place of that in its part.

        There are `down` row blocks and `across` panels.
        """
        before, high = as_index(0), down
        if self.high:
            part = nest.let(tile // (across * self.high))
            tile = nest.let(tile % (across * self.high))
            before, high = nest.let(part * self.high), self._among(nest, part, down, self.high)
        if self.wide == 1 or down == as_index(1):
            panel, row = tile // high, tile % high
        elif isinstance(across, Const) and across.value <= self.wide:
            panel, row = tile % across, tile // across
        else:
            one = nest.let(tile // (high * self.wide))
            inside = nest.let(tile % (high * self.wide))
            wide = self._among(nest, one, across, self.wide)
            panel, row = one * self.wide + inside % wide, inside // wide
        row = nest.let(row)
        return panel, before + row, row

    def _among(self, nest: Nest, one: Expr, count: Expr, most: int) -> Expr:
        """How many of `count` are in the group `one` of `most`: the last may have fewer."""
        if isinstance(count, Const) and count.value % most == 0:
            return as_index(most)
        return nest.let(minimum(count - one * most, as_index(most)))


def fetch_late(gemm: Gemm, batch: Index, panel: Expr, first: Expr) -> None:
    """Ask for what the epilogue of a tile reads of arrays that are larger than the L2 cache, while
    the sums are made."""
    p, rows, nr = gemm.product, product(gemm.product.rows), gemm.nr
    whole = isinstance(p.columns, int) and p.columns % nr == 0 and not gemm.swapped
    size = gemm.anchor.type.size
    if not whole or not isinstance(size, int):
        return
    read = dict.fromkeys(x for n in gemm.late for x in n.inputs if x in gemm.body.inputs)
    for x in (x for x in read if x.shape == gemm.anchor.shape):
        step = LINE // x.dtype.itemsize
        if size * x.dtype.itemsize <= gemm.target.core.l2:
            continue
        with gemm.nest.loop("i", gemm.mr, "unroll") as i:
            row = gemm.row_index(batch, minimum(first + i, size_expr(rows) - 1))
            with gemm.nest.loop("j", -(-nr // step), "unroll") as j:
                if isinstance(at := gemm.pull(x, (*row, panel * nr + j * step)), Load):
                    gemm.nest.fetch(at.buffer, *at.index)
