"""Recipes side by side, as a table and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.cli.entry import run
from planish.frontend.cli.recipes import named
from planish.frontend.compress import disk_bytes
from planish.frontend.quantize import forward, stored, with_faster
from planish.frontend.text import CharTokenizer
from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.store import save_graph
from planish.passes.layers import BOTH
from planish.passes.pipelines import PIPELINES, pipeline
from planish.passes.reports import reports

TEXT = "To flatten and smooth metal by hammering. " * 12
STATIC = str(PIPELINES["int8"]).replace("quantize", "quantize{mode=static}")
FIELDS = [
    "recipe", "disk", "memory", "prefill_ms", "decode_tokens_per_second", "perplexity", "kl", "top1"
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return pl.TinyGPT(19, 64, 1, 2, 16, dropout=0.0)


@pytest.fixture(scope="module")
def file(model: pl.TinyGPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    pl.save(model, path, CharTokenizer.from_text(TEXT))
    path.with_name("book.txt").write_text(TEXT, "utf-8")
    return path


def test_rows_of_recipes(model: pl.TinyGPT) -> None:
    """The model itself is no distance from itself; fewer bits take fewer bytes."""
    tokens = CharTokenizer.from_text(TEXT).encode(TEXT)
    table = pl.compress(model, ["O2", "int8", STATIC, "int4"], tokens, seconds=0)
    exact, small, static, smallest = table.rows
    assert [exact.recipe, small.recipe, smallest.recipe] == ["O2", "int8", "int4"]
    assert (exact.kl, exact.top1) == (0, 1) and all(0 < x.kl < 0.01 for x in table.rows[1:])
    assert exact.disk > small.disk > smallest.disk and exact.memory > small.memory
    assert small.memory > smallest.memory and static.disk == pytest.approx(small.disk, rel=0.1)
    kept = tokens[len(tokens) // 2 :]
    judged = kept[: len(kept) // 16 * 16]
    pieces = [pl.perplexity(model, judged[at : at + 16]) for at in range(0, len(judged), 16)]
    assert exact.perplexity == pytest.approx(np.exp(np.log(pieces).mean()), rel=1e-5)
    lines = str(table).splitlines()[: -len(table.slower) or None]
    assert len(lines) == 5 and lines[0].split()[:3] == ["recipe", "disk", "memory"]


def test_a_table_that_is_the_head_is_on_disk_once() -> None:
    """As bf16: two bytes for each of its numbers, and little beside them."""
    model = pl.TinyGPT(2000, 64, 1, 2, 32, dropout=0.0)
    wide = ("wpe.weight", *(n for n, x in model.state_dict().items() if x.ndim == 1))
    least = sum(x.size * (4 if n in wide else 2) for n, x in model.state_dict().items())
    size = disk_bytes(stored(model, PIPELINES["bf16"]))
    assert least < size < least + 20_000  # the text of the graph; the table alone has 256,000


def test_a_text_too_short_is_refused(model: pl.TinyGPT) -> None:
    with pytest.raises(DataError, match=r"has 31 tokens; .*context of 16 takes at least 32"):
        pl.compress(model, ["int8"], np.zeros(31, np.int32))


def test_the_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "small.safetensors", tmp_path / "frontier.svg"
    words = ["compress", str(file), "--text", str(file.with_name("book.txt")), "--seconds", "0"]
    recipes = ["--recipe", f"O2; {STATIC}", "--out", str(out), "--plot", str(plot)]
    assert run([*words, *recipes, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = told["rows"]
    assert {x["recipe"] for x in told["slower"]} <= {STATIC}  # float32 is not slower than itself
    assert [list(x) for x in rows] == [FIELDS] * 2
    assert out.stat().st_size == rows[1]["disk"] and plot.stat().st_size > 1000
    logits = pl.compile(pl.load_graph(out))(np.zeros((1, 16), np.int32))
    assert logits.shape == (1, 16, 19)
    assert run(["graph", str(out), "--out", "-"]) == 0
    assert capsys.readouterr().out == f"{pl.load_graph(out)}\n"
    assert run(["graph", str(out), "--out", "-", "--pipeline", "O2"]) == 0
    assert capsys.readouterr().out == f"{pl.PIPELINES['O2'].run(pl.load_graph(out))}\n"
    assert run(["graph", str(out), "--out", "-", "--of", "decode"]) == 2
    assert "is a graph: --of and --calibrate are for models" in capsys.readouterr().err
    assert run(["info", str(out), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["bytes"] == out.stat().st_size and info["weights"]["i8"] == 6
    assert list(info["inputs"].values()) == ["i32[B, T]"] and info["outputs"] == ["f32[B, T, 19]"]
    assert run(["compile", str(out), "-o", str(tmp_path / "x.so")]) == 0
    assert np.array_equal(pl.load(tmp_path / "x.so")(np.zeros((1, 16), np.int32)), logits)
    capsys.readouterr()
    assert run([*words, "--recipe", STATIC]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{STATIC} ") and "calibration=" in told["pipelines"][1]
    assert lines[-2:] == ["", f"{STATIC}: {told['pipelines'][1]}"]


def test_mistakes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compress", str(file), "--text", str(file.with_name("book.txt"))]
    assert run([*words, "--recipe", ","]) == 2
    assert "--recipe names none" in capsys.readouterr().err
    assert run([*words, "--recipe", "int3"]) == 2
    assert "unknown pipeline or pass 'int3'" in capsys.readouterr().err


def test_layers_with_times(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each weight of each recipe, measured; by the rule none is kept that is not slower."""
    words = ["compress", str(file), "--text", str(file.with_name("book.txt")), "--seconds", "0"]
    words += ["--recipe", "O2,int8", "--layers"]
    assert run([*words, "--faster", "both"]) == 0
    told = [x for x in capsys.readouterr().out.splitlines() if ": slower than float32" not in x]
    head, _, small, *lines = told
    assert head.startswith("recipe") and small.startswith("int8")
    assert lines[:5] == ["", "O2", "no pass of it changes weights", "", "int8"]
    assert lines[5].split()[-5:] == ["decode", "us", "prefill", "us", "why"]
    assert run([*words, "--json"]) == 0
    none, found = json.loads(capsys.readouterr().out)["layers"]
    timed = [x for x in found if x["speed"]]
    reasons = {x["reason"].split("; slower: ")[0] for x in timed}
    assert none == [] and reasons == {"product", BOTH}
    for x in timed:
        assert min(*x["speed"]["decode"], *x["speed"]["prefill"]) > 0
    assert run([*words, "--sensitivity"]) == 2
    assert "goes without --out, --plot, --layers, --faster" in capsys.readouterr().err


