"""Which register tile a product gets."""

from __future__ import annotations

import pytest

from planish.ir.dims import Dim
from planish.runtime.kernels.tiles import HIGHEST, cycles, quickest, tiles
from planish.runtime.target import Target

ZEN4, ZEN5 = Target.parse("znver4"), Target.parse("znver5")
ICELAKE = Target.parse("icelake-server")
HASWELL, ARM = Target.parse("haswell"), Target.parse("aarch64:neoverse-n1")


@pytest.mark.parametrize("target", [ZEN4, HASWELL, ARM], ids=str)
def test_every_tile_fits_into_the_registers(target: Target) -> None:
    for v, h in tiles(target, HIGHEST):
        assert v * h + v + 1 <= target.vector_registers and h <= HIGHEST
    for v, h in tiles(target, HIGHEST, signs=True):
        assert v * h + 2 * v + 3 <= target.vector_registers and h <= HIGHEST
    assert all(h <= target.core.ways for _, h in tiles(target, target.core.ways))


@pytest.mark.parametrize(
    ("target", "rows", "columns", "tile"),
    [
        (ZEN4, 96, 512, (4, 6)),  # 96 rows are 16 tiles of 6: nothing is left over
        (ZEN4, 64, 512, (4, 4)),  # 64 are 11 of 6, two rows too many
        (ZEN4, 1, 512, (4, 1)),
        (ZEN4, 64, 32, (2, 8)),  # 4 vectors would multiply by 32 zeros
        (ZEN4, 64, 16, (1, 8)),
        (ZEN4, Dim("T", max=64), 512, (4, 6)),
        (ZEN5, 64, 512, (4, 4)),
        (ZEN5, 256, 3072, (4, 6)),
        (ICELAKE, 64, 512, (4, 6)),  # two multiply-adds a cycle: what sticks out costs less
        (HASWELL, 96, 512, (2, 6)),  # 16 registers
        (ARM, 96, 512, (4, 6)),
    ],
)
def test_the_quickest_tile(target: Target, rows: object, columns: int, tile: tuple) -> None:
    lanes = target.vector_bytes // 4
    assert quickest(target, rows, columns, lanes) == tile  # type: ignore[arg-type]


def test_two_threads_share_rows_of_tiles_where_panels_are_near() -> None:
    """256 rows are 43 tiles of 6, of which one thread would have 22, the other 21."""
    assert quickest(ZEN5, 256, 3072, 16, depth=192) == (4, 4)
    assert quickest(ZEN5, 256, 3072, 16, depth=768) == (4, 4)
    assert quickest(ZEN5, 256, 3072, 16, depth=3072) == (4, 6)  # a panel is most of the L2 cache
    assert quickest(ZEN5, 252, 3072, 16, depth=192) == (4, 6)  # 42 of 6
    assert quickest(ZEN5, 6, 3072, 16, depth=192) == (4, 6)  # one has it all


# tile -> GFLOP/s of a product as measured, see `planish.runtime.cores`
MEASURED = {
    "znver5": {(4, 6): 264.1, (4, 4): 263.5, (2, 8): 265.2, (2, 10): 262.8, (2, 6): 260.5},
    "znver4": {(4, 6): 115.5, (4, 4): 116.2, (2, 8): 116.6},
    "sapphirerapids": {(4, 6): 222.0, (2, 12): 219.7, (2, 8): 211.9, (4, 4): 198.1, (2, 6): 191.8},
    "znver1": {(2, 6): 45.7, (2, 4): 45.1, (4, 2): 44.4},
}


@pytest.mark.parametrize(
    ("name", "peak", "tile"),
    [
        ("znver4", 117, (4, 6)),
        ("sapphirerapids", 238, (4, 6)),
        ("znver1", 47, (2, 6)),
        ("znver5", 288, (4, 6)),
    ],
)
def test_the_model_is_near_what_was_measured(name: str, peak: float, tile: tuple) -> None:
    target = Target.parse(name)
    for (v, h), found in MEASURED[name].items():
        rate = peak * v * h / target.core.fma / cycles(target, (v, h))
        assert rate == pytest.approx(found, rel=0.08), (v, h)
    assert quickest(target, None, 768, target.vector_bytes // 4) == tile


def test_products_by_signs_have_lower_tiles() -> None:
    """Panels are as wide, so that they are those of rows that no quantize clipped, too."""
    assert quickest(HASWELL, 96, 512, 8, signs=True) == (2, 4)
    assert quickest(HASWELL, 1, 512, 8, signs=True) == quickest(HASWELL, 1, 512, 8) == (2, 1)


def test_a_transposed_operand_wants_a_high_tile() -> None:
    assert quickest(ZEN4, 768, 512, 16, HIGHEST, high=True) == (2, 12)


def test_a_step_is_as_slow_as_its_slowest_part() -> None:
    assert cycles(ZEN4, (4, 6)) == 24 + 1  # multiply-adds
    assert cycles(ZEN4, (1, 2)) == ZEN4.core.latency + 1
    assert cycles(ZEN4, (4, 1)) == pytest.approx(4 * 64 / ZEN4.core.panel + 1)  # the panel
    assert cycles(HASWELL, (1, 8)) == 4.5 + 1  # loads
