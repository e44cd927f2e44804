"""Folders in Hugging Face's layout: config.json and model.safetensors, or several with an index.

    TinyGPT.from_pretrained("gpt2/")     model.save_pretrained("mine/", tokenizer)

GPT-2 keeps Linear weights as [in, out], Llama queries, keys and values apart and pairs of rotary
features at a distance of half a head; what we have differs, so those weights are copied. The
others stay in the file. Names in an index are names of files in the same folder and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.checkpoint import read_file
from planish.frontend.formats.assemble import Part, Plan, assemble, parted, stored
from planish.frontend.formats.hf_config import family_of, our_config, their_config
from planish.frontend.nn.transformer import head_width
from planish.frontend.strict import strict_json
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.stored import save_tokenizer
from planish.ir.errors import ArtifactError
from planish.ir.files import read_small, write_atomically
from planish.ir.store import file_bytes

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PLAIN = re.compile(r"[\w\-.]+\.safetensors", re.ASCII)
PREFIX = {"gpt2": "transformer.", "llama": "model."}
# Tables that old versions stored among the weights
BUFFERS = {
    "gpt2": r"h\.\d+\.attn\.(masked_)?bias",
    "llama": r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
}
TURNED = re.compile(r"(c_attn|c_proj|c_fc)\.weight$")
LLAMA = {
    "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm",
    "attn.c_proj": "self_attn.o_proj", "mlp.c_gate": "mlp.gate_proj", "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}  # fmt: skip


def load_folder(cls: type, folder: Path, **options: Any) -> Any:
    """The model in a folder."""
    path = folder / CONFIG
    family, config = our_config(path, strict_json(path, _text(path)))
    arrays = _arrays(folder)
    prefix = PREFIX[family] if any(x.startswith(PREFIX[family]) for x in arrays) else ""
    config |= options
    if config["tie_head"]:
        _drop_equal_head(folder, arrays, prefix + ("wte" if family == "gpt2" else "embed_tokens"))

    def plan(model: Any) -> Plan:
        return gpt2_plan(model, prefix) if family == "gpt2" else llama_plan(model, prefix)

    ignored = re.escape(prefix) + BUFFERS[family]
    return assemble(cls, folder, config, plan, stored(arrays), ignored)


def save_folder(model: Any, folder: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a model, and a tokenizer that others can read; each file is replaced in one step."""
    family, facts = family_of(model.config), their_config(model.config)
    prefix = PREFIX[family]
    plan = gpt2_plan(model, prefix) if family == "gpt2" else llama_plan(model, prefix)
    arrays = {}
    for _, part, rows in parted(plan, completed(model)):
        if model.config["rope_interleaved"] and re.search(r"\.[qk]_proj\.", part.name):
            rows = halved(rows, head_width(model.config))
        arrays[part.name] = np.ascontiguousarray(rows.T if part.turned else rows)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    write_atomically(folder / SINGLE, file_bytes(arrays, {"format": "pt"}))
    write_atomically(folder / CONFIG, (json.dumps(facts, indent=2) + "\n").encode())


def gpt2_plan(model: Any, prefix: str) -> dict[str, tuple[Part, ...]]:
    """GPT-2's names are ours but for a prefix."""
    return {
        name: (Part(name if name.startswith("lm_head") else prefix + name,
                    turned=bool(TURNED.search(name))),)
        for name in completed(model)
    }  # fmt: skip


def llama_plan(model: Any, prefix: str) -> dict[str, tuple[Part, ...]]:
    """Llama's names; queries, keys and values are ours in one."""
    config = model.config
    rows = rows_of(config)
    found: dict[str, tuple[Part, ...]] = {
        "wte.weight": (Part(f"{prefix}embed_tokens.weight"),),
        "ln_f.weight": (Part(f"{prefix}norm.weight"),),
        "lm_head.weight": (Part("lm_head.weight"),),
    }
    for i in range(config["num_layers"]):
        layer = f"{prefix}layers.{i}."
        for which in ("weight", "bias"):
            found |= {
                f"h.{i}.{ours}.{which}": (Part(f"{layer}{theirs}.{which}"),)
                for ours, theirs in LLAMA.items()
            }
            found[f"h.{i}.attn.c_attn.{which}"] = tuple(
                Part(f"{layer}self_attn.{x}_proj.{which}", count) for x, count in rows.items()
            )
    return found


