"""Weights of libraries and programs, inside or beside them: whole, or refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import planish as pl
from planish.frontend.cli.entry import commands
from planish.runtime.artifact import ALIGN, read_shared
from planish.runtime.checksum import FACTOR, LANES, checksum
from tests.frontend.small import TOKENIZER
from tests.frontend.test_ship import PROMPT, Native, library, model, saved

__all__ = ["library"]
pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]


def test_weights_may_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = saved(tmp_path, weights="file")
    weights = tmp_path / "x.weights"
    want = model().generate(PROMPT, max_new_tokens=30, temperature=0).tolist()
    assert path.stat().st_size < saved(tmp_path, name="y.so").stat().st_size
    assert Native(path, weights).generate(max_tokens=30, temperature=0.0) == (0, want)
    assert pl.load(path).generate(PROMPT, max_new_tokens=30, temperature=0).tolist() == want
    assert "name it" in Native(path).error
    assert "No such file" in Native(path, tmp_path / "none").error
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    assert f"has {len(data) - 1} bytes" in Native(path, weights).error
    weights.write_bytes(data[:40] + b"?" + data[41:])
    native = Native(path, weights)
    assert "the weights of another program" in native.error and native["status"](native.model) == 3
    with pytest.raises(pl.ArtifactError, match="has the weights of another program"):
        pl.load(path)
    assert Native(path, tmp_path).error == f"cannot read {tmp_path}: Is a directory"
    os.mkfifo(tmp_path / "pipe")
    assert Native(path, tmp_path / "pipe").error.endswith("pipe: Illegal seek")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"x\.weights, the weights of"):
        pl.load(path)


def test_every_change_of_a_file_of_weights_is_seen(tmp_path: Path) -> None:
    path = saved(tmp_path, weights="file")
    weights, bad = tmp_path / "x.weights", tmp_path / "bad"
    data = np.fromfile(weights, np.uint8)
    start = len(data) - sum(-(-x.nbytes // ALIGN) * ALIGN for x in read_shared(path).weights)
    places = {*np.random.default_rng(0).integers(start, len(data), 60), start, len(data) - 1}
    for at in map(int, places):
        data[at] ^= 1 << at % 8
        data.tofile(bad)
        native = Native(path, bad)
        assert native["status"](native.model) == 3
        assert native.error == f"{bad} is damaged: the weights do not match their checksum"
        assert native.generate() == (3, [])
        native["free"](native.model)
        data[at] ^= 1 << at % 8
    data[30] ^= 1  # of its head, and of what it says of itself
    data[start - 100] ^= 1
    data.tofile(bad)
    assert Native(path, bad).error == f"{bad} has the weights of another program"


def test_weights_inside_are_compared_too(library: Path, tmp_path: Path) -> None:
    data, bad = bytearray(library.read_bytes()), tmp_path / "bad.so"
    largest = max(read_shared(library).weights, key=lambda x: x.nbytes).tobytes()
    data[data.index(largest) + 5] ^= 0x10
    bad.write_bytes(data)
    assert Native(bad).error == "this program is damaged: the weights do not match their checksum"


def test_a_program_says_that_its_weights_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    pl.Generator(model()).save(path, TOKENIZER, weights="file")
    with open(tmp_path / "tiny.weights", "r+b") as file:
        file.seek(-200, 2)
        byte = file.read(1)[0]
        file.seek(-200, 2)
        file.write(bytes([byte ^ 4]))
    done = subprocess.run([path, "the"], capture_output=True, text=True, check=False, env={})
    why = "tiny.weights is damaged: the weights do not match their checksum\n"
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.endswith(why)


def test_the_checksum_is_that_of_its_definition() -> None:
    """Word by word, of arrays whose ends are nowhere near those of lanes."""
    draw = np.random.default_rng(1)
    arrays = [draw.integers(0, 256, n, np.uint8) for n in (8, 4096, 4095, 64, 100_001)]
    whole = b"".join(x.tobytes().ljust(-(-len(x) // ALIGN) * ALIGN, b"\0") for x in arrays)
    lanes, mask = [0] * LANES, 2**64 - 1

    def stirred(sum_: int, word: int) -> int:
        both = sum_ ^ word
        return (both << 29 & mask | both >> 35) * FACTOR & mask

    for n in range(len(whole) // 8):
        word = int.from_bytes(whole[8 * n : 8 * n + 8], "little")
        lanes[n % LANES] = stirred(lanes[n % LANES], word)
    want = 0
    for lane in lanes:
        want = stirred(want, lane)
    assert checksum(arrays, ALIGN) == want
    assert checksum(arrays[::-1], ALIGN) != want


def test_inspect_tells_the_checksum(library: Path) -> None:
    text = CliRunner().invoke(commands, ["inspect", str(library)]).output
    known = read_shared(library)
    assert f"{checksum(known.weights, ALIGN):016x} (compared when C makes a model)" in text
    assert known.facts["weights_checksum"] == f"{checksum(known.weights, ALIGN):016x}"
