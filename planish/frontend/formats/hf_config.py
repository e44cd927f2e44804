"""Hugging Face's config.json of GPT-2 and of Llama, as options of TinyGPT and back.

What changes a model's numbers and is not provided is refused, whatever its name: an option that
is not known here passes only where it turns nothing on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish.frontend.nn.rotary import SCALINGS
from planish.frontend.nn.transformer import default_hidden, has_bias, head_width
from planish.ir.errors import ArtifactError, UnsupportedError

# Names of activations -> ours
ACTIVATIONS = {
    "gelu_new": "gelu", "gelu_fast": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_accurate": "gelu",
    "gelu": "gelu_erf", "gelu_python": "gelu_erf", "quick_gelu": "gelu_quick", "relu": "relu",
    "silu": "silu", "swish": "silu", "tanh": "tanh",
}  # fmt: skip
THEIRS = {
    "gelu": "gelu_new", "gelu_erf": "gelu", "gelu_quick": "quick_gelu", "relu": "relu",
    "silu": "silu", "tanh": "tanh",
}  # fmt: skip

KINDS_OF_ROPE = {x: x for x in ("default", "linear", "llama3")}

# Options that say how a model is stored, trained or called, and change none of its numbers
NEUTRAL = {
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "_name_or_path",
    "task_specific_params", "n_ctx", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "id2label", "label2id",
    "num_labels", "tokenizer_class", "pretraining_tp", "problem_type", "finetuning_task",
    "gradient_checkpointing", "unsloth_version", "unsloth_fixed", "return_dict",
    "reorder_and_upcast_attn",  # attention is in float32 here in any case
}  # fmt: skip


@dataclass(frozen=True)
class _Reader:
    """Takes options out of a config.json, and knows which are left."""

    path: Path
    facts: dict[str, Any]
    taken: set[str]

    def whole(self, name: str, default: Any = None) -> Any:
        """A positive integer."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(name, "a positive integer", value)
        return value

    def number(self, name: str, default: float) -> float:
        """A number of at least 0."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise self._wrong(name, "a number of at least 0", value)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def one_of(self, name: str, known: Mapping[str, str], default: str) -> str:
        """One of the words that we know, in our words."""
        value = self._value(name, default)
        if not isinstance(value, str) or value not in known:
            raise UnsupportedError(
                f"{self.path}: {name} is {value!r:.60}; known are {', '.join(known)}"
            )
        return known[value]

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse other values than these, where there is one."""
        value = self._value(name, allowed[0])
        if not any(value == x and type(value) is type(x) for x in allowed):
            raise UnsupportedError(
                f"{self.path}: {name} is {value!r:.60}; planish has {allowed[0]!r} only"
            )

    def finish(self) -> None:
        """Refuse options that nobody has looked at, unless they turn nothing on."""
        left = self.facts.keys() - self.taken - NEUTRAL
        unknown = sorted(x for x in left if self.facts[x] not in (None, False, 0, "", [], {}))
        if unknown:
            listed = ", ".join(f"{x}={self.facts[x]!r:.40}" for x in unknown)
            raise UnsupportedError(f"{self.path}: options that planish does not know: {listed}")

    def _value(self, name: str, default: Any) -> Any:
        self.taken.add(name)
        found = self.facts.get(name)
        return default if found is None else found

    def _wrong(self, name: str, wanted: str, value: Any) -> ArtifactError:
        return ArtifactError(f"{self.path}: {name} is {wanted}, got {value!r:.60}")


def our_config(path: Path, facts: Any) -> tuple[str, dict[str, Any]]:
    """The family, "gpt2" or "llama", and the options of TinyGPT that a config.json asks for."""
    family = facts.get("model_type") if isinstance(facts, dict) else None
    if family not in FAMILIES:
        raise UnsupportedError(
            f"{path}: model_type is {family!r:.60}; models of {' and '.join(FAMILIES)} are read"
        )
    reader = _Reader(path, facts, set())
    found = FAMILIES[family](reader)
    reader.finish()
    return family, found


