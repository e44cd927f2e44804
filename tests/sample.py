"""One call of an op. The table of all of them is tests/samples.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True, eq=False)
class Sample:
    """`op` on `args` with `attrs`.

    `rtol` and `atol` bound what the loop meaning may differ from `ref`, relative to f32; 0 means
    equal. `grad` says whether `args` stay clear of the kinks, so that the gradient is checked
    (only where the op has one, and for float operands only).
    """

    op: str
    args: tuple[np.ndarray, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    rtol: float = 1e-5
    atol: float = 1e-6
    grad: bool = True
    note: str = ""

    @property
    def id(self) -> str:
        """How the sample is called in a test report."""
        types = [f"{x.dtype}{list(x.shape)}".replace(" ", "") for x in self.args]
        attrs = [f"{name}={value}".replace(" ", "") for name, value in self.attrs.items()]
        return f"{self.op}({','.join((*types, *attrs))}){self.note}"


def sample(op: str, *args: Any, **options: Any) -> Sample:
    """A `Sample`; Python numbers and lists become f32 or i32; other options are attributes."""
    known = {k: options.pop(k) for k in ("rtol", "atol", "grad", "note") if k in options}
    arrays = tuple(map(_array, args))
    return Sample(op, arrays, options, **known)


def _array(x: Any) -> np.ndarray:
    if isinstance(x, (np.ndarray, np.generic)):
        return np.asarray(x)
    found = np.asarray(x)
    narrow = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    return found.astype(narrow.get(found.dtype, found.dtype))


def floats(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Reproducible f32 values in [low, high)."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def halves(*shape: int, seed: int = 0) -> np.ndarray:
    """Reproducible bf16 values in [-2, 2)."""
    return floats(*shape, seed=seed).astype(ml_dtypes.bfloat16)


def ints(
    *shape: int, seed: int = 0, low: int = -9, high: int = 10, dtype: Any = np.int32
) -> np.ndarray:
    """Reproducible integers in [low, high)."""
    return np.random.default_rng(seed).integers(low, high, shape, dtype=dtype)
