"""The samples of all ops: one table, from which the op tests, fuzzers and backends draw.

An op without a sample fails a test. Samples with `grad=False` touch a kink or a special value.
"""

from __future__ import annotations

import numpy as np

from planish.ir import types as t
from tests.sample import Sample, floats, halves, ints, sample
from tests.samples_nn import NN_SAMPLES

KEY = np.array([0x13198A2E, 0x03707344], np.uint32)
KEYS = np.arange(6, dtype=np.uint32).reshape(3, 2)  # one for each of three rows
SPECIALS = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, -3e38], np.float32)
LEAST = np.iinfo(np.int32).min
POSITIVE = floats(2, 3, low=0.2, high=4.0)
EXACT = {"rtol": 0.0, "atol": 0.0}


def clear(*shape: int, seed: int = 0) -> np.ndarray:
    """Values between the integers and away from 0, where steps and kinks are."""
    return (ints(*shape, seed=seed, low=-4, high=4) + 0.375).astype(np.float32)


def distinct(*shape: int, seed: int = 0) -> np.ndarray:
    """Values no two of which are equal."""
    order = np.random.default_rng(seed).permutation(int(np.prod(shape)))
    return (order.reshape(shape) * 0.25 - 1.0).astype(np.float32)


def bools(*shape: int, seed: int = 0) -> np.ndarray:
    """Random truth values."""
    return np.random.default_rng(seed).random(shape) < 0.5


PAIR = (clear(2, 3), floats(3, seed=1) * 0.3 + 0.1)
COLUMN = (floats(2, 1, 3), floats(4, 1, seed=1))

ARITHMETIC = [
    *(sample(op, floats(2, 3), floats(2, 3, seed=1)) for op in ("add", "sub", "mul")),
    *(sample(op, *COLUMN) for op in ("add", "sub", "mul")),
    *(sample(op, ints(3), ints(2, 3, seed=1), **EXACT) for op in ("add", "sub", "mul")),
    *(sample(op, floats(0, 3), 1.5) for op in ("add", "div", "maximum")),
    *(sample(op, halves(4), halves(4, seed=1), rtol=0.01) for op in ("add", "mul", "div")),
    *(sample(op, SPECIALS[:, None], SPECIALS, grad=False) for op in ("add", "mul", "div")),
    sample("sub", np.arange(3, dtype=np.uint8), np.uint8([[7]]), **EXACT, note=" wraps"),
    sample("mul", ints(4, dtype=np.int64) + 2**62, np.int64(3), **EXACT, note=" wraps"),
    sample("div", floats(2, 3), POSITIVE, rtol=2e-7),
    sample("div", COLUMN[0], -POSITIVE[0][:, None] - 1.0, rtol=2e-7),
    *(sample(op, *PAIR, rtol=1e-4, atol=1e-5) for op in ("floor_div", "mod")),
    *(sample(op, clear(5), -POSITIVE[0, :1], rtol=1e-4, atol=1e-5) for op in ("floor_div", "mod")),
    *(
        sample(op, [5.0, -5.0, 3.0, -3.0, 0.0], [np.inf], grad=False, note=" by inf")
        for op in ("floor_div", "mod")
    ),
    *(
        sample(op, [5.0, -5.0, 0.0, np.inf, np.nan], [0.0, 2.0, -3.0, -0.0, 1.0], grad=False)
        for op in ("floor_div", "mod")
    ),
    *(
        sample(op, [[LEAST], [7], [-7], [0]], [-1, 0, 2, -2, LEAST], **EXACT)
        for op in ("floor_div", "mod")
    ),
    *(
        sample(op, np.arange(9, dtype=np.uint8), np.uint8([[0], [2], [255]]), **EXACT)
        for op in ("floor_div", "mod")
    ),
    sample("pow", POSITIVE, floats(2, 3, seed=1)),
    sample("pow", [-2.0, -1.5, 3.0], np.float32(3.0), grad=False),
    sample("pow", [0.0, 0.0, -2.0, -2.0, np.inf], [0.0, 2.0, 0.5, 2.0, -1.0], grad=False),
    *(sample(op, distinct(2, 3), distinct(2, 3, seed=1) + 0.1) for op in ("maximum", "minimum")),
    *(sample(op, SPECIALS[:, None], SPECIALS, grad=False) for op in ("maximum", "minimum")),
    *(sample(op, ints(4), ints(4, seed=1), **EXACT) for op in ("maximum", "minimum")),
    sample("clip", clear(3, 4), -1.0, 2.0),
    sample("clip", clear(2, 3), clear(3, seed=1) - 1.1, clear(2, 1, seed=2) + 1.2),
    sample("clip", clear(4), 1.0, -1.2, note=" bounds crossed"),
    sample("clip", SPECIALS, -1.0, 1.0, grad=False),
    sample("clip", ints(6), np.int32(-3), np.int32(4), **EXACT),
    sample("clip", halves(2, 5), halves(), halves(seed=1), grad=False, **EXACT),
]