def test_one_recipe_may_stand_alone(model: pl.TinyGPT) -> None:
    for one in ("O2", pl.PIPELINES["O2"]):
        assert len(pl.compress(model, one, np.zeros(64, np.int32), seconds=0).rows) == 1
        assert len(pl.compare(model, one, np.zeros((1, 4), np.int32), seconds=0).rows) == 1


def test_options_that_say_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compress", "none", "--text", "none", "--recipe"]
    assert run([*words, "O2,int8", "--budget", "1.1"]) == 2
    assert "--budget is for the recipe auto" in capsys.readouterr().err
    assert run([*words, "int8", "--out", "x.bin"]) == 2
    assert "--out is a .safetensors file, not 'x.bin'" in capsys.readouterr().err


def test_wanda_is_a_recipe(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compress", str(file), "--text", str(file.with_name("book.txt")), "--seconds", "0"]
    recipes = [
        str(PIPELINES["sparse"]).replace("bitmap", f"prune{{ratio=0.7,method={method}}},bitmap")
        for method in ("magnitude", "wanda")
    ]
    assert run([*words, "--recipe", ";".join(recipes), "--json"]) == 0
    plain, wanda = json.loads(capsys.readouterr().out)["rows"]
    assert wanda["kl"] not in (0, plain["kl"]) and wanda["disk"] < 1.01 * plain["disk"]


def test_shapes_bits_and_zeros_compose(model: pl.TinyGPT, tmp_path: Path) -> None:
    """Half of the heads and channels, 70 % of the rest, bytes for what is left: one recipe, which
    is a file, too."""
    recipe, out = "shrink{heads=0.5,channels=0.5},prune{ratio=0.7},sparse_int8", tmp_path / "x"
    (text,) = named(recipe, "--recipe")
    passes, graph = pipeline(text), forward(model)
    save_graph(stored(model, passes), out)
    assert out.stat().st_size < disk_bytes(stored(model, PIPELINES["int8"])) / 2
    shapes, layers, zeros, kept = reports(graph, passes).records().values()
    name = "h.0.mlp.c_fc.weight"
    after = {x["name"]: x["after"] for x in shapes}
    assert after[name] == (128, 64) and after["h.0.attn.c_attn.weight"] == (96, 64)
    assert {x["name"]: x["shape"] for x in zeros}[name] == (128, 64)
    assert {x["name"]: (x["shape"], x["bits"]) for x in layers}[name] == ((128, 64), 8)
    assert {x["name"]: x["reason"] for x in kept}[f"{name}.quantize"] == "bitmap"
    loaded, tokens = pl.load_graph(out), np.arange(16, dtype=np.int32)[None]
    (expected,) = evaluate(passes.run(graph), tokens)
    np.testing.assert_allclose(evaluate(loaded, tokens)[0], expected, 1e-5, 1e-5)


def test_all_that_passes_do_to_weights(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bits, bf16 too; zeros, and how they are stored, or that they save too little."""
    words = ["compress", str(file), "--text", str(file.with_name("book.txt")), "--seconds", "0"]
    pruning = str(PIPELINES["sparse"]).replace("bitmap", "prune{ratio=0.8},bitmap")
    words += ["--recipe", f"bf16;sparse_int8;{pruning}", "--layers"]
    assert run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (half, eight, none), (_, _, zeros), (_, dense, thin) = (
        [{x["name"]: x for x in y} for y in told[kind]] for kind in ("layers", "zeros", "stored")
    )
    name = "h.0.mlp.c_fc.weight"
    assert (half[name]["bits"], half[name]["bytes"]) == (16, 2 * 64 * 256)
    assert half[name]["reason"] == "product" and 45 < half[name]["sqnr"] < 60
    assert half["wte.weight"]["reason"] == BOTH and half[name]["speed"]
    assert half["wpe.weight"]["reason"] == "stays: nothing multiplies by it"
    assert half["ln_f.weight"]["reason"] == "stays: it has 1 axes, not 2"
    assert eight[name]["bits"] == 8 and not none
    assert dense[f"{name}.quantize"]["reason"].endswith("% zeros save too little")
    assert zeros[name]["zeros"] == pytest.approx(0.8, abs=1e-3)
    assert thin[name]["reason"] == "bitmap" and thin[name]["bytes"] < 0.3 * 4 * 64 * 256
    assert run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [x for x in lines if x.startswith("layer ")]
    assert [x.split()[1:4] for x in heads] == [
        ["shape", "bits", "scales"], ["shape", "bits", "scales"], ["shape", "dtype", "zeros"],
        ["shape", "zeros", "kept"], ["shape", "dtype", "zeros"],
    ]  # fmt: skip


def test_a_measured_rule(model: pl.TinyGPT) -> None:
    """By real times: what stays was slower in what counts, what changed was not."""
    tokens = CharTokenizer.from_text(TEXT).encode(TEXT)
    recipe = with_faster(PIPELINES["int8"], "both")
    report = pl.layer_report(model, recipe, tokens)
    for x in report.found:
        if x.speed is not None:
            assert bool(x.speed.slower("both")) == x.kept, x.name
    graph = pl.quantize(model, faster="both")
    # the table of places is no product, and changes
    assert "wpe.weight.quantize" in graph.params and "wpe.weight" not in graph.params
