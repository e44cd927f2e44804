"""Where commands write: what is refused before any work, and what a place that is full says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import planish as pl
from planish.frontend.cli.entry import run
from planish.frontend.text import CharTokenizer
from planish.ir import plots

PLANISH = [sys.executable, "-m", "planish"]
TEXT = "To flatten and smooth metal by hammering. " * 12


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tokenizer = CharTokenizer.from_text(TEXT)
    pl.save(pl.TinyGPT(len(tokenizer), 16, 1, 2, 16, dropout=0.0), path, tokenizer)
    return path


def failing(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command line says that is wrong, in one line."""
    assert run(list(map(str, arguments))) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.strip()


@pytest.mark.parametrize(
    "command",
    ["train --out m", "compare none --pipelines O2", "compress none --recipe O2 --text t"],
)
def test_plots_are_refused_before_any_work(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = failing(capsys, *command.split(), "--plot", "x.txt")
    assert line == "planish: a plot is a .svg, .png, .pdf file, not 'x.txt'"
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    line = failing(capsys, *command.split(), "--plot", "x.png")
    assert line == "planish: plots need matplotlib: pip install 'planish[plot]'"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    ("where", "told"), [(">/dev/full", "No space left on device"), (">&-", "")]
)
def test_output_that_goes_nowhere(model: Path, where: str, told: str) -> None:
    write = f'"$@" generate "{model}" --prompt To -n 3 {where}'
    done = subprocess.run(["sh", "-c", write, "sh", *PLANISH], capture_output=True, text=True)
    assert done.stderr == (f"planish: {told}\n" if told else "")
    assert done.returncode == (1 if told else 0)


def test_train_tells_what_it_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.write_text(TEXT)
    options = ["--text", str(text), "--steps", "5", "--evaluate-every", "2", "--width", "8",
               "--layers", "1", "--heads", "1", "--context", "8", "--batch", "2"]  # fmt: skip
    assert run(["train", "--out", str(tmp_path / "m.safetensors"), *options]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [x.split(":")[0] for x in lines] == ["step 2", "step 4", "step 5"]
    assert re.fullmatch(r"step 4: loss \d\.\d{4}, validation \d\.\d{4}", lines[1])
