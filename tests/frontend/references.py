"""GPT-2 and Llama in NumPy, from arrays and config.json in Hugging Face's names: the judges.

Written from the published definitions, not from ours; `dtype` is the width of all arithmetic.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
_erf = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS = {
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2)).astype(x.dtype)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """[H, T, D] each, causal."""
    length = q.shape[1]
    scores = np.where(np.tril(np.ones((length, length), bool)), q @ k.swapaxes(1, 2) * scale, -1e30)
    return softmax(scores.astype(q.dtype)) @ v


def heads(x: np.ndarray, count: int) -> np.ndarray:
    return x.reshape(len(x), count, -1).swapaxes(0, 1)


def gpt2(arrays: Arrays, config: dict[str, Any], tokens: np.ndarray, dtype: Any) -> np.ndarray:
    """Logits [T, V] of tokens [T]."""
    w = {name.removeprefix("transformer."): x.astype(dtype) for name, x in arrays.items()}
    eps = config["layer_norm_epsilon"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + dtype(eps))
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    act = ACTIVATIONS[config["activation_function"]]
    for i in range(config["n_layer"]):
        qkv = norm(x, f"h.{i}.ln_1") @ w[f"h.{i}.attn.c_attn.weight"] + w[f"h.{i}.attn.c_attn.bias"]
        q, k, v = (heads(part, config["n_head"]) for part in np.split(qkv, 3, axis=-1))
        scale = 1 / math.sqrt(q.shape[-1]) if config.get("scale_attn_weights", True) else 1.0
        scale /= i + 1 if config.get("scale_attn_by_inverse_layer_idx", False) else 1
        y = attention(q, k, v, dtype(scale)).swapaxes(0, 1).reshape(x.shape)
        x = x + y @ w[f"h.{i}.attn.c_proj.weight"] + w[f"h.{i}.attn.c_proj.bias"]
        y = act(norm(x, f"h.{i}.ln_2") @ w[f"h.{i}.mlp.c_fc.weight"] + w[f"h.{i}.mlp.c_fc.bias"])
        x = x + y @ w[f"h.{i}.mlp.c_proj.weight"] + w[f"h.{i}.mlp.c_proj.bias"]
    return norm(x, "ln_f") @ w.get("lm_head.weight", w["wte.weight"]).T


def scaled_rate(rate: float, rope: dict[str, Any]) -> float:
    """How fast a rotary pair turns, where `rope` is what config.json says of it."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return rate
    if kind == "linear":
        return rate / rope["factor"]
    assert kind == "llama3"
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    trained, wave = rope["original_max_position_embeddings"], 2 * math.pi / rate
    if wave < trained / high:
        return rate
    if wave > trained / low:
        return rate / rope["factor"]
    smooth = (trained / wave - low) / (high - low)
    return (1 - smooth) * rate / rope["factor"] + smooth * rate


def llama(arrays: Arrays, config: dict[str, Any], tokens: np.ndarray, dtype: Any) -> np.ndarray:
    """Logits [T, V] of tokens [T]."""
    w = {name.removeprefix("model."): x.astype(dtype) for name, x in arrays.items()}
    count, groups = config["num_attention_heads"], config["num_key_value_heads"]
    half = (config.get("head_dim") or config["hidden_size"] // count) // 2
    rope = config.get("rope_parameters") or {**(config["rope_scaling"] or {})}
    theta = rope.get("rope_theta", config["rope_theta"])
    rates = np.array([scaled_rate(theta ** (-i / half), rope) for i in range(half)])
    angles = np.arange(len(tokens))[:, None] * rates
    cos, sin = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        eps = dtype(config["rms_norm_eps"])
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w[name]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", dtype(0))

    def rotated(x: np.ndarray) -> np.ndarray:
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = w["embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        at = f"layers.{i}."
        y = norm(x, f"{at}input_layernorm.weight")
        q, k, v = (
            heads(linear(y, f"{at}self_attn.{name}_proj"), n)
            for name, n in (("q", count), ("k", groups), ("v", groups))
        )
        k, v = (np.repeat(part, count // groups, axis=0) for part in (rotated(k), v))
        y = attention(rotated(q), k, v, dtype(1 / math.sqrt(2 * half)))
        x = x + linear(y.swapaxes(0, 1).reshape(len(x), -1), f"{at}self_attn.o_proj")
        y = norm(x, f"{at}post_attention_layernorm.weight")
        gate = ACTIVATIONS["silu"](linear(y, f"{at}mlp.gate_proj"))
        x = x + linear(gate * linear(y, f"{at}mlp.up_proj"), f"{at}mlp.down_proj")
    return norm(x, "norm.weight") @ w.get("lm_head.weight", w["embed_tokens.weight"]).T
