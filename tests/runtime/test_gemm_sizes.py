"""Matrix products of float32 beside the naive nest, natively: around their blocks, by strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import planish as pl
from planish.ir import types as t
from planish.ir.loops import Accumulate, Kernel, Store
from planish.runtime.kernels.tiles import quickest
from planish.runtime.target import Target
from tests.ir.nests import I, J, K, buffer, f, over
from tests.runtime.native import run_native

RNG = np.random.default_rng(0)
HOST = Target.host()
V = HOST.lanes(t.f32)
WIDE, HIGH = (a * b for a, b in zip(quickest(HOST, None, 4096, V), (V, 1), strict=True))
ROWS = sorted({1, HIGH - 1, HIGH, HIGH + 1, V - 1, V, V + 1})
COLUMNS = sorted({1, V - 1, V, V + 1, WIDE - 1, WIDE, WIDE + 1})
DEPTHS = (1, V - 1, V, V + 1, 4 * V + 1)


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def naive(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Three loops and a multiply-add, as machine code: the judge of the fast kernels."""
    (rows, depth), columns = a.shape, b.shape[1]
    x, w = buffer("a", rows, depth), buffer("b", depth, columns)
    out = buffer("out", rows, columns)
    inner = over(K, depth, Accumulate(out, (I, J), "add", x[I, K] * w[K, J]))
    body = over(I, rows, over(J, columns, Store(out, (I, J), f(0.0)), inner))
    found = np.empty((rows, columns), np.float32)
    kernel = Kernel("naive", (x, w, out), ("out",), (), (body,))
    given = [np.ascontiguousarray(a), np.ascontiguousarray(b), found]
    assert run_native(kernel, given, {}, HOST)[0] == 0
    return found


def check(function: Callable[..., Any], a: np.ndarray, b: np.ndarray, want: np.ndarray) -> None:
    """The compiled function gives what the naive nest gave, with the same bits on two threads."""
    one, two = (pl.compile(function, a, b, threads=threads)(a, b) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, want, 1e-5, 1e-5)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("rows", ROWS)
def test_products_around_their_tiles(rows: int, columns: int) -> None:
    a, b = values(rows, V + 1), values(V + 1, columns)
    check(lambda a, b: a @ b, a, b, naive(a, b))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("rows", [1, HIGH + 1])
def test_products_of_any_depth(rows: int, depth: int) -> None:
    a, b = values(rows, depth), values(depth, WIDE + 1)
    check(lambda a, b: a @ b, a, b, naive(a, b))


STRIDED = {
    "every other column of a": (lambda a, b: a[:, 1::2] @ b[: a.shape[1] // 2]),
    "every third row of a": (lambda a, b: a[2::3] @ b[: a.shape[1]]),
    "columns of a from the third": (lambda a, b: a[:, 3:] @ b[3 : a.shape[1]]),
    "every other column of b": (lambda a, b: a @ b[: a.shape[1], 1::2]),
    "columns of b from the fifth": (lambda a, b: a @ b[: a.shape[1], 5:]),
    "every third row of b": (lambda a, b: a[:, :V] @ b[: 3 * V : 3]),
    "rows of b, the last first": (lambda a, b: a @ b[: a.shape[1]][::-1]),
    "a turned": (lambda a, b: a[:, 1:].T @ b[: a.shape[0]]),
    "b turned": (lambda a, b: a[:, : b.shape[1] - 5] @ b[:, 5:].T),
}  # fmt: skip


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("rows", [1, V + 1, 3 * HIGH + 1])
def test_products_of_what_lies_apart(name: str, rows: int) -> None:
    """Views of operands are read where they lie; sums have V + 3 terms or so."""
    function = STRIDED[name]
    depth = 2 * V + 5
    a = values(rows + (2 if name.startswith("every third row of a") else 0), depth)
    b = values(3 * V + 40, 2 * V + (6 if name == "b turned" else 9))
    sides: list[np.ndarray] = []

    class Seen(np.ndarray):
        def __matmul__(self, other: np.ndarray) -> np.ndarray:
            sides.extend((np.asarray(self), np.asarray(other)))
            return np.asarray(self) @ np.asarray(other)

    function(a.view(Seen), b.view(Seen))
    check(function, a, b, naive(*sides))
