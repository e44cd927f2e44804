"""The benchmarks' figures that need no measurement: what a run takes at least, and tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.judge import Judgement
from planish.frontend.presets import PRESETS, Preset
from planish.runtime.roof import LEVELS, Reading, Roof

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bounds
import compare
import quality
import reference
import table
import variants
import zero_points
from peers import ours
from peers.case import Case
from turns import Contestant
from workloads import CONFIGS, Config

from tests.frontend.small import TEXT, TOKENS, same_state, small_trainer

NANO = CONFIGS["nano"]


def model_of(c: Config) -> pl.TinyGPT:
    return pl.TinyGPT(c.vocab, c.width, c.layers, c.heads, c.context, dropout=0.0)


def test_a_prompt_takes_at_least_what_a_program_for_it_computes() -> None:
    """Of the last layer that is keys and values, and one row of all else."""
    c = NANO
    program = pl.compile(model_of(c).last_logits, pl.spec((1, c.prefill), "i32"), threads=1)
    work = program.bind(np.zeros((1, c.prefill), np.int32)).work()
    done, least = sum(x.flops for x in work), bounds.operations("prefill", c)
    assert 0.9 * done < least < done
    assert least < 0.9 * bounds.operations("train", replace(c, batch=1)) / 3


def test_a_plot_is_refused_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare.py", "--plot", "x.txt"])
    with pytest.raises(SystemExit):
        compare.main()
    out, err = capsys.readouterr()
    assert out == "" and "--plot: a plot is a .svg, .png, .pdf file, not 'x.txt'" in err


def test_each_dtype_has_its_peak() -> None:
    readings = tuple(Reading(name, 1 << (14 + n), 1e15) for n, name in enumerate(LEVELS))
    roof = Roof(2, 100e9, 200e9, 400e9, readings, 1e-6)
    f32, *others = (bounds.bound(roof, "prefill", NANO, x) for x in ("f32", "bf16", "int8", "int4"))
    assert [round(f32 / x, 6) for x in others] == [2, 4, 4]
    assert bounds.bound(replace(roof, int8=1e9), "prefill", NANO, "int8") == f32


def contestant(name: str, ready: float, *times: float) -> Contestant:
    return Contestant(name, None, None, ready=ready, version="1", quiet=[*times])  # type: ignore


def document(cpu: str = "A", threads: int = 2) -> dict:
    """What `compare.py` writes of one case."""
    found = [
        contestant("planish", 0.5, 2e-3, 1e-3, 3e-3),
        contestant("torch", 0.1, 8e-3),
        contestant("torch.compile", 15.0, 4e-3),
    ]
    rows = compare.rows_of("nano", Case("prefill", "f32", NANO, threads), found, 1e-3)
    return {"date": "2026-11-26", "cpu": cpu, "threads": threads, "rows": rows}


def test_ratios_of_times_and_of_compiling(capsys: pytest.CaptureFixture[str]) -> None:
    rows = document()["rows"]
    names = ("times_torch", "times_best_peer", "ready_times_compile")
    assert [rows[0][x] for x in names] == pytest.approx([4, 2, 30])
    compare.show(rows, {})
    assert capsys.readouterr().out.splitlines()[0].split()[-3:] == ["4.00", "2.00", "30.00"]
    text = table.table([document(), document()])
    rows_of_text = [line.split()[3:] for line in text.splitlines() if line.startswith("nano")]
    first = ["2.00", "1.00", "torch.compile", "4.00", "2.00", "8.00", "4.00"]
    assert rows_of_text[0] == first and rows_of_text[-1] == ["0.50", "15.0", "30.0"]
    alone = {**document(), "rows": rows[:2]}
    assert "until ready" not in table.table([alone])


def test_a_table_is_of_one_machine() -> None:
    for other, what in ((document("B"), "B, 2 threads"), (document(threads=1), "A, 1 threads")):
        with pytest.raises(ValueError, match=f"got documents of A, 2 threads and of {what}"):
            table.table([document(), other])


def test_the_first_token_is_that_of_the_likeliest_logit() -> None:
    """The contestant's call, judged by float64; another token is seen to be wrong."""
    c = replace(NANO, layers=1, width=32, heads=2, context=16, prefill=16)
    case = Case("first", "f32", c, 1)
    assert case.ids.shape == (1, 15) and case.steps == 0 and "first" in c.workloads
    made = ours.contestant(case, "")()()
    judge = reference.Judge(case)
    assert judge.error([float(x) for x in np.ravel(made)]) == 0
    assert judge.error([float((np.ravel(made)[0] + 1) % c.vocab)]) > 1e-3
    assert judge.error([0.0, 0.0]) == np.inf
    assert bounds.operations("first", c) < bounds.operations("prefill", c)


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> variants.Family:
    """A preset as small as can be, which is as if it was trained."""
    monkeypatch.setitem(PRESETS, "nano", Preset(8, 1, 2, 6, 3, 1e-2))
    text = tmp_path / "book.txt"
    text.write_text(TEXT, "utf-8")
    made = variants.Family("nano", text, tmp_path, steps=5, more=4, seed=0, threads=1)
    made.folder.mkdir()
    pl.save(made.sizes.model(len(made.tokenizer)), made.folder / "nano-5x3.safetensors")
    return made


