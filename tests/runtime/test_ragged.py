"""Ragged rows: each is what it is alone, bit by bit, and nothing beside the pieces is written."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planish as pl
from planish.frontend.tensor import apply
from planish.ir import types as t
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.ops.leaf import input_
from planish.ir.types import TensorType
from planish.passes.pipelines import FAST
from planish.runtime.interpret import run_plan
from planish.runtime.lower import lower
from planish.runtime.target import Target

ROWS, HEADS, GROUPS, KEYS, WIDTH = 4, 4, 2, 40, 8
MOST = 60  # queries


def attend(q, k, v, offset, ends=None):
    given = {"causal": True, "scale": 0.3}
    if ends is None:
        return apply("attention", q, k, v, offset, **given)
    return apply("attention", q, k, v, offset, ends, ragged=True, **given)


@cache
def programs(threads: int) -> tuple:
    """Ragged rows together, and one row."""
    q = pl.spec((1, HEADS, pl.Dim("N", max=MOST), WIDTH))
    caches, ints = pl.spec((ROWS, GROUPS, KEYS, WIDTH)), pl.spec((ROWS,), "i32")
    one = pl.spec((1, GROUPS, KEYS, WIDTH))
    return (
        pl.compile(attend, q, caches, caches, ints, ints, threads=threads),
        pl.compile(attend, q, one, one, pl.spec((1,), "i32"), threads=threads),
    )


@given(st.lists(st.integers(0, 15), min_size=ROWS, max_size=ROWS), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_attention_of_each_row_is_that_of_the_row_alone(sizes: list[int], seed: int) -> None:
    sizes[-1] += not sum(sizes)
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((1, HEADS, sum(sizes), WIDTH)).astype(np.float32)
    k, v = rng.standard_normal((2, ROWS, GROUPS, KEYS, WIDTH)).astype(np.float32)
    offset = np.array([rng.integers(0, KEYS - n + 1) for n in sizes], np.int32)
    ends = np.cumsum(sizes).astype(np.int32)
    found = [programs(threads)[0](q, k, v, offset, ends) for threads in (1, 2)]
    np.testing.assert_array_equal(*found)
    for row, (end, n) in enumerate(zip(ends, sizes, strict=True)):
        if n:
            mine = slice(row, row + 1)
            own = programs(1)[1](q[:, :, end - n : end].copy(), k[mine], v[mine], offset[mine])
            np.testing.assert_array_equal(found[0][:, :, end - n : end], own)


def arrays_of(dtype: t.DType, sizes: tuple[int, ...], width: int = WIDTH) -> tuple[Graph, list]:
    """A ragged attention of so many queries in each row, and arrays for it."""
    rng, rows = np.random.default_rng(len(sizes)), len(sizes)
    shapes = {
        "q": (1, HEADS, sum(sizes), width),
        "k": (rows, GROUPS, KEYS, width),
        "v": (rows, GROUPS, KEYS, width),
    }
    leaves = [input_(name=n, type=TensorType(dtype, s)) for n, s in shapes.items()]
    leaves += [input_(name=n, type=TensorType(t.i32, (rows,))) for n in ("offset", "ends")]
    arrays = [rng.standard_normal(s).astype(dtype.numpy) for s in shapes.values()]
    offset = rng.integers(0, KEYS - max(sizes) + 1, rows).astype(np.int32)
    made = OPS["attention"](*leaves, causal=True, ragged=True, time_first=True)
    return Graph("f", tuple(leaves), (made,)), [*arrays, offset, np.cumsum(sizes, dtype=np.int32)]


@pytest.mark.parametrize("sizes", [(1,), (3, 0, 9), (0, 0, 7, 0)])
@pytest.mark.parametrize("target", ["host", "x86-64-v2"])
def test_the_interpreter_agrees(sizes: tuple[int, ...], target: str) -> None:
    graph, arrays = arrays_of(t.f32, sizes)
    plan = lower(FAST.run(graph), Target.parse(target))
    np.testing.assert_allclose(run_plan(plan, *arrays)[0], evaluate(graph, *arrays)[0], 1e-5, 1e-5)


@pytest.mark.parametrize("sizes", [(35, 0, 3), (1, 33)])
def test_rows_on_a_matrix_unit(sizes: tuple[int, ...]) -> None:
    graph, arrays = arrays_of(t.bf16, sizes, width=32)
    plan = lower(FAST.run(graph), Target.parse("sapphirerapids"))
    assert any(x.kernel.name.startswith("attention") for x in plan.steps)
    found, wanted = (f(x, *arrays)[0] for f, x in ((run_plan, plan), (evaluate, graph)))
    np.testing.assert_allclose(found.astype(np.float32), wanted.astype(np.float32), 0.03, 0.02)


def update(x, new, starts, ends):
    return apply("update_rows", x, new, starts, ends, axis=2)


@cache
def writer(threads: int) -> pl.Program:
    x, new = pl.spec((3, 2, 6, 5)), pl.spec((1, 2, pl.Dim("N", max=9), 5))
    ints = pl.spec((3,), "i32")
    return pl.compile(pl.trace(update, x, new, ints, ints, donate={0: 0}), threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("starts", "ends"),
    [([0, 2, 5], [4, 8, 9]), ([6, 1, 6], [0, 5, 5]), ([0, 0, 0], [6, 6, 6])],
)
def test_pieces_are_written_in_place(threads: int, starts: list, ends: list) -> None:
    program = writer(threads)
    (step,) = program.plan.steps
    assert step.label.endswith("update_rows")
    rng, size = np.random.default_rng(0), max(ends)
    x = rng.standard_normal((3, 2, 6, 5)).astype(np.float32)
    new = rng.standard_normal((1, 2, size, 5)).astype(np.float32)
    wanted, first = x.copy(), 0
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        wanted[row, :, start : start + end - first] = new[0, :, first:end]
        first = end
    found = program(x, new, *(np.array(i, np.int32) for i in (starts, ends)))
    np.testing.assert_array_equal(x, wanted)
    assert np.shares_memory(found, x)


@pytest.mark.parametrize(
    ("starts", "ends", "message"),
    [
        ([0, 0, 0], [3, 2, 4], "end(: index)? -1 .*is outside 0 <= (end|index) < "),
        ([0, 0, 0], [-1, 2, 4], "end"),
        ([0, 0, 0], [1, 9, 4], "end"),
        ([0, 0, 6], [1, 2, 4], "axis 2 start"),
        ([-1, 0, 0], [1, 2, 4], "axis 2 start"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(starts: list, ends: list, message: str) -> None:
    x, new = np.zeros((3, 2, 6, 5), np.float32), np.ones((1, 2, 4, 5), np.float32)
    given = [np.array(i, np.int32) for i in (starts, ends)]
    graph = pl.trace(update, x, new, *given)
    for run in (lambda: writer(1)(x, new, *given), lambda: pl.interpret(graph, x, new, *given)):
        with pytest.raises(pl.TokenError, match=message):
            run()


def test_what_is_no_ragged_attention_is_refused() -> None:
    graph, _ = arrays_of(t.f32, (3, 2))
    q, k, v, offset, ends = graph.inputs
    op = OPS["attention"]
    two = input_(name="q", type=TensorType(t.f32, (2, *q.shape[1:])))
    short = input_(name="e", type=TensorType(t.i32, (1,)))
    with pytest.raises(pl.ShapeError, match=r"ragged queries lie in one row, \[1, H, N, D\]"):
        op(two, k, v, offset, ends, causal=True, ragged=True)
    with pytest.raises(pl.DTypeError, match="ends are integers, one for each of 2 rows, got i32"):
        op(q, k, v, offset, short, causal=True, ragged=True)
    with pytest.raises(pl.IRError, match="ragged rows take offsets and ends, one for each of 2"):
        op(q, k, v, offset, causal=True, ragged=True)
    with pytest.raises(pl.IRError, match="an offset has a meaning only with causal=True"):
        op(q, k, v, offset, ends, ragged=True)


def test_ragged_rows_have_no_gradient() -> None:
    def loss(q, k, v, offset, ends):
        return attend(q, k, v, offset, ends).sum()

    graph, _ = arrays_of(t.f32, (3, 2))
    with pytest.raises(pl.GradientError, match="ragged rows is for prompts"):
        pl.trace(pl.grad(loss), *(pl.spec(x.shape, x.dtype.name) for x in graph.inputs))
