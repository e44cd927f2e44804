"""Bad files of others, and of ours: one test for each row of the table, by its number."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from planish.frontend.tokenizers.stored import read_tokenizer
from planish.ir.errors import ArtifactError


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
