"""Texts that are written side by side: which of them go on, from what, and where they end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from planish.ir.draws import folded
from planish.ir.errors import DataError


class Rows:
    """Texts that are written side by side: their prompts and keys; `live` are those that go on.

    `seen`, where it is needed, says which tokens they have.
    """

    def __init__(self, context: int, keys: np.ndarray, prompts: Sequence[np.ndarray]):
        self.context, self.keys, self._first = context, keys, keys.copy()
        self.prompts = [x if len(x) < context else self._end(x) for x in prompts]
        self.live = np.ones(len(prompts), bool)
        self.seen: tuple[np.ndarray, ...] = ()
        self._windows = [0] * len(prompts)

    def _end(self, text: np.ndarray) -> np.ndarray:
        return text[-(self.context // 2) :].copy()

    def renewed(self, row: int, text: np.ndarray) -> np.ndarray:
        """What is kept of a full text, the next prompt; the row gets a key of its own for it."""
        self._windows[row] += 1
        # places fold in small numbers, windows those from 2^32 down
        self.keys[row] = folded(self._first[row], -self._windows[row])
        return self._end(text)


def checked(walk: Iterator[np.ndarray], ends: np.ndarray, live: np.ndarray) -> Iterator[np.ndarray]:
    """The tokens until the last of the `live` rows ends; one that has ended repeats its last.

    DataError at the first -1, which says that a row had no usable logits.
    """
    done, last = 0, np.zeros(len(live), np.int32)
    for piece in walk:
        size = piece.shape[1]
        if not len(ends) and min(map(min, piece.tolist())) >= 0:  # nothing ends: no time is lost
            done += size
            yield piece
            continue
        end, bad = first_of(np.isin(piece, ends)), first_of(piece < 0)
        wrong = live & (bad < end)
        count = int(bad[wrong].min() if wrong.any() else min(size, end[live].max() + 1))
        piece = np.take_along_axis(piece, np.minimum(np.arange(size), end[:, None]), 1)
        piece[~live] = last[~live, None]
        if count:
            yield piece[:, :count]
        if wrong.any():
            row = f" of prompt {(bad == count).argmax()}" if len(live) > 1 else ""
            raise DataError(
                f"NaN logits at step {done + count + 1}{row}: no token can be drawn from them; the "
                "model has diverged, or its weights are broken"
            )
        live &= end == size
        if not live.any():
            return
        done, last = done + count, piece[:, -1]


def first_of(mask: np.ndarray) -> np.ndarray:
    """The first place in each row that is set; the size of the row where none is."""
    if not mask.size:
        return np.zeros(len(mask), np.int64)
    return np.where(mask.any(1), mask.argmax(1), mask.shape[1])


def set_in(mask: np.ndarray) -> list[int]:
    """The places that are set."""
    return np.flatnonzero(mask).tolist()
