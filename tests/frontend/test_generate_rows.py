"""Generation for prompts of different lengths: every row is what it is alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planish as pl
from planish.frontend.generate import Generator, generator_for
from planish.frontend.sampling import Sampling, row_keys
from planish.runtime.order import written
from planish.runtime.program import Bound
from tests.frontend.test_generate import CONTEXT, VOCAB, small


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return small()


PIECE = 7  # tokens that are read at a time where a test says so
RAGGED = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 0, 1], [5] * 12]


def rows_of(model: pl.TinyGPT, threads: int | None = None, **options: object) -> list[list[int]]:
    """What prompts of different lengths are continued with."""
    found = model.generate(RAGGED, 12, seed=[3, 4, 5, 6], threads=threads, **options)
    return [row.tolist() for row in found]


def alone(model: pl.TinyGPT, count: int = 12, **options: object) -> list[list[int]]:
    """What each of them is continued with by itself."""
    pairs = zip(RAGGED, (3, 4, 5, 6), strict=True)
    return [model.generate(p, count, seed=s, **options).tolist() for p, s in pairs]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompts_of_different_lengths(model: pl.TinyGPT, temperature: float, threads: int) -> None:
    wanted = alone(model, temperature=temperature)
    assert rows_of(model, threads, temperature=temperature) == wanted
    arrays = [np.array(p) for p in RAGGED]
    found = model.generate(arrays, 12, temperature=temperature, seed=[3, 4, 5, 6])
    assert [row.tolist() for row in found] == wanted
    assert rows_of(model, temperature=temperature, use_cache=False) == wanted


@pytest.mark.parametrize("positions", ["rope", "sinusoidal"])
def test_rows_have_positions_of_their_own(positions: str) -> None:
    model = small(positions=positions, num_kv_heads=1)
    assert rows_of(model) == alone(model)


def test_rows_fill_their_contexts_at_different_times(model: pl.TinyGPT) -> None:
    options = {"seed": [3, 4, 5, 6], "sliding_window": True}
    found = model.generate(RAGGED, 60, **options)
    assert [row.tolist() for row in found] == alone(model, 60, sliding_window=True)
    again = model.generate(RAGGED, 60, use_cache=False, **options)
    assert [row.tolist() for row in again] == [row.tolist() for row in found]


def test_a_row_that_has_ended_keeps_nobody(model: pl.TinyGPT) -> None:
    whole = alone(model, 60, sliding_window=True)
    ends = [whole[0][1], whole[1][40]]
    found = model.generate(RAGGED, 60, seed=[3, 4, 5, 6], sliding_window=True, stop=ends)
    for row, full in zip(found, whole, strict=True):
        at = next((i for i, x in enumerate(full) if x in ends), len(full) - 1)
        assert row.tolist() == full[: at + 1]


def test_all_rows_advance_in_one_native_loop(
    model: pl.TinyGPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    run = Bound.run
    monkeypatch.setattr(
        Bound, "run", lambda self, repeat=1: (runs.append(repeat), run(self, repeat))[1]
    )
    model.generate(RAGGED, 12, seed=1)
    assert runs[0] == 1 and sum(runs[1:]) == 11 and len(runs) < 1 + 5
    maker = generator_for(model, batch=len(RAGGED))
    updates = [s for s in maker.decode.plan.steps if s.label.endswith("update_slice")]
    found = [slot.kind for s in updates for slot in written(s)]
    assert found == ["temp", "output", "output"] * 2 + ["output"]  # q, keys, values; the token
    assert not [s for s in maker.decode.plan.steps if s.label.startswith("copy")]


@cache
def makers(pipeline: str) -> tuple[Generator, Generator]:
    """Generators of four rows and of one that read few tokens at a time."""
    made = small(num_kv_heads=1)
    pair = Generator(made, pipeline, batch=4), Generator(made, pipeline)
    for maker in pair:
        maker.piece = PIECE
    return pair


SIZES = st.lists(st.integers(1, CONTEXT - 1), min_size=4, max_size=4)


@pytest.mark.parametrize("pipeline", ["O2", "bf16", "int8_cache"])
@given(SIZES, st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_prompts_leave_what_each_leaves_alone(pipeline: str, sizes: list[int], seed: int) -> None:
    """Caches and the first token, bit by bit, wherever pieces begin."""
    rng, drawn = np.random.default_rng(seed), Sampling(1.0).operands(VOCAB)
    prompts = [rng.integers(0, VOCAB, n).astype(np.int32) for n in sizes]
    keys = row_keys([seed] * 4, 4)
    many, one = makers(pipeline)
    together = many.begin(prompts, (keys, *drawn))
    for row, prompt in enumerate(prompts):
        alone = one.begin([prompt], (keys[:1], *drawn))
        count = len(prompt)
        tokens, places = together[0][row, : count + 1], together[1][row]
        assert tokens.tolist() == alone[0][0, : count + 1].tolist() and places == count
        caches = zip(together[2:], alone[2:], strict=True)
        for mine, own in ((a, b) for a, b in caches if a.ndim == 4):
            np.testing.assert_array_equal(mine[row, :, :count], own[0, :, :count])


def test_pieces_are_of_all_prompts(model: pl.TinyGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Generator(model, batch=2).piece == 2 * CONTEXT
    monkeypatch.setattr("planish.frontend.generate.TOGETHER", CONTEXT + 3)
    assert Generator(model, batch=4).piece == CONTEXT + 3
    monkeypatch.setattr("planish.frontend.generate.PIECE", 14.0 * model.count_parameters())
    maker = Generator(model, batch=4, threads=1)
    assert maker.piece == PIECE
    sizes: list[int] = []
    resize = Bound.resize
    monkeypatch.setattr(Bound, "resize", lambda self, T: (sizes.append(T), resize(self, T=T))[1])
    walk = maker.stream(RAGGED, 12, Sampling(), seed=[3, 4, 5, 6])
    found = np.concatenate(list(walk), 1).tolist()
    assert sizes == [PIECE, PIECE, PIECE, sum(map(len, RAGGED)) - 3 * PIECE]
    assert found == alone(model)


def test_reading_stops_between_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C, the next texts are what they would have been."""
    maker, _ = makers("O2")
    prompts, settings = [[1, 2, 3]] * 4, Sampling(0.0)
    wanted = np.concatenate(list(maker.stream(prompts, 5, settings)), 1).tolist()
    run = Bound.run
    with monkeypatch.context() as patch:
        calls: list[int] = []

        def interrupted(self: Bound, repeat: int = 1) -> object:
            calls.append(repeat)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return run(self, repeat)

        patch.setattr(Bound, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(maker.stream([[5] * 12] * 4, 5, settings))
    assert np.concatenate(list(maker.stream(prompts, 5, settings)), 1).tolist() == wanted


def test_as_many_programs_as_for_one_text(model: pl.TinyGPT) -> None:
    """Reading rows of different lengths takes few small steps more, whatever their number."""
    one, few, many = (Generator(model, batch=n).prefill.plan.steps for n in (1, 3, 7))
    assert len(few) == len(many) <= len(one) + 4 * len(model.h)
    assert [s for s in many if s.label.startswith("copy")] == []


def test_only_rows_that_go_on_may_not_be_nan() -> None:
    model = small()
    table = model.wpe.weight.array.copy()
    table[15] = np.nan
    model.wpe.weight.array = table
    first = model.generate([5] * 12, 3, seed=6).tolist()
    with pytest.raises(pl.DataError, match="NaN logits at step 5 of prompt 3: no token"):
        rows_of(model)
    assert len(first) == 3
    found = model.generate(RAGGED, 8, seed=[3, 4, 5, 6], stop=first[2])
    assert found[3].tolist() == first and len(found[1]) >= 1


def test_prompts_are_read_once(model: pl.TinyGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(
        "planish.frontend.sampling.check_ids", lambda ids, size: read.extend(ids.tolist())
    )
    model.generate([[1, 2, 3], [4, 5]], 2, temperature=0)
    assert read == [1, 2, 3, 4, 5]
