"""Arrays that lie in a file: what is read becomes memory, and may be given back."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.lib.array_utils import byte_bounds


class File(mmap.mmap):
    """A file as memory that cannot be written."""


def mapped(path: Path) -> np.ndarray:
    """The bytes of a file. It may be replaced by another one, but must not be changed in place."""
    with open(path, "rb") as file:
        memory = File(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)  # or a row of a table would take 2 MiB
    return np.frombuffer(memory, np.uint8)


def release(array: np.ndarray) -> None:
    """Give back the memory of an array that lies in a file; it is read again when needed."""
    whole: object = array
    while isinstance(whole, (np.ndarray, memoryview)):
        whole = whole.base if isinstance(whole, np.ndarray) else whole.obj
    if not isinstance(whole, File) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first, last = byte_bounds(array)
    if last - first > 2 * array.nbytes:
        return  # of others lies between
    begin = np.frombuffer(whole, np.uint8).__array_interface__["data"][0]
    page = os.sysconf("SC_PAGE_SIZE")
    start, end = -(-(first - begin) // page) * page, (last - begin) // page * page
    if end > start:
        whole.madvise(mmap.MADV_DONTNEED, start, end - start)
