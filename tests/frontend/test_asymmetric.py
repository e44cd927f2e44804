"""Activations with a zero of their own: smaller errors where they are one-sided, exact sums."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.ops.quantize import range_of
from planish.ir.types import TensorType
from planish.passes.calibrate import METHODS, Samples, Sides, range_by
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES
from planish.passes.quantize import Quantize

RNG = np.random.default_rng(0)
ASYMMETRIC = str(PIPELINES["int8"]).replace("quantize", "quantize{activations=asymmetric}")
SIZES = [(1, 1, 1), (1, 64, 33), (3, 7, 5), (9, 130, 17), (33, 260, 40)]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def after(name: str, x: np.ndarray) -> np.ndarray:
    return pl.interpret(lambda a: getattr(pl.nn.functional, name)(a), x)


def dense(w: np.ndarray, rows: int) -> Graph:
    """x @ w.T for a weight w [N, K]."""
    x = OPS["input"](name="x", type=TensorType(t.f32, (rows, w.shape[1])))
    weight = OPS["param"](name="fc.weight", type=TensorType(t.f32, w.shape))
    y = OPS["matmul"](x, OPS["transpose"](weight, perm=(1, 0)))
    return Graph("f", (x,), (y,), {"fc.weight": w})


def error(graph: Graph, x: np.ndarray, samples: Samples | None, **options: object) -> float:
    """The root of the mean square of what a product by integers is off, relative."""
    (exact,) = evaluate(graph, x, dtype="f64")
    (y,) = evaluate(pl.quantize(graph, tokens=samples, **options), x)
    return float(np.sqrt(np.square(y - exact).mean() / np.square(exact).mean()))


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize("name, gain", [("relu", 0.55), ("gelu", 0.6), ("tanh", 1.02)])
def test_the_error_is_smaller_where_values_are_on_one_side(
    mode: str, name: str, gain: float
) -> None:
    """Half as large after a ReLU, whose steps are half as wide; the weights are integers here."""
    w = RNG.integers(-127, 128, (48, 256)).astype(np.float32)
    w[:, 0] = 127
    x = after(name, 2 * normal(40, 256))
    graph, samples = dense(w, 40), Samples(((x,),)) if mode == "static" else None
    found = [
        error(graph, x, samples, mode=mode, activations=side)
        for side in ("symmetric", "asymmetric")
    ]
    assert 0.001 < found[1] < gain * found[0]


@pytest.mark.parametrize("method", METHODS)
def test_static_ranges(method: str) -> None:
    """The end that is far from 0 has most of the integers, whatever the method."""
    x, seen = after("gelu", normal(400, 256)), Sides()
    seen.add(x)
    scale, zero = range_by(method, seen)
    q = Quantize(mode="static", activations="asymmetric", method=method)
    assert -127 <= zero < -90 and zero == int(zero) and q.method == method
    kept = np.clip(np.rint(x / scale) + zero, -127, 127)
    assert np.square((kept - zero) * scale - x).mean() < 1e-3
    assert range_by(method, Sides()) == (1.0, -127.0)
    mirrored = Sides()
    mirrored.add(-x)
    assert range_by(method, mirrored) == pytest.approx((scale, -zero), rel=1e-6)


def test_static_ranges_refuse_nan() -> None:
    with pytest.raises(DataError, match="calibration met NaN or infinity"):
        Sides().add(np.float32([1, np.nan, -1]))


def test_extreme_rows() -> None:
    """Zeros stay zeros, one-sided rows and outliers use all integers, NaN stays in its row."""
    x = normal(7, 16)
    x[0], x[1], x[2], x[3, 5], x[4, 3] = 0, 3.0, -np.abs(x[2]), 1e4, np.nan
    given = OPS["input"](name="x", type=TensorType(t.f32, x.shape))
    scale, zero = range_of(given, 1)
    q = OPS["quantize"](given, scale, zero, dtype=t.i8)
    found, scales, zeros = evaluate(Graph("f", (given,), (q, scale, zero)), x)
    assert scales[0] == 1 and zeros[0] == -127 and (found[0] == -127).all()
    assert zeros[1] == -127 and (found[1] == 127).all() and zeros[2] == 127
    for row in (1, 2, 3, 5, 6):
        assert abs(found[row].astype(int)).max() == 127
        real = (found[row] - zeros[row]) * scales[row]
        assert np.abs(real - x[row]).max() <= 0.51 * scales[row]
    w = normal(4, 16)
    w[1] = 0
    for recipe in (ASYMMETRIC, "O2"):
        y = pl.compile(dense(w, 7), pipeline=recipe)(x)
        assert not y[0].any() and not y[[0, 1, 2, 3, 5, 6], 1].any()
        assert np.isnan(y[4]).all() and np.isfinite(y[[0, 1, 2, 3, 5, 6]]).all()


@pytest.mark.parametrize("m, k, n", SIZES)
@pytest.mark.parametrize("static", [False, True])
def test_sums_are_those_of_the_interpreter(m: int, k: int, n: int, static: bool) -> None:
    """Bit by bit, at any number of threads: integers, from which the zero's part is taken."""
    x = OPS["input"](name="x", type=TensorType(t.i8, (m, k)))
    shape = () if static else (m, 1)
    zero = OPS["input"](name="zero", type=TensorType(t.f32, shape))
    w = OPS["param"](name="w", type=TensorType(t.i8, (k, n)))
    one = OPS["broadcast"](OPS["const"](value=1, dtype=t.i8), shape=(1, k))
    sums = OPS["matmul"](x, w, out=t.i32)
    sums = sums - OPS["cast"](zero, dtype=t.i32) * OPS["matmul"](one, w, out=t.i32)
    arrays = [RNG.integers(-127, 128, s).astype(np.int8) for s in ((m, k), (k, n))]
    graph = Graph("f", (x, zero), (sums,), {"w": arrays[1]})
    given = arrays[0], RNG.integers(-127, 128, shape).astype(np.float32)
    exact = (arrays[0].astype(int) - given[1].astype(int)) @ arrays[1].astype(int)
    np.testing.assert_array_equal(pl.interpret(graph, *given), exact)
    for threads in (1, 2):
        y = pl.compile(graph, threads=threads)(*given)
        np.testing.assert_array_equal(y, exact)


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return pl.TinyGPT(65, 64, 2, 4, 24, dropout=0.0, seed=0)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_model(model: pl.TinyGPT, bits: int, mode: str) -> None:
    """Equal at 1 and 2 threads, near the interpreter and the model, no kernel more than without."""
    # of this text no number lies between two integers up to what libraries round differently
    text = np.random.default_rng(1).integers(0, 65, 8 * 24).astype(np.int32)
    tokens = text[:48].reshape(2, 24)
    options = f"activations=asymmetric,mode={mode}"
    recipe = str(PIPELINES[f"int{bits}"]).replace("quantize,", f"quantize{{{options}}},")
    recipe = recipe.replace("bits=4", f"bits=4,{options}")
    bound = pl.calibrate(model, recipe, text)
    programs = [
        pl.compile(model, pl.spec((2, 24), "i32"), pipeline=bound, threads=n) for n in (1, 2)
    ]
    one, two = (program(tokens) for program in programs)
    np.testing.assert_array_equal(one, two)
    graph = pl.trace(model, pl.spec((2, 24), "i32"))
    np.testing.assert_allclose(one, pl.interpret(bound.run(graph), tokens), 0, 1e-5)
    exact = pl.interpret(graph, tokens)
    assert np.abs(one - exact).max() < (0.3 if bits == 4 else 0.05) * np.abs(exact).max()
    assert Pipeline.parse(str(bound)) == bound


def test_options_are_checked() -> None:
    with pytest.raises(DataError, match="activations is symmetric or asymmetric, got 'both'"):
        Quantize(activations="both")
    with pytest.raises(DataError, match="mode=weights leaves activations as they are"):
        Quantize(mode="weights", activations="asymmetric")
    with pytest.raises(DataError, match="mode=static has no calibration for fc"):
        pl.quantize(dense(normal(4, 8), 2), mode="static", activations="asymmetric")
