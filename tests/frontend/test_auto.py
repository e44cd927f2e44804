"""The recipe that is found by measuring: a budget, and the smallest mix within it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.auto import auto_recipe, ordered
from planish.frontend.cli.entry import run
from planish.frontend.judge import Judge, halves
from planish.frontend.quantize import forward, stored
from planish.frontend.sensitivity import Row
from planish.ir.errors import DataError
from planish.passes.layers import Layers
from planish.passes.measure import weight_bytes
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES, check_order

STEPS, CONTEXT = 120, 16
PIECES = 16


@pytest.fixture(scope="module")
def text() -> str:
    return pl.default_corpus()


@pytest.fixture(scope="module")
def model(text: str) -> pl.TinyGPT:
    """After some training, so that rounding costs something."""
    tokens = pl.CharTokenizer.from_text(text).encode(text)
    made = pl.TinyGPT(
        int(tokens.max()) + 1, 64, num_layers=1, num_heads=2, max_seq_len=CONTEXT, dropout=0.0
    )
    trainer = pl.Trainer(made, pl.optim.AdamW(lr=3e-3), batch=16)
    trainer.fit(tokens[:-4000], STEPS, progress=False)
    return made


@pytest.fixture(scope="module")
def tokens(text: str) -> np.ndarray:
    return pl.CharTokenizer.from_text(text).encode(text)[-4000:]


def bits_of(model: pl.TinyGPT, recipe: Pipeline) -> dict[str, int]:
    seen = Layers()
    recipe.run(forward(model), observe=(seen,))
    return {name: x.bits for name, x in seen.by_name.items() if len(x.shape) == 2}


@pytest.mark.parametrize("budget", [1.0, 1.002, 10.0])
def test_a_mix_within_the_budget(
    model: pl.TinyGPT, tokens: np.ndarray, tmp_path: Path, budget: float
) -> None:
    """What it says of itself is so; its text makes the same model, as a
    file too, at any number of threads."""
    found = auto_recipe(model, tokens, budget, pieces=PIECES, progress=False)
    assert found.ratio <= budget
    judge = Judge(model, halves(model, tokens)[1], PIECES)
    parsed = Pipeline.parse(str(found.pipeline))
    assert parsed == found.pipeline
    check_order("auto", parsed)
    assert judge(parsed).perplexity / judge.exact.perplexity == found.ratio
    assert found.bytes == weight_bytes(stored(model, parsed)) <= found.bytes_before
    if set(found.bits.values()) != {32}:
        seen = bits_of(model, parsed)
        assert {name: seen[name] for name in found.bits} == found.bits
    ids = tokens[: 2 * CONTEXT].reshape(2, CONTEXT)
    one, two = (pl.compile(forward(model), pipeline=parsed, threads=n)(ids) for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    pl.save_graph(stored(model, parsed), tmp_path / "mix.safetensors")
    np.testing.assert_array_equal(pl.compile(pl.load_graph(tmp_path / "mix.safetensors"))(ids), one)
    if budget == 10:
        assert seen == bits_of(model, PIPELINES["int4"]) and found.tried == 1
    assert str(found).splitlines()[-1] == str(found.pipeline)


def test_the_cheapest_bytes_go_first() -> None:
    """And no weight has 4 bits before it has 8."""

    def row(name: str, saved: int, kl: float) -> Row:
        return Row(name, saved, 1.0, 1.0, kl, 1.0)

    eight = [row("a", 75, 0.5), row("b", 75, 0.1), row("table", 30, 0.0)]
    moves = ordered(eight, [row("b", 87, 9.0), row("a", 87, 0.51)])
    assert [(x.name, x.bits) for x in moves] == [
        ("table", 8), ("b", 8), ("a", 8), ("a", 4), ("b", 4)
    ]  # fmt: skip


@pytest.mark.parametrize("budget", [0.99, -1, float("nan"), "1.01", True])
def test_a_budget_is_a_ratio(model: pl.TinyGPT, tokens: np.ndarray, budget: object) -> None:
    with pytest.raises(DataError, match="budget is a ratio of perplexities of at least 1, got"):
        auto_recipe(model, tokens, budget)  # type: ignore[arg-type]


def test_a_text_too_short_is_refused(model: pl.TinyGPT) -> None:
    with pytest.raises(DataError, match=r"has 31 tokens; .*context of 16 takes at least 32"):
        auto_recipe(model, np.zeros(31, np.int32))


def test_the_command(
    model: pl.TinyGPT, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.save(model, tmp_path / "m.safetensors", pl.CharTokenizer.from_text(text))
    (tmp_path / "book.txt").write_text(text[-1000:], "utf-8")
    words = ["compress", str(tmp_path / "m.safetensors"), "--text", str(tmp_path / "book.txt")]
    words += ["--recipe", "O2,auto", "--seconds", "0", "--budget"]
    assert run([*words, "1.5", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    exact, small = facts["rows"]
    assert small["recipe"] == "auto" and small["disk"] < 0.5 * exact["disk"]
    assert Pipeline.parse(facts["pipelines"][1]).passes
    assert run([*words, "0.5"]) == 2
    assert "budget is a ratio" in capsys.readouterr().err
