"""Artifacts with code for several levels of processors: the best that runs here is taken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import planish as pl
from planish.frontend.cli.entry import commands, run
from planish.frontend.ship import LEVELS
from planish.runtime.artifact import read_shared
from planish.runtime.ship import shipped
from planish.runtime.target import Target
from tests.frontend.small import TOKENIZER, small_model

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(Target.host().arch != "x86_64", reason="levels are those of x86-64"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]
GIVEN = ["the", "-n", "20", "--temperature", "0"]
FIRST, SECOND, *_ = LEVELS
RUNS = [name for name in LEVELS if Target.parse(name).features <= Target.host().features]


@cache
def model() -> pl.TinyGPT:
    return small_model(max_seq_len=40)


def want() -> str:
    return "the" + pl.generate_text(model(), TOKENIZER, "the", 20, temperature=0.0) + "\n"


def ran(program: Path, *given: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run([program, *GIVEN, *given], capture_output=True, text=True, check=False,
                          env=environment)  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program and a library."""
    path = tmp_path_factory.mktemp("multi")
    maker = pl.Generator(model())
    assert maker.save(path / "tiny", TOKENIZER, target="multi") == LEVELS[:3]
    maker.save(path / "tiny.so", TOKENIZER, target="multi")
    return path


@pytest.mark.skipif(not RUNS, reason="this processor runs no level")
def test_the_best_level_that_runs_here_is_taken(folder: Path) -> None:
    code, out, told = ran(folder / "tiny", "--stats")
    assert (code, out) == (0, want())
    best = [x for x in RUNS if x in LEVELS[:3]][-1]
    assert told.endswith(f" threads, code for {best}\n")
    found = pl.load(folder / "tiny.so")
    assert found.level.name == best == found.target.name
    assert repr(found.level) == f"<Level {best}: decode, prefill>"


