"""Samples of the ops of networks: indexing, matmul, norms, losses, attention, sampling."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.ops.sparse import bitmap_of
from tests.sample import Sample, floats, halves, ints, sample

KEY = np.array([7, 11], np.uint32)
KEYS = np.arange(6, dtype=np.uint32).reshape(3, 2)  # one for each of three rows


def i32(*values: object) -> np.ndarray:
    """An i32 array."""
    return np.array(values[0] if len(values) == 1 else values, np.int32)


INDEXING = [
    sample("concat", floats(2, 3), floats(2, 1, seed=1), floats(2, 2, seed=2), axis=1),
    sample("concat", floats(2, 3), floats(1, 3, seed=1), axis=0),
    sample("concat", ints(2), ints(0), ints(3), axis=0, rtol=0, atol=0),
    sample("pad", floats(2, 3), low=(1, 0), high=(2, 1), value=0.5),
    sample("pad", floats(3), low=(0,), high=(0,), value=0.0),
    sample("pad", floats(0, 2), low=(1, 0), high=(1, 0), value=-1.0),
    sample("pad", ints(2, 2), low=(0, 2), high=(0, 0), value=7, rtol=0, atol=0),
    sample("iota", shape=(3, 4), axis=1, dtype=t.i32),
    sample("iota", shape=(3, 1, 2), axis=0, dtype=t.f32),
    sample("tril", floats(3, 4), k=0),
    sample("tril", floats(2, 4, 3), k=-1),
    sample("triu", floats(3, 4), k=1),
    sample("triu", ints(3, 3), k=0, rtol=0, atol=0),
    sample("dynamic_slice", floats(4, 5), i32(1), i32(2), sizes=(2, 3)),
    sample("dynamic_slice", floats(4), np.int64(4), sizes=(0,), note=" of nothing"),
    sample("dynamic_slice", floats(3, 5), i32(1), i32(2, 0), sizes=(2, 3), note=" by rows"),
    sample("update_slice", floats(4, 5), floats(2, 3, seed=1), i32(2), i32(0)),
    sample("update_slice", floats(4, 5), floats(2, 3, seed=1), i32(1), i32(2, 1), note=" by rows"),
    sample(
        "update_slice",
        floats(2, 3, 4),
        floats(2, 2, 4, seed=1),
        i32(0),
        i32(1, 0),
        i32(0),
        note=" by rows of planes",
    ),
    sample("update_slice", floats(3, 2), floats(1, 2, seed=1), np.int64(1), np.int64(0)),
    sample("update_slice", floats(3), floats(3, seed=1), i32(0), note=" of everything"),
    sample(
        "update_rows", floats(3, 5, 2), floats(1, 6, 2, seed=1), i32(1, 5, 0), i32(2, 2, 6), axis=1
    ),
    sample(
        "update_rows",
        floats(2, 2, 4, 3),
        floats(1, 2, 5, 3, seed=1),
        i32(3, 0),
        i32(1, 0),
        axis=2,
        note=" by heads, the last end taken as said",
    ),
]

GATHER = [
    sample("take", floats(5, 3), i32([0, 4, 4, 1]), axis=0),
    sample("take", floats(2, 5), i32([[0, 3], [4, 0]]), axis=1, what="token id"),
    sample("take", floats(4), np.array(2, np.int64), axis=0),
    sample("take", floats(3, 2), np.zeros((0,), np.int32), axis=0, note=" of nothing"),
    sample("take_along", floats(3, 4), i32([[0], [3], [2]]), axis=1),
    sample("take_along", floats(3, 4), i32([[0, 0], [3, 1], [2, 2]]), axis=1),
    sample("take_along", floats(3, 2, 2), ints(4, 2, 2, low=0, high=3), axis=0),
    sample("one_hot", i32([[0, 2], [3, -1]]), size=4, dtype=t.f32),
    sample("one_hot", np.array(1, np.uint8), size=300, dtype=t.i32),
    sample("scatter_add", floats(4, 3), i32([1, 1, 3]), floats(3, 3, seed=1), axis=0),
    sample("scatter_add", floats(2, 4), i32([[0, 0], [3, 0]]), floats(2, 2, 2, seed=1), axis=1),
]

BYTES = ints(4, 4, low=-128, high=128, dtype=np.int8)

MATMUL = [
    sample("matmul", floats(3, 4), floats(4, 2, seed=1)),
    sample("matmul", floats(2, 3, 4), floats(4, 5, seed=1)),
    sample("matmul", floats(2, 1, 3, 4), floats(5, 4, 2, seed=1)),
    sample("matmul", floats(3, 4), floats(2, 4, 3, seed=1)),
    sample("matmul", floats(1, 1), floats(1, 1, seed=1)),
    sample("matmul", floats(2, 0), floats(0, 3)),
    sample("matmul", floats(2, 3), floats(3, 0)),
    sample("matmul", halves(2, 0), halves(0, 3), rtol=0, atol=0),
    sample("matmul", ints(3, 4), ints(4, 2, seed=1), rtol=0, atol=0),
    sample("matmul", BYTES, BYTES[:, :3], out=t.i32, rtol=0, atol=0),
    sample(
        "matmul",
        BYTES,
        ints(3, 4, 70, low=-128, high=128, dtype=np.int8),
        out=t.i32,
        rtol=0,
        atol=0,
    ),
    sample(
        "matmul",
        np.full((2, 9), -128, np.int8),
        np.full((9, 3), -128, np.int8),
        out=t.i32,
        rtol=0,
        atol=0,
    ),
    sample("matmul", halves(3, 7), halves(7, 20, seed=1), out=t.f32, grad=False),
    sample("matmul", halves(2, 5, 4), halves(4, 3, seed=1), rtol=1e-2),
]

HUGE = np.array([[1e30, 1e30], [-1e30, 1e30], [-np.inf, 0.0], [-np.inf, -np.inf]], np.float32)

COMPOSITES = [
    sample("softmax", floats(3, 5), axis=1),
    sample("softmax", floats(3, 5), axis=0),
    sample("softmax", HUGE, axis=1, grad=False, note=" huge and masked"),
    sample("log_softmax", floats(3, 5), axis=1),
    sample("log_softmax", HUGE, axis=1, grad=False, note=" huge and masked"),
    sample("layer_norm", floats(2, 3, 8), floats(8, seed=1), floats(8, seed=2), eps=1e-5),
    sample("layer_norm", floats(3, 4), floats(4, seed=1), eps=1e-3, note=" without bias"),
    sample("rms_norm", floats(2, 3, 8), floats(8, seed=1), eps=1e-6),
    sample("relu", floats(3, 4)),
    sample("silu", floats(3, 4, low=-6, high=6)),
    sample("gelu", floats(3, 4, low=-6, high=6), approximate="tanh"),
    sample("gelu", floats(3, 4, low=-6, high=6), approximate="none"),
    sample("rope", floats(2, 2, 3, 4), i32([0, 1, 5]), base=1e4, interleaved=False),
    sample("rope", floats(2, 2, 3, 4), i32([[0, 1, 2], [7, 8, 9]]), base=1e4, interleaved=False),
    sample("rope", floats(2, 3, 6), i32([2, 1, 0]), base=100.0, interleaved=True),
    sample("rope", floats(2, 1, 3, 4), i32([[0, 1, 2], [7, 8, 9]]), base=1e4, interleaved=True),
    sample(
        "rope",
        floats(2, 3, 6),
        i32([2, 1, 9]),
        floats(3, low=1.0, high=8.0),
        base=100.0,
        interleaved=False,
        note=" with factors",
    ),
    sample("cross_entropy", floats(4, 5), i32([1, 0, 4, 2]), ignore_index=None),
    sample("cross_entropy", floats(2, 2, 5), i32([[1, -100], [4, 2]]), ignore_index=-100),
    sample("cross_entropy", floats(2, 3), i32([0, 0]), ignore_index=0, note=" all ignored"),
    sample("cross_entropy", floats(5), np.array(3, np.uint8), ignore_index=-100),
    sample("mse", floats(3, 4), floats(3, 4, seed=1)),
    sample("bce_with_logits", floats(3, 4, low=-9, high=9), floats(3, 4, seed=1, low=0, high=1)),
]


def heads(*shape: int, seed: int = 0) -> np.ndarray:
    """Queries, keys or values."""
    return floats(*shape, seed=seed, low=-1.0, high=1.0)


ATTENTION = [
    Sample(
        "attention",
        (heads(2, 2, 3, 4), heads(2, 2, 5, 4, seed=1), heads(2, 2, 5, 4, seed=2)),
        {"causal": False, "scale": 0.5},
    ),
    Sample(
        "attention",
        (heads(1, 4, 3, 4), heads(1, 2, 3, 4, seed=1), heads(1, 2, 3, 6, seed=2)),
        {"causal": True, "scale": 0.5},
        note=" grouped",
    ),
    Sample(
        "attention",
        (heads(1, 2, 2, 4), heads(1, 1, 6, 4, seed=1), heads(1, 1, 6, 4, seed=2), i32(3)),
        {"causal": True, "scale": 0.5},
        note=" cached",
    ),
    Sample(
        "attention",
        (heads(3, 2, 1, 4), heads(3, 1, 6, 4, seed=1), heads(3, 1, 6, 4, seed=2), i32(3, 0, 5)),
        {"causal": True, "scale": 0.5},
        note=" cached by rows",
    ),
    Sample(
        "attention",
        (heads(2, 2, 9, 4), heads(2, 2, 12, 4, seed=1), heads(2, 2, 12, 4, seed=2), i32(3, -2)),
        {"causal": True, "scale": 0.5},
        note=" in tiles, cached by rows",
    ),
    Sample(
        "attention",
        (heads(1, 1, 4, 2), heads(1, 1, 2, 2, seed=1), heads(1, 1, 2, 2, seed=2)),
        {"causal": True, "scale": 0.5},
        note=" with queries that see nothing",
    ),
    Sample(
        "attention",
        (heads(1, 2, 5, 6), heads(1, 2, 5, 6, seed=1), heads(1, 2, 5, 6, seed=2)),
        {"causal": True, "scale": 0.5, "out": t.bf16},
        rtol=0.01,
        grad=False,
        note=" rounded",
    ),
    Sample(
        "attention",
        (heads(2, 4, 5, 6), heads(2, 2, 5, 6, seed=1), heads(2, 2, 5, 3, seed=2)),
        {"causal": True, "scale": 0.5, "time_first": True},
        note=" by time",
    ),
    Sample(
        "attention",
        (
            heads(1, 4, 11, 4),
            heads(3, 2, 9, 4, seed=1),
            heads(3, 2, 9, 6, seed=2),
            i32(0, 4, 2),
            i32(8, 8, 11),
        ),
        {"causal": True, "scale": 0.5, "ragged": True},
        grad=False,
        note=" of ragged rows, one of them empty",
    ),
    Sample(
        "attention",
        (
            heads(1, 2, 3, 4),
            heads(2, 2, 5, 4, seed=1),
            heads(2, 2, 5, 4, seed=2),
            i32(3, 0),
            i32(1, 0),
        ),
        {"causal": True, "scale": 0.5, "ragged": True, "time_first": True},
        grad=False,
        note=" of ragged rows, by time",
    ),
    Sample(
        "attention",
        (heads(2, 2, 5, 4), heads(2, 1, 5, 4, seed=1), heads(2, 1, 5, 3, seed=2), KEY),
        {"causal": True, "scale": 0.5, "dropout": 0.25},
        note=" with dropout",
    ),
    Sample(
        "attention_grad",
        (
            heads(1, 4, 3, 4),
            heads(1, 2, 3, 4, seed=1),
            heads(1, 2, 3, 6, seed=2),
            heads(1, 4, 3, 6, seed=3),
        ),
        {"causal": True, "scale": 0.5, "merged": True},
        note=" grouped",
    ),
    Sample(
        "attention_grad",
        (
            heads(1, 2, 2, 4),
            heads(1, 1, 6, 4, seed=1),
            heads(1, 1, 6, 4, seed=2),
            heads(1, 2, 2, 4, seed=3),
            i32(3),
            KEY,
        ),
        {"causal": True, "scale": 0.5, "merged": False, "dropout": 0.25},
        note=" in a cache, with dropout",
    ),
    Sample(
        "attention_grad",
        (
            heads(2, 2, 9, 4),
            heads(2, 1, 12, 4, seed=1),
            heads(2, 1, 12, 4, seed=2),
            heads(2, 2, 9, 4, seed=3),
            i32(3, -2),
        ),
        {"causal": True, "scale": 0.5},
        note=" cached by rows",
    ),
    Sample(
        "attention_grad",
        (
            heads(1, 1, 4, 2),
            heads(1, 1, 2, 2, seed=1),
            heads(1, 1, 2, 2, seed=2),
            heads(1, 1, 4, 2, seed=3),
        ),
        {"causal": True, "scale": 0.5, "merged": False},
        note=" with queries that see nothing",
    ),
]

TIES = np.array([[0.5, 1.5, -2.5, 3.49, 126.5], [-127.4, 300.0, -1e9, 0.0, -0.5]], np.float32)
STRANGE = np.array([[np.nan, np.inf, -np.inf, 1e-40, -0.0]], np.float32)
EXACT: dict[str, Any] = {"rtol": 0, "atol": 0}


def halves(*shape: int) -> np.ndarray:
    """Floats of 16 bits, as scales of groups are."""
    return floats(*shape).astype(t.bf16.numpy)


NIBBLES = ints(8, 5, low=-8, high=8).astype(t.i4.numpy)

QUANTIZING = [
    sample("scaled_matmul", BYTES, BYTES[:, :3], halves(2, 3), rtol=1e-6),
    sample("scaled_matmul", floats(2, 3, 8), NIBBLES, halves(1, 5)),
    sample("scaled_matmul", ints(3, 8, dtype=np.int8), NIBBLES, halves(4, 5), rtol=1e-6),
    sample("quantize", TIES, np.float32(1.0), dtype=t.i8, **EXACT),
    sample("quantize", TIES, np.float32(1.0), dtype=t.i4, **EXACT),
    sample("quantize", floats(3, 70), floats(3, 1, low=0.01, high=0.02), dtype=t.i8, **EXACT),
    sample("quantize", floats(5, 4), floats(4, low=0.1, high=0.4), dtype=t.i4, **EXACT),
    sample(
        "quantize",
        floats(2, 3, 4),
        floats(2, 1, 4, low=0.01, high=0.02),
        dtype=t.i8,
        **EXACT,
        note=" in groups",
    ),
    sample("quantize", halves(2, 5), halves(2, 1) + 2, dtype=t.i8, **EXACT),
    sample("quantize", STRANGE, np.float32([[0.5], [np.nan], [np.inf]])[:1], dtype=t.i8, **EXACT),
    sample("quantize", STRANGE, np.float32(np.nan), dtype=t.i8, **EXACT, note=" scale of nan"),
    sample("quantize", STRANGE, np.float32(np.inf), dtype=t.i8, **EXACT, note=" infinite scale"),
    sample(
        "quantize",
        floats(3, 70),
        floats(3, 1, low=0.01, high=0.02),
        np.rint(floats(3, 1, low=-127, high=127)),
        dtype=t.i8,
        **EXACT,
        note=" with a zero",
    ),
    sample(
        "quantize",
        STRANGE,
        np.float32(0.5),
        np.float32(-127),
        dtype=t.i8,
        **EXACT,
        note=" strange with a zero",
    ),
    sample("fake_quantize", TIES, np.float32(1.0), dtype=t.i8, grad=False, **EXACT),
    sample("fake_quantize", floats(5, 4), floats(4, low=0.1, high=0.4), dtype=t.i4, grad=False),
    sample("dequantize", BYTES, floats(4, 1), **EXACT),
    sample("dequantize", ints(2, 3, low=-8, high=8).astype(t.i4.numpy), floats(3), **EXACT),
    sample("dequantize", ints(3, low=-(10**9), high=10**9), np.float32(0.25), **EXACT),
    sample("dequantize", BYTES, halves(4), **EXACT),
]


def zeros_in(x: np.ndarray, share: float) -> np.ndarray:
    """`x` with some elements 0."""
    return np.where(np.random.default_rng(3).random(x.shape) < share, 0, x).astype(x.dtype)


def bitmap(x: np.ndarray, **options: Any) -> Sample:
    """A sample of `expand_bitmap` that gives `x`."""
    return sample("expand_bitmap", *bitmap_of(x), shape=x.shape, **EXACT, **options)


SPARSE = [
    bitmap(zeros_in(floats(5, 70), 0.7)),
    bitmap(zeros_in(ints(64, low=-127, high=127).astype(np.int8), 0.5)),
    bitmap(zeros_in(halves(2, 3, 129), 0.9), note=" of three axes"),
    bitmap(np.zeros((3, 100), np.float32), note=" of zeros"),
    bitmap(floats(257) + 9, note=" of no zeros"),
    bitmap(np.float32([0.0, -0.0, np.nan, 1.0]), note=" with a negative zero"),
]

PROBS = np.array([[0.5, 0.125, 0.25, 0.125], [0.25, 0.25, 0.25, 0.25]], np.float32)

SAMPLING = [
    sample("kth_largest", floats(3, 7), i32(3), rtol=0, atol=0),
    sample("kth_largest", floats(2, 2, 4), i32(9), rtol=0, atol=0, note=" beyond the row"),
    sample("nucleus", PROBS, np.float32(0.7), rtol=0, atol=0),
    sample("nucleus", PROBS, np.float32(0.0), rtol=0, atol=0, note=" of nothing"),
    sample("sample", floats(4, 9), KEY, np.float32(0.8), i32(5), np.float32(0.9), rtol=0, atol=0),
    sample("sample", floats(3, 9), KEYS, np.float32(0.8), i32(5), np.float32(0.9), rtol=0, atol=0),
    sample(
        "sample",
        3 * floats(5, 9),
        KEY,
        np.float32(0.8),
        i32(9),
        np.float32(2.0),
        np.float32(0.2),
        rtol=0,
        atol=0,
        note=" with min_p",
    ),
    sample("sample", floats(9), KEY, np.float32(0.0), i32(9), np.float32(1.0), rtol=0, atol=0),
]

NN_SAMPLES: list[Sample] = [
    *INDEXING,
    *GATHER,
    *MATMUL,
    *QUANTIZING,
    *SPARSE,
    *COMPOSITES,
    *ATTENTION,
    *SAMPLING,
]
