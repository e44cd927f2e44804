"""Artifacts for other architectures: made here, and run in an emulator where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

import planish as pl
from planish.runtime import elf, linker
from planish.runtime.target import Target
from tests.frontend.small import TOKENIZER

GIVEN = ["the", "-n", "24", "--temperature", "0.7", "--top-k", "9", "--seed", "5"]
RISCV = "rv64,v=true,vext_spec=v1.0"  # qemu's spelling
# Where code for a target runs in the emulator
PROCESSORS = {
    "aarch64": "cortex-a53", "cortex-a72": "cortex-a72", "aarch64:neoverse-n1": "neoverse-n1",
    "neoverse-v1": "max", "riscv64": "rv64", "rva23u64": RISCV,
}  # fmt: skip
MACHINES = {"aarch64": 183, "riscv64": 243}
DOUBLES = 4  # of e_flags of RISC-V: arguments in registers of f64


@cache
def model() -> pl.TinyGPT:
    size = TOKENIZER.vocab_size
    return pl.TinyGPT(size, embed_dim=48, num_layers=1, num_heads=3, max_seq_len=40, dropout=0.0)


def want(pipeline: str = "O2") -> str:
    settings = {"temperature": 0.7, "top_k": 9, "seed": 5, "pipeline": pipeline}
    return "the" + pl.generate_text(model(), TOKENIZER, "the", 24, **settings) + "\n"


def need_tools(arch: str) -> None:
    """Skip the test where code for an architecture cannot be linked, or not run."""
    if Target.host().arch == arch:
        pytest.skip(f"{arch} is this machine's, other tests run its code")
    for tool in (f"{arch}-linux-gnu-gcc", f"qemu-{arch}"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")


def emulated(processor: str, arch: str, command: Sequence[str | Path]) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    emulator = [f"qemu-{arch}", "-cpu", processor, "-L", f"/usr/{arch}-linux-gnu"]
    done = subprocess.run([*emulator, *command], capture_output=True, text=True, check=False,
                          timeout=120, env={"PATH": os.environ["PATH"]})  # fmt: skip
    if done.stderr.startswith(f"qemu-{arch}: ../../target"):  # 7.2: registers in groups of four
        pytest.skip(f"the emulator gave up: {done.stderr.strip()}")
    return done.returncode, done.stdout, done.stderr


def saved(path: Path, target: str, pipeline: str = "O2") -> Path:
    pl.Generator(model(), pipeline).save(path, TOKENIZER, target=target)
    return path


# An emulator


@pytest.mark.parametrize(("target", "pipeline"), [
    ("aarch64", "O2"), ("cortex-a72", "int8"), ("aarch64:neoverse-n1", "O2"),
    ("aarch64:neoverse-n1", "int8"), ("neoverse-v1", "bf16"),
    ("riscv64", "O2"), ("riscv64", "int8"), ("rva23u64", "O2"), ("rva23u64", "int8"),
])  # fmt: skip
def test_programs_write_what_they_write_here(target: str, pipeline: str, tmp_path: Path) -> None:
    arch = Target.parse(target).arch
    need_tools(arch)
    program = saved(tmp_path / "tiny", target, pipeline)
    for threads in ("1", "2"):
        command = [program, *GIVEN, "--threads", threads]
        assert emulated(PROCESSORS[target], arch, command) == (0, want(pipeline), "")


MAIN = r"""
#include "x.h"
#include <stdio.h>

static int32_t note(void *user, int32_t token) { printf("%d ", token); return 0; }

