"""Writing files so that nobody ever sees half of one, and reading small ones that may be none."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from planish.ir.errors import ArtifactError
from planish.ir.later import later

wild = later("glob")

SMALL = 256 << 20  # bytes: the largest vocabularies that are published have a tenth of it


def read_small(path: Path, most: int = SMALL) -> bytes:
    """All bytes of a regular file; ArtifactError for pipes, devices, and more than `most` bytes."""
    with open(path, "rb", opener=_at_once) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ArtifactError(f"{path}: not a file")
        if facts.st_size > most:
            raise ArtifactError(f"{path}: {facts.st_size:,} bytes; at most {most:,} are read")
        return file.read(facts.st_size)


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # or a pipe waits for its writer


def need_place(path: Path) -> None:
    """Refuse a path where no file can be written, or where a folder, a device or a pipe is."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    if path.exists() and not path.is_file() and not path.is_symlink():
        raise FileExistsError(f"{path} is a device or a pipe, which no file replaces")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system name this file: a full disk names none, others a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = os.fspath(path)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that `path` is either the old one or the whole new one.

    A link at `path` is replaced, and what it points to is not touched.
    """
    with naming(path):
        _write(path, data)


def _write(path: Path, data: bytes) -> None:
    need_place(path)
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        with open(temporary, "xb") as file:
            with suppress(OSError):  # not every file system has locks
                _lock(file)
            if not temporary.exists():  # another writer came before the lock, and swept it away
                return _write(path, data)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what writers left that were killed; those that are alive hold a lock."""
    for left in path.parent.glob(f".{wild.escape(path.name)}.{'[0-9a-f]' * 12}"):
        with suppress(OSError), open(left, "rb") as file:
            _lock(file)
            left.unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> None:
    """Lock a file until it is closed, also by the death of this process; OSError if it is taken."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
