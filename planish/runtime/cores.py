"""What cores do in a cycle, measured or by their makers: what tile sizes are chosen by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Core:
    """What a core does in a cycle, with whole vectors; see `planish.runtime.kernels.tiles`.

    `fma` multiply-adds, each of `latency` cycles, `gap` cycles between steps, `loads` loads,
    `panel` bytes read in a row from the L2 cache, of `l2` bytes, and `far` bytes from memory while
    another core reads as many. The L1 cache has `ways` places for lines of one set.
    """

    fma: float = 2
    loads: float = 2
    latency: float = 4
    gap: float = 1
    panel: float = 24
    ways: int = 8
    l2: int = 1 << 20
    far: float = 5


# Measured with `python benchmarks/tune.py` where it says so; others are the makers' figures.
#
# znver4, 2026-11-25, one thread, GFLOP/s of 117 (2 x 16 floats x 3.65 GHz), float32:
#   V x H       256x384x1536   64x128x512   256x3072x768
#   4 x 6              115.5        110.1          114.0
#   4 x 4              116.2        113.0          114.1
#   2 x 8              116.6        112.8          113.4
#   2 x 12             111.5         97.2          102.0     rows of 12 KB meet in one set
#   1 x 12             111.8         99.0           84.3
#   1 x 20             111.7         87.9           39.2
#
# znver5 (two 512-bit multiply-adds a cycle), 2026-11-27, one thread, of 288. A step has half the
# gap of others; 12 rows are too many though the L1 cache has 12 ways. `far`: two threads read 50
# GB/s where they are least, at some 4.3 GHz:
#   V x H       256x768x3072   256x3072x768   256x384x1536   64x128x512
#   2 x 8              270.1          266.0          265.2        251.1
#   4 x 4              269.6          256.7          263.5        250.0
#   2 x 10             268.8          264.7          262.8        230.2
#   2 x 6              268.3          265.2          260.5        248.1
#   4 x 6              268.2          262.1          264.1        244.8
#   2 x 12             189.1          261.7          189.5        226.3
#
# The same, bytes, of 1153, quantization of the rows included; with 8 rows each step waits for as
# many elements of A to come from the registers of integers:
#   V x H      256x768x3072   256x3072x768
#   4 x 4            1011.0         1005.4
#   4 x 6            1000.4         1005.2
#   2 x 10            998.8          996.5
#   2 x 8             965.6          966.8
#   2 x 12            632.4          637.1
#
# sapphirerapids (two 512-bit multiply-adds a cycle), 2026-11-26, one thread, of 238. 4 x 4 takes
# 9.6 cycles a step where multiply-adds take 8: its 256 bytes of B come at some 30 a cycle. Blocks
# for more of its L2 cache (2 MB) than the default were not tried:
#   V x H        768x128x512   256x384x1152   256x768x3072
#   4 x 6              222.0          198.6          176.8
#   2 x 12             219.7          195.9          169.8
#   2 x 8              211.9          188.7          170.5
#   4 x 4              198.1          187.1          165.9
#   2 x 6              191.8          179.8          160.9
#
# znver1 (one 256-bit multiply-add a cycle, in two halves), 2026-11-26, one thread, of 47; twice the
# `l2` that it has, and fma=2 and loads=2, made no difference that could be measured:
#   V x H        768x128x512   64x128x384   256x768x3072
#   2 x 6               45.7         42.3           41.7
#   2 x 4               45.1         43.9           42.8
#   4 x 2               44.4         43.6           40.4
#   1 x 8               36.4         35.7           34.4
#   1 x 12              36.1         31.4           32.5
#
# The same, bytes by vpsignb and vpmaddubsw, 2026-11-26, 10^9 operations a second; planish
# before it had those: 32.3 and 32.5; float32: 38.1 and 38.6:
#   V x H      256x384x1536   256x1536x384
#   2 x 4              37.2          36.3
#   1 x 8              37.2          37.0
#   2 x 3              35.3          35.2
#   2 x 6              32.0          31.8     more than registers hold
CORES = {
    "znver1": Core(fma=1, loads=1, l2=1 << 19, far=4),  # 256 bits are two halves
    "znver4": Core(fma=1, loads=1),  # 512 bits are two halves
    "znver5": Core(gap=0.5, panel=32, far=6),
    # far: two threads read 38.6 MB in 786 us, at some 3 GHz
    "sapphirerapids": Core(fma=2, loads=2, panel=30, far=8),
}


OTHER = Core()


def core(cpu: str) -> Core:
    """What a core of the processor that LLVM calls so does."""
    return CORES.get(cpu, OTHER)
