"""Random functions of arrays in native code, and their gradients, against the interpreter in f64.

Sizes are odd on purpose: 1, the widths of registers and one more, and nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp
from planish.ir.types import dtype

SIZES = (1, 1, 2, 3, 5, 8, 17, 33, 65)
DTYPES = ("f32", "f32", "f64", "f16", "bf16", "i32", "i64")
# relative to the largest magnitude of a result
TOLERANCE = {"f32": 5e-5, "f64": 1e-11, "f16": 5e-2, "bf16": 3e-1, "i32": 0, "i64": 0}
LARGEST = 20_000  # elements
SEEDS = range(40)

Pick = np.random.Generator


def axis(r: Pick, x: Any) -> int:
    return int(r.integers(len(x.shape)))


STEPS: dict[str, Callable[[Pick, Any, Any], Any]] = {
    "add": lambda r, x, y: x + y,
    "sub": lambda r, x, y: x - y,
    "mul": lambda r, x, y: x * y,
    "maximum": lambda r, x, y: pnp.maximum(x, y),
    "where": lambda r, x, y: pnp.where(x > y, x, y),
    "tanh": lambda r, x, y: pnp.tanh(x),
    "exp": lambda r, x, y: pnp.exp(pnp.clip(x, -3, 3)),
    "sum": lambda r, x, y: pnp.sum(x, axis=axis(r, x), keepdims=bool(r.integers(2))),
    "max": lambda r, x, y: pnp.max(x, axis=axis(r, x), keepdims=bool(r.integers(2))),
    "softmax": lambda r, x, y: pnp.softmax(x, axis=axis(r, x)),
    "norm": lambda r, x, y: x * pnp.rsqrt(pnp.var(x, axis=-1, keepdims=True) + 0.1),
    "transpose": lambda r, x, y: x.transpose(*map(int, r.permutation(len(x.shape)))),
    "flatten": lambda r, x, y: x.reshape(-1),
    "flip": lambda r, x, y: pnp.flip(x, axis=axis(r, x)),
    "slice": lambda r, x, y: x[tuple(slice(int(r.integers(3)), None, int(r.choice([1, 2, 3])))
                                     for _ in x.shape)],
    "concat": lambda r, x, y: pnp.concat([x, x[::-1]], axis=axis(r, x)),
    "gram": lambda r, x, y: x @ x.mT,
    "matmul": lambda r, x, y: x @ y,
    "pad": lambda r, x, y: pnp.pad(x, [tuple(map(int, r.integers(0, 3, 2))) for _ in x.shape]),
    "tril": lambda r, x, y: pnp.tril(x, k=int(r.integers(-2, 3))),
    "take": lambda r, x, y: pnp.take(x, np.array([0, 0, 0]), axis=axis(r, x)),
    "roll": lambda r, x, y: pnp.roll(x, int(r.integers(-3, 4)), axis=axis(r, x)),
    "repeat": lambda r, x, y: pnp.repeat(x, 2, axis=axis(r, x)),
}  # fmt: skip
NAMES = tuple(STEPS)


class Drawn:
    """A function that takes `arrays` and does `count` steps, the same ones at each call."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.dtype = str(rng.choice(DTYPES))
        a, b, c = (int(rng.choice(SIZES)) if rng.random() > 0.04 else 0 for _ in range(3))
        wanted = dtype(self.dtype).numpy
        self.arrays = tuple(
            np.asarray(rng.normal(0, 1, s) if self.is_float else rng.integers(-9, 10, s), wanted)
            for s in ((a, b, c), (b, c), (c, b), (c,), (b, 1))
        )
        self.count, self.seed = int(rng.integers(2, 12)), int(rng.integers(1 << 30))

    @property
    def is_float(self) -> bool:
        return self.dtype not in ("i32", "i64")

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        r, values, tried = np.random.default_rng(self.seed), list(args), 0
        while len(values) < len(args) + self.count and tried < 100:
            tried += 1
            x, y = values[-int(r.integers(1, 5))], values[int(r.integers(len(values)))]
            name = NAMES[r.integers(len(NAMES))]
            try:
                found = STEPS[name](r, x, y)
            except (pl.PlanishError, ValueError):  # the operands do not fit
                continue
            if np.prod(found.shape) <= LARGEST and found.dtype == args[0].dtype:
                small = self.is_float and name in ("gram", "matmul")
                values.append(found * 0.1 if small else found)
        return tuple(values[-2:])

    def loss(self, *args: Any) -> Any:
        """A scalar to differentiate."""
        return sum(pnp.sum(pnp.tanh(x * 0.3)) for x in self(*args))


def same(found: Any, wanted: Any, plain: Any, tolerance: float) -> None:
    """`found` is as near to `wanted` as allowed, or as the interpreter's own `plain` result."""
    assert (found.dtype, found.shape) == (plain.dtype, plain.shape)
    a, b, c = (np.asarray(x).astype(np.float64) for x in (found, wanted, plain))
    if a.size and np.isfinite(b).all() and np.isfinite(c).all():
        scale = max(1.0, np.abs(b).max())
        assert np.abs(a - b).max() <= max(tolerance * scale, 4 * np.abs(c - b).max())


@pytest.mark.parametrize("seed", SEEDS)
def test_native_code_gives_the_interpreters_numbers(seed: int) -> None:
    drawn = Drawn(seed)
    graph = pl.trace(drawn, *drawn.arrays)
    assert str(pl.parse(str(graph))) == str(graph)
    wanted = pl.interpret(graph, *drawn.arrays, dtype="f64" if drawn.is_float else None)
    plain = pl.interpret(graph, *drawn.arrays)
    for pipeline in ("O0", "O2"):
        found = pl.compile(graph, pipeline=pipeline)(*drawn.arrays)
        for results in zip(found, wanted, plain, strict=True):
            same(*results, TOLERANCE[drawn.dtype])


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if Drawn(seed).is_float])
def test_native_gradients_are_the_interpreters(seed: int) -> None:
    drawn = Drawn(seed)
    graph = pl.trace(pl.grad(drawn.loss, wrt=(0, 1, 2, 3, 4)), *drawn.arrays)
    wanted = pl.interpret(graph, *drawn.arrays, dtype="f64")
    plain = pl.interpret(graph, *drawn.arrays)
    found = pl.compile(graph, pipeline="train")(*drawn.arrays)
    for results in zip(found, wanted, plain, strict=True):
        same(*results, TOLERANCE[drawn.dtype])
