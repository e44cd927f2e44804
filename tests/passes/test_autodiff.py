"""Autodiff: against finite differences, at any depth, and what it refuses."""

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import GradientError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Loc, Node
from planish.ir.parse import parse
from planish.ir.types import TensorType
from planish.ir.verify import verify
from planish.passes.autodiff import grad, vjp
from planish.passes.example import example_arrays, with_example_params
from tests.golden import check_gradients


def arg(name: str, *shape: int, dtype: t.DType = t.f32) -> Node:
    return OPS["input"](name=name, type=TensorType(dtype, shape))


def op(name: str, *xs: object, **attrs: object) -> Node:
    return OPS[name](*xs, **attrs)


BLOCK = """graph block(%x: f32[2, 3, 8], %t: i32[2, 3]) {
  %wq = param : f32[8, 8]
  %wk = param : f32[8, 8]
  %wo = param : f32[8, 5]
  %g = param : f32[8]
  %b = param : f32[8]
  %0 = layer_norm(%x, %g, %b, eps=1e-05) : f32[2, 3, 8]
  %1 = matmul(%0, %wq) : f32[2, 3, 8]
  %2 = reshape(%1, shape=(2, 3, 2, 4)) : f32[2, 3, 2, 4]
  %3 = transpose(%2, perm=(0, 2, 1, 3)) : f32[2, 2, 3, 4]
  %4 = matmul(%0, %wk) : f32[2, 3, 8]
  %5 = reshape(%4, shape=(2, 3, 2, 4)) : f32[2, 3, 2, 4]
  %6 = transpose(%5, perm=(0, 2, 1, 3)) : f32[2, 2, 3, 4]
  %7 = attention(%3, %6, %6, causal=True, scale=0.5) : f32[2, 2, 3, 4]
  %8 = transpose(%7, perm=(0, 2, 1, 3)) : f32[2, 3, 2, 4]
  %9 = reshape(%8, shape=(2, 3, 8)) : f32[2, 3, 8]
  %10 = add(%x, %9) : f32[2, 3, 8]
  %11 = gelu(%10, approximate="tanh") : f32[2, 3, 8]
  %12 = rms_norm(%11, %g, eps=1e-05) : f32[2, 3, 8]
  %13 = matmul(%12, %wo) : f32[2, 3, 5]
  %14 = cross_entropy(%13, %t, ignore_index=-100) : f32[]
  return %14
}"""


def test_gradients_of_a_transformer_block_against_finite_differences():
    graph = with_example_params(parse(BLOCK))
    wrt = ("x", *graph.params)
    check_gradients(graph, verify(grad(graph, wrt)), wrt)


def test_a_gradient_can_be_differentiated_again():
    x = arg("x", 3)
    cube = op("sum", op("mul", op("tanh", x), op("mul", x, x)))
    first = grad(Graph("f", (x,), (cube,)), ["x"])
    total = Graph("g", (x,), (op("sum", op("exp", first.outputs[1])),))
    check_gradients(total, grad(total, ["x"]), ("x",))


def test_the_gradient_of_attention_can_be_differentiated_again():
    q, k = arg("q", 1, 2, 3, 4), arg("k", 1, 1, 3, 4)
    y = op("attention", q, k, k, causal=True)
    first = grad(Graph("f", (q, k), (op("sum", op("mul", y, y)),)), ["q", "k"])
    assert any(node.op.name == "attention_grad" for node in first.nodes)
    slopes = (op("sum", op("tanh", x)) for x in first.outputs[1:])
    total = Graph("g", (q, k), (op("add", *slopes),))
    check_gradients(total, grad(total, ["q", "k"]), ("q", "k"))


def test_a_chain_of_5000_nodes_and_a_diamond_of_2_to_the_40_paths():
    x = arg("x", 2)
    y = x
    for _ in range(2500):
        y = op("mul", op("tanh", y), 1.5)
    graph = grad(Graph("chain", (x,), (op("sum", y),)), ["x"])
    assert len(graph.nodes) < 30_000
    y = x
    for _ in range(40):
        y = op("mul", op("add", y, y), 0.5)
    graph = grad(Graph("diamond", (x,), (op("sum", y),)), ["x"])
    assert len(graph.nodes) < 500
    _, dx = evaluate(graph, np.ones(2, np.float32))
    np.testing.assert_allclose(dx, np.ones(2), 1e-5)


