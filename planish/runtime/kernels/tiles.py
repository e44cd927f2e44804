"""Register tiles of matrix products: a small model of a core says which is the quickest.

A tile is V vectors times H rows of C. For each step of k it loads V vectors of B, broadcasts H
elements of A and makes V * H multiply-adds. A step takes as many cycles as the slowest of these,
and a gap more, as they do not fit into each other; it makes large tiles better than small ones:

    V * H / fma           multiply-adds
    (V + H) / loads       loads
    latency               of a multiply-add: sums of a step do not wait for each other, but for
                          those of the step before
    V * vector / panel    bytes of B, whose panel comes from the L2 cache

and a product as many steps as there are tiles, what sticks out over its edges included. Numbers are
those of `Core` in `planish.runtime.cores`, where measurements stand beside them. Two threads share
the rows of tiles: of an odd number one waits for the other, and lower tiles are better; but not
of panels longer than a `SHORT`th of the L2 cache, which lower ones read more often. Zen 5, two
threads, 256 rows, tiles of 6 and of 4 rows, us of the 12 products of gpt2, by planish profile MODEL
--pipeline P --workload prefill, two trees in turns, the least of four, 2026-11-27:

                      panel   43 x 6   64 x 4
    int8   c_fc       49 KB    7,883    7,779
           c_attn     49 KB    5,665    5,585
           c_proj    197 KB    6,809    6,670
    O2     c_fc      197 KB   27,566   27,029
           c_attn    197 KB   22,080   21,649

Which tiles there are follows from the registers: V * H sums, V vectors of B and one broadcast; and
from the L1 cache: H rows of A are as many streams, and rows that lie a multiple of 4 KB apart
(1,024 floats) meet in one set, so H is at most its `ways`. Panels are read from the L2 cache: a
`group` of them at a time stays there.

There are no blocks for the L3 cache: A is read from beyond L2 once for each group, and with panels
of K = 3,072 in 512 KB a float of it serves 42 columns, so that 117 GFLOP/s need 5.5 GB/s of it,
which even main memory gives.
"""

from __future__ import annotations

import math
from functools import lru_cache

from planish.ir.dims import AnySize
from planish.runtime.target import Target

# Vectors per row are powers of two: LLVM splits no others well (48 lanes ran at 3 GFLOP/s).
WIDTHS = (4, 2, 1)
WAITING = 2  # rows of a tile; more are multiplied no faster than memory gives
SHORT = 4  # parts of the L2 cache: panels that fit into one may be read by lower tiles
HIGHEST = 12  # rows of a tile where those of A are no streams; more gain nothing


def tiles(target: Target, most: int, signs: bool = False) -> tuple[tuple[int, int], ...]:
    """The tiles (vectors, rows) that fit into the registers, the largest first; `most` rows.

    Those of dpflip (`signs`) hold B's magnitudes and flips, the ones by which it adds, and a
    product: with 2 x 6 of such on Zen 1 what did not fit took all that it gains, see `CORES`.
    """
    found = []
    for v in WIDTHS:
        fitting = (target.vector_registers - 1 - (2 * v + 2 if signs else v)) // v
        found += [(v, h) for h in range(min(fitting, most), 0, -1)]
    return tuple(found)


def cycles(target: Target, tile: tuple[int, int]) -> float:
    """Cycles of a step of k."""
    (v, h), core = tile, target.core
    panel = v * target.vector_bytes / core.panel
    return max(v * h / core.fma, (v + h) / core.loads, core.latency, panel) + core.gap


@lru_cache(maxsize=1 << 8)  # layers have products of the same sizes
def quickest(
    target: Target, rows: AnySize | None, columns: AnySize, lanes: int, most: int | None = None,
    high: bool = False, signs: bool = False, widest: int = WIDTHS[0], depth: AnySize | None = None,
) -> tuple[int, int]:  # fmt: skip
    """The tile (vectors, rows) with which a product of such sizes (`depth`: of k) takes least.

    Of equal ones the widest: its columns are read the fewest times; or the highest. `most` limits
    the rows; by default, those of A are streams; `widest` the vectors. The width is that for any
    number of rows, so that a prompt and a token are multiplied by the same panels.
    """

    def cost(tile: tuple[int, int], rows: AnySize | None) -> tuple[float, int, int]:
        v, h = tile
        panel = v * target.vector_bytes * depth if isinstance(depth, int) else math.inf
        down = times(rows, h)
        short = panel * SHORT <= target.core.l2
        down += isinstance(rows, int) and down > 1 and short and down % 2
        time = down * times(columns, v * lanes) * cycles(target, tile)
        return time, *((-h, -v) if high else (-v, -h))

    found = [x for x in tiles(target, most or target.core.ways, signs) if x[0] <= widest]
    width, _ = min(found, key=lambda tile: cost(tile, None))
    highest = max(1, rows) if isinstance(rows, int) else HIGHEST
    fitting = {(v, min(h, highest)) for v, h in found if v == width}
    return min(fitting, key=lambda tile: cost(tile, rows))


def group(target: Target, panel: int) -> int:
    """How many panels of so many bytes stay in the L2 cache while rows of A pass through it.

    They may have half of it, the rest is for A and C. More than one let a tile's rows of A stay in
    the L1 cache from panel to panel, and save reading all of A again for each panel.
    """
    return max(1, target.core.l2 // 2 // max(1, panel))


def times(size: AnySize | None, step: int) -> float:
    """How many steps an axis takes; of one that nobody knows, per element."""
    return float(-(-size // step)) if isinstance(size, int) else 1 / step