def test_a_recipe_is_beside_its_bars(
    family: variants.Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = {"O2": Judgement(4.0, 0.0, 1.0), "int8": Judgement(4.04, 0.001, 0.98)}
    by_recipe = {pl.PIPELINES[name]: x for name, x in judged.items()}
    monkeypatch.setattr(quality, "judge_of", lambda *_: by_recipe.get)
    cases = quality.chosen("nano", "o int8$")
    assert [x.name for x in cases] == ["float32", "int8"]
    more = (quality.Bar("decode_x", 2, models=("nano",)), quality.Bar("size", 0.0))  # baby's
    cases[1] = replace(cases[1], bars=(*cases[1].bars, *more))
    exact, row = found = list(quality.measured(family, cases, ["size", "quality"], pieces=2))
    quality.compare(cases, found)
    assert exact.bytes > 4 * family.base.count_parameters()
    assert exact.bars == [] and (exact.size, exact.ratio) == (1, 1)
    assert row.size == row.bytes / exact.bytes != 1 and row.ratio == pytest.approx(1.01)
    verdicts = [(x["what"], x["ok"]) for x in row.bars]
    assert verdicts == [("ratio", False), ("kl", True), ("top1", True)]
    lines = [x.split()[2:] for x in quality.verdicts(found).splitlines()[1:]]
    assert lines[0] == ["ratio", "1.01000", "at", "most", "1.005", "OVER"]
    assert lines[2] == ["same", "top", "98.00%", "at", "least", "98%", "ok"]
    assert len(lines) == 3 and "decode" not in quality.table(found)
    speed = list(quality.measured(family, cases, ["speed"], pieces=2))
    assert quality.table(speed).splitlines() == ["model  row"]  # none was looked for


def test_times_are_beside_those_of_the_row_named() -> None:
    cases = quality.chosen("gpt2", "70 %")
    rows = [quality.Row("gpt2", x.name, n, n, decode_ms=n) for n, x in enumerate(cases, 2)]
    quality.compare(cases, rows)
    assert [x.decode_x for x in rows] == [1, 2 / 3, 3 / 4]
    assert [x["ok"] for x in rows[2].bars] == [False, False]
    assert quality.Bar("ratio", 1.05).holds(float("nan")) is False


def test_a_training_that_is_stopped_goes_on(family: variants.Family) -> None:
    family.learnt = TOKENS
    whole, again = small_trainer(), small_trainer()
    family.trained("whole", lambda: whole, 4)

    def stop(trainer: pl.Trainer) -> None:
        if trainer.steps == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        family.trained("half", small_trainer, 4, stop)
    found = family.trained("half", lambda: again, 4)
    assert same_state(whole, again)
    assert [x.name for x in sorted(family.folder.glob("half*"))] == ["half.safetensors"]
    assert family.trained("half", lambda: 1 / 0, 4).state_dict().keys() == found.state_dict().keys()


def test_outliers_change_no_function() -> None:
    model = pl.TinyGPT(19, 16, 1, 2, 8, dropout=0.0)
    made = variants.with_outliers(model, TOKENS, 1e4)
    before, after = (x.h[0].ln_1.weight.array for x in (model, made))
    assert (before != after).sum() == 1 and after.max() == 1e4
    logits = [pl.interpret(x, np.arange(8, dtype=np.int32)[None]) for x in (model, made)]
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_zero_points_gain_where_weights_are_on_one_side() -> None:
    rows = np.random.default_rng(0).uniform(1, 3, (8, 64)).astype(np.float32)
    both, one = np.concatenate([rows, -rows], 1), rows
    for weights, least, most in ((both, -0.1, 0.1), (one, 3, 6)):
        *_, gain = next(iter(zero_points.table([weights])))
        assert least <= float(gain) <= most
    assert [x[1] for x in zero_points.table([both])][1:] == [f"group of {n}" for n in (32, 64, 128)]


def test_variants_begin_with_the_same_weights(
    family: variants.Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "trained", lambda name, make, *_: make().model)
    family.base = PRESETS["nano"].model(len(family.tokenizer))
    for name in ("trained on", "70 %"):
        made = family.model(name)
        assert made is not family.base
        for key, x in made.state_dict().items():
            np.testing.assert_array_equal(x, family.base.state_dict()[key])
