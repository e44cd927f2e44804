"""Memory that one text leaves to the next, whatever is in it."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend import session as sessions
from planish.frontend.generate import Generator
from planish.frontend.sampling import Sampling
from planish.ir.draws import FOLD, folded, key, threefry, threefry_of_one, words
from planish.ir.errors import ShapeError

VOCAB, CONTEXT = 11, 24


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    model = pl.TinyGPT(VOCAB, 16, 2, 2, CONTEXT, dropout=0.0, seed=0)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.array = (p.array + 0.3 * rng.standard_normal(p.array.shape)).astype(np.float32)
    return model


def text(maker: Generator, prompt: list, count: int, settings: Sampling, **more: object) -> list:
    """What a generator writes."""
    return np.concatenate(list(maker.stream(prompt, count, settings, **more)), 1).tolist()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("pipeline", ["O2", "bf16", "int8_cache"])
def test_what_a_text_leaves_changes_nothing(model: pl.TinyGPT, pipeline: str, threads: int) -> None:
    maker = Generator(model, pipeline, threads)
    drawn = Sampling(0.9, top_k=5)
    wanted = text(maker, [1, 2, 3], 20, drawn, seed=3)
    (idle,) = maker._idle
    for array in idle.state:
        array[...] = np.nan if array.dtype.kind == "f" else 77
    assert text(maker, [1, 2, 3], 20, drawn, seed=3) == wanted
    assert maker._idle == [idle]
    greedy = text(maker, [4, 5], 9, Sampling(0.0))
    assert greedy[0] == model.generate([4, 5], 9, temperature=0, pipeline=pipeline).tolist()
    assert text(maker, [1, 2, 3], 20, drawn, seed=3) == wanted


def test_texts_at_the_same_time_have_memory_of_their_own(model: pl.TinyGPT) -> None:
    maker = Generator(model, threads=1)
    walks = [maker.stream([x, 2], 12, Sampling(), seed=x, pause=0.0) for x in (1, 7, 9)]
    together = zip(*walks, strict=True)
    found = [np.concatenate(pieces, 1)[0].tolist() for pieces in zip(*together, strict=True)]
    alone = [model.generate([x, 2], 12, seed=x).tolist() for x in (1, 7, 9)]
    assert found == alone and len(maker._idle) == 1


def test_seen_tokens_and_windows_are_those_of_each_text(model: pl.TinyGPT) -> None:
    prompts, seeds = [[1, 2, 3], [4]], [4, 5]
    options = {"repetition_penalty": 3.0, "sliding_window": True}
    for _ in range(2):
        found = model.generate(prompts, 50, seed=seeds, **options)
        for row, prompt, seed in zip(found, prompts, seeds, strict=True):
            assert row.tolist() == model.generate(prompt, 50, seed=seed, **options).tolist()


def test_large_memory_is_not_kept(model: pl.TinyGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "KEPT_BYTES", 1000)
    maker = Generator(model, threads=1)
    once, twice = (text(maker, [1], 5, Sampling(0.0)) for _ in range(2))
    assert once == twice and not maker._idle


def test_a_bound_program_runs_with_smaller_sizes() -> None:
    n = pl.Dim("N", max=9)
    program = pl.compile(lambda x: x.sum(axis=1), pl.spec((1, n)), threads=1)
    x = np.arange(9, dtype=np.float32)[None]
    bound = program.bind(x)
    bound.resize(N=4)
    assert bound.run() == 6
    bound.resize(N=9)
    assert bound.run() == 36
    for size in (0, 10):
        with pytest.raises(ShapeError, match=f"N is {size}, the arguments have room for 1 to 9"):
            bound.resize(N=size)


def test_keys_in_numbers_of_python_are_those_of_arrays() -> None:
    rng = np.random.default_rng(0)
    for seed in [0, 1, 2**32 - 1, 2**64 - 1, *rng.integers(0, 2**63, 20).tolist()]:
        for data in (0, 1, -1, 2**32 - 1, 2**32 + 5, -(2**40) - 3):
            one = folded(key(seed), data)
            assert one.dtype == np.uint32
            np.testing.assert_array_equal(one, folded(key(seed)[None], np.array([data]))[0])
    with np.errstate(over="ignore"):
        many = threefry(words(key(5)), np.full(3, FOLD, np.uint32), np.arange(3, dtype=np.uint32))
    assert many.tolist() == [threefry_of_one((0, 5), FOLD, i) for i in range(3)]
