"""The configurations and workloads that the benchmarks share, and inputs made from one seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

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
    prefill: int  # tokens of a prefill
    batch: int  # sequences of a training step; 0 where training is not measured

    @property
    def workloads(self) -> tuple[str, ...]:
        """What is measured on this configuration."""
        return tuple(x for x in WORKLOADS if self.batch or x != "train")

    @property
    def asked(self) -> int:
        """Tokens of a prompt that leaves room for an answer."""
        return min(self.prefill, self.context - 1)

    @property
    def parameters(self) -> int:
        """The number of weights; the head shares the token table."""
        block = 12 * self.width**2 + 13 * self.width
        return (self.vocab + self.context + 2) * self.width + self.layers * block

    def text(self) -> str:
        """As one word of a command line, see `config`."""
        return json.dumps(asdict(self))


CONFIGS = {
    "nano": Config(65, 64, 4, 4, 128, prompt=16, new=48, prefill=64, batch=12),
    "baby": Config(65, 256, 6, 6, 384, prompt=64, new=128, prefill=256, batch=8),
    "gpt2": Config(50257, 1024, 12, 12, 768, prompt=64, new=64, prefill=256, batch=0),
}

WORKLOADS = ("prefill", "first", "decode", "train")
# bf16: inference on weights of bf16, training with float32 masters. int8: inference on weights of
# i8, multiplied by activations of i8 where the system has that. int8_static: prefill by such, the
# scales of activations being found beforehand. int4: weights of 4 bits in groups, tables of 8
DTYPES = ("f32", "bf16", "int8", "int8_static", "int4")
RATE, DECAY, CLIP = 1e-3, 0.01, 1.0  # AdamW; weights of fewer than two axes do not decay
BETAS, EPS = (0.9, 0.999), 1e-8
CHECKED_STEPS = 3  # training steps whose losses are compared: the update is part of the third


def config(text: str) -> Config:
    """A configuration by name, or as `Config.text` wrote it."""
    return CONFIGS[text] if text in CONFIGS else Config(**json.loads(text))


def weights(c: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names of the state dict.

    Larger than those with which GPT-2's training starts, and without the direction into which
    GELU's mean points: else all greedy tokens are the same, and no wrong cache is seen.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.02) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    w = {"wte.weight": normal(c.vocab, c.width)}
    w["wpe.weight"] = normal(c.context, c.width, scale=0.05)
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
            w[f"h.{i}.{name}.weight"] = normal(rows, columns, scale=1.5 * columns**-0.5)
            w[f"h.{i}.{name}.bias"] = normal(rows)
        w[f"h.{i}.mlp.c_proj.weight"] -= w[f"h.{i}.mlp.c_proj.weight"].mean(1, keepdims=True)
    w["ln_f.weight"], w["ln_f.bias"] = 1 + normal(c.width), normal(c.width)
    return w


def tokens(c: Config, *shape: int, seed: int = 1) -> np.ndarray:
    """Random token ids, i32."""
    return np.random.default_rng(seed).integers(0, c.vocab, shape).astype(np.int32)


def calibration(c: Config) -> np.ndarray:
    """Prompts on which scales of activations are found."""
    return tokens(c, 8, c.prefill, seed=3)


def batch(c: Config) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and targets of a training step."""
    return tokens(c, c.batch, c.context), tokens(c, c.batch, c.context, seed=2)
