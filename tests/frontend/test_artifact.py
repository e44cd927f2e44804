"""Programs as shared libraries: the same numbers without LLVM, and refusal of all else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import planish as pl
from planish.frontend.cli.entry import commands, run
from planish.runtime import artifact, cpus, linker, objects, target
from planish.runtime.artifact import read_shared
from tests.frontend.small import small_model

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None and shutil.which("ld") is None,
    reason="no linker: neither cc nor ld",
)
TOKENS = np.arange(6, dtype=np.int32)[None]


def program(pipeline: str = "O2") -> Any:
    return pl.compile(small_model(), pl.spec(("B", pl.Dim("T", max=6)), "i32"), pipeline=pipeline)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "a b;$(c) 'é'.so"
    program().save(path)
    return path


@pytest.mark.parametrize("pipeline", ["O0", "O2", "bf16", "int8"])
def test_a_saved_program_returns_the_same_bits(pipeline: str, tmp_path: Path) -> None:
    original, path = program(pipeline), tmp_path / "x.so"
    original.save(path)
    for threads in (1, 2):
        again = pl.load(path, threads=threads)
        for count in (1, 3):
            tokens = np.repeat(TOKENS[:, : 4 + count // 2], count, axis=0)
            assert np.array_equal(again(tokens), original(tokens))
    assert str(again.memory) == str(original.memory)
    with pytest.raises(pl.TokenError, match="token id: index -1 at position 0, 1 of tokens"):
        again(np.array([[1, -1]], np.int32))


def test_results_keep_their_form_and_state_is_updated_in_place(tmp_path: Path) -> None:
    def step(x: Any, state: Any) -> Any:
        return {"sum": x.sum(), "state": state + x}

    graph = pl.trace(step, pl.spec((3,)), pl.spec((3,)), donate={1: "state"})
    pl.compile(graph).save(tmp_path / "x.so")
    state = np.zeros(3, np.float32)
    found = pl.load(tmp_path / "x.so")(np.ones(3, np.float32), state)
    assert set(found) == {"sum", "state"} and found["sum"] == 3
    assert state.tolist() == [1, 1, 1]


RUN = """
import sys
import numpy as np
import planish as pl
found = pl.load(sys.argv[1])(np.arange(6, dtype=np.int32)[None])
assert "llvmlite" not in sys.modules and "networkx" not in sys.modules
print(found.astype(np.float64).sum().hex())
"""


def test_it_runs_in_another_process_without_llvm(saved: Path) -> None:
    command = [sys.executable, "-c", RUN, str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float.fromhex(done.stdout) == program()(TOKENS).astype(np.float64).sum()


@pytest.mark.usefixtures("uncached")
def test_the_same_program_makes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    program().save(tmp_path / "other.so")
    assert (tmp_path / "other.so").read_bytes() == saved.read_bytes()
    assert [x.name for x in tmp_path.iterdir()] == ["other.so"]


def test_a_loaded_program_has_no_graph(saved: Path) -> None:
    with pytest.raises(pl.ArtifactError, match="holds code, not the graph"):
        pl.load(saved).explain()


def test_a_file_that_was_replaced_is_loaded_anew(tmp_path: Path) -> None:
    """The system would give the library again that it knows by this path."""
    path, x = tmp_path / "x.so", np.ones(3, np.float32)
    made = []
    for factor in (1, 2, 3):
        pl.compile(lambda x, f=factor: x * float(f), pl.spec((3,))).save(path)
        made += [pl.load(path), pl.load(path)]
    assert [float(f(x)[0]) for f in made] == [1, 1, 2, 2, 3, 3]


def test_inspect_says_what_is_in_it(saved: Path) -> None:
    done = CliRunner().invoke(commands, ["inspect", str(saved), "--json"])
    found = json.loads(done.output)
    assert found["inputs"] == ["tokens: i32[B, T]"] and found["missing_here"] == []
    assert found["pipeline"].startswith("simplify") and len(found["graph_sha256"]) == 64
    assert found["memory"]["arena"] == program().memory.arena
    assert found["memory"].get("grows_with", []) == list(program().memory.open)
    assert "tokens: i32[B, T]" in CliRunner().invoke(commands, ["inspect", str(saved)]).output


def test_the_command_line_refuses_other_files(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.so"
    text.write_text("hello " * 100)
    (tmp_path / "cut.so").write_bytes(saved.read_bytes()[:4000])
    for path in (text, tmp_path / "none.so", tmp_path, tmp_path / "cut.so"):
        assert run(["inspect", str(path)]) == 2
        (told,) = capsys.readouterr().err.splitlines()
    assert told.endswith("cut: its table of sections goes beyond its end")


@pytest.mark.parametrize("out", [".", "..", "/", ""])
def test_a_folder_is_no_name_for_what_is_compiled(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for emit in ("so", "exe"):
        assert run(["compile", "m.safetensors", "-o", out, "--emit", emit]) == 2
        assert "is a folder" in capsys.readouterr().err
    os.mkfifo("pipe")
    assert run(["compile", "m.safetensors", "-o", "pipe", "--emit", "exe"]) == 2
    assert "pipe is a device or a pipe" in capsys.readouterr().err


def test_what_grows_without_a_limit_is_in_the_plan_of_memory(tmp_path: Path) -> None:
    rows = pl.Dim("N")
    free = pl.compile(lambda x: x @ x.T @ x, pl.spec((rows, 8)))
    free.save(tmp_path / "f.so")
    done = CliRunner().invoke(commands, ["inspect", str(tmp_path / "f.so"), "--json"])
    assert json.loads(done.output)["memory"]["grows_with"] == ["N"]


@pytest.mark.parametrize("what", ["last", "all"])
def test_the_command_line_compiles_models(what: str, tmp_path: Path) -> None:
    model, out = small_model(), tmp_path / "x.so"
    pl.save(model, tmp_path / "model.safetensors")
    given = ["compile", str(tmp_path / "model.safetensors"), "-o", str(out), "--of", what]
    assert run(given) == 0
    function = model.last_logits if what == "last" else model
    want = pl.compile(function, pl.spec(TOKENS.shape, "i32"))(TOKENS)
    assert np.allclose(pl.load(out)(TOKENS), want, atol=1e-6)
    assert run([*given, "--target", "x86-64-v2", "--pipeline", "int8"]) == 0
    facts = read_shared(out).facts
    assert "avx2" not in facts["requires"] and "quantize" in facts["pipeline"]


@pytest.mark.parametrize("more", [["-o", "x.dll"], ["-o", "no/folder/x.so"], ["-o", "x.so"], []])
def test_commands_that_cannot_be_are_told_in_a_line(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compile", str(tmp_path / "none.safetensors"), *more]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("name", ["x.dll", "x", "no/folder/x.so"])
def test_only_files_that_can_be_written_are(name: str, tmp_path: Path) -> None:
    with pytest.raises((pl.ArtifactError, FileNotFoundError), match=r"saved as \.so|no folder"):
        program().save(tmp_path / name)
    (tmp_path / "folder.so").mkdir()
    with pytest.raises(IsADirectoryError):
        program().save(tmp_path / "folder.so")


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "x.so").symlink_to(tmp_path / "target")
    program().save(tmp_path / "x.so")
    assert (tmp_path / "target").read_text() == "mine"
    assert np.array_equal(pl.load(tmp_path / "x.so")(TOKENS), program()(TOKENS))


# Bad files


def test_row_64_truncation_at_any_place_is_refused(saved: Path, tmp_path: Path) -> None:
    data, path = saved.read_bytes(), tmp_path / "cut.so"
    for size in [*range(0, 300, 7), *range(300, len(data), len(data) // 200)]:
        path.write_bytes(data[:size])
        with pytest.raises(pl.ArtifactError, match=r"cut\.so"):
            pl.load(path)


@settings(max_examples=200)
@given(st.data())
def test_flipped_bits_are_refused_or_lie_outside(saved: Path, data: st.DataObject) -> None:
    """Reading runs nothing; where facts or weights are hit, the checksum tells."""
    whole = np.fromfile(saved, np.uint8)
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path = saved.with_name("flipped.so")
    path.write_bytes(whole.tobytes())
    try:
        found = read_shared(path)
    except pl.ArtifactError:
        return
    assert found.facts == read_shared(saved).facts


def changed(saved: Path, path: Path, old: bytes, new: bytes) -> Path:
    data = saved.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


def test_row_26_another_version_is_refused(saved: Path, tmp_path: Path) -> None:
    old, new = (artifact.MAGIC + struct.pack("<Q", x) for x in (artifact.VERSION, 99))
    path = changed(saved, tmp_path / "new.so", old, new)
    with pytest.raises(pl.ArtifactError, match=f"runs version {artifact.VERSION}"):
        pl.load(path)


def test_row_26_another_processor_is_one_clear_line(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def old_machine() -> str:
        return "flags : fpu sse sse2 cx8 fxsr mmx"

    monkeypatch.setattr(target, "_machine_text", old_machine)
    for arch, ours in (("x86_64", "x86-64-v2"), ("riscv64", "riscv64")):
        monkeypatch.setattr(target, "machine_arch", lambda arch=arch: arch)
        why = rf"is for processors with .*which this one lacks; .*target='{ours}', say"
        with pytest.raises(pl.TargetError, match=why):
            pl.load(saved)


@pytest.mark.isa("avx2", "bmi2", "fma")
def test_a_target_of_this_processor_is_named() -> None:
    assert target.common_here() == "x86-64-v3"


def test_features_of_this_machine_are_known_without_llvm() -> None:
    host = target.Target.host()
    assert target.missing_here(host.features & set(cpus.V4.split())) == []
    assert target.missing_here(["no-such-feature"]) == ["no-such-feature"]


# No linker, or one that fails


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all there is on PATH."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(linker.importlib.util, "find_spec", lambda name: None)
    return tmp_path


def tool(path: Path, text: str) -> None:
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_row_27_no_linker_is_named_and_programs_run_without(tools: Path) -> None:
    built = program()
    assert built(TOKENS).shape == (1, 6, small_model().config["vocab_size"])
    with pytest.raises(OSError, match="neither cc, ld nor ziglang; install one with `pip install"):
        built.save(tools / "x.so")
    assert not list(tools.iterdir())


def test_row_28_what_a_linker_says_is_told(tools: Path) -> None:
    tool(tools / "cc", "import sys; sys.exit('cannot find -lx ' + 'y' * 9999)")
    with pytest.raises(pl.LinkError, match="cc failed with code 1: cannot find -lx y") as told:
        program().save(tools / "x.so")
    assert len(str(told.value)) < 600


def test_ld_is_taken_where_there_is_no_cc(tools: Path) -> None:
    real = shutil.which("ld", path=os.defpath)
    if real is None:
        pytest.skip("no ld")
    (tools / "ld").symlink_to(real)
    program().save(tools / "x.so")
    assert np.array_equal(pl.load(tools / "x.so")(TOKENS), program()(TOKENS))


def test_ziglang_is_the_last_resort(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linker.importlib.util, "find_spec", lambda name: object())
    assert linker.linker()[:4] == [sys.executable, "-m", "ziglang", "ld.lld"]


def test_facts_that_are_missing_are_refused(saved: Path, tmp_path: Path) -> None:
    """Also where the checksum fits, as somebody may write one."""
    whole = np.fromfile(saved, np.uint8)
    at, _ = objects.found(whole.data, artifact.FOUND)
    magic, version, length, _ = artifact.HEAD.unpack_from(whole[at:].data)
    text = whole[at + artifact.HEAD.size :][:length].tobytes()
    changed = text.replace(b'"requires"', b'"required"')
    weights = read_shared(saved).weights
    checksum = hashlib.sha256(b"".join([changed, *(x.tobytes() for x in weights)])).digest()
    head = artifact.HEAD.pack(magic, version, length, checksum) + changed
    whole[at : at + len(head)] = np.frombuffer(head, np.uint8)
    path = tmp_path / "x.so"
    path.write_bytes(whole.tobytes())
    with pytest.raises(pl.ArtifactError, match=r"x\.so: damaged: it does not say its requires"):
        pl.load(path)
