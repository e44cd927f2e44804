"""Bundles: the same numbers on every processor that they know, and one line where they do not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.bundle import CODE, FACTS, BundleWarning
from planish.frontend.checkpoint import read_file, write_file
from planish.frontend.cli.entry import run
from planish.ir.graph import Graph
from planish.runtime import target

TOKENS = np.arange(6, dtype=np.int32)[None]
TARGETS = ["x86-64-v2", "x86-64-v3"]


def graph_of(ratio: float = 0.0) -> Graph:
    model = pl.TinyGPT(70, 64, num_layers=1, num_heads=2, max_seq_len=8, dropout=0.0)
    return pl.trace(pl.prune(model, ratio), pl.spec(("B", pl.Dim("T", max=8)), "i32"))


def changed(path: Path, name: str, metadata: dict[str, str], arrays: dict) -> Path:
    """A copy with other contents, whose checksum is right."""
    file = read_file(path)
    out = path.with_name(name)
    write_file(out, {**file.arrays, **arrays}, {**file.metadata, **metadata})
    return out


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("bundle") / "x.bundle"
    pl.save_bundle(graph_of(), found, targets=TARGETS)
    return found


@pytest.mark.parametrize("pipeline", ["O2", "int8", "int4", "sparse", "sparse_int8", "bf16"])
def test_the_best_program_runs_with_the_numbers_of_a_compiled_one(
    pipeline: str, tmp_path: Path
) -> None:
    graph, out = graph_of(0.7), tmp_path / "x.bundle"
    pl.save_bundle(graph, out, pipeline, TARGETS)
    program = pl.load(out)
    best = max((x for x in TARGETS if not missing(x)), key=TARGETS.index)
    assert program.target.name == best
    want = pl.compile(graph, pipeline=pipeline, target=best, cache=False)
    assert np.array_equal(program(TOKENS), want(TOKENS))
    assert len(program.kernels) == len(want.kernels)
    assert program.origin.pipeline == want.origin.pipeline
    assert program.origin.graph == want.origin.graph


def missing(name: str) -> list[str]:
    return target.missing_here(target.Target.parse(name).features)


def test_loading_needs_no_llvm_and_weights_are_there_once(path: Path) -> None:
    code = f"""
import sys
import numpy as np, planish as pl
program = pl.load({str(path)!r})
program(np.arange(6, dtype=np.int32)[None])
assert "llvmlite" not in sys.modules
print(program.target.name)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() in TARGETS
    file = read_file(path)
    weights = sum(x.nbytes for n, x in file.arrays.items() if not n.startswith(CODE))
    assert weights == sum(x.nbytes for x in graph_of().params.values())


@pytest.mark.usefixtures("uncached")
def test_the_same_graph_makes_the_same_bytes(path: Path, tmp_path: Path) -> None:
    pl.save_bundle(graph_of(), tmp_path / "x.bundle", targets=TARGETS)
    assert (tmp_path / "x.bundle").read_bytes() == path.read_bytes()


def test_a_graph_is_compiled_where_no_program_fits(tmp_path: Path) -> None:
    out = tmp_path / "x.bundle"
    pl.save_bundle(graph_of(), out, targets=["aarch64:neoverse-n1"])
    with pytest.warns(BundleWarning, match="has code for neoverse-n1.*, none for this processor"):
        program = pl.load(out)
    assert np.allclose(program(TOKENS), pl.interpret(graph_of(), TOKENS), atol=1e-5)


def test_mistakes_are_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(pl.DataError, match="one target at least"):
        pl.save_bundle(graph_of(), tmp_path / "x.bundle", targets=[])
    with pytest.raises(pl.TargetError, match="unknown target 'z80'"):
        pl.save_bundle(graph_of(), tmp_path / "x.bundle", targets=["z80"])
    for name in ("x.so", "x"):
        why = rf"{name}: bundles are saved as \.bundle, by which pl\.load knows them"
        with pytest.raises(pl.ArtifactError, match=why):
            pl.save_bundle(graph_of(), tmp_path / name, targets=TARGETS)
    why = r"made of a graph, .*: pl\.save_bundle\(pl\.trace\(model, \.\.\.\), 'p\.bundle'\)"
    with pytest.raises(pl.ArtifactError, match=why):
        pl.compile(graph_of()).save(tmp_path / "p.bundle")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none\.bundle"):
        pl.load(tmp_path / "none.bundle")
    pl.save_graph(graph_of(), tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(tmp_path / "graph.bundle")
    with pytest.raises(pl.ArtifactError, match=r"graph\.bundle: no bundle of planish"):
        pl.load(tmp_path / "graph.bundle")


@pytest.mark.parametrize("cut", [0, 7, 100, 0.3, 0.9, -1])
def test_damaged_files_are_refused(cut: float, path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    broken = tmp_path / "x.bundle"
    broken.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    with pytest.raises(pl.ArtifactError, match=r"x\.bundle"):
        pl.load(broken)


def test_flipped_bits_are_refused(path: Path, tmp_path: Path) -> None:
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    broken = tmp_path / "x.bundle"
    for at in rng.integers(0, len(data), 60):
        data[at] ^= 4
        broken.write_bytes(data)
        with pytest.raises((pl.ArtifactError, pl.UnsupportedError), match=r"x\.bundle"):
            pl.load(broken)
        data[at] ^= 4


def test_files_that_do_not_fit_themselves_are_refused(path: Path) -> None:
    facts = json.loads(read_file(path).metadata[FACTS])
    for name, value, words in [
        ("a", {**facts, "programs": facts["programs"] * 2}, "damaged: .*code.2 is missing"),
        ("b", {"pipeline": "O2"}, "damaged: it does not say its"),
        ("c", [], "damaged: it does not say its"),
        ("d", {**facts, "programs": [{}]}, "damaged: it does not say its target"),
        ("f", {**facts, "programs": 5}, "damaged: its programs are no list"),
        ("g", {**facts, "programs": [{**facts["programs"][0], "requires": 5}]}, "is no list of"),
    ]:
        with pytest.raises(pl.ArtifactError, match=words):
            pl.load(changed(path, f"{name}.bundle", {FACTS: json.dumps(value)}, {}))
    other = np.frombuffer(b"no image", np.uint8)
    broken = changed(path, "e.bundle", {}, {f"{CODE}{i}": other for i in range(2)})
    with pytest.raises(pl.ArtifactError, match=r"e\.bundle: not a compiled program"):
        pl.load(broken)


def test_the_command_line_writes_and_describes_bundles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "m.safetensors", tmp_path / "m.bundle"
    pl.save(pl.TinyGPT(70, 64, num_layers=1, num_heads=2, max_seq_len=8, dropout=0.0), model)
    assert run(["compile", str(model), "-o", str(out), "--target", ",".join(TARGETS)]) == 0
    assert "for x86-64-v2, x86-64-v3" in capsys.readouterr().out
    assert pl.load(out)(TOKENS).shape == (1, 70)
    assert run(["inspect", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["programs"]) == len(TARGETS) and found["pipeline"].startswith("simplify")
    assert run(["compile", str(model), "-o", str(out), "--of", "tokens"]) == 2
    assert "--of last or --of all" in capsys.readouterr().err
    for more in (["--prefix", "my_"], ["--weights", "file"]):
        assert run(["compile", str(model), "-o", str(out), *more]) == 2
        assert "are for C, not for a bundle" in capsys.readouterr().err
