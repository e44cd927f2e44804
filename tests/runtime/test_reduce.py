"""Sums over many rows in two steps: rows around a block, by the loop interpreter and natively."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp
from planish.ir.evaluate import evaluate
from planish.runtime.interpret import run_plan
from planish.runtime.kernels import reduce
from planish.runtime.plan import Plan

RNG = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def checked(function: Callable, *arrays: np.ndarray) -> Plan:
    """The interpreter and native code agree with `ref`; threads leave the same bits."""
    graph = pl.trace(function, *arrays)
    one, two = (pl.compile(graph, threads=n).bind(*arrays) for n in (1, 2))
    one.run()
    two.run()
    interpreted = run_plan(one.program.plan, *arrays)
    given = zip(one.outputs, two.outputs, interpreted, evaluate(graph, *arrays), strict=True)
    for found, same, slow, want in given:
        np.testing.assert_array_equal(found, same)
        np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-4)
        np.testing.assert_allclose(slow, want, rtol=2e-5, atol=2e-4)
    return one.program.plan


def parts(plan: Plan) -> int:
    return sum(step.label.endswith("parts") for step in plan.steps)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "LARGE", 1)
    monkeypatch.setattr(reduce, "ROWS", 4)


@pytest.mark.parametrize("rows", [5, 7, 8, 9, 16])
@pytest.mark.parametrize("columns", [1, 15, 16, 17, 70])
@pytest.mark.usefixtures("small")
def test_columns(rows: int, columns: int) -> None:
    plan = checked(lambda x: (x.sum(0) * 2.0,), values(rows, columns))
    assert columns == 1 or parts(plan) == 1


@pytest.mark.usefixtures("small")
def test_two_sums_of_rows_with_two_axes() -> None:
    """As the gradients of a norm's weights are."""
    x, y = values(3, 5, 33), values(3, 5, 33)
    plan = checked(lambda x, y: ((x * y).sum((0, 1)), y.sum((0, 1))), x, y)
    assert (parts(plan), len(plan.steps)) == (1, 2)


@pytest.mark.parametrize("shape", [(9, 5), (5, 40), (2, 4, 33)])
@pytest.mark.usefixtures("small")
def test_all_elements(shape: tuple[int, ...]) -> None:
    plan = checked(lambda x: (pnp.sqrt((x * x).sum()),), values(*shape))
    assert parts(plan) == 1


@pytest.mark.usefixtures("small")
def test_kept_axes() -> None:
    plan = checked(lambda x: (x.sum((0, 1), keepdims=True),), values(5, 20, 17))
    assert parts(plan) == 1


@pytest.mark.usefixtures("small")
def test_parts_of_parts() -> None:
    """100 rows are 25 parts, 7 and 2."""
    assert parts(checked(lambda x: (x.sum((0, 1)),), values(5, 20, 17))) == 3


def test_small_ones_and_others_take_one_step() -> None:
    few, wide, high = values(32, 2048), values(64, 256), values(64, 1024)
    assert not parts(checked(lambda x: (x.sum(0),), few))
    assert not parts(checked(lambda x: (x.sum(0),), wide))
    assert not parts(checked(lambda x: (x.max(0),), high))
    assert parts(checked(lambda x: (x.sum(0),), high)) == 1
