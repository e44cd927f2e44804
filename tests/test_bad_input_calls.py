"""Bad input to compiled programs: one test for each row of the table, by its number."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import planish as pl
from tests.refusal import refusal, says

X = np.arange(12, dtype=np.float32).reshape(3, 4)
ROWS = np.array([2, 0], np.int32)
VOCAB = 65
IDS = np.zeros((2, 5), np.int64)


def at(position: tuple[int, int], value: int) -> np.ndarray:
    """Token ids of which one is `value`."""
    ids = IDS.copy()
    ids[position] = value
    return ids


@pytest.fixture(scope="module")
def rows() -> Any:
    """A program of two arguments."""
    return pl.compile(lambda x, rows: (x * 2)[rows], X, ROWS)


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    """A small model."""
    return pl.TinyGPT(VOCAB, 16, 1, 2, 8, dropout=0.0)


@pytest.fixture(scope="module")
def logits(model: pl.TinyGPT) -> Any:
    """The model compiled for any batch and length."""
    return pl.compile(model, pl.spec(("B", "T"), "i64"))


@pytest.fixture(scope="module")
def loss(model: pl.TinyGPT) -> Any:
    """Its loss."""
    return pl.compile(model.loss, pl.spec((2, 5), "i64"), pl.spec((2, 5), "i64"))


def test_row_40_arguments_that_do_not_fit(rows: Any) -> None:
    wanted = "argument 0 (x): expected f32[3, 4], got float32"
    says(refusal(ValueError, rows, X[:2], ROWS), f"{wanted}[2, 4]", "expected size 3, got 2")
    says(refusal(ValueError, rows, X[0], ROWS), f"{wanted}[4]", "rank 2 is not 1")
    for given in ((X,), (X, ROWS, ROWS), ()):
        words = "takes 2 arguments (x: f32[3, 4], rows: i32[2])"
        says(refusal(ValueError, rows, *given), words, f"got {len(given)}")
    for x in (None, "x", [[1.0] * 4] * 3, 1.0, {"x": X}.keys()):
        says(refusal(TypeError, rows, x, ROWS), "argument 0 (x)", type(x).__name__)


def test_row_41_float64_for_float32(rows: Any) -> None:
    words = "argument 0 (x): expected f32, got float64", "x.astype('float32')"
    says(refusal(TypeError, rows, X.astype(np.float64), ROWS), *words)
    words = "argument 1 (rows): expected i32, got int64", "x.astype('int32')"
    says(refusal(TypeError, rows, X, ROWS.astype(np.int64)), *words)
    says(refusal(TypeError, rows, X.view(np.int32), ROWS), "expected f32, got int32")


def test_row_42_big_endian(rows: Any) -> None:
    np.testing.assert_array_equal(rows(X.astype(">f4"), ROWS.astype(">i4")), (X * 2)[ROWS])


class OnDevice:
    """An array of another library that is not in main memory."""

    device = "cuda:0"

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class OnProcessor(OnDevice):
    """The same in main memory."""

    device = "cpu"

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        return X


def test_row_43_arrays_on_a_device(rows: Any) -> None:
    found = refusal(TypeError, rows, OnDevice(), ROWS)
    says(found, "argument 0 (x): expected f32[3, 4] in main memory, got an array on cuda:0")
    says(refusal(TypeError, pl.trace, lambda x: x, OnDevice()), "no array in main memory", "cuda:0")
    says(refusal(TypeError, pl.trace, lambda x: x + OnDevice(), X), "OnDevice", "cuda:0")
    np.testing.assert_array_equal(rows(OnProcessor(), ROWS), (X * 2)[ROWS])


def test_row_44_input_and_output_overlap() -> None:
    program = pl.compile(lambda x: x[::-1] * 1.0, pl.spec(6))
    memory = np.arange(8, dtype=np.float32)
    for out in (memory[2:], memory[:6]):
        found = refusal(ValueError, lambda out=out: program(memory[:6], out=[out]))
        says(found, "out 0 overlaps argument 0", "pass a copy")
    out = np.zeros(6, np.float32)
    assert program(memory[:6], out=[out]) is out
    np.testing.assert_array_equal(out, [5, 4, 3, 2, 1, 0])


@pytest.mark.parametrize("bad", [VOCAB, 2**31, -1, -(2**63)])
def test_row_45_token_ids(model: pl.TinyGPT, logits: Any, bad: int) -> None:
    words = f"index {bad} at position 1, 3 of tokens is outside 0 <= index < {VOCAB}"
    says(refusal(IndexError, logits, at((1, 3), bad)), words)
    assert logits(IDS).shape == (2, 5, VOCAB), "the next call works"
    words = f"token id {bad} at position", f"0 <= id < {VOCAB}"
    says(refusal(IndexError, model, at((1, 3), bad)), *words)
    says(refusal(IndexError, model.generate, [3, bad], 1), f"token id {bad} at position 1")


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_row_46_token_ids_that_are_no_integers(model: pl.TinyGPT, logits: Any, dtype: str) -> None:
    ids = IDS.astype(dtype)
    says(refusal(TypeError, logits, ids), f"expected i64, got {dtype}")
    says(refusal(TypeError, model.generate, ids[0], 1), f"token ids are integers, got {dtype}")
    says(refusal(TypeError, pl.trace, model, pl.spec((2, 5), dtype)), "token ids are integers")


@pytest.mark.parametrize("bad", [VOCAB, -1, -101, 2**40])
def test_row_47_targets(model: pl.TinyGPT, loss: Any, bad: int) -> None:
    words = f"target id: index {bad} at position 0, 2 of targets is outside 0 <= index < {VOCAB}"
    says(refusal(IndexError, loss, IDS, at((0, 2), bad)), words)
    assert np.isfinite(loss(IDS, at((0, 2), -100))), "-100 is the target that does not count"
    assert loss(IDS, np.full_like(IDS, -100)) == 0
    if -(2**31) <= bad < 2**31:
        trainer = pl.Trainer(model, batch=2, context=5, backend="interpret")
        says(refusal(IndexError, trainer.step, IDS, at((0, 2), bad)), f"id {bad} at position 0, 2")


def test_row_61_integer_division() -> None:
    x = np.array([1, -(2**31), 5, -7, 0], np.int32)
    y = np.array([0, -1, 0, 2, 0], np.int32)
    with np.errstate(all="ignore"):
        wanted = x // y, x % y
    np.testing.assert_array_equal(pl.compile(lambda x, y: (x // y, x % y), x, y)(x, y), wanted)
    np.testing.assert_array_equal(pl.interpret(lambda x, y: (x // y, x % y), x, y), wanted)
    np.testing.assert_array_equal(pl.compile(lambda x: (x // 0, x % 0), x)(x), np.zeros((2, 5)))


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "two"])
def test_row_63_threads(count: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def program(**options: Any) -> Any:
        return pl.compile(lambda x: x + 1, X, **options)

    words = f"must be a whole number of at least 1, got {count!r}"
    says(refusal(ValueError, lambda: program(threads=count)), f"threads {words}")
    monkeypatch.setenv("PLANISH_THREADS", str(count))
    says(refusal(ValueError, program), "PLANISH_THREADS must be a whole number of at least 1")
    assert program(threads=10**6).threads <= (os.cpu_count() or 1), "no more than there are cores"
