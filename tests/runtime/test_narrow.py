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
from planish.ir.errors import TargetError
from planish.runtime.target import Target

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
