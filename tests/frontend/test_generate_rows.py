"""Generation for prompts of different lengths: every row is what it is alone."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend.generate import generator_for
from planish.runtime.order import written
from planish.runtime.program import Bound
from tests.frontend.test_generate import small


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return small()


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
    assert [slot.kind for s in updates for slot in written(s)] == ["output"] * 5
    assert not [s for s in maker.decode.plan.steps if s.label.startswith("copy")]


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