def rows_of(config: Mapping[str, Any]) -> dict[str, int]:
    """How many rows of `c_attn` are those of queries, of keys and of values."""
    width = head_width(config)
    keys = (config["num_kv_heads"] or config["num_heads"]) * width
    return {"q": config["num_heads"] * width, "k": keys, "v": keys}


def completed(model: Any) -> dict[str, np.ndarray]:
    """A model's weights; in GPT-2's family with the biases, all zero, that it may not have."""
    state = model.state_dict()
    if model.config["norm"] != "layer":
        return state
    found = {}
    for name, array in state.items():
        found[name] = array
        bias = name.removesuffix("weight") + "bias"
        if name.endswith(".weight") and not name.startswith(("wte", "wpe", "lm_head")):
            found[bias] = state.get(bias, np.zeros(len(array), np.float32))
    return found


def halved(rows: np.ndarray, width: int) -> np.ndarray:
    """Rows of heads whose rotary pairs are neighbours, with the pairs half a head apart."""
    return rows.reshape(-1, width // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _text(path: Path) -> str:
    if not path.is_file():
        raise ArtifactError(f"{path.parent}: this folder has no {path.name}, so no model in it")
    try:
        return read_small(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: not text: {error}") from error


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of a folder's weights, by name, where they lie in their files."""
    if (folder / SINGLE).is_file():
        return read_file(folder / SINGLE).arrays
    index = folder / INDEX
    if not index.is_file():
        others = [x.name for x in folder.glob("*.bin")]
        way = (
            f"; {others[0]} can run code when it is read, so it is not: convert it"
            if others
            else ""
        )
        raise ArtifactError(f"{folder}: neither {SINGLE} nor {INDEX} is there{way}")
    facts = strict_json(index, _text(index))
    places = facts.get("weight_map") if isinstance(facts, dict) else None
    if not isinstance(places, dict):
        raise ArtifactError(f"{index}: no weight_map of names and files")
    for name, file in places.items():
        if not isinstance(file, str) or not PLAIN.fullmatch(file):
            raise ArtifactError(
                f"{index}: {name!r:.60} is in {file!r:.60}, which is no safetensors file in here"
            )
    return _sharded(folder, index, places)


def _sharded(folder: Path, index: Path, places: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of several files; the index and the files must agree on what is where."""
    wrong, found = [], {}
    for file in sorted(set(places.values())):
        if not (folder / file).is_file():
            wrong.append(f"missing: the file {file}")
            continue
        for name, array in read_file(folder / file).arrays.items():
            if places.get(name) != file:
                wrong.append(f"unexpected: {name} in {file}, which the index does not say")
            found[name] = array
        absent = [x for x, place in places.items() if place == file and x not in found]
        wrong += [f"missing: {x} in {file}" for x in absent]
    if wrong:
        raise ArtifactError(f"{index}: does not fit its files:\n  " + "\n  ".join(sorted(wrong)))
    return found


def _drop_equal_head(folder: Path, arrays: dict[str, np.ndarray], table: str) -> None:
    """A tied head may stand in the file once more, if it is the embedding."""
    head, embedding = arrays.get("lm_head.weight"), arrays.get(f"{table}.weight")
    if head is None or embedding is None:
        return
    if not np.array_equal(head, embedding):
        raise ArtifactError(
            f"{folder}: the head is tied, but lm_head.weight is not {table}.weight; a model with "
            "a head of its own says tie_word_embeddings=false"
        )
    del arrays["lm_head.weight"]
