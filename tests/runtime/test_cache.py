"""The cache of files: never an exception, never what it cannot trust, one warning."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.runtime import cache as module
from planish.runtime.cache import Cache, CacheWarning, digest

KEY = digest("a", b"b")


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def silent(cache: Cache) -> bytes | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return cache.get(KEY)


def test_what_was_kept_is_there(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "a" / "b")
    assert silent(cache) is None
    cache.put(KEY, b"data")
    assert silent(cache) == silent(Cache(tmp_path / "a" / "b")) == b"data"
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0
    assert cache.kept(KEY, lambda: b"other") == b"data"
    assert cache.kept(digest("new"), lambda: b"new") == b"new"
    assert cache.clear() == 2 and silent(cache) is None


def test_keys_are_of_parts_not_of_their_sum() -> None:
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("abc", "")}) == 4


def test_no_folder_keeps_nothing() -> None:
    cache = Cache(None)
    cache.put(KEY, b"data")
    assert silent(cache) is None and cache.clear() == 0


@pytest.mark.parametrize("size", [0, 1, 20, 47, 48, 51])
def test_row_31_an_entry_that_was_cut_is_not_used(tmp_path: Path, size: int) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, b"data")
    path = only(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.warns(CacheWarning, match="is damaged: programs are compiled anew"):
        assert cache.get(KEY) is None
    assert silent(cache) is None  # one warning is enough
    cache.put(KEY, b"again")
    assert cache.get(KEY) == b"again"


def test_row_31_entries_that_were_flipped_or_swapped_are_not_used(tmp_path: Path) -> None:
    cache, other = Cache(tmp_path), digest("other")
    cache.put(KEY, b"data")
    cache.put(other, b"else")
    mine, theirs = (tmp_path / f"{key}{module.SUFFIX}" for key in (KEY, other))
    data = bytearray(mine.read_bytes())
    for at in range(len(data)):
        damaged = data.copy()
        damaged[at] ^= 1 << at % 8
        mine.write_bytes(damaged)
        with pytest.warns(CacheWarning):
            assert Cache(tmp_path).get(KEY) is None
    os.replace(theirs, mine)
    with pytest.warns(CacheWarning):
        assert Cache(tmp_path).get(KEY) is None


def test_row_32_links_pickles_and_pipes_are_not_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "cache", tmp_path / "outside"
    cache = Cache(folder)
    cache.put(KEY, b"data")
    path = only(folder)
    os.replace(path, outside)
    path.symlink_to(outside)
    with pytest.warns(CacheWarning, match="not a file of yours"):
        assert cache.get(KEY) is None
    cache.put(KEY, b"new")  # replaces the link, not what it points to
    assert cache.get(KEY) == b"new" and not path.is_symlink()
    assert outside.read_bytes().endswith(b"data")
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.warns(CacheWarning, match="damaged"):
        assert Cache(folder).get(KEY) is None
    path.unlink()
    os.mkfifo(path)
    with pytest.warns(CacheWarning, match="not a file of yours"):
        assert Cache(folder).get(KEY) is None


def test_row_33_a_folder_open_to_others_is_not_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, b"data")
    tmp_path.chmod(0o777)
    with pytest.warns(CacheWarning, match=r"others may write to .*; run chmod 700"):
        assert cache.get(KEY) is None
    cache.put(digest("new"), b"new")
    assert only(tmp_path).name.startswith(KEY)


def test_row_29_what_is_no_folder_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for folder in (file, file / "below"):
        cache = Cache(folder)
        with pytest.warns(CacheWarning, match="programs are compiled anew"):
            cache.put(KEY, b"data")
        assert silent(cache) is None
    assert file.read_text() == "x"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that root cannot write to")
def test_row_29_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("/proc/planish", "/proc/self/planish/below"):
        monkeypatch.setenv("PLANISH_CACHE", place)
        with pytest.warns(CacheWarning, match="programs are compiled anew") as told:
            program = pl.compile(lambda x: x + 1, pl.spec(3))
        assert len(told) == 1
        np.testing.assert_array_equal(program(np.ones(3, np.float32)), [2, 2, 2])


def test_row_29_a_home_that_is_missing(tmp_path: Path) -> None:
    """It is made, or there is one warning."""
    code = "import planish as pl; print(pl.compile(lambda x: x + 1, pl.spec(1)).kernels)"
    kept = {n: x for n, x in os.environ.items() if not n.startswith(("PLANISH_CACHE", "XDG_"))}
    for home, words in ((str(tmp_path / "none"), ""), ("/proc/none", "compiled anew")):
        done = subprocess.run([sys.executable, "-c", code], env={**kept, "HOME": home},
                              capture_output=True, text=True, check=True)  # fmt: skip
        assert done.stdout and done.stderr.count("CacheWarning: ") == bool(words)
        assert words in done.stderr


def test_row_30_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = Cache(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(CacheWarning, match="No space left on device"):
        cache.put(KEY, b"data")
    assert not list(tmp_path.iterdir()) and silent(cache) is None


def test_a_folder_among_entries_is_left_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=1)
    (tmp_path / f"{'0' * 64}.planish").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(KEY, b"data")  # and makes room by what can be removed
    assert only(tmp_path).is_dir() and cache.clear() == 0 and only(tmp_path).is_dir()


def test_the_oldest_entries_go_first(tmp_path: Path) -> None:
    size = len(module._head("", b"")) + 100
    cache = Cache(tmp_path, limit=3 * size)
    keys = [digest(str(n)) for n in range(5)]
    for n, key in enumerate(keys[:3]):
        cache.put(key, bytes(100))
        os.utime(tmp_path / f"{key}{module.SUFFIX}", (n, n))
    assert cache.get(keys[0]) is not None  # so that it is the latest used
    for key in keys[3:]:
        cache.put(key, bytes(100))
    assert [cache.get(key) is not None for key in keys] == [True, False, False, True, True]
