"""Perplexity of what is no model: graphs, programs, files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.ir.errors import DataError
from tests.frontend.small import CONTEXT, TOKENIZER, TOKENS, small_model, small_trainer

SOME = TOKENS[:100]  # no whole number of contexts


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return small_model()


@pytest.mark.parametrize("shape", [("B", pl.Dim("T", max=CONTEXT)), (3, "T"), (1, CONTEXT)])
def test_of_a_program_it_is_that_of_the_model(model: pl.TinyGPT, shape: tuple) -> None:
    want = pl.perplexity(model, SOME)
    program = pl.compile(model, pl.spec(shape, "i32"))
    context = CONTEXT if shape[1] == "T" else None
    assert pl.perplexity(program, SOME, context=context) == pytest.approx(want, rel=1e-5)
    graph = pl.trace(model, pl.spec(shape, "i32"))
    found = pl.perplexity(graph, SOME, context=context, pipeline="O0")
    assert found == pytest.approx(want, rel=1e-5)


def test_of_a_model_it_is_what_a_trainer_finds() -> None:
    trainer = small_trainer(backend="native")
    want = math.exp(trainer.evaluate(TOKENS))
    assert pl.perplexity(trainer.model, TOKENS) == pytest.approx(want, rel=1e-5)


def test_of_files(model: pl.TinyGPT, tmp_path: Path) -> None:
    """An artifact, and a quantized graph."""
    graph = pl.quantize(model)
    program = pl.compile(graph)
    program.save(tmp_path / "small.so")
    pl.save_graph(graph, tmp_path / "small.safetensors")
    want = pl.perplexity(program, SOME)
    assert want != pl.perplexity(model, SOME)
    assert pl.perplexity(tmp_path / "small.so", SOME) == want
    assert pl.perplexity(str(tmp_path / "small.safetensors"), SOME, batch=2) == pytest.approx(want)
    text = TOKENIZER.decode(SOME)
    assert pl.perplexity(tmp_path / "small.so", text, tokenizer=TOKENIZER, threads=1) == want


def test_refusals(model: pl.TinyGPT) -> None:
    program = pl.compile(model, pl.spec((2, "T"), "i32"))
    with pytest.raises(DataError, match=r"context is a whole number of at least 1, got None"):
        pl.perplexity(program, SOME)
    with pytest.raises(DataError, match=r"batch is 2 in this program, got batch=3"):
        pl.perplexity(program, SOME, batch=3, context=CONTEXT)
    with pytest.raises(DataError, match=r"pipeline='int8' is too late"):
        pl.perplexity(program, SOME, pipeline="int8")
    other = pl.compile(lambda x: x + 1, pl.spec((2, 3)))
    with pytest.raises(DataError, match=r"logits \[B, T, V\], got one from f32\[2, 3\] to f32"):
        pl.perplexity(other, SOME)
    with pytest.raises(DataError, match=r"has 1 tokens"):
        pl.perplexity(program, np.zeros(1, np.int32), context=CONTEXT)
