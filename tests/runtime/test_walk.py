"""The order of a product's tiles: each is made once, and what is fetched is the next panel."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish import nn
from planish.ir import types as t
from planish.ir.loop_eval import run_kernel
from planish.ir.loops import Fetch, For, as_index, walk
from planish.ir.types import TensorType
from planish.runtime.kernels.nest import Nest
from planish.runtime.kernels.walk import LEAST, Walk

RNG = np.random.default_rng(0)
ORDERS = (Walk(), Walk(wide=3), Walk(wide=9), Walk(3), Walk(4), Walk(3, 2))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize(("down", "across"), [(1, 7), (7, 1), (7, 9), (8, 6)])
def test_every_tile_is_made_once(order: Walk, down: int, across: int) -> None:
    nest = Nest()
    out = nest.output("out", TensorType(t.i64, (down * across, 3)))
    with nest.loop("p", down * across, "parallel") as p:
        found = order.place(nest, p, as_index(down), as_index(across))
        for number, value in enumerate(found):
            nest.store(out, (p, as_index(number)), value)
    made = np.zeros((down * across, 3), np.int64)
    run_kernel(nest.kernel("order"), [made], {})
    panels, blocks, rows = made.T
    assert sorted(zip(panels, blocks, strict=True)) == [
        (panel, block) for panel in range(across) for block in range(down)
    ]
    np.testing.assert_array_equal(rows, blocks % (order.high or down))


@pytest.mark.parametrize("pipeline", ["O2", "bf16", "int8"])
@pytest.mark.parametrize("rows", [2 * LEAST - 1, 2 * LEAST, 2 * LEAST + 3])
def test_rows_of_long_prompts_are_those_of_short_ones(pipeline: str, rows: int) -> None:
    layer, x = nn.Linear(72, 16_000), RNG.standard_normal((rows, 72)).astype(np.float32)
    long, short = (
        pl.compile(layer, pl.spec(part.shape), pipeline=pipeline, threads=2) for part in (x, x[:7])
    )
    fetched = [s for k in long.kernels for s in walk(k.body) if isinstance(s, Fetch)]
    assert bool(fetched) == (rows >= 2 * LEAST)
    np.testing.assert_array_equal(long(x)[:7], short(x[:7]))
    np.testing.assert_array_equal(long(x)[-7:], short(x[-7:]))


@pytest.mark.parametrize("depth", [384, 720])
def test_a_line_is_fetched_once(depth: int) -> None:
    layer, rows = nn.Linear(depth, 128), 512
    found = pl.compile(layer, pl.spec((rows, depth)), pipeline="int8", target="znver5")
    (product,) = (k for k in found.kernels if k.name.startswith("matmul"))
    tile = next(b.shape for b in product.locals if b.name == "acc")
    high, wide = (int(size.value) for size in tile)
    (steps,) = (
        int(s.extent.value)
        for s in walk(product.body)
        if isinstance(s, For) and any(isinstance(x, Fetch) for x in s.body)
    )
    lines, blocks = depth // 4 * wide // 16, rows // 2 // high  # of a panel; of a part
    assert lines <= steps * blocks < 2 * lines


@pytest.mark.parametrize(("rows", "columns"), [(4096, 128), (1024, 128), (4096, 120)])
def test_what_is_added_to_a_product_is_fetched_while_it_is_made(rows: int, columns: int) -> None:
    """Each line of it once; not where a tile is cut, nor what the L2 cache holds."""
    shapes = ((rows, 24), (24, columns), (rows, columns))
    program = pl.compile(
        lambda x, w, y: x @ w + y, *map(pl.spec, shapes), target="znver5", cache=False
    )
    (product,) = (k for k in program.kernels if k.name.startswith("matmul"))
    high, wide = (int(size.value) for b in product.locals if b.name == "acc" for size in b.shape)
    around = [s for s in walk(product.body) if isinstance(s, For) and s.kind == "unroll"]
    found = [s for s in around if any(isinstance(x, Fetch) for x in walk(s.body))]
    tile = [high, wide // 16] if rows == 4096 and columns == 128 else []
    assert [int(s.extent.value) for s in found] == tile


def test_a_product_is_right_where_what_is_added_is_fetched() -> None:
    """Rows beyond the last one are not."""
    x, w = RNG.standard_normal((4101, 24)), RNG.standard_normal((24, 128))
    y = RNG.standard_normal((4101, 128))
    given = [a.astype(np.float32) for a in (x, w, y)]
    program = pl.compile(lambda x, w, y: x @ w + y, *(pl.spec(a.shape) for a in given))
    np.testing.assert_allclose(program(*given), x @ w + y, rtol=1e-4, atol=1e-4)