def test_an_unused_param_and_an_unused_input_have_gradient_zero():
    x, y = arg("x", 3), arg("y", 2, 2)
    graph = Graph("f", (x, y), (op("sum", x),), {"w": np.ones((2, 3), np.float32)})
    _, dy, dw = evaluate(grad(graph, ["y", "w"]), np.ones(3, np.float32), np.ones((2, 2), "f4"))
    assert dy.shape == (2, 2) and dw.shape == (2, 3) and not dy.any() and not dw.any()


def test_the_chosen_output_is_differentiated_and_all_outputs_stay():
    x = arg("x", 3)
    graph = Graph("f", (x,), (op("exp", x), op("sum", op("mul", x, x))), treedef=("y", "loss"))
    found = grad(graph, ["x"], output=1)
    assert found.treedef == ("y", "loss", "grad.x") and found.outputs[:2] == graph.outputs
    _, _, dx = evaluate(found, np.arange(3, dtype=np.float32))
    np.testing.assert_allclose(dx, [0, 2, 4])


def test_vjp_takes_the_cotangent_as_an_argument():
    x, w = arg("x", 4, 3), arg("w", 3, 2)
    graph = vjp(Graph("f", (x, w), (op("matmul", x, w),)), ["w"])
    assert [i.attrs["name"] for i in graph.inputs] == ["x", "w", "cotangent"]
    xs, ws, dy = example_arrays(graph)
    _, dw = evaluate(graph, xs, ws, dy)
    np.testing.assert_allclose(dw, xs.T @ dy, 1e-5)


def test_gradient_nodes_keep_the_place_of_the_forward_node():
    x = arg("x", 3)
    here = Loc("model.py", 7, "forward", "h.0.mlp")
    y = op("tanh", x).at(here)
    graph = grad(Graph("f", (x,), (op("sum", y),)), ["x"])
    (dx,) = graph.outputs[1:]
    assert dx.loc == here and graph.inputs == (x,)


def refused(graph: Graph, wrt: list[str], **options: object) -> str:
    with pytest.raises(GradientError) as caught:
        grad(graph, wrt, **options)
    assert isinstance(caught.value, TypeError)
    return str(caught.value)


def test_refusals_say_what_to_do():
    x, i = arg("x", 4, 3), arg("i", 4, dtype=t.i32)
    loss = op("sum", x)
    assert refused(Graph("f", (x,), (op("exp", x),)), ["x"]) == (
        "gradient of a non-scalar f32[4, 3]; reduce it with sum or mean, or use vjp"
    )
    message = refused(Graph("f", (x, i), (loss,)), ["i"])
    assert message == ("gradient with respect to i, which is i32[4]: only floats have gradients")
    assert "gradient of i32[]" in refused(Graph("f", (i,), (op("sum", i),)), ["i"])
    assert "no input or param 'z' in f; try x" in refused(Graph("f", (x,), (loss,)), ["z"])
    assert "graph f has 1 outputs, no 3" in refused(Graph("f", (x,), (loss,)), ["x"], output=3)


def test_a_gradient_through_argmax_is_refused_with_the_line():
    x = arg("x", 4)
    best = op("argmax", x, axis=0).at(Loc("model.py", 88))
    graph = Graph("f", (x,), (op("cast", best, dtype=t.f32),))
    message = refused(graph, ["x"])
    assert message.startswith("no gradient for argmax (%0), which lies between the loss and %x: ")
    assert "give argmax a vjp or stop the gradient there" in message and "model.py:88" in message


def test_a_mask_and_a_stopped_gradient_are_zero_not_refused():
    x = arg("x", 4)
    masked = op("sum", op("mul", op("cast", op("gt", x, 0.0), dtype=t.f32), x))
    stopped = op("sum", op("stop_gradient", x))
    xs = np.array([-1, 2, -3, 4], np.float32)
    np.testing.assert_array_equal(
        evaluate(grad(Graph("f", (x,), (masked,)), ["x"]), xs)[1], [0, 1, 0, 1]
    )
    assert not evaluate(grad(Graph("f", (x,), (stopped,)), ["x"]), xs)[1].any()
