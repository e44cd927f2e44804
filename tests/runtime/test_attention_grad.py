"""Attention's backward kernel against the interpreter: around its blocks, at any thread count."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import planish as pl
import planish.nn.functional as F
from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import TargetError, UnsupportedError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.passes.autodiff import grad
from planish.passes.pipelines import PIPELINES
from planish.runtime.codegen.kernel import scratch_buffers
from planish.runtime.interpret import run_plan
from planish.runtime.kernels.attention_grad import QUERIES
from planish.runtime.lower import lower
from planish.runtime.program import Program
from planish.runtime.sizes import element_count
from planish.runtime.target import Target
from tests.runtime.native import need_other_code

RNG = np.random.default_rng(0)
KEY = np.array([5, 6], np.uint32)
# B, H, G, T, S, D, E
SIZES = [
    (1, 1, 1, 1, 1, 1, 1),
    (1, 2, 1, 1, 40, 16, 16),
    (2, 2, 2, 11, 11, 15, 17),
    (1, 4, 2, 12, 12, 16, 33),
    (2, 3, 1, 13, 13, 33, 31),
    (1, 2, 2, QUERIES, QUERIES, 64, 64),
    (1, 2, 1, QUERIES + 1, QUERIES + 1, 8, 48),
    (1, 1, 1, 2 * QUERIES + 7, 65, 32, 32),  # the first queries see nothing
    (1, 1, 1, 31, 130, 32, 80),
    (1, 1, 1, 300, 300, 64, 64),
]


def target_of(name: str) -> Target:
    target = Target.parse(name)
    try:
        target.require_host()
    except TargetError as error:
        pytest.skip(str(error))
    return target


def arrays_of(sizes: tuple[int, ...], dtype: object = np.float32) -> list[np.ndarray]:
    b, h, g, n, m, d, e = sizes
    shapes = ((b, h, n, d), (b, g, m, d), (b, g, m, e), (b, h, n, e))
    return [RNG.standard_normal(shape).astype(dtype) for shape in shapes]


def graph_of(arrays: list[np.ndarray], **attrs: object) -> Graph:
    types = (t.TensorType(t.dtype(x.dtype), x.shape) for x in arrays)
    inputs = tuple(OPS["input"](name=f"x{i}", type=x) for i, x in enumerate(types))
    return Graph("f", inputs, (OPS["attention_grad"](*inputs, **attrs),))


def native(graph: Graph, arrays: list[np.ndarray], target: Target, threads: int) -> np.ndarray:
    bound = Program(lower(graph, target), threads=threads).bind(*arrays)
    bound.run()
    return bound.outputs[0]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["host", "x86-64-v3"])
def test_sizes(sizes: tuple[int, ...], causal: bool, name: str) -> None:
    arrays, target = arrays_of(sizes), target_of(name)
    graph = graph_of(arrays, causal=causal, merged=sizes[3] == sizes[4])
    need_other_code(graph, target)
    (wanted,) = evaluate(graph, *arrays, dtype="f64")
    found = native(graph, arrays, target, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(native(graph, arrays, target, 2), found)


@pytest.mark.parametrize("offset", [-5, 0, 9, 100])
def test_offsets(offset: int) -> None:
    arrays = [*arrays_of((1, 2, 1, 20, 30, 16, 16)), np.array(offset, np.int32)]
    graph = graph_of(arrays, causal=True)
    (wanted,) = evaluate(graph, *arrays, dtype="f64")
    found = native(graph, arrays, Target.host(), 2)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [(2, 2, 1, 53, 53, 32, 32), (1, 2, 2, 2, 40, 16, 16)], ids=str)
def test_dropout_drops_the_same_weights_forward_and_backward(sizes: tuple[int, ...]) -> None:
    arrays = [*arrays_of(sizes)[:3], KEY]
    inputs = graph_of([*arrays_of(sizes)]).inputs[:3]
    key = OPS["input"](name="key", type=t.TensorType(t.u32, (2,)))
    y = OPS["attention"](*inputs, key, causal=True, dropout=0.3)
    graph = grad(Graph("f", (*inputs, key), (OPS["sum"](y * y),)), ["x0", "x1", "x2"])
    wanted = evaluate(graph, *arrays, dtype="f64")
    program = Program(lower(PIPELINES["train"].run(graph), Target.host()), threads=2)
    names = [step.label for step in program.plan.steps]
    assert sum("attention" in name for name in names) == 2 and len(names) < 7, names
    for x, y_ in zip(program(*arrays), wanted, strict=True):
        np.testing.assert_allclose(x, y_, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(ml_dtypes.bfloat16, 0.02), (np.float64, 1e-12)])
def test_other_floats(dtype: object, tolerance: float) -> None:
    arrays = arrays_of((1, 2, 1, 50, 50, 32, 48), dtype)
    graph = graph_of(arrays, causal=True, merged=True)
    (wanted,) = evaluate(graph, *arrays, dtype="f64")
    found = native(graph, arrays, Target.host(), 1)
    assert found.dtype == arrays[0].dtype
    np.testing.assert_allclose(found.astype(float), wanted, rtol=tolerance, atol=tolerance)


def test_the_loop_interpreter_agrees() -> None:
    arrays = [*arrays_of((1, 2, 1, 14, 14, 5, 6)), KEY]
    graph = graph_of(arrays, causal=True, merged=True, dropout=0.5)
    (wanted,) = evaluate(graph, *arrays)
    (found,) = run_plan(lower(graph, Target.host()), *arrays)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_fused_projection_is_written_where_it_is_read() -> None:
    def loss(qkv):
        b, n, _ = qkv.shape
        parts = (qkv[:, :, i * 16 : i * 16 + 16] for i in range(3))
        q, k, v = (x.reshape(b, n, 2, 8).transpose(0, 2, 1, 3) for x in parts)
        y = F.scaled_dot_product_attention(q, k, v, causal=True)
        return (y.transpose(0, 2, 1, 3).reshape(b, n, 16) ** 2).sum()

    x = RNG.standard_normal((2, 9, 48)).astype(np.float32)
    step = pl.compile(pl.grad(loss), x, pipeline="train")
    labels = [s.label for s in step.plan.steps]
    assert "attention_grad" in labels[-1] and not any("concat" in s for s in labels), labels
    wanted = pl.interpret(pl.grad(loss), x, dtype="f64")
    np.testing.assert_allclose(step(x), wanted, rtol=1e-4, atol=1e-5)


def test_scratch_grows_with_the_length_not_its_square() -> None:
    sizes = []
    for n in (1024, 2048):
        graph = graph_of(arrays_of((1, 1, 1, n, n, 16, 16)), causal=True, merged=True)
        (step,) = lower(graph, Target.host()).steps
        sizes.append(sum(element_count(b, {}) for b in scratch_buffers(step.kernel)))
    assert sizes[1] < 2.1 * sizes[0]


def test_widths_are_static() -> None:
    q = OPS["input"](name="q", type=t.TensorType(t.f32, (1, 1, 3, Dim("D", max=8))))
    graph = Graph("f", (q,), (OPS["attention_grad"](q, q, q, q, scale=1.0),))
    with pytest.raises(UnsupportedError, match="static widths, got D"):
        lower(graph, Target.host())
