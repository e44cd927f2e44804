"""Elements of 8 and 16 bits: nothing beyond an array is written, and products of batches are right.

One lane of 16 bits that is left over was once stored as 32 bits (see `_Kernel._unknown`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import planish as pl
from planish.frontend.tensor import apply
from planish.ir import types as t
from planish.ir.errors import TargetError
from planish.ir.loops import Accumulate, Const, For, Kernel, Let, Store, Var, cast, scalar
from planish.runtime.codegen.kernel import kernel_function
from planish.runtime.target import Target
from tests.ir.nests import J, buffer, n
from tests.runtime.native import check

RNG = np.random.default_rng(0)
GUARD = 0xAA


def halves(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(ml_dtypes.bfloat16)


def attended(q: Any, k: Any, v: Any) -> Any:
    return apply("attention", q, k, v, causal=False, scale=0.3)


CALLS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "product": (lambda a, b: a @ b, (halves(3, 40, 64), halves(3, 64, 17))),
    "attention": (attended, (halves(2, 2, 9, 33), halves(2, 1, 17, 33), halves(2, 1, 17, 17))),
    "sum": (lambda x: x * 0.5 + x, (halves(3, 33),)),
    "i8": (lambda x: x.astype("i8"), (np.arange(65, dtype=np.float32),)),
    "bool": (lambda x: x > 0, (halves(5, 17),)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("target", ["host", "x86-64-v4", "x86-64-v3"])
def test_nothing_beyond_the_result_is_written(name: str, target: str) -> None:
    try:
        Target.parse(target).require_host()
    except TargetError as error:
        pytest.skip(str(error))
    fn, arrays = CALLS[name]
    program = pl.compile(fn, *arrays, target=target, threads=1)
    wanted = pl.interpret(fn, *arrays)
    memory = np.full(wanted.nbytes + 64, GUARD, np.uint8)
    out = memory[: wanted.nbytes].view(wanted.dtype).reshape(wanted.shape)
    program(*arrays, out=[out])
    assert (memory[wanted.nbytes :] == GUARD).all()
    np.testing.assert_allclose(out.astype(float), wanted.astype(float), rtol=0.02, atol=0.1)


@pytest.mark.parametrize("a", [(2, 3, 33, 40), (2, 1, 33, 40), (33, 40)], ids=str)
@pytest.mark.parametrize("b", [(2, 3, 40, 17), (2, 1, 40, 17), (1, 3, 40, 64)], ids=str)
def test_products_of_batches(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = halves(*a), halves(*b)
    found = pl.compile(lambda x, y: x @ y, x, y)(x, y)
    wanted = pl.interpret(lambda x, y: x @ y, x, y, dtype="f64")
    np.testing.assert_allclose(found.astype(float), wanted, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("dtype", [t.i8, t.u8, t.i4, t.i32], ids=str)
@pytest.mark.parametrize("most", [7.0, 127.0, 300.0], ids=str)
def test_casts_of_what_is_kept_in_a_range(dtype: t.DType, most: float) -> None:
    """Where the range is not within that of integers, they are kept in theirs."""
    special = [0.0, -0.0, 1.5, -1.5, 7.9, -8.5, 127.5, -128.5, 1e3, -1e3, np.inf, -np.inf, np.nan]
    a = np.array(special * 2, np.float32)
    x, y = buffer("x", 26), buffer("y", 26, dtype=dtype)
    inside = scalar("max", scalar("min", x[J], Const(most, t.f32)), Const(-most, t.f32))
    lanes = For(J, n(26), "vector", (Store(y, (J,), cast(inside, dtype)),), 16)
    k = Kernel("casts", (x, y), ("y",), (), (lanes,))
    check(k, a, np.zeros(26, dtype.numpy))
    kept = kernel_function(k, k.dims, "k0_", Target.host(), {}).count("fcmp ogt") == 0
    assert kept == (dtype.kind == "i" and most < 2 ** (dtype.bits - 1))


@pytest.mark.parametrize("dtype", [t.f32, t.f64], ids=str)
@pytest.mark.parametrize("size", [1, 15, 16, 37])
@pytest.mark.parametrize("special", [-3.0, -0.0, np.inf, -np.inf, np.nan, -np.nan], ids=str)
def test_the_largest_magnitude_is_found_among_integers(
    dtype: t.DType, size: int, special: float
) -> None:
    x, y = buffer("x", size, dtype=dtype), buffer("y", 1, dtype=dtype)
    most = Accumulate(y, (n(0),), "max", scalar("abs", x[J]))
    k = Kernel("most", (x, y), ("y",), (), (For(J, n(size), "vector", (most,), 16),))
    for place in {0, size // 2, size - 1}:
        a = RNG.standard_normal(size).astype(dtype.numpy)
        a[place] = special
        check(k, a, np.full(1, -np.inf, dtype.numpy))
    assert "llvm.maximum.v" not in kernel_function(k, k.dims, "k0_", Target.host(), {})
    signed = Accumulate(y, (n(0),), "max", x[J])  # whose bits have another order
    k = Kernel("most", (x, y), ("y",), (), (For(J, n(size), "vector", (signed,), 16),))
    check(k, -np.abs(a) - 1, np.full(1, -np.inf, dtype.numpy))


def test_what_a_scale_is_divided_by_is_divided_once() -> None:
    """A quotient of scalars is made before the vectors that it multiplies."""
    x, y, s, scale = buffer("x", 64), buffer("y", 64), buffer("s", 1), Var("scale", t.f32)
    lanes = For(J, n(64), "vector", (Store(y, (J,), x[J] * (1.0 / scale)),), 16)
    k = Kernel("scaled", (x, s, y), ("y",), (), (Let(scale, s[n(0)]), lanes))
    check(k, np.ones(64, np.float32), np.full(1, 3, np.float32), np.zeros(64, np.float32))
    text = kernel_function(k, k.dims, "k0_", Target.host(), {})
    assert text.index("fdiv") < text.index("loop")
