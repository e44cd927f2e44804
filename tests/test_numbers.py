"""Bars for numbers that native code has to hold, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import planish as pl
import planish.nn.functional as F
import planish.numpy as pnp
from tests.ir.test_math import every_exponent

X = every_exponent(200)
FAMILY: list[dict[str, Any]] = [
    {},
    {"positions": "rope", "norm": "rms", "mlp": "swiglu", "num_kv_heads": 2, "bias": False},
]


@pytest.mark.parametrize("options", FAMILY, ids=["gpt2", "llama"])
def test_logits_are_as_good_as_those_of_plain_float32(options: dict[str, Any]) -> None:
    model = pl.TinyGPT(65, 64, 4, 4, 64, dropout=0.0, **options)
    rng = np.random.default_rng(1)
    for p in model.parameters():  # as large as training makes them
        p.array = (p.array + 0.05 * rng.standard_normal(p.shape)).astype(np.float32)
    graph = pl.trace(model, pl.spec(("B", "T"), "i32"))
    tokens = rng.integers(0, 65, (4, 64)).astype(np.int32)
    exact = pl.interpret(graph, tokens, dtype="f64")
    plain, native = (
        np.abs(found.astype(np.float64) - exact)
        for found in (pl.interpret(graph, tokens), pl.compile(graph)(tokens))
    )
    assert native.max() <= 4 * plain.max()
    assert native.mean() <= 4 * plain.mean()


def test_square_roots_and_quotients_are_rounded_correctly() -> None:
    y = X[::-1].copy()
    root, quotient = pl.compile(lambda x, y: (pnp.sqrt(x), x / y), X, y)(X, y)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(root, np.sqrt(X))
        np.testing.assert_array_equal(quotient, X / y)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_activations_have_a_small_absolute_error(name: str) -> None:
    function = getattr(F, name)
    x = np.append(X[np.abs(X) < 1e30], np.linspace(-12, 12, 50_000, dtype=np.float32))
    found = pl.compile(function, x)(x).astype(np.float64)
    error = np.abs(found - pl.interpret(function, x, dtype="f64")) / np.maximum(np.abs(x), 1)
    assert error.max() <= 4e-7, f"{error.max():.2e} at {x[error.argmax()]}"