WIDE = np.array([-1e30, -2.7, -0.0, 0.9, 127.6, 3e9, 1e19, np.inf, -np.inf, np.nan], np.float32)
CASTS = [
    *(sample("cast", WIDE, dtype=d, **EXACT) for d in (t.i64, t.i32, t.i8, t.i4, t.u8, t.u32)),
    *(sample("cast", WIDE, dtype=d, grad=False, **EXACT) for d in (t.boolean, t.bf16, t.f16)),
    sample("cast", floats(2, 3), dtype=t.f64, **EXACT),
    sample("cast", floats(2, 3), dtype=t.f32, **EXACT),
    sample("cast", floats(2, 3).astype(np.float64), dtype=t.f32, **EXACT),
    sample("cast", ints(5, low=-999, high=999), dtype=t.i8, **EXACT),
    sample("cast", ints(5, low=-999, high=999), dtype=t.u32, **EXACT),
    sample("cast", ints(5, low=-8, high=8), dtype=t.i4, **EXACT),
    sample("cast", ints(5, dtype=np.int64) * 2**40, dtype=t.f32, **EXACT),
    sample("cast", bools(5), dtype=t.f32, **EXACT),
    sample("cast", bools(5), dtype=t.i64, **EXACT),
    sample("cast", ints(2, 2, low=-2, high=2), dtype=t.boolean, **EXACT),
]

ORDER = ("eq", "ne", "lt", "le", "gt", "ge")
LOGIC = ("logical_and", "logical_or", "logical_xor")
BITS = ("bitwise_and", "bitwise_or", "bitwise_xor")
COUNTS = np.array([0, 1, 31, 32, 99, -1], np.int32)
COMPARE = [
    *(sample(op, SPECIALS[:, None], SPECIALS, **EXACT) for op in ORDER),
    *(sample(op, ints(2, 9, low=0, high=3), ints(9, low=0, high=3), **EXACT) for op in ORDER),
    *(sample(op, np.uint32([1, 2**31, 2**32 - 1]), np.uint32(2**31), **EXACT) for op in ORDER),
    *(sample(op, bools(6), bools(6, seed=1), **EXACT) for op in ("eq", "ne")),
    *(sample(op, bools(2, 6), bools(6, seed=1), **EXACT) for op in (*LOGIC, *BITS)),
    *(sample(op, SPECIALS, ints(2, 1, low=0, high=2), **EXACT) for op in LOGIC),
    sample("logical_not", bools(6), **EXACT),
    sample("logical_not", ints(9, low=-1, high=2), **EXACT),
    *(sample(op, ints(6), ints(2, 6, seed=1), **EXACT) for op in BITS),
    *(sample("bitwise_not", x, **EXACT) for x in (bools(4), ints(4), np.uint8([0, 1, 255]))),
    *(sample(op, ints(3, 1), COUNTS, **EXACT) for op in ("shift_left", "shift_right")),
    *(
        sample(op, np.uint32([[2**32 - 1], [5]]), np.uint32([0, 3, 31, 32, 2**31]), **EXACT)
        for op in ("shift_left", "shift_right")
    ),
    *(sample(op, SPECIALS, **EXACT) for op in ("isnan", "isinf", "isfinite")),
    *(sample(op, ints(3), **EXACT) for op in ("isnan", "isinf", "isfinite")),
    sample("select", bools(2, 3), floats(2, 3), floats(3, seed=1)),
    sample("select", bools(3, 1), ints(4), ints(1, seed=1), **EXACT),
    sample("select", ints(3, low=0, high=2), bools(3), bools(3, seed=1), **EXACT),
    sample("select", np.bool_(True), floats(2), SPECIALS[:2], grad=False),
]

