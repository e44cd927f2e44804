"""Weights in panels: what they hold, and programs that share them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.generate import Generator
from planish.ir.mapped import File, mapped, release
from planish.runtime.crew import Crew
from planish.runtime.kernels.words import WORDS
from planish.runtime.packing import PIECE, fill, fill_starts, holds, pieces


def packed(b: np.ndarray, nr: int) -> np.ndarray:
    """Panels, filled with something else before."""
    *batch, k, n = b.shape
    panels = np.full((*batch, -(-n // nr), k, nr), 7, b.dtype)
    with Crew(2) as crew:
        for target, source in pieces(panels, b):
            crew.add(lambda target=target, source=source: fill(target, source))
        crew.finish()
    return panels


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("shape", "nr"),
    [((3, 1), 16), ((5, 16), 16), ((7, 33), 16), ((2, 3, 8, 50), 32), ((1024, 100), 48)],
)
def test_panels_hold_columns_and_zeros(shape: tuple[int, ...], nr: int, turned: bool) -> None:
    *batch, k, n = shape
    b = np.arange(np.prod(shape), dtype=np.float32).reshape(*batch, n, k) + 1
    b = b.swapaxes(-1, -2) if turned else np.ascontiguousarray(b.swapaxes(-1, -2))
    panels = packed(b, nr)
    for at in np.ndindex(*panels.shape[:-1]):
        *outer, p, row = at
        whole = np.zeros(nr, np.float32)
        given = b[(*outer, row)][p * nr : (p + 1) * nr]
        whole[: len(given)] = given
        np.testing.assert_array_equal(panels[at], whole)
    assert holds(panels, b)
    other = b.copy()
    other[(-1,) * b.ndim] = 0
    assert not holds(panels, other)


def test_large_weights_are_packed_in_several_pieces() -> None:
    b = np.arange(2 * PIECE // 4 * 3, dtype=np.float32).reshape(-1, 512).T
    assert len(list(pieces(np.empty((b.shape[1] // 64, 512, 64), np.float32), b))) > 4
    assert holds(packed(b, 64), b)


@pytest.mark.parametrize(
    "dot, of", [("dpbusd", lambda x: -128 * x), ("dpflip", lambda x: max(-x, 0))]
)
@pytest.mark.parametrize("shape", [(1, 4), (33, 8), (2, 50, 260)])
def test_what_sums_of_bytes_start_with(dot: str, of: Callable, shape: tuple[int, ...]) -> None:
    """Of words where bytes lie, and of words that were made; beyond the columns there are zeros."""
    rows = np.random.default_rng(0).integers(-128, 128, shape, np.int8)
    columns = rows.swapaxes(-1, -2)
    words = WORDS[4].function(*(columns[..., i::4, :] for i in range(4)))
    assert np.shares_memory(words, rows)
    count = shape[-2]
    want = np.zeros((*shape[:-2], -(-count // 16) * 16), np.int64)
    for at in np.ndindex(*shape[:-1]):
        want[at] = sum(of(int(x)) for x in rows[at])
    for given in (words, words.copy()):
        panels = np.full((*shape[:-2], want.shape[-1] // 16, 1, 16), 7, np.uint32)
        fill_starts(panels, given, dot)
        np.testing.assert_array_equal(panels.view(np.int32).reshape(want.shape), want)


@pytest.mark.parametrize("pipeline", ["O2", "bf16"])
def test_programs_of_a_generator_have_their_weights_once(pipeline: str) -> None:
    model = pl.TinyGPT(65, 64, 2, 2, 32, seed=3)
    maker = Generator(model, pipeline)
    places = [
        {x.__array_interface__["data"][0] for x in program.params}
        for program in (maker.prefill, maker.decode)
    ]
    assert places[0] == places[1] and len(places[0]) > 8


def test_weights_of_one_name_that_differ_are_not_shared() -> None:
    first, second = (pl.TinyGPT(65, 64, 1, 2, 16, seed=seed) for seed in (0, 1))
    maker = Generator(first, "bf16")
    want = maker.prefill.params
    maker._graphs["decode"] = Generator(second, "bf16")._graphs["decode"]
    found = maker.decode.params
    assert not any(np.shares_memory(x, y) for x in want for y in found if x.size > 64 * 64)


def test_weights_that_were_loaded_lie_in_their_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    pl.save(pl.TinyGPT(65, 64, 1, 2, 16, seed=0), path)
    model, _ = pl.load_model(path)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    base: object = model.wte.weight.array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    assert isinstance(base, File)
    pl.save(pl.TinyGPT(65, 64, 1, 2, 16, seed=1), path)  # the old file lives on
    for name, array in model.state_dict().items():
        release(array)
        np.testing.assert_array_equal(array, before[name])
    ids = model.generate(np.zeros(4, np.int32), 6, temperature=0)
    again = pl.TinyGPT(65, 64, 1, 2, 16, seed=0).generate(np.zeros(4, np.int32), 6, temperature=0)
    np.testing.assert_array_equal(ids, again)


def test_release_leaves_other_arrays_alone(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    data = np.arange(1 << 20, dtype=np.uint32)
    path.write_bytes(data.tobytes())
    file = mapped(path).view(np.uint32)
    for array in (file, file[5:], file[::3], file[:0], file.reshape(1024, 1024)[:, 3:9]):
        release(array)
        np.testing.assert_array_equal(file, data)
    release(data)
    assert data[-1] == (1 << 20) - 1 and not file.flags.writeable
