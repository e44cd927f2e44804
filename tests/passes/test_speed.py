"""Weights that fewer bits would make slower stay: by times that are given, so all is certain."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend.quantize import forward, with_faster
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.passes.calibrate import Samples
from planish.passes.layers import Layers
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import CLEAN, PIPELINES
from planish.passes.quantize import Quantize
from planish.passes.reports import reports
from planish.passes.speed import Clock, Speed

FC, PROJ = "h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight"


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return pl.TinyGPT(65, 64, 2, 4, 24, dropout=0.0, seed=0)


class Fake:
    """A clock on which layers of so many outputs are slower with a prompt, all others faster."""

    def __init__(self, outputs: int) -> None:
        self.outputs, self.calls = outputs, []

    def __call__(self, before: Graph, after: Graph) -> tuple[float, float]:
        (y,) = before.outputs
        assert {x.dtype.name for x in after.nodes} > {"i8", "i32"} or "i4" in str(after)
        self.calls.append(tuple(y.shape))
        late = y.shape == (24, self.outputs)
        return 1e-4, 2e-4 if late else 5e-5


def bound(model: pl.TinyGPT, recipe: Pipeline, outputs: int = 256) -> Pipeline:
    samples = Samples((), clock=Clock(Fake(outputs), 24))
    return recipe.calibrated(forward(model), samples)


@pytest.mark.parametrize("rule", ["prefill", "both"])
def test_what_would_be_slower_stays(model: pl.TinyGPT, rule: str) -> None:
    """Those with 256 outputs, the first of each MLP; the report has times, all others change."""
    recipe = bound(model, with_faster(PIPELINES["int8"], rule))
    seen = Layers()
    recipe.run(forward(model), (seen,))
    assert [x.name for x in seen.found if x.reason.startswith("stays: 8 bits")] == [
        FC, FC.replace("0", "1")
    ]  # fmt: skip
    kept, done = seen.by_name[FC], seen.by_name[PROJ]
    assert kept.bits == 32 and kept.bytes == kept.bytes_before == 4 * 64 * 256
    assert kept.reason == "stays: 8 bits would be slower: prefill 100 > 200 us"
    assert kept.speed == Speed((1e-4, 5e-5), (1e-4, 2e-4))
    assert done.bits == 8 and done.speed == Speed((1e-4, 5e-5), (1e-4, 5e-5))
    assert seen.by_name["wpe.weight"].speed is None
    head, *lines, _ = str(seen).splitlines()
    assert "decode us" in head and "prefill us" in head
    assert "100 > 50.0" in next(x for x in lines if x.startswith(FC))


def test_the_recipe_as_text_needs_no_clock(model: pl.TinyGPT) -> None:
    """What was decided is an option; the same text makes the same graph."""
    recipe = bound(model, with_faster(PIPELINES["int8"], "both"))
    assert 'quantize{slower="h.*.mlp.c_fc"}' in str(recipe)
    again = Pipeline.parse(str(recipe))
    assert again == recipe and again.calibrated(forward(model), Samples(())) == recipe
    assert str(again.run(forward(model))) == str(recipe.run(forward(model)))
    seen = Layers()
    again.run(forward(model), (seen,))
    assert seen.by_name[FC].reason == (
        "stays: 8 bits would be slower: so says the option slower"
    )  # fmt: skip
    assert bound(model, with_faster(PIPELINES["int8"], "decode")) == PIPELINES["int8"]


def test_equal_layers_are_timed_once(model: pl.TinyGPT) -> None:
    clock = Fake(0)
    Quantize().timed(CLEAN.run(forward(model)), Clock(clock, 24))
    outputs = [64, 65, 192, 256, 64]  # of attention and MLP, two layers each, and the head
    assert sorted(clock.calls) == sorted((rows, n) for n in outputs for rows in (1, 24))


def test_what_is_slower_in_4_bits_may_be_faster_in_8(model: pl.TinyGPT) -> None:
    """Each pass has its own times; the report of the second says why it was not the first."""

    def seconds(before: Graph, after: Graph) -> tuple[float, float]:
        late = "i4" in str(after) and before.outputs[0].shape[-1] == 192
        return 1e-4, 3e-4 if late else 1e-5

    recipe = with_faster(PIPELINES["int4"], "decode")
    recipe = recipe.calibrated(forward(model), Samples((), clock=Clock(seconds, 24)))
    seen = Layers()
    recipe.run(forward(model), (seen,))
    found = seen.by_name["h.1.attn.c_attn.weight"]
    assert found.bits == 8 and seen.by_name[FC].bits == 4
    why = "4 bits would be slower: decode 100 > 300 us and prefill 100 > 300 us"
    assert found.reason == f"product; not fewer bits: {why}"


def test_a_report_has_times_without_a_rule(model: pl.TinyGPT) -> None:
    report = reports(forward(model), PIPELINES["int8"], Clock(Fake(256), 24)).layers
    products = {x.name for x in report.found if x.bits == 8} - {"wpe.weight"}
    assert {x.name for x in report.found if x.speed} == products
    assert report.by_name[FC].bits == 8  # nobody asked to keep it
    assert report.by_name[FC].reason.endswith("product; slower: prefill 100 > 200 us")
    assert "slower" not in report.by_name[PROJ].reason
    lines = str(report).splitlines()
    assert sum("others" in x for x in lines) == 1 and not any("ln_f" in x for x in lines)
    record = next(x for x in report.records() if x["name"] == FC)
    assert record["speed"] == {"decode": (1e-4, 5e-5), "prefill": (1e-4, 2e-4)}
    assert reports(forward(model), PIPELINES["O2"], Clock(Fake(0), 24)).layers.found == []


def test_static_scales_are_found_for_what_is_left(model: pl.TinyGPT) -> None:
    recipe = Pipeline.parse(
        str(PIPELINES["int8"]).replace("quantize", "quantize{mode=static,faster=both}")
    )
    tokens = np.random.default_rng(0).integers(0, 65, (1, 24)).astype(np.int32)
    samples = Samples(((tokens,),), clock=Clock(Fake(256), 24))
    recipe = recipe.calibrated(forward(model), samples)
    step = next(x for x in recipe.passes if isinstance(x, Quantize))
    assert FC not in step.scales and PROJ in step.scales and step.calibration
    recipe.run(forward(model))


@pytest.mark.parametrize("rule, slow", [("decode", (1.02, 9)), ("prefill", (9, 1.02))])
def test_noise_is_not_slower(rule: str, slow: tuple[float, float]) -> None:
    speed = Speed((1.0, slow[0]), (1.0, slow[1]))
    assert speed.slower(rule) == [] and len(speed.slower("both")) == 1


def test_refusals(model: pl.TinyGPT) -> None:
    with pytest.raises(DataError, match="faster is one of decode, prefill, both, got 'always'"):
        Quantize(faster="always")
    recipe = with_faster(PIPELINES["int8"], "both")
    with pytest.raises(DataError, match=r"faster=both has no times to go by; pl\.quantize and"):
        recipe.run(forward(model))
    with pytest.raises(DataError, match="faster=both takes samples with a clock"):
        recipe.calibrated(forward(model), Samples(()))
    with pytest.raises(DataError, match=r"slower='head' matches no weight of wte\.weight"):
        Pipeline.parse("quantize{slower=head}").run(forward(model))
