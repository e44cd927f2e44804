"""Weights without their zeros as a pass: what it refuses, what it stores, what it reports."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.ops.sparse import bitmap_bytes, bitmap_of
from planish.passes.bf16 import Bf16
from planish.passes.bitmap import Bitmap
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import CLEAN, PIPELINES
from planish.passes.sparsity import Stored


def graph(ratio: float) -> pl.Graph:
    model = pl.TinyGPT(80, embed_dim=64, num_layers=1, num_heads=4, max_seq_len=80, dropout=0.0)
    return CLEAN.run(pl.trace(pl.prune(model, ratio), pl.spec((1, "T"), "i32")))


@pytest.mark.parametrize("saving", [-0.1, 1, np.nan, True, "x"])
def test_options_are_checked(saving: object) -> None:
    with pytest.raises(DataError, match="saving is a share of the bytes"):
        Bitmap(saving)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="skip='head' matches no weight of wte"):
        Bitmap(skip="head")(graph(0.5))
    with pytest.raises(DataError, match="bf16: skip='head' matches no weight of"):
        Bf16(skip="head")(graph(0.5))


@pytest.mark.parametrize("pipeline", ["bitmap", "quantize,cse,fold,bitmap", "bf16,fold,bitmap"])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9, 1.0])
def test_numbers_stay_and_bytes_are_as_said(pipeline: str, ratio: float) -> None:
    tokens, given, seen = np.arange(9, dtype=np.int32)[None], graph(ratio), Stored()
    before = Pipeline.parse(pipeline.removesuffix("bitmap").removesuffix(",")).run(given)
    after = Pipeline.parse(pipeline).run(given, observe=(seen,))
    np.testing.assert_array_equal(*(evaluate(g, tokens)[0] for g in (before, after)))
    assert {x.name for x in seen.found} == set(before.params)
    assert sum(x.bytes for x in seen.found) == sum(x.nbytes for x in after.params.values())
    assert sum(x.bytes_before for x in seen.found) == sum(x.nbytes for x in before.params.values())
    assert all(x.bytes <= x.bytes_before for x in seen.found)
    assert (sum(x.reason == "bitmap" for x in seen.found) >= 5) == (ratio > 0)


def test_the_report_says_why_a_weight_stays() -> None:
    seen = Stored()
    Pipeline.parse('prune{ratio=0.8,skip="*fc*"},bitmap{skip="wte*"}').run(
        graph(0), observe=(seen,)
    )
    found = {x.name: x for x in seen.found}
    assert found["wte.weight"].reason == "stays: its name matches 'wte*'"
    assert found["wpe.weight"].reason == "stays: 0% zeros save too little"
    assert found["h.0.mlp.c_fc.weight"].reason == "stays: 0% zeros save too little"
    assert found["h.0.mlp.c_fc.bias"].reason == "stays: it has 256 numbers, fewer than 4096"
    assert found["h.0.mlp.c_proj.weight"].reason == "bitmap"
    lines = str(seen).splitlines()
    assert lines[0].split()[:4] == ["layer", "shape", "dtype", "zeros"]
    assert len(lines) == len(seen.records()) + 2 and lines[-1].startswith("all ")


@pytest.mark.parametrize("size", [1, 63, 64, 65, 255, 256, 257, 5000])
@pytest.mark.parametrize("dtype", [np.int8, np.float32, np.float16])
def test_bytes_of_a_bitmap(size: int, dtype: type) -> None:
    rng = np.random.default_rng(size)
    x = np.where(rng.random(size) < 0.7, 0, rng.integers(-9, 9, size)).astype(dtype)
    assert bitmap_bytes(x) == sum(a.nbytes for a in bitmap_of(x))
    bound = 1.1 + 0.16 * size + (np.count_nonzero(x) + size / 64 + 1) * x.itemsize + 12
    assert bitmap_bytes(x) < bound


def test_the_pipelines_as_text() -> None:
    for name in ("sparse", "sparse_int8"):
        text = str(PIPELINES[name])
        assert ",bitmap," in text and Pipeline.parse(text) == PIPELINES[name]
    both = Pipeline.parse("prune{ratio=0.7}," + str(PIPELINES["sparse_int8"]))
    assert Pipeline.parse(str(both)) == both
