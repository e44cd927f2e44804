"""What C programs may leave out, and where they find a library."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import planish as pl
from tests.frontend.small import TOKENIZER
from tests.frontend.test_ship import PROMPT, Native, compiled, library, model, saved

__all__ = ["library"]
pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]
TEXT = ctypes.create_string_buffer(64)


def test_null_is_refused_or_means_nothing(library: Path) -> None:
    native, ids = Native(library), (ctypes.c_int32 * 8)()
    size = ctypes.c_int64
    native["defaults"](None)
    assert native["prefill"](native.model, None, size(5), None, None) == 1
    assert native["decode"](None, None) == 1 and native["status"](None) == 2
    tokens = (ctypes.c_int32 * 5)(*PROMPT)
    assert native["prefill"](native.model, tokens, size(5), None, None) == 0
    assert native["decode"](native.model, None) == 0
    for name in ("encode", "token_text"):
        native[name].restype = size
    encode, token_text = native["encode"], native["token_text"]
    for data, length, out, room in ((None, 3, ids, 8), (b"the", 3, None, 8), (b"the", -1, ids, 8)):
        assert encode(native.model, data, size(length), out, size(room)) == -1
        assert "is NULL or below 0" in native.error
    assert encode(native.model, b"the", size(3), None, size(0)) == 3
    before = ctypes.c_int32(-1)
    for given in ((None, TEXT, 64), (ctypes.byref(before), None, 64)):
        assert token_text(native.model, 3, *given[:2], size(given[2])) == -1
        assert "is NULL or below 0" in native.error
    assert token_text(native.model, 3, ctypes.byref(before), None, size(0)) > 0
    native["free"](native.model)


def test_a_tokenizer_is_checked_once(tmp_path: Path) -> None:
    """Not for each token: a large vocabulary takes longer to check than a token to write."""
    letters = pl.CharTokenizer("".join(map(chr, range(0x4E00, 0x9E00))))
    large = pl.TinyGPT(len(letters), embed_dim=8, num_layers=1, num_heads=1, max_seq_len=8)
    pl.Generator(large).save(tmp_path / "x.so", letters)
    native, before = Native(tmp_path / "x.so"), ctypes.c_int32(-1)
    count, room = 20_000, ctypes.c_int64(64)
    assert native["token_text"](native.model, 5, ctypes.byref(before), TEXT, room) == 3
    start = time.thread_time()
    for token in range(count):
        native["token_text"](native.model, token, ctypes.byref(before), TEXT, room)
    assert time.thread_time() - start < count * 20e-6
    assert TEXT.raw[:3].decode() == letters.characters[count - 1]
    native["free"](native.model)


def test_options_that_a_program_was_not_made_with_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.so"
    pl.Generator(model(), options=("min_p",)).save(path, TOKENIZER)
    native = Native(path)
    code, _ = native.generate(repetition_penalty=1.5)
    assert code == 1 and native.error.startswith("this program has no repetition_penalty: ")
    assert native.generate(repetition_penalty=1.0, min_p=0.5, max_tokens=3)[0] == 0
    pl.Generator(model()).save(path, TOKENIZER)
    assert pl.load(path).generate(PROMPT, 3, temperature=0).shape == (3,)
    with pytest.raises(pl.DataError, match=r"min_p needs a Generator made with options=\('min_p'"):
        pl.load(path).generate(PROMPT, 3, min_p=0.1)


def test_a_loaded_generator_has_the_options_of_the_saved_one(library: Path) -> None:
    found, given = pl.load(library), {"min_p": 0.1, "repetition_penalty": 1.4, "seed": 2}
    want = model().generate(PROMPT, 30, **given)
    assert found.generate(PROMPT, 30, **given).tolist() == want.tolist()


def test_programs_look_for_a_library_by_its_name_alone(tmp_path: Path) -> None:
    """Wherever it lay when they were linked, and whatever characters it has."""
    (tmp_path / "built").mkdir()
    path = saved(tmp_path / "built", name="libx, it's.so")
    shutil.copy(path.with_suffix(".h"), path.with_name("x.h"))
    main = compiled(path, str(path))
    (tmp_path / "lib").mkdir()
    path.rename(tmp_path / "lib" / path.name)
    done = subprocess.run([main, "1", "1", *"000000"], capture_output=True, text=True, check=False,
                          env={"LD_LIBRARY_PATH": str(tmp_path / "lib")})  # fmt: skip
    want = model().generate(PROMPT, max_new_tokens=30, temperature=0).tolist()
    assert done.stdout.split() == [str(x) for x in want], done.stderr
    assert re.search(rb"libx, it's\.so\0", (tmp_path / "lib" / path.name).read_bytes())


def in_child(job: Callable[[], bool]) -> int:
    """The exit code of a forked process: 0 where the job says that all is well."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that waits for ever is no test that waits for ever
        try:
            os._exit(0 if job() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_process_is_told_that_it_has_no_threads(library: Path) -> None:
    want = model().generate(PROMPT, 30, temperature=0).tolist()
    native, settings = Native(library, threads=2), {"max_tokens": 30, "temperature": 0.0}
    if native["threads"](native.model) < 2:
        pytest.skip("one core, so no threads beside the one that calls")
    native["threads"].restype = ctypes.c_int64
    assert native.generate(**settings) == (0, want)

    def left() -> bool:
        refused = native.generate(**settings) == (7, []) and native["decode"](native.model, None)
        why = "a forked process has none of the model's threads: make a model there"
        told = refused == native["status"](native.model) == 7 and native.error == why
        native["free"](native.model)
        return told

    def own() -> bool:
        mine = Native(library, threads=2)
        done = mine.generate(**settings)
        mine["free"](mine.model)
        return done == (0, want)

    assert in_child(left) == 0
    assert in_child(own) == 0
    assert native.generate(**settings) == (0, want), "the parent has lost nothing"
    native["free"](native.model)


def test_a_forked_process_runs_a_model_of_one_thread(library: Path) -> None:
    want = model().generate(PROMPT, 30, temperature=0).tolist()
    native = Native(library, threads=1)
    assert in_child(lambda: native.generate(max_tokens=30, temperature=0.0) == (0, want)) == 0
    native["free"](native.model)