ANGLES = floats(2, 5, low=-7.0, high=7.0)
FUNCTIONS = [
    *(sample(op, clear(3, 4)) for op in ("floor", "ceil", "round", "trunc", "sign", "abs")),
    *(sample(op, ints(5), **EXACT) for op in ("floor", "ceil", "round", "trunc", "sign", "abs")),
    *(
        sample(op, SPECIALS, grad=False)
        for op in ("floor", "ceil", "round", "trunc", "sign", "abs", "neg", "square", "exp", "log")
    ),
    *(sample(op, SPECIALS, grad=False) for op in ("tanh", "sigmoid", "erf", "sqrt", "reciprocal")),
    *(sample(op, np.uint8([0, 1, 255]), **EXACT) for op in ("abs", "neg", "sign", "square")),
    *(sample(op, [LEAST, 3, -3], **EXACT) for op in ("abs", "neg", "square")),
    *(
        sample(op, floats(2, 3))
        for op in ("neg", "square", "exp", "exp2", "expm1", "tanh", "erf", "sigmoid")
    ),
    *(
        sample(op, POSITIVE)
        for op in ("reciprocal", "log", "log2", "log1p", "sqrt", "rsqrt", "square")
    ),
    *(sample(op, ANGLES) for op in ("sin", "cos")),
    sample("tan", ANGLES * 0.2),
    *(sample(op, ints(4, low=1)) for op in ("exp2", "log", "sqrt", "reciprocal", "sin")),
    *(sample(op, halves(4), rtol=0.01, atol=0.01) for op in ("exp", "tanh", "sigmoid", "erf")),
    sample("after", floats(2, 3), floats(4, seed=1), ints(2), **EXACT),
    sample("after", bools(2), **EXACT),
    *(sample("again", x, **EXACT) for x in (floats(2, 3), bools(2))),
    *(sample("stop_gradient", x, **EXACT) for x in (floats(2, 3), bools(2), ints(2))),
]

REDUCED = ("sum", "prod", "max", "min")
REDUCTIONS = [
    *(sample(op, distinct(2, 3, 4), axes=(0, 2)) for op in (*REDUCED, "mean", "var", "logsumexp")),
    *(
        sample(op, distinct(3, 4), axes=(1,), keep=True)
        for op in (*REDUCED, "mean", "var", "logsumexp")
    ),
    *(sample(op, distinct(2, 3)) for op in (*REDUCED, "mean", "var", "logsumexp")),
    *(sample(op, distinct(2, 3), axes=()) for op in (*REDUCED, "mean")),
    *(sample(op, ints(3, 4), axes=(-1,), **EXACT) for op in REDUCED),
    *(sample(op, np.uint8([[1, 255], [3, 9]]), axes=(0,), **EXACT) for op in REDUCED),
    *(sample(op, bools(3, 4), axes=(0,), **EXACT) for op in (*REDUCED, "any", "all")),
    *(sample(op, halves(3, 4), axes=(0,), rtol=0.02, atol=0.02) for op in (*REDUCED, "mean")),
    *(sample(op, floats(0, 3), axes=(0,)) for op in ("sum", "prod", "any", "all")),
    *(sample(op, floats(3, 0), axes=(0,)) for op in (*REDUCED, "mean", "logsumexp")),
    *(sample(op, floats(0, 3), axes=(0,), grad=False) for op in ("mean", "var")),
    *(sample(op, floats(0, 3), axes=(1,)) for op in ("max", "min", "logsumexp")),
    *(sample(op, SPECIALS[4:], axes=(0,), grad=False) for op in (*REDUCED, "logsumexp", "mean")),
    sample("prod", [[2.0, 0.0, 3.0], [0.0, 0.0, 5.0]], axes=(1,), note=" with zeros"),
    sample("sum", floats(999), rtol=1e-4, atol=1e-4),
    sample("mean", ints(3, 4), axes=(1,)),
    sample("var", distinct(3, 4), axes=(1,), correction=1),
    sample("var", distinct(3, 1), axes=(1,), correction=1, grad=False, note=" of one"),
    sample("logsumexp", [[1e30, 1e30], [-1e30, 1e30]], axes=(1,), grad=False),
    sample("logsumexp", [[-np.inf, -np.inf], [np.inf, 0.0]], axes=(1,), grad=False),
    *(sample(op, ints(3, 5), axes=(1,), **EXACT) for op in ("any", "all")),
    *(sample(op, distinct(3, 4), axis=1) for op in ("argmax", "argmin")),
    *(sample(op, distinct(3, 4), axis=0, keep=True) for op in ("argmax", "argmin")),
    *(sample(op, ints(4, 3, low=0, high=2), axis=0, note=" ties") for op in ("argmax", "argmin")),
    *(sample(op, SPECIALS[:7], axis=0, note=" nan") for op in ("argmax", "argmin")),
]

