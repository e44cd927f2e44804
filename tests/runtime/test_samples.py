"""Every sample of every op, and its gradient, in native code against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import GradientError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.passes.autodiff import vjp
from planish.passes.expand import expand
from planish.runtime.lower import lower
from planish.runtime.program import Program
from planish.runtime.target import Target
from tests.sample import Sample
from tests.samples import SAMPLES


def graph_of(sample: Sample) -> Graph:
    """The graph of one call."""
    inputs = tuple(
        OPS["input"](name=f"x{i}", type=t.TensorType(t.dtype(x.dtype), x.shape))
        for i, x in enumerate(sample.args)
    )
    return Graph("one", inputs, (OPS[sample.op](*inputs, **sample.attrs),))


def native(graph: Graph, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The outputs of native code, without any optimisation."""
    found = Program(lower(expand(graph), Target.host()), threads=1)(*arrays)
    return found if isinstance(found, tuple) else (found,)


def agree(found: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> None:
    """Same dtype, shape and values."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    if t.dtype(found.dtype).is_float:
        found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_allclose(found, wanted, rtol, atol)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.id)
def test_native_code_agrees_with_the_interpreter(sample: Sample) -> None:
    graph = graph_of(sample)
    (found,) = native(graph, *sample.args)
    (wanted,) = evaluate(graph, *sample.args)
    agree(found, wanted, max(sample.rtol, 1e-6), max(sample.atol, 1e-7) if sample.rtol else 0.0)


def differentiable(sample: Sample) -> bool:
    """Whether there is a gradient in f32."""
    result = graph_of(sample).outputs[0].dtype
    floats = [x.dtype == np.float32 for x in sample.args if x.dtype.kind == "f"]
    plain = any(floats) and all(floats)
    return sample.grad and plain and result == t.f32 and OPS[sample.op].no_vjp is None


@pytest.mark.slow
@pytest.mark.parametrize("sample", [s for s in SAMPLES if differentiable(s)], ids=lambda s: s.id)
def test_native_gradients_agree_with_the_interpreter(sample: Sample) -> None:
    graph = graph_of(sample)
    names = [x.attrs["name"] for x in graph.inputs if x.dtype.is_float]
    try:
        backward = vjp(graph, names)
    except GradientError as error:
        pytest.skip(str(error).splitlines()[0])
    (y,) = evaluate(graph, *sample.args)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    wanted = evaluate(backward, *sample.args, dy)
    for got, expected in zip(native(backward, *sample.args, dy), wanted, strict=True):
        agree(got, expected, 1e-4, 1e-5)
