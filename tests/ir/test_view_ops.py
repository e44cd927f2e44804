"""Views of symbolic shapes, segments of a reshape, and what views refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import AxisError, PlanishError, ShapeError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.loops import Scalar, Var, walk
from planish.ir.node import OPS, Node
from planish.ir.ops.elementwise import add, mul
from planish.ir.ops.reduction import max_, mean, sum_
from planish.ir.ops.view import (
    broadcast,
    flip,
    reshape,
    reshape_index,
    segments,
    slice_,
    transpose,
)  # fmt: skip
from planish.ir.types import TensorType
from planish.passes.autodiff import vjp
from tests.ir.pull import run_loops

B, T = Dim("B", max=4), Dim("T", max=8)


def given(*shape: Any, dtype: t.DType = t.f32, name: str = "x") -> Node:
    """An input."""
    return OPS["input"](name=name, type=TensorType(dtype, shape))


def ops_in(index: tuple) -> set[str]:
    """The scalar operations in an index."""
    return {x.op for i in index for x in walk((i,)) if isinstance(x, Scalar)}


SYMBOLIC = [
    (given(B, T, 6), lambda x: reshape(x, shape=(B, T, 2, 3))),
    (given(B, T, 6), lambda x: reshape(x, shape=(B * T, 6))),
    (given(B, T, 6), lambda x: reshape(x, shape=(-1, 3))),
    (given(B, T), lambda x: reshape(x, shape=(1, T * B))),
    (given(B, T, 2, 3), lambda x: reshape(x, shape=(B, 2, T, 3))),
    (given(B, T, 4), lambda x: transpose(x, perm=(1, 2, 0))),
    (given(T, 1), lambda x: broadcast(x, shape=(B, T, 3))),
    (given(B, T), lambda x: flip(x, axes=(1,))),
    (given(B, T, 3), lambda x: slice_(x, starts=(0, T - 1, 0), stops=(B, T, 3))),
    (given(T, 3), lambda x: slice_(x, starts=(T - 1, 0), stops=(-1, 2), steps=(-1, 1))),
    (given(T + 1), lambda x: slice_(x, starts=(1,), stops=(T + 1,))),
    (given(2 * T, 2), lambda x: slice_(x, starts=(0, 0), stops=(2 * T, 2), steps=(2, 1))),
    (given(2 * T, 2), lambda x: slice_(x, starts=(1, 0), stops=(2 * T, 2), steps=(2, 1))),
    (given(3 * T, 2), lambda x: slice_(x, starts=(1, 0), stops=(3 * T, 2), steps=(3, 1))),
]


def bound(x: Node, make: Any) -> Graph:
    """A graph that knows B and T from inputs of their own."""
    return Graph("g", (given(B, name="b"), given(T, name="t"), x), (make(x),))


@pytest.mark.parametrize("number", range(len(SYMBOLIC)))
@pytest.mark.parametrize("sizes", [{"B": 1, "T": 1}, {"B": 3, "T": 5}], ids=str)
def test_symbolic_views(number: int, sizes: dict[str, int]) -> None:
    x, make = SYMBOLIC[number]
    graph = bound(x, make)
    shape = [s if isinstance(s, int) else _value(s, sizes) for s in x.shape]
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    arrays = [np.zeros(sizes["B"], np.float32), np.zeros(sizes["T"], np.float32), array]
    (wanted,) = evaluate(graph, *arrays)
    found = run_loops(graph.outputs[0], [array], sizes, wanted.shape)
    np.testing.assert_array_equal(found, wanted)
    dy = np.arange(wanted.size, dtype=np.float32).reshape(wanted.shape) + 1
    dx = evaluate(vjp(graph, ["x"]), *arrays, dy)[1]
    np.testing.assert_allclose((dx * array).sum(), (dy * wanted).sum())  # a view is linear


@pytest.mark.parametrize("name", ["mean", "var", "logsumexp", "max", "sum"])
def test_statistics_over_a_symbolic_axis(name: str) -> None:
    x = given(B, T)
    attrs = {"correction": 1} if name == "var" else {}
    node = OPS[name](x, axes=(1,), **attrs)
    expanded = node.op.expand(x, **node.attrs) if node.op.kind == "composite" else node
    graph, meant = Graph("g", (x,), (node,)), Graph("g", (x,), (expanded,))
    array = np.random.default_rng(0).random((3, 5)).astype(np.float32)
    fixed = given(3, 5)
    (wanted,) = evaluate(Graph("g", (fixed,), (OPS[name](fixed, axes=(1,), **attrs),)), array)
    for found in (*evaluate(graph, array), *evaluate(meant, array)):
        np.testing.assert_allclose(found, wanted, 1e-6)


def test_random_bits_of_a_symbolic_shape() -> None:
    key, x = given(2, dtype=t.u32, name="key"), given(B, T)
    node = OPS["random_bits"](key, shape=(T, B, 2))
    array = np.array([1, 2], np.uint32)
    (wanted,) = evaluate(Graph("g", (key, x), (node,)), array, np.zeros((3, 5), np.float32))
    found = run_loops(node, [array], {"B": 3, "T": 5}, (5, 3, 2))
    np.testing.assert_array_equal(found, wanted)


def _value(size: Any, sizes: dict[str, int]) -> int:
    return sum(c * int(np.prod([sizes[s.name] for s in m])) for m, c in size.terms)


@pytest.mark.parametrize(
    ("ins", "outs", "wanted"),
    [
        ((2, 3, 4), (6, 2, 2), [([0, 1], [0]), ([2], [1, 2])]),
        ((B, T, 6), (B, T, 2, 3), [([0], [0]), ([1], [1]), ([2], [2, 3])]),
        ((B, T, 6), (B * T, 6), [([0, 1], [0]), ([2], [1])]),
        ((1, 5), (5, 1, 1), [([1], [0])]),
        ((4, 6), (3, 8), [([0, 1], [0, 1])]),
        ((1, 1), (), []),
    ],
)
def test_segments(ins: tuple, outs: tuple, wanted: list) -> None:
    assert segments(ins, outs) == wanted


def test_a_reshape_divides_only_where_axes_split() -> None:
    index = tuple(Var(f"i{n}") for n in range(4))
    assert reshape_index(index[:3], (B, 12), (B, 3, 4))[0] is index[0]
    assert ops_in(reshape_index(index[:3], (B, 12), (B, 3, 4))) == {"add", "mul"}
    assert ops_in(reshape_index(index[:2], (B, 3, 4), (B, 12))) == {"floor_div", "mod"}
    assert reshape_index(index[:4], (B, T, 4), (B, 1, T, 4)) == (index[0], index[2], index[3])


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: reshape(given(2, 3), shape=(4, 2)), ShapeError, r"6 elements, shape \[4, 2\] has 8"),
    (lambda: reshape(given(2, 3), shape=(-1, -1)), ShapeError, "two -1"),
    (lambda: reshape(given(2, 3), shape=(-1, 4)), ShapeError, "6 is not a multiple of 4"),
    (lambda: reshape(given(0, 3), shape=(-1, 0)), ShapeError, "size of 0"),
    (lambda: reshape(given(T, 3), shape=(-1, 0)), ShapeError, "size of 0"),
    (lambda: reshape(given(T, 3), shape=(-1, 2)), ShapeError, "3\\*T is not a multiple of 2"),
    (lambda: reshape(given(2, 3), shape=(-2, -3)), ShapeError, "negative"),
    (lambda: reshape(given(2), shape=(True, 2)), ShapeError, "not a size"),
    (lambda: transpose(given(2, 3), perm=(0, 2)), AxisError, "axis 2 is outside"),
    (lambda: transpose(given(2, 3), perm=(0, 0)), AxisError, "no permutation"),
    (lambda: broadcast(given(2, 3), shape=(2, 4)), ShapeError, "3 != 4"),
    (lambda: broadcast(given(2, 3), shape=(3,)), ShapeError, "does not stretch"),
    (lambda: broadcast(given(1), shape=(2**40, 2**40)), ShapeError, "more than can be addressed"),
    (lambda: add(given(2, 3), given(2, 4)), ShapeError, r"\[2, 3\], \[2, 4\] do not broadcast"),
    (lambda: sum_(given(2, 3), axes=(2,)), IndexError, "axis 2 is outside an array of 2 axes"),
    (lambda: sum_(given(2, 3), axes=(0, -2)), AxisError, "name an axis twice"),
    (lambda: max_(given(0, 3), axes=(0,)), ShapeError, "no elements along axis 0"),
    (lambda: flip(given(2), axes=(1,)), AxisError, "axis 1 is outside"),
    (lambda: slice_(given(4), starts=(0,), stops=(5,)), IndexError, "axis 0 of size 4"),
    (lambda: slice_(given(4), starts=(3,), stops=(1,)), AxisError, "3:1:1"),
    (lambda: slice_(given(4), starts=(-1,), stops=(4,)), AxisError, "-1:4:1"),
    (lambda: slice_(given(4), starts=(0,), stops=(4,), steps=(0,)), PlanishError, "step 0"),
    (lambda: slice_(given(T), starts=(0,), stops=(4,)), AxisError, "axis 0 of size T"),
    (lambda: slice_(given(T), starts=(0,), stops=(T,), steps=(2,)), ShapeError, "multiple of 2"),
    (lambda: mul(given(2, dtype=t.u8), 256), TypeError, "256 is outside u8, 0 to 255"),
    (lambda: add(given(2, dtype=t.boolean), given(2, dtype=t.boolean)), TypeError, "bool"),
    (lambda: mean(given(2, dtype=t.i64), axes=(0,), keep=1), PlanishError, "True or False"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals(number: int) -> None:
    call, kind, text = REFUSED[number]
    with pytest.raises(kind, match=text) as caught:
        call()
    assert isinstance(caught.value, PlanishError)


def test_a_slice_reads_what_python_reads() -> None:
    """Every slice of a small axis, as `slice.indices` states it, with its gradient."""
    array = np.arange(5, dtype=np.float32)
    x = given(5)
    for start in range(-6, 7):
        for stop in range(-6, 7):
            for step in (-3, -2, -1, 1, 2, 3):
                a, b, c = slice(start, stop, step).indices(5)
                b = b if (b - a) * c > 0 else a
                graph = Graph("g", (x,), (slice_(x, starts=(a,), stops=(b,), steps=(c,)),))
                (found,) = evaluate(graph, array)
                np.testing.assert_array_equal(found, array[start:stop:step])
                dx = evaluate(vjp(graph, ["x"]), array, np.ones_like(found))[1]
                wanted = np.zeros(5, np.float32)
                wanted[start:stop:step] = 1
                np.testing.assert_array_equal(dx, wanted)
