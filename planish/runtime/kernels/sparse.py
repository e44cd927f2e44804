"""Matrix multiplication by a weight without its zeros, which are put back in registers.

As in `gemm`, a tile of C stays in registers over the whole of k, and B comes in panels; but of a
panel there are a mask for each 64 bytes (of words) or floats, and what is kept, in the order in
which it is read. So memory is read once, front to back, and there is less of it.

One tile of rows, as in decoding, expands vectors where it multiplies by them. Where there may be
more, a thread expands a panel into memory of its own, which stays in the L2 cache, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.loop_expand import LANES, bits_in, expanded
from planish.ir.loops import Buffer, Expr, as_index, scalar, size_expr
from planish.ir.node import Node
from planish.ir.ops.linalg import sums_in
from planish.ir.ops.sparse import WORD
from planish.runtime.expansion import why_slower
from planish.runtime.kernels.gemm import UNSIGNED, Along, Roles, takes_matrix
from planish.runtime.kernels.nest import Index, Lowered, lowered, minimum
from planish.runtime.kernels.parted import PartedGemm
from planish.runtime.kernels.tiles import quickest, tiles
from planish.runtime.target import Target

# Columns of a panel: floats of one mask, or words of four. All programs of a model read the same
# panels.
COLUMNS = WORD
SUMS = 3 / 4  # of the registers: so many hold the sums of rows that are multiplied as they expand


def bitmap_of(b: Node) -> Node | None:
    """The bitmap that B is made of, if any."""
    return next((x for x in Graph("b", (), (b,)).nodes if x.op.name == "expand_bitmap"), None)


def why_zeros(
    body: Graph, roles: Roles, anchor: Node, bitmap: Node, target: Target, weights: int
) -> str:
    """Why a matmul reads a B that is a bitmap with its zeros; "" where it reads it without.

    `weights` are the bytes of all weights of the program.
    """
    b, p = roles.b, roles.product
    known = isinstance(p.columns, int) and isinstance(p.depth, int)
    if roles.swapped or roles.strips or b.type.rank != 2 or not known:
        return "its operands lie otherwise"
    if b.dtype not in (t.u32, t.f32) or anchor.dtype not in (t.f32, t.i32):
        return f"no kernel for {bitmap.dtype}"
    if takes_matrix(body, roles, target, sums_in(anchor.dtype)):
        return "the matrix unit is faster"
    kept = bitmap.inputs[2].type.size / bitmap.type.size  # type: ignore[operator]
    return why_slower(target, t.u8 if b.dtype == t.u32 else t.f32, kept, weights)


class SparseGemm(PartedGemm):
    """A matmul kernel whose B is a bitmap of at most `kept` bytes, or floats."""

    def __init__(self, body: Graph, anchor: Node, roles: Roles, target: Target, kept: int):
        many, lanes = product(roles.product.rows), target.lanes(sums_in(anchor.dtype))
        few = max(1, int(target.vector_registers * SUMS) // (COLUMNS // lanes))
        mr, nr = tile_of(target, roles, lanes)
        self.once = False
        if isinstance(many, int) and many <= few:
            self.once, mr, nr = True, many, COLUMNS
        super().__init__(body, anchor, roles, target, mr, COLUMNS)
        self.nr, self.across = nr, COLUMNS // nr
        depth = self.product.depth
        self.values = self.part(2, t.u8 if roles.b.dtype == t.u32 else t.f32, kept)
        self.shared = WORD // bits_in(self.values)  # vectors of a mask
        self.masks = self.part(0, t.i64, self.count, depth, COLUMNS // LANES // self.shared)
        self.at = self.nest.local("at", t.i64, 1)
        shape = (LANES,) if self.once else (self.across, depth, nr)
        self.wide = self.nest.local("wide", self.b.dtype, *shape)

    @property
    def flips_a(self) -> bool:
        """Of rows that are multiplied as B expands: all of it is there, zeros put back."""
        return self.once and self.dot == "dpflip"

    def write(self) -> None:
        """One parallel iteration for each panel, strip by strip where it is wider than a tile."""
        nest = self.nest
        rows, columns = size_expr(product(self.product.rows)), size_expr(self.product.columns)
        with nest.loop("p", self.masks.shape[0], "parallel") as panel:
            nest.store(self.at, (as_index(0),), nest.load(self.starts, panel))
            if not self.once:
                self.expand(panel)
            first_strip = nest.let(panel * self.across)
            left = (columns + (self.nr - 1)) // self.nr - first_strip
            there = nest.let(minimum(left, as_index(self.across)))
            down = 1 if self.once else (rows + (self.mr - 1)) // self.mr
            with nest.loop("s", there) as strip, nest.loop("m", down) as block:
                first, self.place = nest.let(block * self.mr), (panel, strip)
                self.accumulate((), panel, self._rows_of_a((), block, first, rows))
                self.finish((), nest.let(first_strip + strip), first, rows, columns)

    def expand(self, panel: Expr) -> None:
        """A whole panel, for all rows: its strips one after the other."""
        with self.nest.loop("k", self.product.depth) as k:
            for v, value in self.vectors(panel, k):
                strip, column = divmod(v * LANES, self.nr)
                with self.nest.loop("j", LANES, "vector", LANES) as j:
                    self.nest.store(self.wide, (as_index(strip), k, j + column), value(j))

    def vectors(self, panel: Expr, k: Expr) -> Iterator[tuple[int, Callable[[Expr], Expr]]]:
        """Each vector of a row of a panel, and what its lanes are; they must be read in order."""
        nest, each = self.nest, bits_in(self.values)
        for v in range(COLUMNS // LANES):
            m, s = divmod(v, self.shared)
            if not s:
                mask = nest.let(nest.load(self.masks, panel, k, m))
            part = nest.let(mask >> s * each & ((1 << each) - 1)) if self.shared > 1 else mask
            start = nest.let(nest.load(self.at, 0), here=True)
            yield v, partial(expanded, self.values, start, part)
            nest.store(self.at, (as_index(0),), start + scalar("popcount", part))

    def _step(self, acc: Buffer, of_a: list[Along], batch: Index, panel: Expr, k: Expr) -> None:
        if not self.once:
            super()._step(acc, of_a, batch, panel, k)
            return
        nest = self.nest
        factors = [along(k) for along in of_a]
        factors = [nest.let(a ^ UNSIGNED) if self.dot == "dpbusd" else a for a in factors]
        for v, value in self.vectors(panel, k):
            with nest.loop("j", LANES, "vector", LANES) as j:
                nest.store(self.wide, (j,), value(j))
            for i, a in enumerate(factors):
                with nest.loop("j", LANES, "vector", LANES) as j:
                    at = (as_index(i), v * LANES + j)
                    nest.store(acc, at, self._sum(a, nest.load(self.wide, j), nest.load(acc, *at)))

    def _b(self, batch: Index, panel: Expr, k: Expr, j: Expr) -> Expr:
        return self.nest.load(self.wide, self.place[1], k, j)

    def _start(self, batch: Index, panel: Expr, j: Expr) -> Expr:
        return super()._start(batch, panel, self.place[1] * self.nr + j)


def tile_of(target: Target, roles: Roles, lanes: int) -> tuple[int, int]:
    """(MR, NR): the quickest tile that is at least as wide as what is expanded at once."""
    p = roles.product
    vectors, height = quickest(target, product(p.rows), p.columns, lanes)
    wide = max(vectors, LANES // lanes)
    return max(h for v, h in tiles(target, height) if v == wide), wide * lanes


def sparse_kernel(
    body: Graph, anchor: Node, roles: Roles, name: str, target: Target, kept: int
) -> Lowered:
    """The kernel of a contraction body. Its panels are those of `bit_panels`."""
    gemm = SparseGemm(body, anchor, roles, target, kept)
    gemm.write()
    return lowered(gemm.nest, gemm.pull, name)
