"""Random numbers from keys: the same key gives the same numbers, on any machine and thread count.

    key = pl.random.key(0)
    first, second = pl.random.split(key)
    x = pl.random.normal(first, (4, 8))

A key is two unsigned integers. Nothing is hidden: a key that is used twice gives the same numbers
twice, so use `split` or `fold_in` (for the number of a step or a layer) to get fresh ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.frontend.shapes import broadcast_to, shape_of
from planish.frontend.sizes import plain_shape
from planish.frontend.tensor import apply
from planish.ir import types as t
from planish.ir.draws import key as key


def fold_in(key: Any, data: Any) -> Any:
    """A new key from a key and an integer, such as the number of a step."""
    return apply("fold_in", key, data)


def split(key: Any, count: int = 2) -> tuple[Any, ...]:
    """Several new keys from one."""
    return tuple(fold_in(key, i) for i in range(count))


def bits(key: Any, shape: Any = ()) -> Any:
    """Random 32-bit unsigned integers."""
    return apply("random_bits", key, shape=plain_shape(shape))


def uniform(key: Any, shape: Any = (), low: Any = 0.0, high: Any = 1.0, dtype: Any = "f32") -> Any:
    """Numbers spread evenly over [low, high)."""
    unit = apply("uniform", key, shape=plain_shape(shape), dtype=t.dtype(dtype))
    return _scaled(unit, low, high - low)


def normal(key: Any, shape: Any = (), mean: Any = 0.0, std: Any = 1.0, dtype: Any = "f32") -> Any:
    """Normally distributed numbers."""
    return _scaled(apply("normal", key, shape=plain_shape(shape), dtype=t.dtype(dtype)), mean, std)


def _scaled(unit: Any, low: Any, by: Any) -> Any:
    """low + by * unit."""
    if not (isinstance(by, (int, float)) and by == 1):
        unit = apply("mul", unit, by)
    return unit if isinstance(low, (int, float)) and low == 0 else apply("add", unit, low)


def bernoulli(key: Any, p: float = 0.5, shape: Any = ()) -> Any:
    """True with probability `p`."""
    return apply("bernoulli", key, p=float(p), shape=plain_shape(shape))


def randint(key: Any, shape: Any, low: int, high: int, dtype: Any = "i32") -> Any:
    """Integers of low <= n < high, evenly spread to within 2^-24."""
    unit = apply("uniform", key, shape=plain_shape(shape), dtype=t.f64)
    found = apply("floor", apply("mul", unit, float(high - low)))
    return apply("add", apply("cast", found, dtype=t.dtype(dtype)), low)


def categorical(key: Any, logits: Any) -> Any:
    """An index of the last axis, with probability softmax(logits): the Gumbel maximum."""
    shape = shape_of(logits)
    noise = apply("uniform", key, shape=shape, dtype=t.f32)
    tiny = float(np.finfo(np.float32).tiny)
    gumbel = apply("neg", apply("log", apply("neg", apply("log", apply("maximum", noise, tiny)))))
    return apply("argmax", apply("add", logits, broadcast_to(apply, gumbel, shape)), axis=-1)
