"""Static quantization: scales of activations from text."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend.quantize import forward
from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.types import TensorType
from planish.passes.calibrate import METHODS, Histogram, Samples, fallen, scale_by
from planish.passes.layers import Layers
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES, SMALL
from planish.passes.quantize import Quantize

RNG = np.random.default_rng(0)
CONTEXT = 24
INT8 = str(PIPELINES["int8"])
STATIC = INT8.replace("quantize", "quantize{mode=static}")
STATIC4 = INT8.replace("quantize", "quantize{bits=4,mode=static,group=32},quantize{mode=static}")


def dense(w: np.ndarray) -> Graph:
    """x @ w.T for a weight w [N, K]."""
    x = OPS["input"](name="x", type=TensorType(t.f32, (3, w.shape[1])))
    weight = OPS["param"](name="fc.weight", type=TensorType(t.f32, w.shape))
    y = OPS["matmul"](x, OPS["transpose"](weight, perm=(1, 0)))
    return Graph("f", (x,), (y,), {"fc.weight": w})


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return pl.TinyGPT(
        vocab_size=65, embed_dim=64, num_layers=2, num_heads=4, max_seq_len=CONTEXT, dropout=0.0
    )


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    return RNG.integers(0, 65, 20 * CONTEXT).astype(np.int32)


def seen(*arrays: np.ndarray) -> Histogram:
    found = Histogram()
    for x in arrays:
        found.add(x)
    return found


def test_what_the_methods_choose() -> None:
    """minmax keeps an outlier whole; the others give it up for the steps of all the rest."""
    calm = normal(200_000)
    found = seen(calm, np.float32([-1e4]))
    assert scale_by("minmax", found) == np.float32(1e4 / 127)
    assert scale_by("percentile", seen(calm)) * 127 == pytest.approx(3.9, abs=0.3)
    few = seen(calm, np.float32([20.0]))
    for method in ("percentile", "mse", "entropy"):
        assert 2.5 < scale_by(method, few) * 127 < 10, method


def test_mse_has_the_least_error_of_all() -> None:
    x = np.float32(RNG.standard_t(3, 100_000))
    found = seen(x)

    def error(scale: float) -> float:
        return float(np.square(np.clip(np.rint(x / scale), -127, 127) * scale - x).mean())

    errors = {method: error(scale_by(method, found)) for method in METHODS}
    assert errors["mse"] <= min(errors.values()) * 1.02


def test_a_histogram_grows() -> None:
    """Doubling the range keeps every count."""
    parts = [normal(1000) * np.float32(s) for s in (1e-3, 1.0, 50.0)]
    found = seen(*parts)
    assert found.counts.sum() == 3000 and found.largest == max(np.abs(x).max() for x in parts)
    assert found.width * len(found.counts) >= found.largest


@pytest.mark.parametrize("method", METHODS)
def test_zeros_have_a_scale_of_1(method: str) -> None:
    assert scale_by(method, seen(np.zeros(9, np.float32))) == 1.0
    assert scale_by(method, seen(np.zeros((0, 4), np.float32))) == 1.0


def test_nan_in_an_activation_is_refused() -> None:
    with pytest.raises(DataError, match="calibration met NaN or infinity"):
        seen(np.float32([1, np.nan]))


@pytest.mark.parametrize("bits", [8, 4])
def test_row_37_no_calibration_is_refused(bits: int) -> None:
    """BAD_INPUT 37."""
    with pytest.raises(DataError, match=r"no calibration for fc\.weight.*mode=dynamic needs none"):
        pl.quantize(dense(normal(4, 64)), mode="static", bits=bits)
    with pytest.raises(DataError, match="at least one batch"):
        pl.quantize(dense(normal(4, 64)), mode="static", bits=bits, tokens=Samples(()))


def test_options_are_checked(model: pl.TinyGPT) -> None:
    """BAD_INPUT 24."""
    with pytest.raises(DataError, match=r"quantize: unknown option 'bit'; did you mean 'bits'\? .*"
                       "known: bits, mode, .*tokens, threads$"):  # fmt: skip
        pl.quantize(model, bit=8)
    with pytest.raises(DataError, match=r"prune: unknown option 'token'; did you mean 'tokens'\? .*"
                       "known: ratio, .*heads, channels, layers$"):  # fmt: skip
        pl.prune(model, 0.5, token=[1])
    with pytest.raises(DataError, match=r"method is one of minmax, .*, got 'max'"):
        Quantize(mode="static", method="max")


def test_a_text_shorter_than_the_context_is_refused(model: pl.TinyGPT) -> None:
    short = np.zeros(CONTEXT - 1, np.int32)
    with pytest.raises(DataError, match=r"text has 23 tokens; a context of 24 needs as many"):
        pl.quantize(model, mode="static", tokens=short)


@pytest.mark.parametrize("bits, near", [(8, 0.03), (4, 0.3)])
def test_numbers_of_a_static_product(bits: int, near: float) -> None:
    """One scale for all rows, a constant of the graph; rows of zeros stay zeros."""
    w, x = normal(8, 64), normal(3, 64)
    w[1], x[2] = 0, 0
    graph = dense(w)
    after = pl.quantize(graph, mode="static", bits=bits, tokens=Samples(((x,),)))
    assert not [n for n in after.nodes if n.op.name == "max"]
    (y,), (want,) = evaluate(after, x), evaluate(graph, x)
    assert np.abs(y - want).max() < near * np.abs(want).max()
    assert not y[2].any() and not y[:, 1].any()


@pytest.mark.parametrize("recipe", [STATIC, STATIC4])
def test_a_bound_pipeline_fits_all_graphs_of_a_model(
    model: pl.TinyGPT, text: np.ndarray, recipe: str
) -> None:
    bound = pl.calibrate(model, recipe, text)
    tokens = text[:CONTEXT].reshape(1, -1)
    exact, small = (
        pl.compile(model, pl.spec(tokens.shape, "i32"), pipeline=p)(tokens) for p in ("O2", bound)
    )
    assert np.abs(small - exact).max() < (0.3 if "bits" in recipe else 0.05) * np.abs(exact).max()
    found = [
        model.generate(text[:8], 12, temperature=0.0, pipeline=bound, use_cache=cached)
        for cached in (True, False)
    ]
    np.testing.assert_array_equal(*found)


def test_text_of_a_bound_pipeline(model: pl.TinyGPT, text: np.ndarray) -> None:
    """Another text makes another pipeline; what is parsed knows nothing, and says so."""
    one, two = (pl.calibrate(model, STATIC, x) for x in (text, text[: 2 * CONTEXT]))
    assert one != two and str(one) != str(two) and Pipeline.parse(STATIC) != one
    parsed = Pipeline.parse(str(one))
    assert str(parsed) == str(one) and parsed == one
    with pytest.raises(DataError, match="no calibration for"):
        parsed.run(pl.trace(model, pl.spec((1, 8), "i32")))


def test_a_quantized_graph_as_a_file(model: pl.TinyGPT, text: np.ndarray, tmp_path) -> None:
    tokens = text[: 2 * CONTEXT].reshape(2, -1)
    graph = pl.quantize(model, mode="static", bits=4, group=32, method="mse", tokens=text)
    pl.save_graph(graph, tmp_path / "small.safetensors")
    again = pl.load_graph(tmp_path / "small.safetensors")
    assert str(again) == str(graph)
    np.testing.assert_array_equal(pl.compile(again)(tokens), pl.compile(graph)(tokens))
    assert (tmp_path / "small.safetensors").stat().st_size < model.count_parameters()


def test_other_modes_need_no_text() -> None:
    graph = dense(normal(4, 64))
    bound = SMALL.calibrated(graph, Samples(()))
    assert bound == SMALL


def test_entropy_gives_way_where_it_would_clip_outliers() -> None:
    """A channel of 1e4: all others are in one bin. The report says that mse chose the scale."""
    x = np.random.default_rng(0).standard_normal((2000, 32)).astype(np.float32)
    plain, wide = Histogram(), Histogram()
    plain.add(x)
    x[:, 2] *= 1e4
    wide.add(x)
    assert scale_by("entropy", wide) == scale_by("mse", wide) and not fallen("mse", wide)
    assert fallen("entropy", wide) == "scale by mse: entropy would clip outliers"
    assert not fallen("entropy", plain) and scale_by("entropy", plain) != scale_by("mse", plain)
    tails = {n: seen(np.random.default_rng(0).standard_t(n, 100_000)) for n in (3, 4)}
    assert fallen("entropy", tails[3]) and not fallen("entropy", tails[4])
    model = pl.TinyGPT(19, 16, 1, 2, 8, dropout=0.0)
    gain = model.state_dict()["h.0.ln_1.weight"].copy()
    gain[2] = 1e4
    model.load_state_dict({**model.state_dict(), "h.0.ln_1.weight": gain})
    text = str(PIPELINES["int8"]).replace("quantize", "quantize{mode=static,method=entropy}")
    recipe = pl.calibrate(model, text, np.arange(64) % 19)
    layers = Layers()
    recipe.run(forward(model), (layers,))
    told = {x.name for x in layers.found if x.reason.endswith("entropy would clip outliers")}
    assert "h.0.attn.c_attn.weight" in told and "h.0.mlp.c_fc.weight" not in told
