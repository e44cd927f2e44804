"""Folders in Hugging Face's layout, with random weights, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from planish.frontend.formats.huggingface import CONFIG, INDEX, SINGLE

GPT2 = {
    "model_type": "gpt2", "vocab_size": 37, "n_embd": 24, "n_layer": 3, "n_head": 3,
    "n_positions": 20, "n_inner": None, "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
    "architectures": ["GPT2LMHeadModel"], "summary_type": "cls_index", "eos_token_id": 36,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 52,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
    "hidden_act": "silu", "max_position_embeddings": 20, "rms_norm_eps": 1e-6,
    "rope_theta": 5000.0, "rope_scaling": None, "tie_word_embeddings": False,
    "attention_bias": False, "head_dim": 4, "pretraining_tp": 1,
}  # fmt: skip


def gpt2_arrays(config: dict[str, Any], size: float = 0.3) -> dict[str, np.ndarray]:
    """Random weights of GPT-2."""
    c, v = config["n_embd"], config["vocab_size"]
    hidden = config["n_inner"] or 4 * c
    shapes = {"wte.weight": (v, c), "wpe.weight": (config["n_positions"], c),
              "ln_f.weight": (c,), "ln_f.bias": (c,)}  # fmt: skip
    for i in range(config["n_layer"]):
        for name, shape in (
            ("ln_1", (c,)), ("attn.c_attn", (c, 3 * c)), ("attn.c_proj", (c, c)), ("ln_2", (c,)),
            ("mlp.c_fc", (c, hidden)), ("mlp.c_proj", (hidden, c)),
        ):  # fmt: skip
            shapes[f"h.{i}.{name}.weight"] = shape
            shapes[f"h.{i}.{name}.bias"] = shape[-1:]
    shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (v, c)
    return random_arrays(shapes, size)


def llama_arrays(config: dict[str, Any], size: float = 0.3) -> dict[str, np.ndarray]:
    """Random weights of Llama."""
    c, v, hidden = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    width = config.get("head_dim") or c // config["num_attention_heads"]
    queries, keys = (config[f"num_{x}_heads"] * width for x in ("attention", "key_value"))
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (v, c), "norm": (c,)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {
            f"layers.{i}.{name}": shape
            for name, shape in {
                "input_layernorm": (c,), "self_attn.q_proj": (queries, c),
                "self_attn.k_proj": (keys, c), "self_attn.v_proj": (keys, c),
                "self_attn.o_proj": (c, queries),
                "post_attention_layernorm": (c,), "mlp.gate_proj": (hidden, c),
                "mlp.up_proj": (hidden, c), "mlp.down_proj": (c, hidden),
            }.items()
        }  # fmt: skip
    biased = [x for x in ("attention", "mlp") if config.get(f"{x}_bias")]
    shapes |= {
        f"{name}.bias": shape[:1] for name, shape in shapes.items()
        if any(f"{'self_attn' if x == 'attention' else x}." in name for x in biased)
    }  # fmt: skip
    shapes = {
        f"model.{name}" if name.endswith(".bias") else f"model.{name}.weight": shape
        for name, shape in shapes.items()
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (v, c)
    return random_arrays(shapes, size)


def random_arrays(shapes: dict[str, tuple[int, ...]], size: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(x) * size + name.endswith(("norm.weight", "ln_1.weight")))
        .astype(np.float32)
        for name, x in shapes.items()
    }  # fmt: skip


def write_folder(
    folder: Path, config: dict[str, Any], arrays: dict[str, np.ndarray], shards: int = 1
) -> Path:
    """A folder as transformers writes it."""
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config), "utf-8")
    if shards == 1:
        (folder / SINGLE).write_bytes(safetensors.numpy.save(arrays, {"format": "pt"}))
        return folder
    names, places = list(arrays), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: arrays[name] for name in names[i::shards]}
        places |= dict.fromkeys(part, file)
        (folder / file).write_bytes(safetensors.numpy.save(part, {"format": "pt"}))
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index), "utf-8")
    return folder
