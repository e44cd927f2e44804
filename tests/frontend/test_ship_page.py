"""docs/ship.md: its C program, linked as the page says, writes what its Python writes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import planish as pl
from tests.generated import ROOT

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]
PAGE = (ROOT / "docs" / "ship.md").read_text()


def block(language: str, word: str) -> str:
    """The code of the page in a language that has this word."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (code,) = (x for x in found if word in x)
    return code


def test_the_c_program_writes_what_python_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made: dict = {"__name__": "page"}
    exec(compile(block("python", "book.so"), "docs/ship.md", "exec"), made)
    made["generator"].save("book.o", made["tokenizer"])
    (tmp_path / "main.c").write_text(block("c", "int main"))
    ids = made["tokenizer"].encode("The ")
    wanted = pl.load("book.so").generate(ids, 20, temperature=0.8, seed=1)
    lines = block("sh", "main.c").splitlines()
    assert ["book.so" in lines[0], "book.o" in lines[1]] == [True, True]
    for line in lines:
        command, *words = shlex.split(line)
        subprocess.run([command, "-std=c99", "-Wall", "-Wextra", "-Werror", *words], check=True)
        done = subprocess.run(["./main"], capture_output=True, check=True, env={})
        assert done.stdout.decode() == made["tokenizer"].decode(wanted)
        done = subprocess.run(["./main", "\u2603"], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "U+2603" in done.stderr and done.stderr.count("\n") == 1
