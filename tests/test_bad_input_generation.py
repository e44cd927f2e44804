"""Bad input to `generate`: one test for each row of the table, by its number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import planish as pl
from tests.refusal import refusal, says

VOCAB, CONTEXT = 11, 12
PROMPT = [1, 2, 3]
INF, NAN = float("inf"), float("nan")


def weighted(seed: int = 0) -> pl.TinyGPT:
    """A small model whose weights are large enough to have opinions."""
    model = pl.TinyGPT(VOCAB, 8, 1, 2, CONTEXT, dropout=0.0)
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        p.array = rng.standard_normal(p.array.shape).astype(np.float32)
    return model


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    """One for all rows that change nothing."""
    return weighted()


def refused(model: pl.TinyGPT, kind: type[Exception], *words: str, **options: Any) -> None:
    """`generate` refuses these options with these words."""
    given = {"ids": PROMPT, "max_new_tokens": 3, **options}
    says(refusal(kind, lambda: model.generate(given.pop("ids"), **given)), *words)


def test_row_48_a_prompt_longer_than_the_context(model: pl.TinyGPT) -> None:
    ids = [1] * (CONTEXT + 1)
    refused(model, ValueError, "prompt has 13 tokens", "context is 12", "sliding_window", ids=ids)
    assert len(model.generate(ids, 3, sliding_window=True)) == 3
    refused(model, ValueError, "prompt 1: the prompt has 13 tokens", ids=[[1], ids])


def test_row_49_a_full_context(model: pl.TinyGPT) -> None:
    words = "12 tokens of prompt and 3 new ones exceed the context of 12", "sliding_window"
    refused(model, ValueError, *words, ids=[1] * CONTEXT)
    refused(model, ValueError, "at most 2 fit", ids=[1] * (CONTEXT - 2))
    refused(model, ValueError, "prompt 1", "at most 2 fit", ids=[[1], [1] * (CONTEXT - 2)])
    assert len(model.generate([1], CONTEXT - 1)) == CONTEXT - 1
    assert len(model.generate([1], 3 * CONTEXT, sliding_window=True)) == 3 * CONTEXT


@pytest.mark.parametrize("ids", [[], np.zeros((1, 0), int)], ids=["empty", "empty row"])
def test_row_50_an_empty_prompt(model: pl.TinyGPT, ids: Any) -> None:
    refused(model, ValueError, "the prompt is empty; give at least 1 token", ids=ids)


def test_row_50_an_empty_prompt_among_others(model: pl.TinyGPT) -> None:
    refused(model, ValueError, "prompt 1: the prompt is empty; give at least 1", ids=[PROMPT, []])


def test_row_51_max_new_tokens(model: pl.TinyGPT) -> None:
    assert model.generate(PROMPT, 0).tolist() == []
    refused(model, ValueError, "max_new_tokens is at least 0, got -1", max_new_tokens=-1)
    refused(model, TypeError, "max_new_tokens", "whole number", "2.5", max_new_tokens=2.5)


def test_row_52_temperature_0_is_greedy(model: pl.TinyGPT) -> None:
    seen = list(PROMPT)
    for _ in range(6):
        logits = pl.interpret(model, np.array([seen]), dtype="f64")
        seen.append(int(logits[0, -1].argmax()))
    for seed in (1, 2, None):
        assert model.generate(PROMPT, 6, temperature=0, seed=seed).tolist() == seen[3:]
    flat = weighted()
    for p in flat.parameters():
        p.array = np.zeros_like(p.array)
    assert flat.generate([5], 3, temperature=0).tolist() == [0, 0, 0], "ties go to the lowest id"


@pytest.mark.parametrize("value", [-0.5, NAN, INF, -INF])
def test_row_53_temperatures_that_are_none(model: pl.TinyGPT, value: float) -> None:
    words = f"temperature is a finite number of at least 0, got {value}"
    refused(model, ValueError, words, temperature=value)


def test_row_54_a_tiny_temperature_is_greedy(model: pl.TinyGPT) -> None:
    greedy = model.generate(PROMPT, 8, temperature=0).tolist()
    for tiny in (1e-30, 5e-324):
        assert model.generate(PROMPT, 8, temperature=tiny, seed=1).tolist() == greedy


def test_row_55_top_k(model: pl.TinyGPT) -> None:
    for k in (0, -3):
        refused(model, ValueError, f"top_k is at least 1, or None for all tokens, got {k}", top_k=k)
    whole = model.generate(PROMPT, 8, seed=1).tolist()
    for k in (VOCAB, VOCAB + 1, 2**70):
        assert model.generate(PROMPT, 8, seed=1, top_k=k).tolist() == whole


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_row_56_nan_logits(bad: float, temperature: float) -> None:
    broken = weighted()
    table = broken.wpe.weight.array.copy()
    table[len(PROMPT)] = bad  # the place of the first new token
    broken.wpe.weight.array = table
    words = "NaN logits at step 2", "no token can be drawn"
    refused(broken, ValueError, *words, temperature=temperature)
