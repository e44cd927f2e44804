"""Texts longer than the context, in C and in the shell: the tokens of Python's sliding window."""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish as pl
from planish.frontend import generate
from planish.frontend.sampling import Sampling
from tests.frontend.small import TOKENIZER, small_model
from tests.frontend.test_ship import CONTEXT, FULL, PROMPT, Native, Options, library, model
from tests.frontend.test_ship_program import program, ran

__all__ = ["library", "program"]
pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]
LONG = [int(x) for x in np.random.default_rng(0).integers(0, 28, 3 * CONTEXT)]
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.9, "seed": 7},
    {"temperature": 1.2, "seed": 2**64 - 3, "top_k": 9, "min_p": 0.02},
    {"temperature": 1.1, "seed": 8, "top_p": 0.9, "repetition_penalty": 1.3},
]


@pytest.mark.parametrize("given", SETTINGS, ids=str)
@pytest.mark.parametrize("size", [1, 5, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT])
def test_c_writes_what_python_writes(library: Path, size: int, given: dict[str, Any]) -> None:
    want = model().generate(LONG[:size], 150, sliding_window=True, **given).tolist()
    for threads in (1, 2):
        native = Native(library, threads=threads)
        for _ in range(2):
            code, found = native.generate(LONG[:size], max_tokens=150, slide=1, **given)
            assert (code, native.error, found) == (0, "", want)
        assert native.generate([3], max_tokens=40, **given)[0] == 5, "no longer than it is told"
        native["free"](native.model)


@pytest.mark.parametrize(("context", "piece"), [(2, 2), (3, 3), (7, 2), (40, 7)])
def test_odd_contexts_and_short_pieces(
    context: int, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt that is read by several pieces, whose unused draws are written into the state."""
    small = small_model(max_seq_len=context)
    monkeypatch.setattr(generate, "PIECE", 2 * small.count_parameters() * piece)
    maker = pl.Generator(small)
    assert maker.piece == piece
    maker.save(tmp_path / "x.so", TOKENIZER)
    settings = Sampling(temperature=1.0)
    native = Native(tmp_path / "x.so")
    for prompt in (LONG[:1], LONG[:50]):
        rows = maker.stream(np.array([prompt]), 50, settings, seed=3, sliding_window=True)
        want = np.concatenate(list(rows), 1)[0].tolist()
        assert native.generate(prompt, max_tokens=50, seed=3, slide=1) == (0, want)


def test_decode_slides_where_prefill_was_told(library: Path) -> None:
    native, token = Native(library), ctypes.c_int32()
    options, array = Options(slide=1, temperature=1.0, seed=4), (ctypes.c_int32 * 5)(*PROMPT)
    given = (native.model, array, ctypes.c_int64(5), ctypes.byref(options), ctypes.byref(token))
    want = model().generate(PROMPT, 90, seed=4, sliding_window=True).tolist()
    for _ in range(2):
        assert native["prefill"](*given) == 0
        found = [token.value]
        while len(found) < 90 and native["decode"](native.model, ctypes.byref(token)) == 0:
            found.append(token.value)
        assert found == want
    options.slide = 0
    assert native["prefill"](*given) == 0
    while native["decode"](native.model, ctypes.byref(token)) == 0:
        pass
    assert native.error == FULL


def test_programs_slide(program: Path) -> None:
    given = ["--slide", "--temperature", "0.8", "--top-k", "40", "--seed", "1"]
    settings = {"temperature": 0.8, "top_k": 40, "seed": 1, "sliding_window": True}
    for prompt in ("the", "the quick brown fox " * 3):
        want = prompt + pl.generate_text(model(), TOKENIZER, prompt, 200, **settings) + "\n"
        assert ran(program, prompt, "-n", "200", *given) == (0, want, "")
        assert ran(program, prompt, *given) == (0, want, ""), "200 where nobody says how many"
