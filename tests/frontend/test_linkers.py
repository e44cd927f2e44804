"""Where neither a C compiler nor ld is on PATH, that of the package ziglang links."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.runtime import linker
from planish.runtime.artifact import read_shared
from tests.frontend.small import TOKENIZER, small_model

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ziglang") is None,
        reason="the package ziglang, of the extra planish[link], is not installed",
    ),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]


@pytest.fixture(autouse=True)
def nothing_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert linker.linker()[:4] == [sys.executable, "-m", "ziglang", "ld.lld"]


def test_it_links_libraries_and_objects(tmp_path: Path) -> None:
    model = small_model()
    generator = pl.Generator(model)
    generator.save(tmp_path / "x.so", TOKENIZER)
    found = pl.load(tmp_path / "x.so").generate([3, 1], 4, temperature=0)
    np.testing.assert_array_equal(found, model.generate([3, 1], 4, temperature=0))
    generator.save(tmp_path / "x.o", TOKENIZER)
    head = (tmp_path / "x.o").read_bytes()[:18]
    assert head[:4] == b"\x7fELF" and head[16] == 1  # an object file that can be linked


@pytest.mark.parametrize("target", ["aarch64", "riscv64", "rva23u64"])
def test_it_links_for_other_architectures(target: str, tmp_path: Path) -> None:
    """Code and data say the same of registers for floats, or lld refuses; heads have 16 numbers."""
    generator = pl.Generator(small_model(embed_dim=32, num_heads=2))
    for name in ("x.o", "x.so"):
        generator.save(tmp_path / name, TOKENIZER, target=target)
        machine = int.from_bytes((tmp_path / name).read_bytes()[18:20], "little")
        assert machine == (183 if target == "aarch64" else 243)
    assert read_shared(tmp_path / "x.so").facts["vocabulary"] == len(TOKENIZER)


@pytest.mark.skipif("EMULATE" not in os.environ, reason=(
    "zig first makes the C library's start-up code, which takes long: EMULATE=1 runs this"
))  # fmt: skip
def test_it_links_programs(tmp_path: Path) -> None:
    model = small_model()
    pl.Generator(model).save(tmp_path / "x", TOKENIZER)
    done = subprocess.run(
        [tmp_path / "x", "the", "-n", "3", "--temperature", "0"], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    told = pl.generate_text(model, TOKENIZER, "the", 3, temperature=0)
    assert done.stdout.strip() == f"the{told}".strip()
