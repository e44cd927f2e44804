"""What each layer costs, alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.cli.entry import run
from planish.frontend.quantize import forward
from planish.frontend.text import CharTokenizer
from planish.ir.errors import DataError
from planish.passes.choices import Choices
from planish.passes.layers import Layers
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES

TEXT = "To flatten and smooth metal by hammering. " * 12
TOKENS = CharTokenizer.from_text(TEXT).encode(TEXT)
GPTQ = str(PIPELINES["int4"]).replace("quantize{bits=4}", "gptq,quantize{bits=4}")
FRAGILE = "h.0.mlp.c_fc.weight"


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    """One weight matters much, and has a long tail, so that most of it rounds to 0."""
    made = pl.TinyGPT(19, 64, 2, 2, 16, dropout=0.0)
    state = dict(made.state_dict())
    state[FRAGILE] = state[FRAGILE] ** 5 * 1e7
    state[FRAGILE.replace("fc", "proj")] = state[FRAGILE.replace("fc", "proj")] * 20
    made.load_state_dict(state)
    return made


def quantized(model: pl.TinyGPT, recipe: Pipeline) -> dict[str, int]:
    """The weights that are integers, with their bits."""
    seen = Layers()
    recipe.run(forward(model), observe=(seen,))
    return {x.name: x.bits for x in seen.found if not x.kept}


@pytest.mark.parametrize("name", ["int8", "int4", "gptq"])
def test_one_weight_or_all_but_one(model: pl.TinyGPT, name: str) -> None:
    recipe = pl.calibrate(model, GPTQ, TOKENS) if name == "gptq" else PIPELINES[name]
    choices = Choices.of(recipe, forward(model))
    all_bits = quantized(model, recipe)
    assert set(choices.changed) == set(all_bits)
    for one in ("h.1.attn.c_attn.weight", "wte.weight"):
        only = choices.only([one])
        assert quantized(model, only) == {one: all_bits[one]}
        assert Pipeline.parse(str(only)) == only
    rest = {n: b for n, b in all_bits.items() if n != "wte.weight"}
    assert quantized(model, choices.but(["wte.weight"])) == rest
    assert choices.only(choices.changed) == recipe


def test_the_most_sensitive_is_first(model: pl.TinyGPT) -> None:
    found = pl.sensitivity(model, TOKENS, "int4", progress=False)
    assert found.rows[0].layer == FRAGILE
    assert {x.layer for x in found.rows} == set(quantized(model, PIPELINES["int4"]))
    assert [x.kl for x in found.rows] == sorted((x.kl for x in found.rows), reverse=True)
    for row in (*found.rows, found.together):
        assert row.saved > 0 and row.ratio == pytest.approx(row.perplexity / found.exact)
    assert sum(x.saved for x in found.rows) == found.together.saved
    assert found.together.kl >= 0.5 * found.rows[0].kl
    lines = str(found).splitlines()
    assert lines[0].startswith("int4: perplexity") and len(lines) == 3 + len(found.rows)
    assert lines[2].startswith(FRAGILE) and lines[-1].startswith("all of them")


def test_threads_do_not_matter(model: pl.TinyGPT) -> None:
    one, two = (pl.sensitivity(model, TOKENS, pieces=2, threads=n, progress=False) for n in (1, 2))
    assert one == two


def test_refusals(model: pl.TinyGPT) -> None:
    with pytest.raises(DataError, match=r"sensitivity: O2 changes no weight"):
        pl.sensitivity(model, TOKENS, "O2")
    with pytest.raises(DataError, match=r"has 31 tokens; .*context of 16 takes at least 32"):
        pl.sensitivity(model, np.zeros(31, np.int32))
    with pytest.raises(DataError, match=r"skip='head' matches no weight of"):
        pl.sensitivity(model, TOKENS, "quantize{skip=head},fold")


def test_what_training_rounds_is_judged_too(model: pl.TinyGPT) -> None:
    recipe = "expand,fake_quantize,fuse"
    report = pl.sensitivity(model, TOKENS, recipe, progress=False)
    names = {row.layer for row in report.rows}
    assert "h.0.mlp.c_fc.weight" in names and "wpe.weight" not in names
    with pytest.raises(DataError, match="fake_quantize: skip='head' matches no weight of"):
        pl.sensitivity(model, TOKENS, "expand,fake_quantize{skip=head},fuse")
    with pytest.raises(pl.DTypeError, match="a pipeline is a name, a text or a Pipeline, got 3"):
        pl.sensitivity(model, TOKENS, 3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a context of 1"):
        pl.sensitivity(pl.TinyGPT(19, 16, 1, 2, 1, dropout=0.0), TOKENS)


@pytest.mark.parametrize("pieces", [0, -1, True, 2.5, "two"])
def test_pieces_are_counted(model: pl.TinyGPT, pieces: object) -> None:
    with pytest.raises(DataError, match=f"pieces is a whole number of at least 1, got {pieces!r}"):
        pl.sensitivity(model, TOKENS, pieces=pieces, progress=False)
    with pytest.raises(DataError, match="pieces is a whole number"):
        pl.auto_recipe(model, TOKENS, pieces=pieces, progress=False)


def test_the_command(model: pl.TinyGPT, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.save(model, tmp_path / "m.safetensors", CharTokenizer.from_text(TEXT))
    (tmp_path / "book.txt").write_text(TEXT, "utf-8")
    words = ["compress", str(tmp_path / "m.safetensors"), "--text", str(tmp_path / "book.txt")]
    words += ["--sensitivity", "--recipe"]
    assert run([*words, "int4"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith(FRAGILE)
    assert run([*words, "int4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["recipe"] == "int4" and facts["rows"][0]["layer"] == FRAGILE
    assert run([*words, "int4,int8"]) == 2
    assert "--sensitivity is of one --recipe" in capsys.readouterr().err
