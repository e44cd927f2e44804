"""How ggml stores numbers: plainly, or in blocks of 32 that share a scale.

    q8_0   f16 d, 32 x i8         x = d q
    q4_0   f16 d, 16 bytes        x = d (q - 8); byte j has q of place j below, of j + 16 above

Rounding is that of ggml's reference, so that a file of ours has the bytes that theirs has.
Kinds that are read and not written are in `gguf_packed.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from planish.frontend.formats.gguf_packed import (
    SUPER,
    decode_q4_1,
    decode_q4_k,
    decode_q5_0,
    decode_q5_1,
    decode_q5_k,
    decode_q6_k,
    halves,
)

BLOCK = 32
Decode = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """A way to store numbers: ggml's code, numbers of a block and their bytes, both ways."""

    name: str
    code: int
    block: int
    size: int
    encode: Callable[[np.ndarray], bytes] | None  # None: read only
    decode: Decode


def _plain(name: str, code: int, dtype: type) -> Kind:
    def encode(array: np.ndarray) -> bytes:
        with np.errstate(over="ignore"):  # infinity, as ggml has it
            return np.ascontiguousarray(array, dtype).tobytes()

    def decode(raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return raw.view(dtype).reshape(shape)

    return Kind(name, code, 1, np.dtype(dtype).itemsize, encode, decode)


def _blocks(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32).reshape(-1, BLOCK)


def _scaled(x: np.ndarray, d: np.ndarray) -> np.ndarray:
    """x / d as ggml divides, by the inverse; 0 where that is no number."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / d
    return x * np.where(np.isfinite(inverse), inverse, np.float32(0))[:, None]


def _encode_q8(array: np.ndarray) -> bytes:
    x = _blocks(array)
    d = np.abs(x).max(-1) / np.float32(127)
    q = _scaled(x, d)
    q = np.trunc(q + np.copysign(np.float32(0.5), q))  # halves away from 0
    parts = [d.astype(np.float16)[:, None].view(np.uint8), q.astype(np.int8).view(np.uint8)]
    return np.concatenate(parts, axis=1).tobytes()


def _decode_q8(raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    blocks = raw.reshape(-1, 2 + BLOCK)
    return (blocks[:, 2:].view(np.int8) * halves(blocks[:, :2])).reshape(shape)


def _encode_q4(array: np.ndarray) -> bytes:
    x = _blocks(array)
    largest = x[np.arange(len(x)), np.abs(x).argmax(-1)]
    d = largest / np.float32(-8)
    q = np.minimum(15, np.trunc(_scaled(x, d) + np.float32(8.5))).astype(np.uint8)
    packed = q[:, : BLOCK // 2] | q[:, BLOCK // 2 :] << 4
    return np.concatenate([d.astype(np.float16)[:, None].view(np.uint8), packed], axis=1).tobytes()


def _decode_q4(raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    blocks = raw.reshape(-1, 2 + BLOCK // 2)
    q = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.int8) - 8
    return (q * halves(blocks[:, :2])).reshape(shape)


# ggml's number of a kind -> the kind
KINDS = {
    kind.code: kind
    for kind in (
        _plain("f32", 0, np.float32), _plain("f16", 1, np.float16),
        Kind("q4_0", 2, BLOCK, 2 + BLOCK // 2, _encode_q4, _decode_q4),
        Kind("q8_0", 8, BLOCK, 2 + BLOCK, _encode_q8, _decode_q8),
        _plain("bf16", 30, ml_dtypes.bfloat16),
        Kind("q4_1", 3, BLOCK, 20, None, decode_q4_1),
        Kind("q5_0", 6, BLOCK, 22, None, decode_q5_0),
        Kind("q5_1", 7, BLOCK, 24, None, decode_q5_1),
        Kind("q4_k", 12, SUPER, 144, None, decode_q4_k),
        Kind("q5_k", 13, SUPER, 176, None, decode_q5_k),
        Kind("q6_k", 14, SUPER, 210, None, decode_q6_k),
    )
}  # fmt: skip
NAMED = {kind.name: kind for kind in KINDS.values()}
WRITTEN = {name: kind.encode for name, kind in NAMED.items() if kind.encode}
