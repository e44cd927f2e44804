"""The configurations and workloads that the benchmarks share, and inputs made from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Config:
    """A GPT-2 shaped model: pre-norm, learned positions, GELU (tanh), biases, tied head."""

    vocab: int
    context: int
    layers: int
    heads: int
    width: int
    prompt: int  # tokens before decode starts
    new: int  # tokens made; the first is the prompt's, decode is timed on the others
    batch: int  # sequences of a training step


CONFIGS = {
    "nano": Config(65, 64, 4, 4, 128, prompt=16, new=48, batch=12),
    "baby": Config(65, 256, 6, 6, 384, prompt=64, new=128, batch=8),
}

WORKLOADS = ("prefill", "decode", "train")


def weights(c: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names of the state dict, GPT-2 initialisation."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.02) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    w = {"wte.weight": normal(c.vocab, c.width), "wpe.weight": normal(c.context, c.width)}
    for i in range(c.layers):
        for name in ("ln_1", "ln_2"):
            w[f"h.{i}.{name}.weight"] = 1 + normal(c.width)
            w[f"h.{i}.{name}.bias"] = normal(c.width)
        for name, rows, columns in (
            ("attn.c_attn", 3 * c.width, c.width),
            ("attn.c_proj", c.width, c.width),
            ("mlp.c_fc", 4 * c.width, c.width),
            ("mlp.c_proj", c.width, 4 * c.width),
        ):
            w[f"h.{i}.{name}.weight"] = normal(rows, columns)
            w[f"h.{i}.{name}.bias"] = normal(rows)
    w["ln_f.weight"], w["ln_f.bias"] = 1 + normal(c.width), normal(c.width)
    return w


def tokens(c: Config, *shape: int, seed: int = 1) -> np.ndarray:
    """Random token ids, i32."""
    return np.random.default_rng(seed).integers(0, c.vocab, shape).astype(np.int32)
