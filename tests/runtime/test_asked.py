"""Targets by the names of LLVM: what it says of them is what our table of processors says."""

from __future__ import annotations

import pytest

from planish.ir.errors import TargetError
from planish.runtime.asked import asked
from planish.runtime.cpus import CPUS
from planish.runtime.target import Target

PROFILES = {"riscv64", "rva23u64"}  # no processors of LLVM
ALWAYS = {"cx16", "sahf"}  # LLVM's inliner passes over them


@pytest.mark.parametrize("name", sorted(CPUS.keys() - PROFILES))
def test_the_table_says_what_llvm_says(name: str) -> None:
    arch, listed = CPUS[name]
    ours = sorted({x for which, more in CPUS.values() if which == arch for x in more.split()})
    cpu = "generic" if name == arch else name
    found = set(asked(f"{arch}-unknown-linux-gnu", cpu, ours))
    assert found - ALWAYS == set(listed.split()) - ALWAYS


@pytest.mark.parametrize(("name", "arch", "has", "lacks"), [
    ("aarch64:cortex-a76", "aarch64", {"neon", "dotprod", "lse"}, {"bf16", "i8mm"}),
    ("neoverse-v2", "aarch64", {"neon", "dotprod", "bf16", "i8mm"}, set()),
    ("alderlake", "x86_64", {"avx2", "fma", "avxvnni"}, {"avx512f"}),
    ("riscv64:sifive-x280", "riscv64", {"m", "v"}, set()),
])  # fmt: skip
def test_names_of_llvm_are_targets(name: str, arch: str, has: set[str], lacks: set[str]) -> None:
    target = Target.parse(name)
    assert (target.name, target.arch) == (name.rpartition(":")[2], arch)
    assert has <= target.features and not lacks & target.features
    assert target.cpu not in name, "LLVM is not told to use more than the features"


OTHERS = ["z80", "help", "i386", "x86_64:cortex-a76", "vax:780", "a;b", ":"]


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_refused(name: str) -> None:
    known = "known are host, x86-64, .*, and names of LLVM such as alderlake"
    with pytest.raises(TargetError, match=f"unknown target '{name}'; {known}"):
        Target.parse(name)