VIEWS = [
    *(
        sample("reshape", floats(2, 3, 4), shape=s, **EXACT)
        for s in ((24,), (6, 4), (2, 12), (4, 3, 2), (1, 2, 1, 3, 4), (2, 2, 6), (-1, 8), (3, 8))
    ),
    sample("reshape", floats(6, 4), shape=(2, 3, 2, 2), **EXACT),
    sample("reshape", floats(1, 1), shape=(), **EXACT),
    sample("reshape", floats(), shape=(1, 1), **EXACT),
    sample("reshape", floats(0, 4), shape=(2, 0, 7), **EXACT),
    *(sample("transpose", floats(2, 3, 4), perm=p) for p in ((2, 0, 1), (0, 2, 1), (-1, 1, 0))),
    sample("transpose", ints(2, 3), **EXACT),
    sample("transpose", floats(), perm=(), **EXACT),
    *(sample("broadcast", floats(3, 1), shape=s, **EXACT) for s in ((3, 1), (3, 4), (2, 3, 5))),
    sample("broadcast", floats(), shape=(2, 2), **EXACT),
    sample("broadcast", floats(1), shape=(0,), **EXACT),
    sample("flip", floats(2, 3, 4), axes=(0, 2), **EXACT),
    sample("flip", ints(5), **EXACT),
    sample("slice", floats(5, 6), starts=(1, 0), stops=(4, 6), **EXACT),
    sample("slice", floats(5, 6), starts=(1, 0), stops=(5, 6), steps=(2, 3), **EXACT),
    sample("slice", floats(7), starts=(6,), stops=(-1,), steps=(-1,), **EXACT),
    sample("slice", floats(7, 3), starts=(5, 0), stops=(0, 2), steps=(-2, 1), **EXACT),
    sample("slice", floats(8), starts=(1,), stops=(6,), steps=(3,), **EXACT),
    sample("slice", floats(8), starts=(7,), stops=(-1,), steps=(-3,), **EXACT),
    sample("slice", floats(4, 2), starts=(2, 0), stops=(2, 2), **EXACT, note=" of nothing"),
    sample("slice", floats(0), starts=(-1,), stops=(-1,), steps=(-1,), **EXACT),
]

RANDOM = [
    *(sample("random_bits", KEY, shape=s, **EXACT) for s in ((), (7,), (2, 3, 2), (0, 3))),
    sample("random_bits", KEYS, shape=(3, 2, 5), **EXACT),
    sample("fold_in", KEYS, np.int64(5), **EXACT),
    sample("fold_in", KEYS, np.array([5, -1, 7]), **EXACT),
    sample("fold_in", KEY, np.int64(5), **EXACT),
    sample("fold_in", KEY, np.int32(-1), **EXACT),
    sample("fold_in", KEY, np.uint32(2**32 - 1), **EXACT),
    sample("uniform", KEY, shape=(2, 5), **EXACT),
    sample("uniform", KEY, shape=(5,), dtype=t.f64, **EXACT),
    sample("normal", KEY, shape=(3, 5), rtol=1e-5, atol=1e-5),
    *(sample("bernoulli", KEY, p=p, shape=(4, 5), **EXACT) for p in (0.0, 0.3, 1.0)),
    *(sample("dropout", floats(4, 5), KEY, rate=r, rtol=1e-6) for r in (0.0, 0.4, 1.0)),
]

SAMPLES: list[Sample] = [
    *ARITHMETIC, *CASTS, *COMPARE, *FUNCTIONS, *REDUCTIONS, *VIEWS, *RANDOM, *NN_SAMPLES,
]  # fmt: skip
