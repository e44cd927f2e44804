"""TinyGPT: decoder-only transformers of the GPT-2 and Llama families.

    model = TinyGPT(vocab_size=65, embed_dim=128, num_layers=4, num_heads=4, max_seq_len=64)

The defaults are GPT-2's architecture; the options make the relatives: rotary or sinusoidal
positions, RMS norm, SwiGLU, grouped-query heads, an untied head. Parameters have nanoGPT's names
(`h.0.attn.c_attn.weight`), Linear weights are [out, in].
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.array.creation import arange
from planish.frontend.formats.gguf import save_gguf
from planish.frontend.formats.huggingface import save_folder
from planish.frontend.formats.known import load_known
from planish.frontend.generate import generate as generate_tokens
from planish.frontend.indexing import index
from planish.frontend.nn import functional as F
from planish.frontend.nn.layers import BLANK, STD, Dropout, Embedding, Linear, check_rate
from planish.frontend.nn.module import Module, ModuleList
from planish.frontend.nn.rotary import rope_factors
from planish.frontend.nn.transformer import (
    TransformerBlock,
    check_heads,
    head_width,
    make_norm,
    places_from,
    places_in,
)
from planish.frontend.random import fold_in
from planish.frontend.shapes import dtype_of, shape_of
from planish.frontend.tensor import apply
from planish.frontend.trace import Spec, spec
from planish.ir.dims import upper
from planish.ir.draws import need_seed
from planish.ir.errors import DataError, DTypeError, ShapeError

POSITIONS = ("learned", "sinusoidal", "rope")


class TinyGPT(Module):
    """A language model: tokens, integers [B, T] -> logits, f32 [B, T, V].

    >>> import numpy as np, planish as pl
    >>> model = pl.TinyGPT(65, embed_dim=32, num_layers=2, num_heads=2, max_seq_len=16)
    >>> program = pl.compile(model, pl.spec(("B", pl.Dim("T", max=16)), "i32"))
    >>> program(np.zeros((3, 7), np.int32)).shape
    (3, 7, 65)

    `model(tokens)` gives all logits, `last_logits` those of the last token, `loss` the mean cross
    entropy, `decode_step` continues from a key-value cache, `generate` writes tokens. Dropout acts
    in training mode where a key is given: `model(tokens, key=pl.random.key(0))`.

    positions     "learned" (GPT-2), "sinusoidal", or "rope" (Llama) with `rope_base`
    rope_scaling  for contexts longer than those of its training, in Hugging Face's words, such as
                  {"rope_type": "linear", "factor": 4.0}; also "llama3" and "factors"
    bias          whether layers add a bias; `attn_bias` and `mlp_bias` say otherwise for theirs
    norm          "layer" or "rms", with `norm_eps`
    mlp           "gelu" (GPT-2's, by tanh), "gelu_erf", "gelu_quick", "relu", "silu", "tanh", or
                  gated "swiglu"; `hidden_dim` is 4 C, for the gated one 8/3 C
    scale_attn    whether products of queries and keys are divided by the root of a head's width,
    scale_by_layer  and whether those of layer i also by i + 1
    num_kv_heads  fewer key heads than query heads; they divide `num_heads`
    head_dim      the width of a head, by default C / H; models whose heads were pruned say it
    tie_head      whether logits are made with the embedding's weights
    seed          decides the initial weights

    DataError lists everything that is wrong with a configuration. Token ids outside 0..V-1 raise
    TokenError when the program runs, more than `max_seq_len` tokens ShapeError.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        max_seq_len: int = 256,
        dropout: float = 0.1,
        seed: Any = 0,
        positions: str = "learned",
        norm: str = "layer",
        mlp: str = "gelu",
        num_kv_heads: int | None = None,
        tie_head: bool = True,
        bias: bool = True,
        hidden_dim: int | None = None,
        norm_eps: float = 1e-5,
        rope_base: float = 10000.0,
        rope_interleaved: bool = False,
        head_dim: int | None = None,
        scale_attn: bool = True,
        scale_by_layer: bool = False,
        rope_scaling: Mapping[str, Any] | None = None,
        attn_bias: bool | None = None,
        mlp_bias: bool | None = None,
    ):
        given = locals()
        self.config = {n: given[n] for n in inspect.signature(TinyGPT).parameters}
        _check(self.config)
        rng = BLANK if seed is BLANK else np.random.default_rng(seed)
        self.wte = Embedding(vocab_size, embed_dim, what="token id", rng=rng)
        if positions == "learned":
            self.wpe = Embedding(max_seq_len, embed_dim, what="position", rng=rng)
        self.drop = Dropout(dropout)
        rope = {
            "rope_base": rope_base, "rope_interleaved": rope_interleaved,
            "rope_factors": rope_factors(rope_scaling, rope_base, head_width(self.config)),
        }  # fmt: skip
        self.h = ModuleList(
            TransformerBlock(
                embed_dim, num_heads, num_kv_heads, norm, mlp, hidden_dim, bias, dropout, norm_eps,
                proj_std=STD / math.sqrt(2 * num_layers), rng=rng, head_dim=head_dim,
                scale=self._scale(layer), attn_bias=attn_bias, mlp_bias=mlp_bias,
                **(rope if positions == "rope" else {}),
            )
            for layer in range(num_layers)
        )  # fmt: skip
        self.ln_f = make_norm(norm, embed_dim, norm_eps, bias, rng)
        if not tie_head:
            self.lm_head = Linear(embed_dim, vocab_size, bias=False, rng=rng)

    @classmethod
    def from_pretrained(cls, path: Any, **options: Any) -> TinyGPT:
        """The model in a file that `pl.save` or a training wrote, or that comes from elsewhere.

        That is a folder in Hugging Face's layout, of GPT-2's or Llama's family; a GGUF file; a
        checkpoint of llama2.c; or nanoGPT's weights as safetensors (with `num_heads=...`).
        ArtifactError lists all that does not fit, UnsupportedError says what is not provided.
        `options` are arguments of the class that replace those of the file, such as `dropout`.
        """
        return load_known(cls, Path(path), **options)[0]

    def save_pretrained(self, folder: Any, tokenizer: Any = None) -> None:
        """Write a folder in Hugging Face's layout, with a tokenizer that others can read.

        UnsupportedError where neither GPT-2's layout nor Llama's holds the model.
        """
        save_folder(self, Path(folder), tokenizer)

    def save_gguf(self, path: Any, dtype: str = "f16", tokenizer: Any = None) -> dict[str, str]:
        """Write a file of llama.cpp: f32, f16, bf16, q8_0 or q4_0; says how tensors are stored.

        UnsupportedError where llama.cpp would compute something else.
        """
        return save_gguf(self, Path(path), dtype, tokenizer)

    def forward(self, tokens: Any, key: Any = None) -> Any:
        """Logits [B, T, V] of the token that follows each of `tokens` [B, T]."""
        return self.head(self.ln_f(self.hidden(tokens, key)))

    def last_logits(self, tokens: Any) -> Any:
        """Logits [B, V] of the token that follows the last of `tokens` [B, T]."""
        return self.head(self.ln_f(self.hidden(tokens)[:, -1]))

    def loss(self, tokens: Any, targets: Any, key: Any = None) -> Any:
        """The mean cross entropy of `targets` [B, T]; targets of -100 do not count."""
        return F.cross_entropy(self(tokens, key), targets)

    def hidden(self, tokens: Any, key: Any = None) -> Any:
        """What the blocks make of `tokens`, before the last norm: [B, T, C]."""
        length = self._check_tokens(tokens, rank=2)[1]
        places = arange(self.config["max_seq_len"], dtype="i32")[:length]
        x = self.wte(tokens)
        if self.config["positions"] == "learned":
            x = x + self.wpe.weight[:length]
        elif self.config["positions"] == "sinusoidal":
            table = self.sinusoids()
            x = x + index(apply, table, table.shape, slice(None, length))
        if key is not None:
            x = self.drop(x, fold_in(key, 0))
        for i, block in enumerate(self.h, 1):
            x = block(x, None if key is None else fold_in(key, i), places=places)
        return x

    def decode_step(self, tokens: Any, caches: Any, pos: Any, ends: Any = None) -> tuple[Any, Any]:
        """Continue after `pos` cached tokens: (logits [B, V] after the last token, new caches).

        `tokens` is [B] or [B, T]; `caches` has (k, v) for each layer, each [B, G, S, D] with room
        for the new tokens, see `cache_specs`; `pos` is an integer, a scalar or [B].

        With `ends` [B], `tokens` is [1, N]: those of B rows of different lengths, one after
        another, row b from ends[b - 1] (0 for the first) up to ends[b]. `pos` is [B]. The last row
        ends with the tokens; the logits of one without any mean nothing.
        """
        if len(shape_of(tokens)) == 1:
            tokens = tokens.reshape(-1, 1)
        length = self._check_tokens(tokens, 2, limited=ends is None)[1]
        places = places_from(pos, length) if ends is None else places_in(pos, ends, length)
        x = self.wte(tokens)
        if self.config["positions"] == "learned":
            x = x + self.wpe(places)
        elif self.config["positions"] == "sinusoidal":
            x = x + F.embedding(places, self.sinusoids(), "position")
        written = []
        last = None if ends is None else apply("maximum", ends - 1, 0)
        for i, (block, cache) in enumerate(zip(self.h, caches, strict=True), 1):
            x, cache = block(x, None, cache, pos, places, ends, last if i == len(self.h) else None)
            written.append(cache)
        return self.head(self.ln_f(x[:, -1])), tuple(written)

    def cache_specs(
        self, batch: Any = 1, length: Any = None, dtype: Any = "f32"
    ) -> list[tuple[Spec, Spec]]:
        """Specs of the (k, v) caches of all layers, for `length` (max_seq_len) tokens."""
        groups = self.config["num_kv_heads"] or self.config["num_heads"]
        width = head_width(self.config)
        shape = (batch, groups, length or self.config["max_seq_len"], width)
        return [
            (spec(shape, dtype, f"k{i}"), spec(shape, dtype, f"v{i}")) for i in range(len(self.h))
        ]

    generate = generate_tokens

    def head(self, x: Any) -> Any:
        """Logits [..., V] of normalised states [..., C]."""
        weight = self.wte.weight if self.config["tie_head"] else self.lm_head.weight
        return F.linear(x, weight)

    def sinusoids(self) -> np.ndarray:
        """The position table of "sinusoidal" positions."""
        return sinusoids(self.config["max_seq_len"], self.config["embed_dim"])

    def _scale(self, layer: int) -> float | None:
        """What a layer multiplies products of queries and keys with; None for the usual."""
        config = self.config
        if config["scale_attn"] and not config["scale_by_layer"]:
            return None
        scale = 1 / math.sqrt(head_width(config)) if config["scale_attn"] else 1.0
        return scale / (layer + 1) if config["scale_by_layer"] else scale

    def _check_tokens(self, tokens: Any, rank: int, limited: bool = True) -> tuple:
        """The shape of token ids; refused where they are no ids or longer than the context."""
        shape, limit = shape_of(tokens), self.config["max_seq_len"]
        if not dtype_of(tokens).is_int:
            raise DTypeError(f"token ids are integers, got {dtype_of(tokens)}{list(shape)}")
        if len(shape) != rank:
            raise ShapeError(f"token ids are [batch, time], got {list(shape)}")
        most = upper(shape[1])
        if limited and most is not None and most > limit:
            raise ShapeError(f"{shape[1]} tokens (up to {most}) exceed max_seq_len={limit}")
        return shape

    def __repr__(self) -> str:
        default = inspect.signature(TinyGPT).parameters
        shown = [f"{n}={v!r}" for n, v in self.config.items() if v != default[n].default]
        return f"TinyGPT({', '.join(shown)})  # {self.count_parameters():,} parameters"