def _gpt2(r: _Reader) -> dict[str, Any]:
    r.only("add_cross_attention", False)
    width = r.whole("n_embd", 768)
    rates = {name: r.number(name, 0.1) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{name}={x}" for name, x in rates.items())
        raise UnsupportedError(f"{r.path}: TinyGPT has one rate of dropout, the file has {listed}")
    return {
        "vocab_size": r.whole("vocab_size", 50257), "embed_dim": width,
        "num_layers": r.whole("n_layer", 12), "num_heads": r.whole("n_head", 12),
        "max_seq_len": r.whole("n_positions", 1024), "dropout": rates["resid_pdrop"],
        "positions": "learned", "norm": "layer", "bias": True,
        "mlp": r.one_of("activation_function", ACTIVATIONS, "gelu_new"),
        "hidden_dim": r.whole("n_inner", 4 * width),
        "norm_eps": r.number("layer_norm_epsilon", 1e-5),
        "tie_head": r.flag("tie_word_embeddings", True),
        "scale_attn": r.flag("scale_attn_weights", True),
        "scale_by_layer": r.flag("scale_attn_by_inverse_layer_idx", False),
    }  # fmt: skip


def _llama(r: _Reader) -> dict[str, Any]:
    width, heads = r.whole("hidden_size", 4096), r.whole("num_attention_heads", 32)
    head = r.whole("head_dim", max(width // heads, 1))
    found = [_rope(r, name) for name in ("rope_scaling", "rope_parameters")]  # of old and new files
    bases = [base for base, _ in found if base is not None]
    theta = r.number("rope_theta", 10000.0)
    scalings = [scaling for _, scaling in found if scaling is not None]
    if scalings[1:] not in ([], scalings[:1]):
        raise UnsupportedError(
            f"{r.path}: rope_scaling and rope_parameters differ: {scalings[0]}, {scalings[1]}"
        )
    return {
        "vocab_size": r.whole("vocab_size", 32000), "embed_dim": width,
        "num_layers": r.whole("num_hidden_layers", 32), "num_heads": heads,
        "num_kv_heads": r.whole("num_key_value_heads", heads),
        "max_seq_len": r.whole("max_position_embeddings", 2048),
        "dropout": r.number("attention_dropout", 0.0), "positions": "rope", "norm": "rms",
        "mlp": r.one_of("hidden_act", {"silu": "swiglu", "swish": "swiglu"}, "silu"),
        "hidden_dim": r.whole("intermediate_size", 11008), "bias": False,
        "norm_eps": r.number("rms_norm_eps", 1e-6),
        "rope_base": bases[-1] if bases else theta,
        "rope_scaling": scalings[0] if scalings else None,
        "attn_bias": r.flag("attention_bias", False) or None,
        "mlp_bias": r.flag("mlp_bias", False) or None,
        "head_dim": None if head == width / heads else head,
        "tie_head": r.flag("tie_word_embeddings", False),
    }  # fmt: skip


def _rope(r: _Reader, name: str) -> tuple[float | None, dict[str, Any] | None]:
    """The base, and what scales, in rope_scaling or rope_parameters; None for what is not there.

    Numbers are checked where the model is made.
    """
    r.taken.add(name)
    facts = r.facts.get(name)
    if facts is None:
        return None, None
    inner = _Reader(r.path, facts if isinstance(facts, dict) else {"rope_type": facts}, set())
    old = inner.one_of("type", KINDS_OF_ROPE, "default")
    kind = inner.one_of("rope_type", KINDS_OF_ROPE, old)
    if "type" in inner.facts and old != kind:
        raise UnsupportedError(f"{r.path}: {name} has the rope_type {kind!r} and the type {old!r}")
    inner.only("partial_rotary_factor", 1.0)
    base = inner.number("rope_theta", 1.0) if inner.facts.get("rope_theta") is not None else None
    said = SCALINGS.get(kind, ())
    inner.taken.update(said)
    inner.finish()
    scaling = {"rope_type": kind, **{x: facts[x] for x in said if x in facts}}
    return base, scaling if said else None


FAMILIES = {"gpt2": _gpt2, "llama": _llama}


def family_of(config: Mapping[str, Any]) -> str:
    """The family whose layout holds a model; UnsupportedError, with reasons, if none does."""
    c = config
    heads = c["num_kv_heads"] in (None, c["num_heads"])
    width = head_width(c) * c["num_heads"] == c["embed_dim"]
    against = {
        "gpt2": {"positions": c["positions"] == "learned", "norm": c["norm"] == "layer",
                 "mlp": c["mlp"] != "swiglu", "num_kv_heads": heads, "head_dim": width},
        "llama": {"positions": c["positions"] == "rope", "norm": c["norm"] == "rms",
                  "mlp": c["mlp"] == "swiglu", "scale_attn": c["scale_attn"],
                  "scale_by_layer": not c["scale_by_layer"]},
    }  # fmt: skip
    for family, fits in against.items():
        if all(fits.values()):
            return family
    told = "; ".join(
        f"not as {family} for its {', '.join(f'{n}={c[n]!r}' for n, ok in fits.items() if not ok)}"
        for family, fits in against.items()
    )
    raise UnsupportedError(f"no layout of others holds this model: {told}; pl.save does")


def their_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model."""
    c = config
    hidden = c["hidden_dim"] or default_hidden(c["embed_dim"], c["mlp"])
    shared = {"torch_dtype": "float32", "vocab_size": c["vocab_size"],
              "tie_word_embeddings": c["tie_head"]}  # fmt: skip
    if family_of(config) == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **shared,
            "n_embd": c["embed_dim"], "n_layer": c["num_layers"], "n_head": c["num_heads"],
            "n_positions": c["max_seq_len"], "n_inner": hidden,
            "activation_function": THEIRS[c["mlp"]], "layer_norm_epsilon": c["norm_eps"],
            "scale_attn_weights": c["scale_attn"],
            "scale_attn_by_inverse_layer_idx": c["scale_by_layer"],
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), c["dropout"]),
        }  # fmt: skip
    if c["rope_scaling"] and c["rope_scaling"]["rope_type"] not in KINDS_OF_ROPE:
        raise UnsupportedError(
            "config.json has no word for factors of rotary angles that come from a GGUF file; "
            "save_gguf and pl.save keep them"
        )
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", **shared,
        "hidden_size": c["embed_dim"], "intermediate_size": hidden,
        "num_hidden_layers": c["num_layers"], "num_attention_heads": c["num_heads"],
        "num_key_value_heads": c["num_kv_heads"] or c["num_heads"], "hidden_act": "silu",
        "max_position_embeddings": c["max_seq_len"], "rms_norm_eps": c["norm_eps"],
        "rope_theta": c["rope_base"], "rope_scaling": c["rope_scaling"],
        "attention_bias": has_bias(c, "attn_bias"), "mlp_bias": has_bias(c, "mlp_bias"),
        "head_dim": head_width(c), "attention_dropout": c["dropout"],
    }  # fmt: skip
