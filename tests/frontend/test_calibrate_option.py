"""Recipes that look at text, from the command line: as `compress` prints them, with --calibrate."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import planish as pl
from planish.frontend.cli.entry import run
from planish.frontend.text import CharTokenizer
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES

TEXT = "To flatten and smooth metal by hammering. " * 6
STATIC = str(PIPELINES["int8"]).replace("quantize", "quantize{mode=static}")
WANDA = "prune{ratio=0.5,method=wanda}," + str(PIPELINES["int8"])
TOKENS = np.arange(16, dtype=np.int32).reshape(1, 16)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    model = pl.TinyGPT(19, 32, 1, 2, 16, dropout=0.0)
    pl.save(model, path, CharTokenizer.from_text(TEXT))
    path.with_name("book.txt").write_text(TEXT, "utf-8")
    path.with_name("other.txt").write_text(TEXT[::-1], "utf-8")
    return path


@pytest.fixture(scope="module")
def recipe(file: Path) -> pl.Pipeline:
    """Bound to the first half of the book, as `compress --text` does and prints it."""
    model, words = pl.load_model(file)
    assert words is not None
    return pl.calibrate(model, STATIC, words.encode(TEXT)[: len(TEXT) // 2])


def test_what_compress_prints_runs_and_ships(
    file: Path, recipe: pl.Pipeline, tmp_path: Path
) -> None:
    """The same numbers as bound in Python; a file of them needs no text any more."""
    text, out = file.with_name("book.txt"), tmp_path / "logits.so"
    model = pl.load_model(file)[0]
    graph = pl.trace(model.last_logits, pl.spec(("B", pl.Dim("T", max=16)), "i32"))
    expected = pl.compile(graph, pipeline=recipe)(TOKENS)
    line = ["compile", str(file), "-o", str(out), "--of", "last", "--pipeline", str(recipe)]
    assert run([*line, "--calibrate", str(text)]) == 0
    assert np.array_equal(pl.load(out)(TOKENS), expected)


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--prompt", "To", "-n", "3", "--json"],
        ["compile", "-o", "book.so", "--of", "last"],
        ["profile", "--json"],
        ["graph", "--out", "-"],
        ["compare", "--json", "--seconds", "0", "--layers"],
    ],
)
def test_all_commands_that_take_pipelines(
    file: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("planish.frontend.cli.profile.machine_roof", lambda _: None)
    option = "--pipelines" if words[0] == "compare" else "--pipeline"
    line = [words[0], str(file), *words[1:], option]
    text = ["--calibrate", str(file.with_name("book.txt"))]
    assert run([*line, STATIC]) == 2
    message = f"{option}: quantize{{mode=static}} looks at text first; name it: --calibrate FILE"
    assert message in capsys.readouterr().err
    assert run([*line, "int8", *text]) == 2
    assert "--calibrate: no pass of int8 looks at text" in capsys.readouterr().err
    assert run([*line, STATIC, *text]) == 0
    if words[0] == "compare":
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert "calibration=" in row["pipeline"] and row["run_seconds"]


def test_text_as_it_was(
    file: Path, recipe: pl.Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["graph", str(file), "--out", "-", "--pipeline"]
    assert run([*words, str(recipe), "--calibrate", str(file.with_name("other.txt"))]) == 2
    error = capsys.readouterr().err
    assert "quantize: calibration=" in error and "is of another text" in error
    assert run([*words, WANDA, "--calibrate", str(file.with_name("book.txt"))]) == 0
    assert run([*words, WANDA]) == 2
    assert "prune{ratio=0.5,method=wanda} looks at text first" in capsys.readouterr().err
    assert run([*words[:-1], "--calibrate", "book.txt"]) == 2
    assert "--calibrate is for --pipeline" in capsys.readouterr().err
    line = ["compile", str(file), "-o", str(tmp_path / "x.so"), "--of", "step"]
    assert run([*line, "--calibrate", "book.txt"]) == 2
    assert "--calibrate is for what reads a prompt, not for --of step" in capsys.readouterr().err


def test_a_mix_for_a_budget_is_found_anew(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the search that test_auto is about, here told beforehand what it finds."""
    asked: list[int] = []

    def found(model: pl.TinyGPT, tokens: np.ndarray, *_: Any, **__: Any) -> SimpleNamespace:
        asked.append(len(tokens))
        return SimpleNamespace(pipeline=Pipeline.parse(STATIC))

    monkeypatch.setattr("planish.frontend.compress.auto_recipe", found)
    words = ["graph", str(file), "--out", "-", "--pipeline", "auto"]
    assert run(words) == 2 and not asked
    assert "--pipeline: auto looks at text first" in capsys.readouterr().err
    assert run([*words, "--calibrate", str(file.with_name("book.txt"))]) == 0
    assert asked == [len(TEXT) // 2] and "dtype=i8" in capsys.readouterr().out