def sinusoids(length: int, width: int) -> np.ndarray:
    """The position table of Vaswani et al. (2017): sines in even, cosines in odd columns."""
    rates = 10000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * rates
    table = np.empty((length, width), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : width // 2])
    return table


def _check(config: dict[str, Any]) -> None:
    """Refuse a configuration, naming every mistake."""
    wrong = [
        f"{name} is a positive integer, got {config[name]!r}"
        for name in ("vocab_size", "embed_dim", "num_layers", "num_heads", "max_seq_len")
        if isinstance(config[name], bool) or not isinstance(config[name], int) or config[name] < 1
    ]
    if config["positions"] not in POSITIONS:
        wrong.append(f"positions is one of {', '.join(POSITIONS)}, got {config['positions']!r}")
    if config["rope_scaling"] is not None and config["positions"] != "rope":
        wrong.append(f"rope_scaling is for positions='rope', not {config['positions']!r}")
    if wrong:
        raise DataError("TinyGPT: " + "; ".join(wrong))
    seed = config["seed"]
    if isinstance(seed, (int, np.integer)):  # others are what `numpy.random.default_rng` takes
        need_seed(seed)
    check_rate(config["dropout"])
    heads = config["num_heads"]
    check_heads(config["embed_dim"], heads, config["num_kv_heads"] or heads, config["head_dim"])
