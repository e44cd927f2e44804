"""Models in GGUF: llama.cpp's files of GPT-2's and Llama's families, read and written.

    TinyGPT.from_pretrained("model.gguf")     model.save_gguf("model.gguf", "q8_0", tokenizer)

Linear weights are [out, in] there as here. Llama's queries, keys and values stand apart, with
rotary pairs side by side; what their angles are divided by is the tensor rope_freqs. Vectors and
positions are always float32; where blocks of 32 do not divide the rows of a matrix, it is stored as
f16, as llama.cpp's own tool does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.formats.assemble import Part, Stored, assemble, parted
from planish.frontend.formats.gguf_blocks import NAMED, WRITTEN, Kind
from planish.frontend.formats.gguf_file import GGUF, Tensor, write_gguf
from planish.frontend.formats.gguf_words import tokenizer_facts
from planish.frontend.formats.hf_config import family_of
from planish.frontend.formats.huggingface import completed, rows_of
from planish.frontend.nn.rotary import rope_factors
from planish.frontend.nn.transformer import default_hidden, head_width
from planish.frontend.tokenizers.base import Tokenizer
from planish.ir.errors import ArtifactError, DataError, UnsupportedError

# What general.file_type says of a file that is mostly of one kind
FILE_TYPE = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
HALF = float(np.finfo(np.float16).max)  # numbers and scales are f16 in most kinds
WHOLE = {
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output",
}  # fmt: skip
LAYER = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm", "mlp.c_gate": "ffn_gate", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
# Facts that change nothing here: other words for what tensors say, or for what others do with it
WIDTHS = ("rope.dimension_count", "attention.key_length", "attention.value_length")
NEUTRAL = {*WIDTHS, "vocab_size"}
FACTORS = "rope_freqs.weight"


def load_gguf(cls: type, path: Path, file: GGUF, **options: Any) -> Any:
    """The model in a file."""
    config = {**_config(path, file), **options}
    weights = {n: Stored(x.shape, np.float32, x.read) for n, x in file.tensors.items()}
    ignored = re.escape(FACTORS) if config.get("positions") == "rope" else ""  # it is an option
    return assemble(cls, path, config, _plan, weights, ignored)


def save_gguf(
    model: Any, path: Path, dtype: str = "f16", tokenizer: Tokenizer | None = None
) -> dict[str, str]:
    """Write a model; returns how each tensor is stored."""
    if dtype not in WRITTEN:
        raise DataError(f"dtype is one of {', '.join(WRITTEN)}, got {dtype!r}")
    facts = {**_facts(model, dtype), **tokenizer_facts(tokenizer, model.config["vocab_size"])}
    plan, tensors = _plan(model), {}
    width = head_width(model.config)
    apart = model.config["positions"] == "rope" and not model.config["rope_interleaved"]
    for name, part, rows in parted(plan, completed(model)):
        if apart and re.search(r"\.attn_[qk]\.", part.name):
            rows = neighbours(rows, width)
        kind = _kind_for(part.name, rows, NAMED[dtype])
        tensors[part.name] = (rows, kind)
        if kind.name != "f32" and not np.abs(rows).max() <= HALF:
            raise DataError(f"{name} has numbers that {kind.name} has not: use dtype='f32'")
    if factors := _factors(model.config):
        tensors[FACTORS] = (np.array(factors, np.float32), NAMED["f32"])
    write_gguf(path, facts, tensors)
    return {name: kind.name for name, (_, kind) in tensors.items()}


def neighbours(rows: np.ndarray, width: int) -> np.ndarray:
    """Rows of heads whose rotary pairs are half a head apart, with the pairs side by side."""
    return rows.reshape(-1, 2, width // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _kind_for(name: str, array: np.ndarray, wanted: Kind) -> Kind:
    if array.ndim == 1 or name.startswith("position_embd"):
        return NAMED["f32"]
    return NAMED["f16"] if array.shape[-1] % wanted.block else wanted


def _plan(model: Any) -> dict[str, tuple[Part, ...]]:
    """What each of our weights is made of."""
    config = model.config
    rows = {f"attn_{x}": count for x, count in rows_of(config).items()}
    found: dict[str, tuple[Part, ...]] = {}
    for name in completed(model):
        module, _, which = name.rpartition(".")
        if module in WHOLE:
            found[name] = (Part(f"{WHOLE[module]}.{which}"),)
            continue
        _, layer, module = module.split(".", 2)
        if module == "attn.c_attn" and config["positions"] == "rope":
            found[name] = tuple(Part(f"blk.{layer}.{n}.{which}", x) for n, x in rows.items())
        else:
            found[name] = (Part(f"blk.{layer}.{LAYER[module]}.{which}"),)
    return found


def _facts(model: Any, dtype: str) -> dict[str, Any]:
    """The facts of a model; UnsupportedError where llama.cpp would compute something else."""
    c = model.config
    family = family_of(c)
    if family == "gpt2" and (c["mlp"] != "gelu" or not c["scale_attn"] or c["scale_by_layer"]):
        raise UnsupportedError(
            "llama.cpp's gpt2 has mlp='gelu' and the usual scale of attention, not "
            f"mlp={c['mlp']!r}, scale_attn={c['scale_attn']}, scale_by_layer={c['scale_by_layer']}"
        )
    shared = {
        "context_length": c["max_seq_len"], "embedding_length": c["embed_dim"],
        "block_count": c["num_layers"], "attention.head_count": c["num_heads"],
        "feed_forward_length": c["hidden_dim"] or default_hidden(c["embed_dim"], c["mlp"]),
        "vocab_size": c["vocab_size"],
    }  # fmt: skip
    own: dict[str, Any] = {"attention.layer_norm_epsilon": float(c["norm_eps"])}
    if family == "llama":
        own = {
            "attention.head_count_kv": c["num_kv_heads"] or c["num_heads"],
            "attention.layer_norm_rms_epsilon": float(c["norm_eps"]),
            **dict.fromkeys(WIDTHS, head_width(c)),
            "rope.freq_base": float(c["rope_base"]),
        }
        if c["rope_scaling"] and not _factors(c):
            own["rope.scaling.type"] = "linear"
            own["rope.scaling.factor"] = float(c["rope_scaling"]["factor"])
    return {
        "general.architecture": family, "general.name": "planish",
        "general.file_type": FILE_TYPE[dtype], "general.quantization_version": 2,
        **{f"{family}.{name}": value for name, value in {**shared, **own}.items()},
    }  # fmt: skip


def _config(path: Path, file: GGUF) -> dict[str, Any]:
    """The options of TinyGPT for a file; UnsupportedError for facts that change numbers."""
    family = file.facts.get("general.architecture")
    if family not in ("gpt2", "llama"):
        raise UnsupportedError(
            f"{path}: general.architecture is {family!r:.60}; gpt2 and llama are read"
        )
    facts = _Facts(path, family, file.facts)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ArtifactError(f"{path}: missing: token_embd.weight, a matrix")
    width, heads = facts.whole("embedding_length"), facts.whole("attention.head_count")
    shared: dict[str, Any] = {
        "vocab_size": embedding.shape[0], "embed_dim": width, "num_heads": heads,
        "num_layers": facts.whole("block_count"), "max_seq_len": facts.whole("context_length"),
        "hidden_dim": facts.whole("feed_forward_length"), "dropout": 0.0,
        "tie_head": "output.weight" not in file.tensors,
    }  # fmt: skip
    if family == "gpt2":
        shared |= {"norm_eps": facts.number("attention.layer_norm_epsilon", 1e-5)}
    else:
        shared |= _llama(facts, file, width, heads)
    facts.finish()
    return shared


def _llama(facts: _Facts, file: GGUF, width: int, heads: int) -> dict[str, Any]:
    """The options that Llama's family has and GPT-2's has not."""
    head = facts.whole(WIDTHS[0], width // heads)
    for name in WIDTHS:
        facts.only(name, head)
    return {
        "positions": "rope", "norm": "rms", "mlp": "swiglu", "bias": False,
        "rope_interleaved": True, "rope_base": facts.number("rope.freq_base", 10000.0),
        "num_kv_heads": facts.whole("attention.head_count_kv", heads),
        "norm_eps": facts.number("attention.layer_norm_rms_epsilon", 1e-5),
        "head_dim": None if head == width / heads else head,
        "attn_bias": "blk.0.attn_output.bias" in file.tensors or None,
        "mlp_bias": "blk.0.ffn_down.bias" in file.tensors or None,
        "rope_scaling": _scaling(facts, file.tensors.get(FACTORS)),
    }  # fmt: skip


def _factors(config: Mapping[str, Any]) -> list[float] | None:
    """The tensor that says how the angles of a model are scaled, where a fact does not."""
    scaling = config["rope_scaling"]
    if scaling is None or scaling["rope_type"] == "linear":
        return None
    factors = rope_factors(scaling, config["rope_base"], head_width(config))
    return None if factors is None else factors.tolist()


def _scaling(facts: _Facts, tensor: Tensor | None) -> dict[str, Any] | None:
    """How the angles of a file's model are scaled: by a fact or by a tensor."""
    kind = facts.left.pop("rope.scaling.type", "none")
    if kind not in ("none", "linear") or (kind == "linear" and tensor):
        beside = f"beside {FACTORS}" if tensor else "planish has none and linear"
        told = f"{facts.prefix}rope.scaling.type is {kind!r:.60}; {beside}"
        raise UnsupportedError(f"{facts.path}: {told}")
    if kind == "linear":
        return {"rope_type": "linear", "factor": facts.number("rope.scaling.factor", 0.0)}
    if tensor is None:
        return None
    return {"rope_type": "factors", "factors": tensor.read().reshape(-1).tolist()}