@pytest.mark.parametrize("level", LEVELS[:3])
def test_a_level_is_taken_by_name_or_refused(
    folder: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, told = ran(folder / "tiny", "--stats", PLANISH_LEVEL=level)
    monkeypatch.setenv("PLANISH_LEVEL", level)
    if level in RUNS:
        assert (code, out) == (0, want()) and told.endswith(f"code for {level}\n")
        found = pl.load(folder / "tiny.so")
        ids = found.generate(TOKENIZER.encode("the"), max_new_tokens=20, temperature=0)
        assert found.level.name == level and "the" + TOKENIZER.decode(ids) + "\n" == want()
    else:
        assert (code, out) == (1, "") and len(told.splitlines()) == 1
        assert told.startswith("error: this program is for processors with ")
        with pytest.raises(pl.TargetError, match=r"is for processors with .*which this one lacks"):
            pl.load(folder / "tiny.so")


def test_levels_that_are_not_there_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have = "x86-64-v2, x86-64-v3, x86-64-v4"
    why = f"error: PLANISH_LEVEL is pentium, but this program has code for {have}\n"
    assert ran(folder / "tiny", PLANISH_LEVEL="pentium") == (2, "", why)
    monkeypatch.setenv("PLANISH_LEVEL", "pentium")
    with pytest.raises(pl.TargetError, match=f"has code for {have}; PLANISH_LEVEL is 'pentium'"):
        pl.load(folder / "tiny.so")


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="no emulator: qemu-x86_64")
@pytest.mark.parametrize(("processor", "level"), [
    ("qemu64", None), ("Nehalem", FIRST), ("SandyBridge", FIRST), ("max", SECOND),
])  # fmt: skip
def test_processors_that_are_not_here(folder: Path, processor: str, level: str | None) -> None:
    """The last one has AVX2 since version 7.2 of the emulator, and never AVX-512."""
    command = ["qemu-x86_64", "-cpu", processor, folder / "tiny", *GIVEN, "--stats"]
    done = subprocess.run([*command, "--threads", "1"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    told = done.stderr.splitlines()[-1]
    if level is None:
        assert (done.returncode, done.stdout) == (1, "")
        assert told.startswith("error: this program is for processors with ssse3, sse4.1")
    else:
        assert (done.returncode, done.stdout) == (0, want())
        assert told.endswith(f"code for {level}")


def test_a_processor_below_all_levels_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = iter([("least", 0x7FFFFFFF, 0, 0, 1), ("most", 0x7FFFFFFF, 0, 0, 1)])
    monkeypatch.setattr(shipped, "needed", lambda *_: [next(words)])
    pl.Generator(model()).save(tmp_path / "tiny", TOKENIZER, target=f"{FIRST},{SECOND}")
    why = "error: this program is for processors with least, which this one lacks\n"
    assert ran(tmp_path / "tiny") == (1, "", why)


@pytest.mark.usefixtures("uncached")
def test_the_same_levels_make_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    pl.Generator(model()).save(tmp_path / "tiny", TOKENIZER, target="multi")
    assert (tmp_path / "tiny").read_bytes() == (folder / "tiny").read_bytes()


@pytest.mark.parametrize(("pipeline", "more"), [
    ("int8", ("cascadelake",)), ("bf16", ("cooperlake", "sapphirerapids")),
])  # fmt: skip
def test_levels_without_a_gain_are_left_out(
    pipeline: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "tiny.o"
    assert pl.Generator(model(), pipeline).save(path, target="multi") == (*LEVELS[:3], *more)
    symbols = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    for level in (*LEVELS[:3], *more):
        assert f"planish_decode_{level.replace('-', '_')}_main" in symbols


def test_equal_weights_are_there_once(folder: Path, tmp_path: Path) -> None:
    found = read_shared(folder / "tiny")
    kinds = {(x.dtype.str, x.shape, x.tobytes()) for x in found.weights}
    assert len(kinds) == len(found.weights)
    each = [x.facts["memory"]["weights"] for x in found.levels]
    assert max(each) < sum(x.nbytes for x in found.weights) < sum(each)
    pl.Generator(model()).save(tmp_path / "a.so", target="x86-64-v4,cascadelake")
    both, one = read_shared(tmp_path / "a.so"), found.levels[-1].facts["memory"]["weights"]
    assert sum(x.nbytes for x in both.weights) == one and len(both.levels) == 2


def test_weights_of_all_levels_may_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    pl.Generator(model()).save(path, TOKENIZER, weights="file", target=f"{FIRST},{SECOND}")
    for level in [x for x in (FIRST, SECOND) if x in RUNS]:
        assert ran(path, PLANISH_LEVEL=level) == (0, want(), "")


@pytest.mark.parametrize(("target", "error", "why"), [
    ("x86-64-v2,pentium", pl.TargetError, "unknown target 'pentium'"),
    ("x86-64-v2,x86-64-v2", pl.DataError, "x86-64-v2 is there twice"),
    ("x86-64-v2,neoverse-n1", pl.DataError, "code for one of aarch64, x86_64"),
])  # fmt: skip
def test_levels_that_cannot_be_together_are_refused(
    target: str, error: type[Exception], why: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=why):
        pl.Generator(model()).save(tmp_path / "x.so", target=target)


def test_the_command_line_writes_and_inspects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.save(model(), tmp_path / "model.safetensors", tokenizer=TOKENIZER)
    out = tmp_path / "tiny.so"
    given: list[Any] = ["compile", tmp_path / "model.safetensors", "-o", out, "--target"]
    assert run([*map(str, given), "multi"]) == 0
    assert capsys.readouterr().out.endswith("bytes, for x86-64-v2, x86-64-v3, x86-64-v4\n")
    text = CliRunner().invoke(commands, ["inspect", str(out)]).output
    for level in LEVELS[:3]:
        assert f"  {level}\n" in text
    assert run([*map(str, given), "multi", "--of", "last"]) == 2
    assert "tiny.so is for one processor; a bundle is for several" in capsys.readouterr().err
    assert np.array_equal(
        pl.load(out).generate([1, 2], max_new_tokens=5, temperature=0),
        model().generate([1, 2], max_new_tokens=5, temperature=0),
    )
