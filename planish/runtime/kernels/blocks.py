"""Matrix multiplication by a weight whose zeros come in blocks, which are not read and not
multiplied.

As in `gemm`, but of a panel of B there are only the rows that are not all 0, and for each of them
the step of k that it belongs to. An activation that is not finite does not meet the zeros that are
not there, so that it spoils fewer results. Any processor gains, in prefill as in decoding.
"""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.loops import Expr, as_index, cast
from planish.ir.node import Node
from planish.ir.ops.linalg import sums_in
from planish.runtime.kernels.gemm import Along, Roles, takes_matrix
from planish.runtime.kernels.nest import Index, Lowered, lowered
from planish.runtime.kernels.parted import PartedGemm
from planish.runtime.kernels.tiles import HIGHEST, WIDTHS, cycles, tiles
from planish.runtime.target import Target

GAIN = 0.8  # of the cycles of a product with zeros, at most: places are read and rows added up


def heights(target: Target, rows: object, signs: bool) -> dict[int, int]:
    """The rows of the highest tile of each width, in vectors, for a product of so many rows."""
    most = rows if isinstance(rows, int) else HIGHEST
    found = {}
    for v in WIDTHS:
        high = [h for w, h in tiles(target, min(most, target.core.ways), signs) if w == v]
        if high:
            found[v] = max(high)
    return found


def quickest_width(
    target: Target, rows: object, kept: dict[int, float], signs: bool = False
) -> int | None:
    """The vectors of a tile with which skipping gains most; None where it does not gain enough.

    `kept` has for each width the share of rows of panels that are not all 0.
    """
    cost = {v: cycles(target, (v, h)) / (v * h) for v, h in heights(target, rows, signs).items()}
    best = min(cost, key=lambda v: cost[v] * kept[v])
    return best if cost[best] * kept[best] <= GAIN * min(cost.values()) else None


def may_skip(body: Graph, roles: Roles, anchor: Node, target: Target) -> bool:
    """Whether a matmul by a weight can leave out rows of panels."""
    p = roles.product
    known = isinstance(p.columns, int) and isinstance(p.depth, int)
    matrix = takes_matrix(body, roles, target, sums_in(anchor.dtype))
    flat = roles.b.type.rank == 2 and not roles.swapped and not roles.strips
    return known and flat and not matrix


class BlockGemm(PartedGemm):
    """A matmul kernel whose B has `kept` rows of panels, NR columns wide."""

    def __init__(self, body: Graph, anchor: Node, roles: Roles, target: Target, kept: int, nr: int):
        width = nr // target.lanes(sums_in(anchor.dtype))
        mr = heights(target, product(roles.product.rows), roles.dot == "dpflip")[width]
        super().__init__(body, anchor, roles, target, mr, nr)
        self.places = self.part(0, t.i32, kept)
        self.values = self.part(2, self.b.dtype, kept, nr)
        self.at: Expr = as_index(0)

    def accumulate(self, batch: Index, panel: Expr, of_a: list[Along]) -> None:
        """tile[i, j] = sum over the steps of k that are there."""
        nest, dtype = self.nest, self.dtype
        acc = nest.local("acc", dtype, self.mr, self.nr)
        self.tile = nest.local("tile", dtype, self.mr, self.nr)
        self._tile(lambda i, j: nest.store(acc, (i, j), self._start(batch, panel, j)))
        begin = nest.let(nest.load(self.starts, panel))
        count = nest.let(nest.load(self.starts, panel + 1) - begin)
        with nest.loop("s", count) as s:
            self.at = nest.let(begin + s)
            k = nest.let(cast(nest.load(self.places, self.at), t.i64))
            self._step(acc, of_a, batch, panel, k)
        self._tile(lambda i, j: nest.store(self.tile, (i, j), nest.load(acc, i, j)))

    def _b(self, batch: Index, panel: Expr, k: Expr, j: Expr) -> Expr:
        return self.nest.load(self.values, self.at, j)


def block_kernel(
    body: Graph, anchor: Node, roles: Roles, name: str, target: Target, kept: int, nr: int
) -> Lowered:
    """The kernel of a contraction body. Its panels are those of `block_panels`."""
    gemm = BlockGemm(body, anchor, roles, target, kept, nr)
    gemm.write()
    return lowered(gemm.nest, gemm.pull, name)
