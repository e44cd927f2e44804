"""The reference interpreter: arguments, symbolic sizes, width, errors, fused nodes."""

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import DataError, DTypeError, IRError, PlanishError, ShapeError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import Loc
from planish.ir.ops.base import const
from planish.ir.ops.elementwise import add, tanh
from planish.ir.ops.leaf import fused, get, input_, param, size_of
from planish.ir.types import TensorType


def arg(name, dtype, *shape):
    return input_(name=name, type=TensorType(dtype, shape))


def test_a_graph_runs_and_always_returns_a_tuple():
    x, b = arg("x", t.f32, 2, 3), arg("b", t.f32, 3)
    g = Graph("f", (x, b), (tanh(add(x, b)), x))
    xs, bs = np.ones((2, 3), np.float32), np.arange(3, dtype=np.float32)
    y, same = evaluate(g, xs, bs)
    np.testing.assert_array_equal(y, np.tanh(xs + bs))
    assert same is not xs and y.dtype == np.float32  # never the caller's own array


def test_symbolic_sizes_are_bound_from_the_arguments():
    length = Dim("T", max=8)
    x, y = arg("x", t.f32, length), arg("y", t.f32, length + 1)
    g = Graph("f", (x, y), (tanh(x), size_of(size=2 * length)))
    _, n = evaluate(g, np.zeros(3, np.float32), np.zeros(4, np.float32))
    assert n == 6 and n.dtype == np.int64
    with pytest.raises(ShapeError, match=r"%y: expected f32\[T\+1\], got \[3\]: T\+1 is 4"):
        evaluate(g, np.zeros(3, np.float32), np.zeros(3, np.float32))
    with pytest.raises(ShapeError, match="T is 9, its maximum is 8"):
        evaluate(g, np.zeros(9, np.float32), np.zeros(10, np.float32))


def test_a_wider_float_is_used_everywhere():
    x = arg("x", t.f32, 2)
    w = param(name="w", type=TensorType(t.f32, (2,)))
    g = Graph("f", (x,), (add(add(x, w), const(0.1, t.f32)),), {"w": np.ones(2, np.float32)})
    (y,) = evaluate(g, np.zeros(2), dtype="f64")
    assert y.dtype == np.float64 and (y == 1.1).all()
    with pytest.raises(DTypeError, match="floating-point"):
        evaluate(g, np.zeros(2), dtype="i32")


@pytest.mark.parametrize(
    ("arrays", "error", "text"),
    [
        ((), ShapeError, r"f takes 1 arguments \(%x: f32\[2\]\), got 0"),
        ((np.zeros(2),), DTypeError, r"%x: expected f32\[2\], got f64\[2\]; convert it"),
        ((np.zeros((2, 1), np.float32),), ShapeError, r"expected f32\[2\], got f32\[2, 1\]"),
        ((np.zeros(3, np.float32),), ShapeError, r"expected f32\[2\], got \[3\]"),
        ((None,), DTypeError, "got NoneType"),
        ((["a", "b"],), DTypeError, "got list"),
        (([1, 2j],), DTypeError, "complex"),
        (([[1.0], [1.0, 2.0]],), DTypeError, "inhomogeneous"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(arrays, error, text):
    x = arg("x", t.f32, 2)
    with pytest.raises(error, match=text):
        evaluate(Graph("f", (x,), (tanh(x),)), *arrays)


def test_python_numbers_and_odd_layouts_are_taken():
    x = arg("x", t.i32, 2)
    g = Graph("f", (x,), (add(x, x),))
    assert evaluate(g, [1, 2])[0].tolist() == [2, 4]
    assert evaluate(g, np.array([1, 2], ">i4"))[0].tolist() == [2, 4]
    assert evaluate(g, np.arange(4, dtype=np.int32)[::-2])[0].tolist() == [6, 2]
    with pytest.raises(DTypeError):
        evaluate(g, [2**40, 0])
    with pytest.raises(DTypeError):
        evaluate(g, [1.5, 0.0])


def test_fused_nodes_run_their_body_and_get_takes_a_result():
    a = arg("a", t.f32, 2)
    body = Graph("two", (a,), (tanh(a), add(a, a)))
    x = arg("x", t.f32, 2)
    both = fused(x, body=body)
    seen = []
    g = Graph("f", (x,), (get(both, index=1), get(both, index=0)))
    double, y = evaluate(g, [1.0, 2.0], observe=lambda node, value: seen.append(node.op.name))
    assert double.tolist() == [2, 4] and y[0] == np.tanh(np.float32(1))
    assert seen == ["input", "input", "tanh", "add", "fused", "get", "get"]


def test_errors_in_an_op_carry_the_line_and_the_source():
    w = param(name="w", type=TensorType(t.f32, (2,)))
    x = arg("x", t.f32, 2)
    g = Graph("f", (x,), (add(x, w.at(Loc("model.py", 41))),))
    with pytest.raises(DataError, match="param 'w' has no array") as info:
        evaluate(g, [1.0, 2.0])
    assert any("model.py:41" in note for note in info.value.__notes__)


def test_an_input_outside_the_signature_is_refused():
    x, stray = arg("x", t.f32, 2), arg("stray", t.f32, 2)
    with pytest.raises(IRError, match="%stray is not in the graph's signature"):
        evaluate(Graph("f", (x,), (add(x, stray),)), [1.0, 2.0])


def test_deep_chains_and_diamonds_are_walked_once():
    x = arg("x", t.f32, 1)
    y = x
    for _ in range(5000):
        y = add(y, y)  # 2**5000 paths
    assert np.isinf(evaluate(Graph("f", (x,), (y,)), [1.0])[0][0])
    assert issubclass(ShapeError, PlanishError)
