"""What debuggers and profilers see of artifacts: names, and the way back from a kernel to main."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import planish as pl
from planish.runtime import elf
from tests.frontend.small import TOKENIZER, small_model
from tests.frontend.test_ship import library

__all__ = ["library"]
pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_every_function_says_how_it_is_left(library: Path) -> None:
    frames = re.findall(
        r" FDE .*pc=(\w+)\.\.(\w+)", output("readelf", "--debug-dump=frames", "-W", library)
    )
    told = {int(first, 16): int(last, 16) for first, last in frames}
    listed = [x.split() for x in output("nm", "-S", library).splitlines()]
    functions = [x for x in listed if len(x) == 4 and x[2] in "tT"]
    assert {"planish_create", "planish_worker", "planish_decode_main"} <= {x[3] for x in functions}
    assert any(re.match(r"planish_decode_k\d+_", x[3]) for x in functions)
    for start, size, _, name in functions:
        assert told.get(int(start, 16)) == int(start, 16) + int(size, 16), name
    assert ".eh_frame_hdr" in output("readelf", "-S", "-W", library)


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")
def test_a_debugger_finds_the_way_from_a_kernel_to_main(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    pl.Generator(small_model(max_seq_len=40)).save(path, TOKENIZER)
    kernel = re.search(r"planish_decode_k\d+_\w+", output("nm", path))
    assert kernel is not None
    given = ["-ex", f"break {kernel[0]}", "-ex", "run", "-ex", "bt"]
    command = ["gdb", "-nx", "-batch", *given, "--args", path, "the", "-n", "3", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    if "ptrace" in done.stderr:
        pytest.skip(f"no debugging here: {done.stderr.splitlines()[-1]}")
    calls = re.findall(r"^#\d+ .* in (\S+) \(", done.stdout, re.MULTILINE)
    assert calls[:2] == [kernel[0], "planish_decode_main"], done.stdout
    assert calls[-2:] == ["planish_generate", "main"]


@pytest.mark.skipif(sys.platform != "linux", reason="perf is of Linux")
def test_perf_is_told_the_names_of_code_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elf, "PERF_MAP", f"{tmp_path}/{{}}.map")
    graph = pl.trace(small_model(), pl.spec((1, 6), "i32"))
    program = pl.compile(graph)
    program.entry()
    assert list(tmp_path.iterdir()) == [], "only where somebody asks"
    monkeypatch.setenv("PLANISH_PERF", "1")
    program = pl.compile(graph)
    program.entry()
    (file,) = tmp_path.iterdir()
    rows = [x.split(" ") for x in file.read_text().splitlines()]
    starts = {name: int(start, 16) for start, _, name in rows}
    assert starts["planish_main"] == program.entry()[0]
    assert all(int(size, 16) > 0 for _, size, _ in rows)
    names = {re.sub(r"k\d+_", "", name) for name in starts}
    assert re.sub(r"\W+", "_", program.kernels[0].name) in names
