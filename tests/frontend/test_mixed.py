"""Training in bf16 and float32 beside training in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planish.frontend.optim import SGD, AdamW
from planish.ir import types as t
from planish.passes.pipelines import pipeline
from planish.runtime.lower import lower
from planish.runtime.target import Target
from tests.frontend.small import TOKENS, same_state, small_model, small_trainer

STEPS = 10


def wider(**options):
    """A trainer of a model that is wide enough for errors to average out."""
    model = small_model(embed_dim=48, num_layers=2, dropout=options.pop("dropout", 0.0))
    options.setdefault("optimizer", AdamW(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1))
    return small_trainer(model, **options)


def test_losses_and_masters(tmp_path: Path) -> None:
    """Losses as in float64; state in f32; saved and resumed at other threads, the same bits."""
    path = tmp_path / "training.safetensors"
    native = wider(backend="native", pipeline="train_bf16", threads=2)
    double = wider(dtype="f64")
    native.fit(TOKENS, 4)
    native.save(path)
    native.fit(TOKENS, STEPS - 4)
    double.fit(TOKENS, STEPS)
    np.testing.assert_allclose(native.losses, double.losses, rtol=5e-3)
    assert native.losses != pytest.approx(double.losses, rel=1e-6)  # it is not float32
    assert all(native.arrays[x].dtype == np.float32 for x in (*native.trained, *native.state_names))
    resumed = wider(backend="native", pipeline="train_bf16", threads=1)
    resumed.resume(path)
    resumed.fit(TOKENS, STEPS - 4)
    assert same_state(resumed, native)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradients(dropout: float) -> None:
    """Of each weight within a few hundredths: bf16 has 8 digits, and dozens of numbers average."""
    found = []
    for options in ({"backend": "native", "pipeline": "train_bf16"}, {"dtype": "f64"}):
        trainer = wider(optimizer=SGD(lr=1.0), clip=None, dropout=dropout, **options)
        before = {name: trainer.arrays[name].copy() for name in trainer.trained}
        trainer.fit(TOKENS, 1)
        found.append({name: before[name] - trainer.arrays[name] for name in before})
    for name, want in found[1].items():
        error = np.linalg.norm(found[0][name] - want)
        assert error < 0.03 * np.linalg.norm(want) + 1e-7, name


def test_what_is_stored_as_bf16() -> None:
    """Few kernels more than in f32, and far fewer bytes from the forward to the backward pass."""
    graph = wider(backend="native").graph
    plans = [lower(pipeline(p).run(graph), Target.parse("znver4")) for p in ("train", "train_bf16")]
    steps = [[s for s in p.steps if not s.label.endswith((" pack", " rows"))] for p in plans]
    assert len(steps[1]) <= len(steps[0]) + 2  # each layer's gradient of attention is rounded
    wide = [x.type for x in plans[1].temps if "c_fc" in x.name and x.type.dtype == t.f32]
    hidden = [x for x in wide if x.shape == (3, 6, 192)]
    assert len(hidden) == 2  # the slope of each layer's activation; its value and gradient are bf16
