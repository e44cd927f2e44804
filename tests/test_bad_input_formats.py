"""Bad files of others, and of ours: one test for each row of the table, by its number."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import pytest

import planish as pl
from planish.frontend.checkpoint import read_file
from planish.frontend.cli.entry import run
from planish.frontend.tokenizers.stored import read_tokenizer
from planish.ir.errors import ArtifactError
from tests.refusal import refusal, says

PAIR = """
graph body(%x: f32[4, 4], %y: f32[4, 4]) {
  %0 = matmul(%x, %y) : f32[4, 4]
  %1 = matmul(%0, %y) : f32[4, 4]
  return %1
}

graph pair(%x: f32[4, 4], %y: f32[4, 4]) {
  %0 = fused @body(%x, %y) : f32[4, 4]
  return %0
}
"""


def test_row_23_a_group_without_a_kernel() -> None:
    """Operators without one there are none; a group that somebody wrote may be one."""
    message = refusal(NotImplementedError, lambda: pl.compile(pl.parse(PAIR), pipeline="O0"))
    says(message, "no kernel for body: matmul : f32[4, 4]", "groups that the pass fuse makes")


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")
def test_row_64_pipes_devices_and_files_without_end(tmp_path: Path) -> None:
    """None is waited for, none is read before its size is known."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ArtifactError, match=f"{path}: not a file"):
            read_tokenizer(path)
    for name in ("tok.bin", "merges.txt"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(1 << 40)  # takes no place on the disk
    (tmp_path / "vocab.json").write_text("{}", "utf-8")
    for name in ("tok.bin", "vocab.json"):
        with pytest.raises(ArtifactError, match=r"1,099,511,627,776 bytes; at most 268,435,456"):
            read_tokenizer(tmp_path / name)


@pytest.mark.parametrize("length", [2**31, 2**63, 2**64 - 1, 100_000_001])
def test_row_65_a_huge_header_takes_no_memory(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" * 8)
    tracemalloc.start()
    try:
        says(refusal(ValueError, read_file, path), "model.safetensors: not a safetensors file")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_row_71_row_72_row_73_onnx_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So no path, offset or operator in such a file is followed: the file is not opened."""
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\x08\x08\x12\x07pytorch")
    words = "x.onnx: ONNX is not read; export the model to a Hugging Face folder, safetensors or"
    says(refusal(NotImplementedError, pl.load_model, path), words)
    says(refusal(NotImplementedError, pl.TinyGPT.from_pretrained, path), words)
    assert run(["info", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
