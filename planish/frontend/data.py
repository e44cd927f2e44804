"""Tokens for training: splits, random batches, and windows that cover a whole text.

Batches are a function of (seed, step) alone, by a counter-based generator (Philox: Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", 2011). So there is no state to save, and a training
that is resumed at a step sees what the one that was never stopped saw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from planish.ir.errors import DataError, DTypeError, ShapeError, TokenError

IGNORED = -100  # the target that `cross_entropy` does not count
_WORD = 2**64


def as_tokens(tokens: Any, vocab_size: int | None = None) -> np.ndarray:
    """One sequence of tokens as contiguous i32; refused where they are no tokens of the model."""
    found = np.asarray(tokens)
    refuse_text(found)
    if found.ndim != 1:
        raise DataError(f"tokens are one sequence, got an array of shape {list(found.shape)}")
    check_ids(found, vocab_size)
    return np.ascontiguousarray(found, np.int32)


def refuse_text(ids: np.ndarray) -> None:
    """Say what makes tokens of a text, where one is given as it is."""
    if ids.dtype.kind in "SU":
        raise DTypeError("token ids are integers, got a text: tokenizer.encode(text) has them")


def check_ids(ids: np.ndarray, vocab_size: int | None, ignored: int | None = None) -> None:
    """Refuse what is not an integer of 0 <= id < vocab_size (or `ignored`)."""
    refuse_text(ids)
    if ids.size and ids.dtype.kind not in "iu":
        raise DTypeError(f"token ids are integers, got {ids.dtype}")
    most = np.iinfo(np.int32).max if vocab_size is None else vocab_size - 1
    if not ids.size or (ids.min() >= 0 and ids.max() <= most):
        return
    wrong = (ids < 0) | (ids > most)
    if ignored is not None:
        wrong &= ids != ignored
    places = np.argwhere(wrong)
    if len(places):
        place = tuple(places[0].tolist())
        raise TokenError(
            f"token id {ids[place]} at position {', '.join(map(str, place))} is outside "
            f"0 <= id < {most + 1}, the size of the vocabulary"
        )


def fill_batch(whole: Sequence[np.ndarray], x: Any, y: Any, vocab_size: int | None) -> None:
    """Copy tokens x and targets y into the arrays of a batch; refused where they are none."""
    for name, given, array in zip(("tokens", "targets"), (x, y), whole, strict=True):
        found = np.asarray(given)
        if found.shape != array.shape:
            raise ShapeError(
                f"{name} are {list(array.shape)} (batch, context), got {list(found.shape)}"
            )
        check_ids(found, vocab_size, IGNORED if name == "targets" else None)
        array[...] = found


def split(tokens: np.ndarray, fraction: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation): the last `fraction` of the tokens is for validation."""
    if not 0 <= fraction < 1:
        raise DataError(f"the fraction for validation is 0 <= fraction < 1, got {fraction!r}")
    cut = int(len(tokens) * (1 - fraction))
    return tokens[:cut], tokens[cut:]


def check_length(tokens: np.ndarray, context: int, what: str = "the text") -> None:
    """Refuse tokens that are too few for one example."""
    if len(tokens) <= context:
        raise DataError(
            f"{what} has {len(tokens)} tokens; a context of {context} needs at least {context + 1}"
        )


def random_batch(tokens: np.ndarray, seed: int, step: int, x: np.ndarray, y: np.ndarray) -> None:
    """Fill x and y, i32 [batch, context], with random pieces of `tokens`; y is one token ahead."""
    batch, context = x.shape
    key, counter = seed % _WORD, [0, step % _WORD, 0, 0]
    raw = np.random.Philox(key=key, counter=counter).random_raw(batch)
    starts = (raw % np.uint64(len(tokens) - context)).astype(np.int64)
    places = starts.reshape(-1, 1) + np.arange(context)
    np.take(tokens, places, out=x, mode="clip")  # in range; other modes would buffer
    np.take(tokens, places + 1, out=y, mode="clip")


def windows(
    tokens: np.ndarray, batch: int, context: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(x, y, count) that predict each token but the first exactly once, in pieces of `context`.

    x and y are [batch, context]; `count` targets are real, the rest at the end is `IGNORED`.
    """
    total = len(tokens) - 1
    size = batch * context
    for start in range(0, total, size):
        count = min(size, total - start)
        x = np.zeros(size, np.int32)
        y = np.full(size, IGNORED, np.int32)
        x[:count] = tokens[start : start + count]
        y[:count] = tokens[start + 1 : start + 1 + count]
        yield x.reshape(batch, context), y.reshape(batch, context), count


def whole_number(name: str, value: Any, least: float) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        at = f" of at least {least}" if least > -math.inf else ""
        raise DataError(f"{name} is a whole number{at}, got {value!r}")
    return int(value)
