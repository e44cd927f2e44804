"""Training with rounded weights: what it computes, and that it loses less when they are rounded."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import planish as pl
from planish.frontend.step import loss_graph
from planish.ir import types as t
from planish.ir.errors import ArtifactError
from planish.ir.evaluate import evaluate
from planish.passes.autodiff import Grad
from planish.passes.pipeline import Pipeline
from tests.frontend.small import CONTEXT, TOKENS, small_model, small_trainer

FOUR = "fake_quantize{bits=4}"


def test_gradients_are_those_of_the_rounded_weights() -> None:
    """As if the model had them: rounding itself lets gradients through."""
    model = small_model(embed_dim=64)
    name = "h.0.mlp.c_fc.weight"
    given = TOKENS[None, :CONTEXT], TOKENS[None, 1 : CONTEXT + 1]
    graph = Pipeline.parse(FOUR).run(loss_graph(model, 1, CONTEXT))
    loss, grad = evaluate(Grad((name,))(graph), *given)
    rounded = small_model(embed_dim=64)
    rounded.load_state_dict({n: nearest(n, x) for n, x in model.state_dict().items()})
    expected, wanted = evaluate(Grad((name,))(loss_graph(rounded, 1, CONTEXT)), *given)
    np.testing.assert_allclose(loss, expected, 1e-5)
    np.testing.assert_allclose(grad, wanted, 1e-4, 1e-6)
    assert not np.array_equal(rounded.h[0].mlp.c_fc.weight.array, model.h[0].mlp.c_fc.weight.array)


def nearest(name: str, x: np.ndarray) -> np.ndarray:
    """Four bits of the weights of layers, in groups of 64."""
    if x.ndim < 2 or not name.startswith("h."):
        return x
    groups = x.reshape(len(x), -1, 64)
    scale = (np.abs(groups).max(-1, keepdims=True) / 7).astype(t.bf16.numpy).astype(np.float32)
    return (np.clip(np.rint(groups / scale), -7, 7) * scale).reshape(x.shape).astype(np.float32)


def test_training_makes_up_for_rounding() -> None:
    """Rounded to the nearest of 4 bits, weights that were trained for it lose less than others."""
    text = pl.default_corpus()
    tokenizer = pl.CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    learnt, held = ids[:-8192], ids[-8192:]
    model = pl.TinyGPT(tokenizer.vocab_size, 64, 2, 4, 32, dropout=0.0)
    pl.Trainer(model, pl.optim.AdamW(lr=3e-3), batch=12).fit(learnt, 600, progress=False)
    found = {}
    for forward in ("", FOUR):
        tuned = copy.deepcopy(model)
        rates = pl.optim.cosine(1e-3, 1e-4, 0, 200)
        trainer = pl.Trainer(tuned, pl.optim.AdamW(), rates, batch=12, forward=forward)
        trainer.fit(learnt, 200, progress=False)
        found[forward] = pl.perplexity(tuned, held, pipeline="int4")
    assert found[FOUR] < 0.998 * found[""]
    assert found[FOUR] < 0.9 * pl.perplexity(model, held, pipeline="int4")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_backends_agree(accumulate: int) -> None:
    """Native code and the interpreter, whole steps and micro-batches: as far as the last bit of a
    weight, which may move the scale of its group by a bit of bf16."""
    losses = [
        small_trainer(
            small_model(embed_dim=64), backend=backend, forward=FOUR, accumulate=accumulate
        ).fit(TOKENS, 4, progress=False)
        for backend in ("native", "interpret")
    ]
    np.testing.assert_allclose(*losses, 5e-3)


def test_a_training_without_rounding_is_another(tmp_path) -> None:
    """A checkpoint says which passes ran before gradients; those of old say nothing."""
    one = small_trainer(forward="fake_quantize")
    one.fit(TOKENS, 1, progress=False)
    one.save(tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match="forward is fake_quantize in the file"):
        small_trainer().resume(tmp_path / "a.safetensors")
    again = small_trainer(forward="fake_quantize")
    again.resume(tmp_path / "a.safetensors")
    assert again.losses == one.losses


@pytest.mark.parametrize("forward", ["int8", "O2"])
def test_passes_without_gradients_are_named(forward: str) -> None:
    """And what works is said: a fused node, or a weight that went, is nobody's mistake."""
    with pytest.raises(pl.GradientError, match=r'forward="[a-z_,.]+" makes a graph') as found:
        small_trainer(forward=forward)
    assert 'such as "fake_quantize{bits=8}"' in str(found.value)