class _Facts:
    """The facts of a family, and which of them nobody has looked at."""

    def __init__(self, path: Path, family: str, facts: Mapping[str, Any]):
        prefix = family + "."
        self.path, self.prefix = path, prefix
        self.left = {n.removeprefix(prefix): x for n, x in facts.items() if n.startswith(prefix)}

    def whole(self, name: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self.left.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(name, "a positive integer", value)
        return value

    def number(self, name: str, default: float) -> float:
        """A float of at least 0, as short as float32 allows."""
        value = self.left.pop(name, default)
        if not isinstance(value, float) or not value >= 0:
            raise self._wrong(name, "a number of at least 0", value)
        return float(str(np.float32(value)))

    def only(self, name: str, wanted: Any) -> None:
        """Refuse another value than this one."""
        value = self.left.pop(name, wanted)
        if value != wanted or type(value) is not type(wanted):
            raise UnsupportedError(
                f"{self.path}: {self.prefix}{name} is {value!r:.60}; planish has {wanted!r} only"
            )

    def finish(self) -> None:
        """Refuse facts that are left and turn something on."""
        unknown = {n: x for n, x in self.left.items() if n not in NEUTRAL and not _off(x)}
        if unknown:
            listed = ", ".join(f"{self.prefix}{n}={x!r:.40}" for n, x in unknown.items())
            raise UnsupportedError(f"{self.path}: facts that planish does not know: {listed}")

    def _wrong(self, name: str, wanted: str, value: Any) -> ArtifactError:
        return ArtifactError(f"{self.path}: {self.prefix}{name} is {wanted}, got {value!r:.60}")


def _off(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str, list)) and not value
