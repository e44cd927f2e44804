"""The demo, small: what it leaves behind, and that its numbers are those of the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.cli.entry import run
from planish.frontend.demo import demo
from planish.frontend.presets import PRESETS, Preset

TINY = Preset(width=16, layers=1, heads=2, context=16, batch=2, lr=1e-3)
TEXT = "The hammer flattens metal. The plane smooths wood. " * 20


def test_the_demo_tells_a_story(tmp_path: Path) -> None:
    told: list[str] = []
    out = tmp_path / "new" / "demo"
    facts = demo(out, steps=12, preset=TINY, text=TEXT, say=told.append, progress=False, threads=2)
    story = "\n".join(told)
    for word in ("text", "model", "train", "generate", "compare", "draw", "Try next"):
        assert word in story
    assert facts["steps"] == len(facts["losses"]) == 12
    assert f"{np.mean(facts['losses'][2:12]):.3f}" in story
    assert f"loss {facts['validation']:.3f} on text never seen" in story
    assert str(facts["table"]).splitlines()[1] in story and facts["token_seconds"] > 0

    files = {x.name for x in out.iterdir()}
    assert files >= {
        "model.safetensors", "text.txt", "decode.txt", "compare.txt", "compare.json",
        "traced.txt", "traced.dot", "fused.txt", "fused.dot",
    }  # fmt: skip
    model, tokenizer = pl.load_model(out / "model.safetensors")
    text = (out / "text.txt").read_text("utf-8")
    prompt = tokenizer.encode("The ")
    again = model.generate(prompt, 12, seed=0, temperature=0.8)
    assert text.startswith("The " + tokenizer.decode(again)) and len(text) == 4 + 240 + 1
    rows = json.loads((out / "compare.json").read_text("utf-8"))
    assert [row["pipeline"] for row in rows] == ["O0", "O1", "O2"]
    assert rows[2]["kernels"] < rows[0]["kernels"] and rows[2]["error"] < 1e-5


def test_nano_is_nanogpts_configuration() -> None:
    assert PRESETS["nano"].model(65).count_parameters() == 809_856


def test_a_file_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "demo"
    path.write_text("mine")
    assert run(["demo", "--out", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"planish demo: {path} is a file, not a folder")
