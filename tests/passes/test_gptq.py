"""Rounding that makes its errors good: what it gains, what it leaves, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.types import TensorType
from planish.passes.calibrate import Samples
from planish.passes.gptq import Gptq, compensated
from planish.passes.layers import Layers
from planish.passes.pipeline import Pipeline
from planish.passes.quantize import Quantize

RNG = np.random.default_rng(0)


def related(rows: int, k: int) -> np.ndarray:
    """Activations of which a few directions make up the most, as in a network."""
    few = RNG.standard_normal((rows, 8)) @ RNG.standard_normal((8, k))
    return (few + 0.3 * RNG.standard_normal((rows, k))).astype(np.float32)


def dense(w: np.ndarray, rows: int) -> Graph:
    x = OPS["input"](name="x", type=TensorType(t.f32, (rows, w.shape[1])))
    weight = OPS["param"](name="fc.weight", type=TensorType(t.f32, w.shape))
    y = OPS["matmul"](x, OPS["transpose"](weight, perm=(1, 0)))
    return Graph("f", (x,), (y,), {"fc.weight": w})


@pytest.mark.parametrize("bits, group", [(4, 32), (4, 64), (8, 0)])
def test_products_are_nearer_than_by_rounding(bits: int, group: int) -> None:
    """Also on rows that were not looked at; and `quantize` loses nothing more."""
    w = RNG.standard_normal((24, 128)).astype(np.float32)
    w[3], w[5, :64] = 0, 0
    graph, x, new = dense(w, 256), related(256, 128), related(256, 128)
    rounding = Quantize(bits=bits, group=group, mode="weights")
    bound = Gptq(bits=bits, group=group).calibrate(graph, Samples(((x,),)))
    moved = bound(graph)
    (want,), (plain,), (better,), (grid,) = (
        evaluate(g, x, dtype="f64") for g in (graph, rounding(graph), rounding(moved), moved)
    )
    np.testing.assert_allclose(better, grid, 1e-4, 1e-4 * np.abs(want).max())
    assert np.square(better - want).mean() < 0.6 * np.square(plain - want).mean()
    assert not better[:, 3].any()
    assert np.isfinite(evaluate(moved, new)[0]).all()


def test_what_was_never_seen_is_rounded() -> None:
    """Without moments it is rounding to the nearest."""
    w = RNG.standard_normal((4, 64)).astype(np.float32)
    scale = (np.abs(w).max(1, keepdims=True) / 7).astype(t.bf16.numpy).astype(np.float32)
    found = compensated(w, np.zeros((64, 64)), 7, 64)
    np.testing.assert_allclose(found, np.clip(np.rint(w / scale), -7, 7) * scale, 0, 1e-6)


def test_no_calibration_is_refused() -> None:
    graph = dense(np.ones((4, 64), np.float32), 2)
    with pytest.raises(DataError, match=r"gptq: no calibration for fc\.weight"):
        Pipeline(Gptq()).run(graph)
    with pytest.raises(DataError, match=r"bits is 8 or 4, got 3"):
        Gptq(bits=3)


def test_a_weight_that_is_no_number_is_refused() -> None:
    graph = dense(np.full((4, 64), np.nan, np.float32), 2)
    with pytest.raises(DataError, match=r"fc\.weight has nan at \[0, 0\]"):
        Gptq().calibrate(graph, Samples(((np.ones((2, 64), np.float32),),)))


def test_the_report_says_what_is_rounded_to_nearest() -> None:
    """A weight that is read as it is stored: by its line, as is one that is moved."""
    x = OPS["input"](name="x", type=TensorType(t.f32, (2, 64)))
    w = {n: RNG.standard_normal((64, 64)).astype(np.float32) for n in ("a", "b")}
    a, b = (OPS["param"](name=n, type=TensorType(t.f32, (64, 64))) for n in w)
    y = OPS["matmul"](OPS["matmul"](x, OPS["transpose"](a, perm=(1, 0))), b)
    graph, seen = Graph("f", (x,), (y,), w), Layers()
    recipe = Pipeline(Gptq(), Quantize(bits=4))
    samples = Samples(((np.ones((2, 64), np.float32),),))
    recipe.calibrated(graph, samples).run(graph, (seen,))
    assert seen.by_name["a"].reason == "product; gptq"
    assert seen.by_name["b"].reason == (
        "product; rounded to nearest, not by gptq: it is not read transposed"
    )
