"""Files that are worth keeping: compiled programs, by what they were compiled from.

    cache = cache_at(folder)
    data = cache.get(key)           None where there is none, or where it cannot be trusted
    cache.put(key, data)

A key is a digest of all that the contents depend on, so an entry is never out of date. A file is a
checksum of key and contents, then the contents; one that does not match, is a link, or is somebody
else's is not read. Files are written beside their place and moved there. A cache that cannot be
used costs time and never an answer: it warns once. The oldest entries go when `LIMIT` is reached.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from planish.ir.files import write_atomically

LIMIT = 256 << 20  # bytes of all entries
SUFFIX = ".planish"
_MAGIC = b"planish cache 1\n"
_HEAD = len(_MAGIC) + hashlib.sha256().digest_size
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class CacheWarning(UserWarning):
    """The cache cannot be used; programs are compiled anew."""


def digest(*parts: str | bytes) -> str:
    """A key: of these parts, in this order."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


@cache
def cache_at(folder: Path | None) -> Cache:
    """The cache in a folder; None is one that keeps nothing."""
    return Cache(folder)


class Cache:
    """Entries in a folder, which is made when the first is kept."""

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self._warned = False

    def get(self, key: str) -> bytes | None:
        """The contents of an entry."""
        if self.folder is None or not self._is_safe(self.folder):
            return None
        path = self._path(self.folder, key)
        try:
            data = _read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"{path} cannot be read ({error.strerror or error})")
            return None
        if data is None:
            self._warn(f"{path} is not a file of yours, and is not read")
            return None
        if data[:_HEAD] != _head(key, data[_HEAD:]):
            self._warn(f"{path} is damaged")
            return None
        with suppress(OSError):
            os.utime(path)  # used just now
        return data[_HEAD:]

    def put(self, key: str, data: bytes) -> None:
        """Keep an entry, if that is possible."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_safe(self.folder):
                write_atomically(self._path(self.folder, key), _head(key, data) + data)
                self._shrink()
        except OSError as error:
            self._warn(f"{self.folder} cannot be written ({error.strerror or error})")

    def kept(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The contents of an entry, made where there is none."""
        data = self.get(key)
        if data is None:
            data = make()
            self.put(key, data)
        return data

    def entries(self) -> list[tuple[Path, os.stat_result]]:
        """The files, the latest used first."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}") if self.folder else ():
            with suppress(OSError):
                facts = path.lstat()
                if not stat.S_ISDIR(facts.st_mode):  # somebody else's, and not to be removed
                    found.append((path, facts))
        return sorted(found, key=lambda x: x[1].st_mtime, reverse=True)

    def clear(self) -> int:
        """Remove all entries; how many there were."""
        paths = [path for path, _ in self.entries()]
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    def _shrink(self) -> None:
        """Remove what was not used for longest, beyond the limit."""
        total = 0
        for path, facts in self.entries():
            total += facts.st_size
            if total > self.limit:
                path.unlink(missing_ok=True)

    def _path(self, folder: Path, key: str) -> Path:
        return folder / f"{key}{SUFFIX}"

    def _is_safe(self, folder: Path) -> bool:
        """Whether nobody else can put files there."""
        try:
            facts = folder.stat()
        except FileNotFoundError:
            return True
        except OSError as error:
            return self._warn(f"{folder} cannot be used ({error.strerror})")
        if not stat.S_ISDIR(facts.st_mode):
            return self._warn(f"{folder} is not a folder")
        if not _is_ours(facts) or facts.st_mode & stat.S_IWOTH:
            return self._warn(f"others may write to {folder}; run chmod 700 on it")
        return True

    def _warn(self, why: str) -> bool:
        """Say once why the cache is not used; False."""
        if not self._warned:
            self._warned = True
            told = f"{why}: programs are compiled anew; PLANISH_CACHE names another folder, or off"
            warnings.warn(told, CacheWarning, stacklevel=2)
        return False


def _head(key: str, data: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(key.encode() + data).digest()


def _is_ours(facts: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or facts.st_uid in (os.getuid(), 0)


def _read(path: Path) -> bytes | None:
    """What is in a file; None where it is a link, or no plain file of ours."""
    if path.is_symlink():
        return None
    with open(os.open(path, _FLAGS | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or not _is_ours(facts) or facts.st_size > LIMIT:
            return None
        return file.read(facts.st_size + 1)
