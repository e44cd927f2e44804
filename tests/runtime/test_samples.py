"""Every sample of every op, and its gradient, in native code against the interpreter.

Many samples share one program: a compilation for each would take most of the suite's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

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

TOGETHER = 16  # samples in one program


@dataclass(frozen=True)
class Call:
    """A graph on arrays, and how far native code may be off."""

    sample: Sample
    graph: Graph
    arrays: tuple[np.ndarray, ...]
    rtol: float
    atol: float


def graph_of(sample: Sample) -> Graph:
    """The graph of one call."""
    inputs = tuple(
        OPS["input"](name=f"x{i}", type=t.TensorType(t.dtype(x.dtype), x.shape))
        for i, x in enumerate(sample.args)
    )
    return Graph("one", inputs, (OPS[sample.op](*inputs, **sample.attrs),))


def forward(sample: Sample) -> Call:
    """The sample itself."""
    atol = max(sample.atol, 1e-7) if sample.rtol else 0.0
    return Call(sample, graph_of(sample), sample.args, max(sample.rtol, 1e-6), atol)


def backward(sample: Sample) -> Call | None:
    """Its gradient in f32; None where there is none."""
    graph = graph_of(sample)
    floats = [x for x in graph.inputs if x.dtype.is_float]
    if not sample.grad or OPS[sample.op].no_vjp or graph.outputs[0].dtype != t.f32:
        return None
    if not floats or any(x.dtype != t.f32 for x in floats):
        return None
    try:
        found = vjp(graph, [x.attrs["name"] for x in floats])
    except GradientError:
        return None
    (y,) = evaluate(graph, *sample.args)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    return Call(sample, found, (*sample.args, dy), 1e-4, 1e-5)


def check(calls: Sequence[Call]) -> None:
    """One program without any optimisation agrees with the interpreter on all calls."""
    inputs = tuple(chain.from_iterable(call.graph.inputs for call in calls))
    outputs = tuple(chain.from_iterable(call.graph.outputs for call in calls))
    program = Program(lower(expand(Graph("many", inputs, outputs)), Target.host()), threads=1)
    bound = program.bind(*chain.from_iterable(call.arrays for call in calls))
    bound.run()
    results = iter(bound.outputs)
    for call in calls:
        wanted = evaluate(call.graph, *call.arrays)
        for x, y in zip(islice(results, len(wanted)), wanted, strict=True):
            assert x.dtype == y.dtype and x.shape == y.shape, call.sample.id
            if t.dtype(x.dtype).is_float:
                x, y = x.astype(np.float64), y.astype(np.float64)
            np.testing.assert_allclose(x, y, call.rtol, call.atol, err_msg=call.sample.id)


@pytest.mark.parametrize("start", range(0, len(SAMPLES), TOGETHER))
def test_native_code_agrees_with_the_interpreter(start: int) -> None:
    check([forward(sample) for sample in SAMPLES[start : start + TOGETHER]])


@pytest.mark.parametrize("start", range(0, len(SAMPLES), TOGETHER))
def test_native_gradients_agree_with_the_interpreter(start: int) -> None:
    calls = map(backward, SAMPLES[start : start + TOGETHER])
    check([call for call in calls if call is not None])
