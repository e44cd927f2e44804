"""Outliers moved into weights: the same results, and better ones of integers."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend.quantize import forward
from planish.ir.errors import DataError, IRError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.parse import parse
from planish.passes.calibrate import Samples
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES, check_order
from planish.passes.smooth import Smooth, factor_of, places

RNG = np.random.default_rng(0)
INT8 = str(PIPELINES["int8"]).replace("quantize", "quantize{mode=static}")
TEXT = """graph f(%x: f32[32, 64]) {
  %g = param : f32[64]
  %b = param : f32[64]
  %0 = layer_norm(%x, %g, %b, eps=1e-05) : f32[32, 64]
  %w = param : f32[24, 64]
  %1 = transpose(%w, perm=(1, 0)) : f32[64, 24]
  %2 = matmul(%0, %1) : f32[32, 24]
  %v = param : f32[64, 24]
  %3 = matmul(%0, %v) : f32[32, 24]
  %4 = mul(%2, %3) : f32[32, 24]
  return %4
}"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture
def graph() -> Graph:
    """A channel of 1e4 and one of zeros, in norm and weights."""
    params = {"g": normal(64), "b": normal(64), "w": normal(24, 64), "v": normal(64, 24)}
    params["g"][5], params["w"][:, 5], params["v"][5] = 1e4, 1e-3, 1e-3
    params["g"][7] = params["b"][7] = 0
    params["w"][:, 9] = params["v"][9] = 0
    return parse(TEXT, params)


@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, 1.0])
def test_the_same_bits(graph: Graph, alpha: float) -> None:
    x = normal(32, 64)
    after = Smooth(alpha).calibrate(graph, Samples(((x,),)))(graph)
    assert str(after) == str(graph)
    assert all(np.any(after.params[n] != graph.params[n]) for n in graph.params)
    for n, array in after.params.items():
        assert np.isfinite(array).all(), n
    np.testing.assert_array_equal(*(evaluate(g, x)[0] for g in (graph, after)))


def test_an_outlier_costs_static_scales_less(graph: Graph) -> None:
    """Of 1e4 in one channel: one scale for all leaves nothing of the others."""
    samples, x = Samples(((normal(32, 64),),)), normal(32, 64)
    (want,) = evaluate(graph, x, dtype="f64")
    errors = []
    for text in ("expand,quantize{mode=static}", "smooth,expand,quantize{mode=static}"):
        after = Pipeline.parse(text).calibrated(graph, samples).run(graph)
        errors.append(np.abs(evaluate(after, x)[0] - want).mean() / np.abs(want).mean())
    assert errors[1] < 0.1 < 0.5 < errors[0]


def test_factors() -> None:
    """Nearest powers of 2; 1 where there is nothing."""
    x, w = np.float32([16, 1e4, 0, 3, np.inf]), np.float32([1, 1e-4, 1, 0, 1])
    np.testing.assert_array_equal(factor_of(x, w, 0.5), [4, 8192, 1, 1, 1])
    np.testing.assert_array_equal(factor_of(x, w, 1.0)[:2], [16, 8192])


@pytest.mark.parametrize("options", [{}, {"norm": "rms", "mlp": "swiglu", "positions": "rope"}])
def test_a_model(options: dict) -> None:
    """All graphs of a model, by one bound pipeline; tied heads keep their table and its norm."""
    model = pl.TinyGPT(65, 64, 2, 4, 24, dropout=0.0, **options)
    text = RNG.integers(0, 65, 480).astype(np.int32)
    found = places(forward(model))
    assert len(found) == 4 and all("wte.weight" not in x.read for x in found)
    bound = pl.calibrate(model, f"smooth,{INT8}", text)
    check_order("smooth", bound)
    assert Pipeline.parse(str(bound)) == bound and Pipeline.parse(f"smooth,{INT8}") != bound
    ids = text[:24].reshape(1, -1)
    exact, one, two = (
        pl.compile(forward(model), pipeline=p, threads=n)(ids)
        for p, n in (("O2", 2), (bound, 1), (bound, 2))
    )
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - exact).max() < 0.05 * np.abs(exact).max()
    tokens = [
        model.generate(text[:8], 10, temperature=0.0, pipeline=bound, use_cache=cached)
        for cached in (True, False)
    ]
    np.testing.assert_array_equal(*tokens)


def test_refusals(graph: Graph) -> None:
    with pytest.raises(DataError, match=r"smooth: no calibration for g; pl\.calibrate takes"):
        Pipeline.parse("smooth").run(graph)
    for alpha in (-0.1, 1.5, float("nan"), True, "0.5"):
        with pytest.raises(DataError, match="alpha is a number between 0 and 1, got"):
            Smooth(alpha)  # type: ignore[arg-type]
    bad = parse(TEXT, {**graph.params, "w": np.full((24, 64), np.nan, np.float32)})
    with pytest.raises(DataError, match=r"smooth: w has nan at \[0, 0\]"):
        Smooth().calibrate(bad, Samples(((normal(32, 64),),)))
    with pytest.raises(IRError, match="smooth must run before expand"):
        check_order("late", Pipeline.parse("fold,expand,smooth,quantize,cse,fold"))
