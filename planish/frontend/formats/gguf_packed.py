"""Blocks of ggml that are read only: those that llama.cpp's own tool makes of a model.

    q4_1   f16 d, f16 m, 16 bytes             x = d q + m
    q5_0   f16 d, 32 bits, 16 bytes           x = d (q - 16); the bits are the fifth of each q
    q5_1   f16 d, f16 m, 32 bits, 16 bytes    x = d q + m

and of 256 numbers, in groups that have small scales of their own:

    q4_k   f16 d, f16 m, 12 bytes of 6-bit scales s and minima n, 128 bytes    x = d s q - m n
    q5_k   the same, with 32 bytes of fifth bits before the 128
    q6_k   128 bytes of 4 bits, 64 of 2, 16 x i8 s, f16 d                      x = d s (q - 32)

The order of the operations is that of ggml's reference, so numbers are the same, bit by bit.
"""

from __future__ import annotations

import numpy as np

SUPER = 256  # numbers of a block with groups
GROUP = 32  # numbers of a group of q4_k and q5_k; those of q6_k have 16


def halves(data: np.ndarray) -> np.ndarray:
    """f16 numbers in bytes [N, 2], as f32 [N, 1]."""
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def _split(raw: np.ndarray, *sizes: int) -> list[np.ndarray]:
    """The bytes of every block, cut in fields of these sizes."""
    return np.split(raw.reshape(-1, sum(sizes)), np.cumsum(sizes)[:-1], axis=1)


def _fields(data: np.ndarray, run: int, bits: int) -> np.ndarray:
    """Fields of so many bits: those lowest in `run` bytes, then those above: u8 [N, -1, run]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(-1, 1)
    found = (data.reshape(len(data), -1, 1, run) >> shifts) & np.uint8((1 << bits) - 1)
    return found.reshape(len(data), -1, run)


def _nibbles(data: np.ndarray) -> np.ndarray:
    """u8 [N, 32]."""
    return _fields(data, 16, 4).reshape(len(data), 32)


def _fifth(data: np.ndarray) -> np.ndarray:
    """The fifth bit of 32 numbers, at its place: u8 [N, 32]."""
    return np.unpackbits(data, axis=1, bitorder="little") << np.uint8(4)


def decode_q4_1(raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of q4_1."""
    d, m, q = _split(raw, 2, 2, 16)
    return (halves(d) * _nibbles(q) + halves(m)).reshape(shape)


def decode_q5_0(raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of q5_0."""
    d, high, q = _split(raw, 2, 4, 16)
    return (halves(d) * ((_nibbles(q) | _fifth(high)).astype(np.int8) - 16)).reshape(shape)


def decode_q5_1(raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of q5_1."""
    d, m, high, q = _split(raw, 2, 2, 4, 16)
    return (halves(d) * (_nibbles(q) | _fifth(high)) + halves(m)).reshape(shape)


def decode_q4_k(raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of q4_k."""
    d, m, small, q = _split(raw, 2, 2, 12, 128)
    return _grouped(d, m, small, _fields(q, GROUP, 4)).reshape(shape)


def decode_q5_k(raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of q5_k."""
    d, m, small, high, q = _split(raw, 2, 2, 12, 32, 128)
    whole = _fields(q, GROUP, 4) | _fields(high, GROUP, 1) << np.uint8(4)
    return _grouped(d, m, small, whole).reshape(shape)


def _grouped(d: np.ndarray, m: np.ndarray, small: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Groups q [N, 8, 32] with 6-bit scales and minima; of the last four each lies in two parts."""
    scales, minima, rest = np.split(small, 3, axis=1)
    last_scales = rest & 15 | scales >> 2 & 0x30
    last_minima = rest >> 4 | minima >> 2 & 0x30
    s = halves(d) * np.concatenate([scales & 63, last_scales], axis=1)
    n = halves(m) * np.concatenate([minima & 63, last_minima], axis=1)
    return s[..., None] * q - n[..., None]


def decode_q6_k(raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of q6_k."""
    low, high, scales, d = _split(raw, 128, 64, 16, 2)
    low = _fields(low, 64, 4).reshape(len(low), -1, 32)
    q = (low | _fields(high, 32, 2) << np.uint8(4)).astype(np.int8) - 32
    s = halves(d) * np.ascontiguousarray(scales).view(np.int8)
    return (s[..., None] * q.reshape(len(q), 16, 16)).reshape(shape)
