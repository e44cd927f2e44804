"""nanoGPT's state dicts, stored as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import planish as pl
from planish.ir.errors import ArtifactError, DataError
from tests.frontend.small import small_model


def state(bias: bool = True, prefix: str = "") -> dict[str, np.ndarray]:
    """Our weights by nanoGPT's names, the tied head included."""
    found = {f"{prefix}transformer.{n}": x for n, x in small_model(bias=bias).state_dict().items()}
    return {**found, f"{prefix}lm_head.weight": found[f"{prefix}transformer.wte.weight"]}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_weights_come_where_they_belong(tmp_path: Path, bias: bool, prefix: str) -> None:
    path = tmp_path / "ckpt.safetensors"
    arrays = {**state(bias, prefix), f"{prefix}transformer.h.0.attn.bias": np.ones((1, 1, 6, 6))}
    safetensors.numpy.save_file(arrays, path)
    model = pl.TinyGPT.from_pretrained(path, num_heads=2, dropout=0.1)
    assert model.config["mlp"] == "gelu_erf" and model.config["dropout"] == 0.1
    for name, array in small_model(bias=bias).state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
    safetensors.numpy.save_file(arrays, path, {"n_head": "4"})
    assert pl.load_model(path)[0].config["num_heads"] == 4


@pytest.mark.parametrize(
    ("change", "metadata", "kind", "words"),
    [
        ({}, {}, DataError, "do not tell the number of heads; say from_pretrained"),
        ({}, {"n_head": "x"}, ArtifactError, "n_head is a number, got 'x'"),
        ({}, {"n_head": "3"}, ArtifactError, "num_heads=3 does not divide embed_dim=8"),
        ({"lm_head.weight": np.zeros(3)}, {"n_head": "2"}, ArtifactError, "as in nanoGPT it is"),
        ({"transformer.wte.weight": np.zeros(3, "f4"), "lm_head.weight": np.zeros(3, "f4")},
         {"n_head": "2"}, ArtifactError, "are matrices"),
        ({"transformer.ln_f.bias": np.zeros(3, "f4")}, {"n_head": "2"}, ArtifactError,
         "wrong shape: transformer.ln_f.bias"),
        ({"transformer.h.99999999.x": np.zeros(3, "f4")}, {"n_head": "2"}, ArtifactError,
         "100000000 layers, but only"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    tmp_path: Path, change: dict[str, Any], metadata: dict, kind: type[Exception], words: str
) -> None:
    path = tmp_path / "ckpt.safetensors"
    safetensors.numpy.save_file({**state(), **change}, path, metadata)
    with pytest.raises(kind, match=rf"(?s)ckpt\.safetensors: .*{words}"):
        pl.load_model(path)