int main(void) {
    planish_model *model = planish_create(NULL, 1);
    int32_t prompt[] = {3, 1, 4};
    planish_options options;
    planish_defaults(&options);
    options.temperature = 0;
    options.max_tokens = 30;
    if (planish_generate(model, prompt, 3, &options, note, NULL, NULL)) return 1;
    planish_free(model);
    return 0;
}
"""


@pytest.mark.parametrize("name", ["x.so", "x.o"])
@pytest.mark.parametrize("target", ["aarch64:neoverse-n1", "rva23u64"])
def test_c_programs_link_them(target: str, name: str, tmp_path: Path) -> None:
    arch = Target.parse(target).arch
    need_tools(arch)
    saved(tmp_path / name, target)
    (tmp_path / "main.c").write_text(MAIN)
    command = [f"{arch}-linux-gnu-gcc", "-Wall", "-Werror", "-Wl,-rpath,$ORIGIN", "-o", "main"]
    subprocess.run([*command, "main.c", name, "-lpthread"], cwd=tmp_path, check=True)
    code, out, told = emulated(PROCESSORS[target], arch, [tmp_path / "main"])
    ids = model().generate([3, 1, 4], max_new_tokens=30, temperature=0).tolist()
    assert (code, told, [int(x) for x in out.split()]) == (0, "", ids)


@pytest.mark.parametrize(("target", "processor", "lacks"), [
    ("neoverse-n1", "cortex-a72", "lse, fullfp16, dotprod"),
    ("rva23u64", "rv64", "v"),
])  # fmt: skip
def test_lesser_processors_are_one_clear_line(
    target: str, processor: str, lacks: str, tmp_path: Path
) -> None:
    arch = Target.parse(target).arch
    need_tools(arch)
    found = emulated(processor, arch, [saved(tmp_path / "tiny", target), *GIVEN])
    why = f"error: this program is for processors with {lacks}, which this one lacks\n"
    assert found == (1, "", why)


@pytest.mark.parametrize(("levels", "least"), [
    ("cortex-a72,neoverse-n1", "cortex-a72"), ("riscv64,rva23u64", "rv64"),
])  # fmt: skip
def test_levels_are_for_other_architectures_too(levels: str, least: str, tmp_path: Path) -> None:
    lower, upper = levels.split(",")
    arch = Target.parse(lower).arch
    need_tools(arch)
    program = saved(tmp_path / "tiny", levels)
    for level, processor in ((lower, least), (upper, PROCESSORS.get(upper, upper))):
        code, out, told = emulated(processor, arch, [program, *GIVEN, "--stats"])
        assert (code, out) == (0, want()) and told.endswith(f"code for {level}\n")


# Without one


@pytest.mark.parametrize("target", PROCESSORS)
def test_kernels_are_object_files_of_the_architecture(target: str) -> None:
    machine = Target.parse(target)
    for program in pl.Generator(model(), "int8").programs(machine).values():
        for code in program.image.code:
            ident, kind, arch, _, _, _, _, flags, *_ = elf.HEADER.unpack_from(code)
            assert ident[: len(elf.MAGIC)] == elf.MAGIC
            assert (kind, arch) == (elf.RELOCATABLE, MACHINES[machine.arch])
            assert machine.arch != "riscv64" or flags & DOUBLES
        with pytest.raises(pl.TargetError, match=f"{machine.arch}.* cannot run on"):
            program.entry()


def test_linkers_of_other_architectures_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(linker.importlib.util, "find_spec", lambda name: None)
    why = "for riscv64: neither riscv64-linux-gnu-gcc nor ziglang; .*Debian: gcc-riscv64-linux-gnu"
    with pytest.raises(pl.LinkError, match=why):
        linker.linker("program", "riscv64")
    monkeypatch.setattr(linker.importlib.util, "find_spec", lambda name: object())
    command = linker.linker("program", "riscv64")
    assert command[2:6] == ["ziglang", "cc", "-target", "riscv64-linux-gnu"]
    for name in ("riscv64-linux-gnu-ld", "riscv64-linux-gnu-gcc"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o700)
        assert linker.linker("library", "riscv64")[0] == str(tmp_path / name)


def test_the_environment_names_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "clang --target=aarch64-linux-gnu")
    command = linker.linker("library", "aarch64")
    assert command[:3] == ["clang", "--target=aarch64-linux-gnu", "-nostartfiles"]
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    with pytest.raises(pl.LinkError, match="none cannot be run: No such file"):
        pl.Generator(model()).save(tmp_path / "x.so")
    assert not (tmp_path / "x.so").exists()
    monkeypatch.setenv("CC", "'cc")
    with pytest.raises(pl.LinkError, match="CC is 'cc, which is no command: No closing quotation"):
        linker.linker()
