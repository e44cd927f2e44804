"""Keys of random numbers on arrays, and when a draw needs none: what runs without a graph.

key(3) -> u32[2]        folded(key(3), 7) -> u32[2], the key that the op `fold_in` makes
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir.errors import DataError, DTypeError

WORD = 2**32
FOLD = 0x80000000  # first counter word of fold_in; that of random_bits is below
GREEDY_BELOW = 1e-6  # a temperature below this means the most likely token


def key(seed: int) -> np.ndarray:
    """The key of a seed, see `need_seed`."""
    number = need_seed(seed)
    return np.array([number // WORD, number % WORD], np.uint32)


def need_seed(seed: int | np.integer) -> int:
    """A seed, as C has them: 64 bits and no sign. DTypeError or DataError for anything else."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise DTypeError(f"a seed is an integer, got {type(seed).__name__}")
    if not 0 <= seed < WORD**2:
        raise DataError(f"a seed is an integer of 0 <= seed < 2**64, got {seed}")
    return int(seed)


ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def threefry(key: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The first word of Threefry-2x32-20 of counters (high, low), as Random123 computes it.

    The words of the key stand on its first axis.
    """
    schedule = [key[0], key[1], np.bitwise_xor.reduce(key) ^ np.uint32(PARITY)]
    x, y = high + schedule[0], low + schedule[1]
    for block in range(5):
        for turn in ROTATIONS[block % 2]:
            x = x + y
            y = ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn))) ^ x
        x = x + schedule[(block + 1) % 3]
        y = y + schedule[(block + 2) % 3] + np.uint32(block + 1)
    return x


def threefry_of_one(key: tuple[int, int], high: int, low: int) -> int:
    """The same of one key and counter, in Python's numbers, of which NumPy takes ten times as long.

    Words may grow: only their lower 32 bits are ever looked at.
    """
    schedule = (*key, key[0] ^ key[1] ^ PARITY)
    x, y = high + schedule[0], low + schedule[1]
    for block in range(5):
        for turn in ROTATIONS[block % 2]:
            x = (x + y) % WORD
            y %= WORD
            y = ((y << turn) | (y >> (32 - turn))) % WORD ^ x
        x += schedule[(block + 1) % 3]
        y += schedule[(block + 2) % 3] + block + 1
    return x % WORD


def low_word(x: Any) -> np.ndarray:
    """The lower 32 bits of integers."""
    return (np.asarray(x).astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)


def words(key: np.ndarray) -> np.ndarray:
    """Keys [K..., 2] as [2, K..., 1]: their words, which broadcast against counters."""
    return np.moveaxis(key, -1, 0)[..., None]


def folded(key: np.ndarray, data: Any) -> np.ndarray:
    """A new key from keys [K..., 2] and integers, one or [K...], of which 32 bits count."""
    if key.ndim == 1 and isinstance(data, int):
        pair, low = (int(key[0]), int(key[1])), data % WORD
        return np.array([threefry_of_one(pair, FOLD + i, low) for i in range(2)], np.uint32)
    first = np.array([FOLD, FOLD + 1], np.uint32)
    with np.errstate(over="ignore"):
        return threefry(words(key), first, low_word(data)[..., None])
