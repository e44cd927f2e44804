"""A checksum of weights that host code compares at the speed of memory, with any instructions.

Words of 64 bits are dealt out to `LANES` lanes, which have nothing to do with each other, and the
lanes are then read as words:

    sum  becomes  rotate(sum xor word, 29) * FACTOR

No two words lead from one sum to the same next one, nor two sums by one word: a change within a
word is always seen, any other but for one in 2^64. It is no proof against somebody who means it;
`pl.load` compares SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from planish.runtime.host.model import FACTOR, LANES


def checksum(arrays: Iterable[np.ndarray], align: int) -> int:
    """The checksum of arrays that lie one after the other, each from a multiple of `align` on."""
    lanes, at = np.zeros(LANES, np.uint64), 0
    for array in arrays:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if rest := -len(data) % align:
            data = np.concatenate([data, np.zeros(rest, np.uint8)])
        words = data.view("<u8")
        for start in range(-at, len(words), LANES):
            piece, first = words[max(start, 0) : start + LANES], max(-start, 0)
            part = lanes[first : first + len(piece)]
            part[:] = _stirred(part, piece)
        at = (at + len(words)) % LANES
    found = np.zeros(1, np.uint64)
    for lane in lanes[:, None]:
        found = _stirred(found, lane)
    return int(found[0])


def _stirred(sums: np.ndarray, words: np.ndarray) -> np.ndarray:
    both = sums ^ words
    return (both << np.uint64(29) | both >> np.uint64(35)) * np.uint64(FACTOR)
