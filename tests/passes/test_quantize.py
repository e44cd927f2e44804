"""Quantization as a pass: what it refuses, what it reports, and extreme weights."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.types import TensorType
from planish.passes.layers import BOTH, Layers, layers
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import CLEAN, PIPELINES, SMALL
from planish.passes.quantize import Quantize

RNG = np.random.default_rng(0)


def dense(w: np.ndarray, rows: int = 3) -> Graph:
    """x @ w.T for a weight w [N, K]."""
    x = OPS["input"](name="x", type=TensorType(t.f32, (rows, w.shape[1])))
    weight = OPS["param"](name="fc.weight", type=TensorType(t.f32, w.shape))
    y = OPS["matmul"](x, OPS["transpose"](weight, perm=(1, 0)))
    return Graph("f", (x,), (y,), {"fc.weight": w})


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_row_37_a_weight_that_is_no_number_is_refused_by_name(bad: float) -> None:
    """BAD_INPUT 37."""
    w = normal(4, 6)
    w[1, 2] = bad
    with pytest.raises(DataError, match=r"fc\.weight has -?(nan|inf) at \[1, 2\].*skip='fc"):
        Quantize()(dense(w))
    Quantize(skip="fc")(dense(w))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bits": 7}, "bits is 8 or 4, got 7"),
        ({"bits": True}, "bits is 8 or 4, got True"),
        ({"bits": 4, "group": 48}, "group is one of 32, 64, 128, got 48"),
        ({"group": 64}, "groups are for bits=4, got bits=8 and group=64"),
        ({"bits": 4, "per_channel": False}, "4 bits have scales in groups, not one for all"),
        ({"mode": "fast"}, "mode is one of dynamic, static, weights, got 'fast'"),
    ],
)
def test_row_24_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Quantize(**options)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(DataError, match=r"skip='lm_head' matches no weight of fc\.weight"):
        Quantize(skip="lm_head")(dense(normal(4, 6)))


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_row_37_rows_and_channels_of_zeros_have_a_scale_of_1(mode: str) -> None:
    """BAD_INPUT 37: no 0 / 0."""
    w, x = normal(4, 6), normal(3, 6)
    w[1], x[2] = 0, 0
    graph = dense(w)
    passes = PIPELINES["int8"].passes
    others = passes[[str(Pipeline(x)) for x in passes].index("quantize") + 1 :]
    after = Pipeline(Quantize(mode=mode), *others).run(graph)
    scale = next(a for name, a in after.params.items() if a.dtype == np.float32)
    assert scale[1] == 1 and np.isfinite(scale).all()
    (y,), (want,) = evaluate(after, x), evaluate(graph, x)
    np.testing.assert_allclose(y, want, 0, 0.1)
    assert not y[2].any() and not y[:, 1].any()


def test_an_outlier_costs_its_own_row_and_channel_only() -> None:
    """One of 1e4 in a weight and in an activation: the other rows and channels do not notice."""
    w, x = normal(8, 64), normal(5, 64)
    calm = evaluate(Quantize()(dense(w, 5)), x)[0]
    w[3, 7], x[2, 9] = 1e4, 1e4
    wild, exact = evaluate(Quantize()(dense(w, 5)), x)[0], x @ w.T
    others = np.ix_([0, 1, 3, 4], [0, 1, 2, 4, 5, 6, 7])
    np.testing.assert_array_equal(wild[others], calm[others])
    # of the outlier's own channel at most half a step of its scale is lost in each product
    steps = 1e4 / 127
    assert np.abs(wild - exact)[0, 3] < steps * np.abs(x[0]).sum()


def test_nan_in_an_activation_stays_in_its_row() -> None:
    x = normal(3, 6)
    x[1, 0] = np.nan
    (y,) = evaluate(Quantize()(dense(normal(4, 6))), x)
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()


def model() -> pl.TinyGPT:
    return pl.TinyGPT(
        vocab_size=65, embed_dim=48, num_layers=2, num_heads=4, max_seq_len=24, dropout=0.0, seed=0
    )


def test_the_report_has_every_weight_with_its_reason() -> None:
    graph = CLEAN.run(pl.trace(model(), pl.spec((1, "T"), "i32")))
    found = {x.name: x for x in layers(graph, Quantize(skip="h.1.mlp*"))}
    assert set(found) == set(graph.params)
    assert found["wte.weight"].reason == BOTH
    assert found["wpe.weight"].reason == "rows" and found["wpe.weight"].bytes == 24 * 48 + 24 * 4
    assert found["h.0.mlp.c_fc.weight"].granularity == "channel"
    assert 35 < found["h.0.mlp.c_fc.weight"].sqnr < 50
    assert found["h.1.mlp.c_fc.weight"].reason == "stays: its name matches 'h.1.mlp*'"
    assert found["h.1.mlp.c_fc.weight"].kept and found["h.1.mlp.c_fc.weight"].bits == 32
    assert found["ln_f.weight"].reason == "stays: it has 1 axes, not 2"


def test_the_report_as_an_observer() -> None:
    seen = Layers()
    PIPELINES["int8"].run(pl.trace(model(), pl.spec((1, "T"), "i32")), observe=(seen,))
    lines = str(seen).splitlines()
    matrices = [x for x in seen.found if len(x.shape) == 2]
    assert len(seen.found) == len(seen.records()) and len(matrices) == len(lines) - 3
    assert lines[-2].startswith(f"{len(seen.found) - len(matrices)} others ")
    assert lines[0].split()[:3] == ["layer", "shape", "bits"] and lines[-1].startswith("all ")
    one = next(line for line in lines if line.startswith("h.0.attn.c_attn.weight")).split()
    assert one[1:4] == ["144x48", "8", "channel"] and one[-1] == "product"


def test_channels_are_better_than_one_scale() -> None:
    w = normal(8, 64) * np.float32(10) ** np.arange(-4, 4, dtype=np.float32)[:, None]
    assert layers(dense(w), Quantize(per_channel=False))[0].granularity == "tensor"
    x = normal(3, 64)
    want = (x @ w.T)[:, 0]
    errors = [
        np.abs(evaluate(Quantize(per_channel=c)(dense(w)), x)[0][:, 0] - want).max()
        for c in (True, False)
    ]
    assert errors[0] < 0.05 * np.abs(want).max() < errors[1]


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_four_bits_in_groups(mode: str, group: int) -> None:
    """Each weight is off by at most half a step of its group, a 7th of its largest as bf16."""
    w, x = normal(6, 128), normal(3, 128)
    w[2, :group], x[1] = 0, 0
    w[4, 5] = 1e4  # an outlier costs its own group only
    graph = dense(w)
    after = Pipeline(Quantize(bits=4, group=group, mode=mode), *SMALL.passes[1:]).run(graph)
    (q,) = (a for a in after.params.values() if a.dtype == t.i4.numpy)
    (scale,) = (a for a in after.params.values() if a.dtype == t.bf16.numpy)
    assert q.shape == (6, 128 // group, group) and scale.shape == (6, 128 // group, 1)
    assert scale[2, 0] == 1 and not q[2, 0].astype(np.int8).any()
    steps = np.abs(w).reshape(q.shape).max(-1) / 7
    bound = np.abs(x) @ np.repeat(steps, group, 1).T / 2
    if mode == "dynamic":  # half a step of each row of x
        bound += np.abs(x).max(1, keepdims=True) / 254 * np.abs(w).sum(1) * 1.2
    (y,), (want,) = evaluate(after, x), evaluate(graph, x)
    assert (np.abs(y - want) <= bound * 1.01 + 1e-5).all() and not y[1].any()


def test_what_four_bits_leave() -> None:
    """Tables, for the next pass; and what its groups do not divide. All of it is reported."""
    graph = CLEAN.run(pl.trace(model(), pl.spec((1, "T"), "i32")))
    found = {x.name: x for x in layers(graph, Quantize(bits=4, group=32))}
    table, wide = found["wte.weight"], found["h.0.mlp.c_proj.weight"]
    assert table.kept
    assert table.reason == "stays: rows of it are read, for which 4 bits are too coarse"
    assert found["h.0.attn.c_attn.weight"].reason == "stays: groups of 32 do not divide 48"
    assert (wide.bits, wide.granularity) == (4, "group of 32")
    assert wide.bytes == 48 * 192 // 2 + 48 * 6 * 2
    seen = Layers()
    PIPELINES["int4"].run(graph, observe=(seen,))
    bits = {x.name: x.bits for x in seen.found}
    assert set(bits) == set(graph.params)
    assert bits["wte.weight"] == 8 and bits["h.0.mlp.c_proj.weight"] == 4


def test_the_pipeline_as_text() -> None:
    text = str(PIPELINES["int8"])
    assert ",quantize,cse,fold," in text and Pipeline.parse(text) == PIPELINES["int8"]
    options = Quantize(mode="weights", per_channel=False, skip="lm_head")
    assert Pipeline.parse(str(Pipeline(options))).passes == (options,)
    options = Quantize(bits=4, group=32)
    assert str(Pipeline(options)) == "quantize{bits=4,group=32}"
    assert Pipeline.parse(str(Pipeline(options))).passes == (options,)
    assert Pipeline.parse('quantize{bits=8,skip="lm_head"}').passes == (Quantize(skip="lm_head"),)


def test_what_is_quantized_already_is_refused() -> None:
    """With what it is; nor are the scales of rows taken for a table."""
    model = pl.TinyGPT(19, 64, 1, 2, 16, dropout=0.0)
    for bits, kinds in ((8, "i8"), (4, "i8 already.*it is i4")):
        graph = pl.quantize(model, bits=bits)
        assert Quantize().chosen(graph) == set()
        with pytest.raises(DataError, match=f"quantize: nothing to change: .* it is {kinds} alre"):
            pl.quantize(graph)
    with pytest.raises(DataError, match="select and 1 more stay: it holds the scales of another"):
        pl.quantize(graph, bits=4)
