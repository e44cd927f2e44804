"""The recipe that is found by measuring: a budget, and the smallest mix within it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import planish as pl
from planish.frontend import auto
from planish.frontend.auto import auto_recipe, bytes_of, considered, ordered, seconds_of
from planish.frontend.cli.entry import run
from planish.frontend.judge import Judge, halves
from planish.frontend.quantize import forward, stored
from planish.frontend.sensitivity import Row
from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.passes.choices import Choices
from planish.passes.layers import Layers
from planish.passes.measure import weight_bytes
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import CLEAN, PIPELINES, check_order
from planish.passes.quantize import Quantize
from planish.passes.speed import Clock
from planish.runtime.target import Target

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
    four = [row("b", 87, 9.0), row("a", 87, 0.51)]
    moves = ordered({8: eight, 4: four}, bytes_of({8: eight, 4: four}))
    assert [(x.name, x.bits) for x in moves] == [
        ("table", 8), ("b", 8), ("a", 8), ("a", 4), ("b", 4)
    ]  # fmt: skip


def test_bits_of_a_mix_are_those_of_its_recipe(model: pl.TinyGPT) -> None:
    """After any number of moves, bf16 among them, as on a processor that multiplies it."""
    graph = forward(model)
    levels = {x: Choices.of(PIPELINES[auto.NAMES[x]], graph) for x in (16, 8, 4)}
    steps = [("attn.c_attn", 16), ("mlp.c_fc", 8), ("mlp.c_proj", 16), ("mlp.c_proj", 4)]
    moves = [auto.Move(f"h.0.{name}.weight", bits, 0.0, 1.0) for name, bits in steps]
    moves += [auto.Move(name, 8, 0.0, 1.0) for name in ("wte.weight", "wpe.weight")]
    judge = SimpleNamespace(exact=None)
    mixes = auto.Mixes(judge, auto.steps_of(levels), moves, levels[8].changed)  # type: ignore
    for count in range(1, len(moves) + 1):
        recipe = mixes.pipeline(count)
        assert Pipeline.parse(str(recipe)) == recipe
        check_order("auto", recipe)
        seen = bits_of(model, recipe)
        assert {name: seen[name] for name in mixes.bits(count)} == mixes.bits(count)
    assert sorted(mixes.bits(count).values()) == [4, 8, 8, 8, 16, 32]


@pytest.mark.parametrize(
    "name, told",
    [
        ("x86-64-v3", "32, 8 and 4 bits (groups of 64); not 16, for x86-64-v3 has no products of"),
        ("znver4", "32, 16 (bf16), 8 and 4 bits (groups of 64)"),
    ],
)
def test_what_is_considered(name: str, told: str) -> None:
    assert considered(Target.parse(name)).startswith(told)


def test_what_saves_no_time_is_not_for_the_fastest() -> None:
    """A step may go from 32 to 4 bits at once; one to 4 that is slower than 8 is none."""

    def row(name: str, kl: float) -> Row:
        return Row(name, 1, 1.0, 1.0, kl, 1.0)

    eight, four = [row("a", 0.1), row("b", 0.1), row("c", 0.1)], [row("a", 0.3), row("b", 0.2)]
    gains = {("a", 8): 0.0, ("a", 4): 3.0, ("b", 8): 2.0, ("b", 4): 1.0}
    assert [(x.name, x.bits, x.saved) for x in ordered({8: eight, 4: four}, gains)] == [
        ("b", 8, 2.0), ("a", 4, 3.0)
    ]  # fmt: skip


def clock(before: float, eight: float, four: float) -> Clock:
    """A clock that says what it is told; of prompts, and of bf16, that nothing gains."""

    def seconds(old: Graph, new: Graph) -> tuple[float, float]:
        if old.inputs[0].shape[0] > 1:
            return 1.0, 2.0
        if any(n.op.name == "scaled_matmul" for n in new.nodes):
            return before, four
        return before, before if any(n.dtype == t.bf16 for n in new.nodes) else eight

    return Clock(seconds, CONTEXT)


def test_gains_in_time_are_those_that_count(model: pl.TinyGPT) -> None:
    graph = CLEAN.run(forward(model))
    found = seconds_of(graph, clock(9.0, 5.0, 6.0), "decode", (Quantize(), Quantize(bits=4)))
    assert {(bits, gain) for (_, bits), gain in found.items()} == {(8, 4.0), (4, 3.0)}
    assert set(seconds_of(graph, clock(9.0, 5.0, 6.0), "both", [Quantize()]).values()) == {0.0}


def test_the_fastest_mix(
    model: pl.TinyGPT, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where 4 bits gain nothing over 8, no weight has them, and tables that are not multiplied by
    stay as they are."""
    monkeypatch.setattr(auto, "layer_clock", lambda *given: clock(9.0, 5.0, 9.0))
    found = auto_recipe(model, tokens, 10.0, faster="decode", pieces=PIECES, progress=False)
    assert found.faster == "decode"
    assert found.bits["wpe.weight"] == 32 and set(found.bits.values()) == {8, 32}
    with pytest.raises(DataError, match="faster is one of decode, prefill, both, got 'size'"):
        auto_recipe(model, tokens, faster="size")


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
