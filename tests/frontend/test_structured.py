"""Heads, channels and layers that go: what is left computes what it did before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.quantize import forward
from planish.frontend.structured import pieces
from planish.ir.errors import DataError
from planish.passes.calibrate import Samples
from planish.passes.shrink import gradients

KINDS = {
    "gpt2": {},
    "llama": {
        "positions": "rope",
        "norm": "rms",
        "mlp": "swiglu",
        "num_kv_heads": 2,
        "bias": False,
    },
}
TOKENS = np.random.default_rng(1).integers(0, 40, 70)


def model(kind: str = "gpt2", **options: object) -> pl.TinyGPT:
    """Of four heads and 32 channels."""
    sizes = {"embed_dim": 16, "num_layers": 3, "num_heads": 4, "max_seq_len": 24, "hidden_dim": 32}
    return pl.TinyGPT(40, **{**sizes, "dropout": 0.0, **KINDS[kind], **options})  # type: ignore


def logits(of: pl.TinyGPT) -> np.ndarray:
    return pl.compile(of, pl.spec((2, 24), "i32"))(TOKENS[:48].reshape(2, 24).astype(np.int32))


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_weights_goes_without_loss(kind: str) -> None:
    """Heads, channels and a layer whose outputs are 0 are found, and the logits stay."""
    given = model(kind)
    state = {n: x.copy() for n, x in given.state_dict().items()}
    for i in range(3):
        state[f"h.{i}.attn.c_proj.weight"][:, 8:] = 0  # heads 2 and 3, which share keys in llama
        state[f"h.{i}.mlp.c_proj.weight"][:, [1, *range(9, 24)]] = 0
        state[f"h.{i}.attn.c_attn.weight"][8:16] = 0
        for name in (f"h.{i}.mlp.c_fc.weight", f"h.{i}.mlp.c_gate.weight"):
            if name in state:
                state[name][[1, *range(9, 24)]] = 0
    for name in state:
        if name.startswith("h.1.") and "c_" in name:
            state[name][...] = 0
    given.load_state_dict(state)
    small = pl.prune(given, heads=0.5, channels=0.5, layers=0.34)
    assert (small.config["num_heads"], small.config["head_dim"]) == (2, 4)
    assert (small.config["hidden_dim"], len(small.h)) == (16, 2)
    assert small.h[0].attn.c_proj.weight.array.shape == (16, 8)
    np.testing.assert_allclose(logits(small), logits(given), 1e-5, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["magnitude", "activation", "taylor"])
def test_a_smaller_model_is_a_model(kind: str, method: str, tmp_path: Path) -> None:
    given = model(kind)
    before = {n: x.copy() for n, x in given.state_dict().items()}
    small = pl.prune(given, method=method, tokens=TOKENS, heads=0.5, channels=0.25, layers=1 / 3)
    for name, array in given.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert small.count_parameters() < 0.8 * given.count_parameters()
    assert small.generate([1, 2], 5, temperature=0.0).shape == (5,)
    np.testing.assert_array_equal(
        small.generate([1, 2], 5, temperature=0.0),
        small.generate([1, 2], 5, temperature=0.0, use_cache=False),
    )
    path = tmp_path / "small.safetensors"
    pl.save(small, path)
    again = pl.TinyGPT.from_pretrained(path)
    assert again.config == small.config
    np.testing.assert_array_equal(logits(again), logits(small))
    trainer = pl.Trainer(small, pl.optim.AdamW(lr=1e-2), batch=2, context=12)
    trainer.fit(np.tile(TOKENS[:7], 40), 12, progress=False)
    assert trainer.losses[-1] < trainer.losses[0]


def test_methods_differ_and_taylor_sees_the_gradient() -> None:
    given = model()
    names = [n for n, x in given.state_dict().items() if n.startswith("h.") and x.ndim == 2]
    samples = Samples(tuple(pieces(given, TOKENS)))
    found = gradients(forward(given), samples, names)
    assert set(found) == set(names) and all(np.abs(x).max() > 0 for x in found.values())
    kept = {
        method: pl.prune(given, method=method, tokens=TOKENS, channels=0.5)
        .h[0].mlp.c_fc.weight.array.tobytes()
        for method in ("magnitude", "activation", "taylor")
    }  # fmt: skip
    assert len(set(kept.values())) == 3


def test_activation_of_units_is_wanda_of_the_weights_that_are_left() -> None:
    small = pl.prune(model(), heads=0.5, method="activation", tokens=TOKENS)
    both = pl.prune(model(), 0.5, heads=0.5, method="activation", tokens=TOKENS)
    after = pl.prune(small, 0.5, method="wanda", tokens=TOKENS)
    for name, x in after.state_dict().items():
        np.testing.assert_array_equal(both.state_dict()[name], x)


def test_structure_first_then_zeros() -> None:
    small = pl.prune(model(), 0.5, heads=0.5)
    weight = small.h[0].attn.c_attn.weight.array
    assert weight.shape == (24, 16) and abs((weight == 0).mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    "options, message",
    [
        ({"heads": 1.5}, "prune: heads is a share between 0 and 1.*got 1.5"),
        ({"channels": np.nan}, "prune: channels is a share.*got nan"),
        ({"heads": 0.9}, "heads=0.9 leaves none of 4"),
        ({"layers": 1}, "layers=1 leaves none of 3"),
        ({"heads": 0.5, "method": "random"}, "method is one of magnitude, activation, taylor"),
        ({"ratio": 0.5, "method": "activation"}, "one of magnitude, wanda, got 'activation'"),
        ({"heads": 0.5, "method": "wanda"}, "one of magnitude, activation, taylor, got 'wanda'"),
        ({"heads": 0.5, "method": "taylor"}, "method='taylor' needs tokens"),
        ({"heads": 0.5, "method": "taylor", "tokens": [3]}, "at least two tokens"),
        ({"ratio": 0.5, "method": "taylor"}, "method is one of magnitude, wanda, got 'taylor'"),
        ({}, "prune: ratio is a share"),
    ],
)
def test_what_is_refused(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pl.prune(model(), **options)


def test_a_graph_has_no_heads_to_name() -> None:
    graph = pl.trace(model(), pl.spec((1, 4), "i32"))
    with pytest.raises(DataError, match="layers are those of a model"):
        pl.prune(graph, heads=0.5)


@pytest.mark.parametrize("width", [0, -1, True, 2.5, "8"])
def test_a_width_of_heads_that_is_none(width: object) -> None:
    with pytest.raises(DataError, match="head_dim is a positive integer"):
        model(head_dim=width)


def test_heads_of_a_width_of_their_own() -> None:
    made = model(num_heads=3, head_dim=8)  # 3 does not divide 16
    assert made.h[0].attn.c_attn.weight.array.shape == (72, 16)
    assert made.generate([1], 4, temperature=0.0).shape == (4,)
