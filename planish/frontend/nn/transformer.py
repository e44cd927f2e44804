"""The parts of GPT- and Llama-class models: attention, MLP, block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from planish.frontend.array.creation import arange
from planish.frontend.array.manipulation import update_slice
from planish.frontend.nn import functional as F
from planish.frontend.nn.layers import STD, Dropout, LayerNorm, Linear, RMSNorm
from planish.frontend.nn.module import Module
from planish.frontend.random import fold_in
from planish.frontend.shapes import shape_of
from planish.frontend.tensor import apply
from planish.ir import types as t
from planish.ir.errors import DataError

NORMS = ("layer", "rms")
MLPS = ("gelu", "gelu_erf", "gelu_quick", "relu", "silu", "tanh", "swiglu")


class MultiHeadAttention(Module):
    """Self-attention over [B, T, C]; queries, keys and values come from one projection, `c_attn`.

    Its rows are those of all query heads, then of all key heads, then of all value heads. With
    fewer `num_kv_heads`, neighbouring query heads share a key head. `rope_base` turns rotary
    positions on, `rope_factors` [D / 2] divide their angles, `scale` replaces 1 / sqrt(head width).
    With a cache (k, v), each [B, G, S, D], the T tokens are the ones at `pos` onward, a scalar or
    [B], and the result is (y, the cache with their keys and values written). Heads are C / H wide,
    or `head_dim`.

    With `ends` [B], x [1, N, C] is ragged: the tokens of B rows, one after another. With `last` [B]
    beside it, y [B, 1, C] has only those of the tokens that are asked for, one of each row.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, num_kv_heads: int | None = None, bias: bool = True,
        dropout: float = 0.0, causal: bool = True, rope_base: float | None = None,
        rope_interleaved: bool = False, proj_std: float = STD,
        rng: np.random.Generator | None = None, head_dim: int | None = None,
        scale: float | None = None, rope_factors: np.ndarray | None = None,
    ):  # fmt: skip
        kv_heads = num_kv_heads if num_kv_heads is not None else num_heads
        check_heads(embed_dim, num_heads, kv_heads, head_dim)
        self.num_heads, self.num_kv_heads = num_heads, kv_heads
        self.head_dim = head_dim or embed_dim // num_heads
        self.scale = scale
        self.causal, self.rope_base, self.rope_interleaved = causal, rope_base, rope_interleaved
        self.rope_factors = rope_factors
        width = (num_heads + 2 * kv_heads) * self.head_dim
        self.c_attn = Linear(embed_dim, width, bias, rng=rng)
        self.c_proj = Linear(num_heads * self.head_dim, embed_dim, bias, std=proj_std, rng=rng)
        self.attn_dropout = Dropout(dropout)
        self.resid_dropout = Dropout(dropout)

    def forward(
        self, x: Any, key: Any = None, cache: Any = None, pos: Any = None, places: Any = None,
        ends: Any = None, last: Any = None,
    ) -> Any:  # fmt: skip
        """[B, T, C] -> [B, T, C]; with a cache, (that, the new cache).

        `places` are the positions, [T] or [B, T], that rotary embedding uses; by default they count
        from `pos`.
        """
        if places is None and self.rope_base is not None:
            places = places_from(0 if pos is None else pos, x.shape[1])
        q, k, v = self._heads(self.c_attn(x), places)
        offset, drop = None, None
        if ends is not None:
            k, v = (
                apply("update_rows", old, x, pos, ends, axis=2)
                for old, x in zip(cache, (k, v), strict=True)
            )
            offset = pos
            if last is not None:  # a query of each row, which is no longer ragged
                q, ends = apply("take", q, last, axis=2).transpose(2, 1, 0, 3), None
                offset = apply("take", places.reshape(-1), last)
        elif cache is not None:
            k = update_slice(cache[0], k, 0, 0, pos, 0)
            v = update_slice(cache[1], v, 0, 0, pos, 0)
            offset = pos if self.causal else None
        elif key is not None and self.training:
            drop = fold_in(key, 0)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            causal=self.causal,
            offset=offset,
            scale=self.scale,
            dropout_rate=self.attn_dropout.rate,
            key=drop,
            ends=ends,
        )
        width = self.num_heads * self.head_dim
        y = self.c_proj(y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], width))
        if key is not None:
            y = self.resid_dropout(y, fold_in(key, 1))
        return y if cache is None else (y, (k, v))

    def _heads(self, qkv: Any, places: Any) -> tuple[Any, Any, Any]:
        """q [B, H, T, D], k and v [B, G, T, D], with positions rotated in."""
        heads, groups, width = self.num_heads, self.num_kv_heads, self.head_dim
        ends = (heads * width, (heads + groups) * width)
        parts = (qkv[..., : ends[0]], qkv[..., ends[0] : ends[1]], qkv[..., ends[1] :])
        q, k, v = (
            part.reshape(*qkv.shape[:2], count, width).transpose(0, 2, 1, 3)
            for part, count in zip(parts, (heads, groups, groups), strict=True)
        )
        if self.rope_base is None:
            return q, k, v
        rotate = (places, self.rope_base, self.rope_interleaved, self.rope_factors)
        return F.rope(q, *rotate), F.rope(k, *rotate), v


def places_from(pos: Any, length: Any) -> Any:
    """The positions of `length` tokens from `pos` onward: [T], or [B, T] where `pos` is [B]."""
    line = arange(length, dtype="i32")
    return line + (pos.reshape(-1, 1) if shape_of(pos) else pos)


def places_in(pos: Any, ends: Any, length: Any) -> Any:
    """The positions [1, N] of ragged tokens: row b has those from pos[b] onward."""
    line, before = arange(length, dtype="i32"), ends[:-1]
    passed = apply("cast", before.reshape(1, -1) <= line.reshape(-1, 1), dtype=t.i32)
    row = apply("sum", passed, axes=(1,), keep=False)  # as many as end before it
    first = pos - apply("pad", before, low=(1,), high=(0,), value=0)
    return (apply("take", first, row) + line).reshape(1, -1)


def check_heads(
    embed_dim: int, num_heads: int, num_kv_heads: int, head_dim: int | None = None
) -> None:
    """Refuse heads that do not divide the width (unless theirs is given) or each other."""
    wrong = []
    width = 1 if head_dim is None else head_dim
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        wrong.append(f"head_dim is a positive integer, got {head_dim!r}")
    if num_heads < 1 or (head_dim is None and embed_dim % num_heads):
        wrong.append(f"num_heads={num_heads} does not divide embed_dim={embed_dim}")
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        wrong.append(f"num_kv_heads={num_kv_heads} does not divide num_heads={num_heads}")
    if wrong:
        raise DataError("; ".join(wrong))


def has_bias(config: Mapping[str, Any], which: str) -> bool:
    """Whether layers have a bias in a model of this configuration: "attn_bias", "mlp_bias"."""
    return bool(config["bias"] if config[which] is None else config[which])


def head_width(config: Mapping[str, Any]) -> int:
    """How wide the heads of a model are that has this configuration."""
    return config["head_dim"] or config["embed_dim"] // config["num_heads"]


class MLP(Module):
    """Two layers with an activation between, one of `MLPS`; "swiglu" is a gated one."""

    def __init__(
        self, embed_dim: int, hidden_dim: int | None = None, kind: str = "gelu", bias: bool = True,
        dropout: float = 0.0, proj_std: float = STD, rng: np.random.Generator | None = None,
    ):  # fmt: skip
        if kind not in MLPS:
            raise DataError(f"mlp is one of {', '.join(MLPS)}, got {kind!r}")
        hidden = hidden_dim or default_hidden(embed_dim, kind)
        self.kind = kind
        if kind == "swiglu":
            self.c_gate = Linear(embed_dim, hidden, bias, rng=rng)
        self.c_fc = Linear(embed_dim, hidden, bias, rng=rng)
        self.c_proj = Linear(hidden, embed_dim, bias, std=proj_std, rng=rng)
        self.dropout = Dropout(dropout)

    def forward(self, x: Any, key: Any = None) -> Any:
        """[..., C] -> [..., C]"""
        up = self.c_fc(x)
        if self.kind == "swiglu":
            hidden = F.silu(self.c_gate(x)) * up
        elif self.kind in ("gelu", "gelu_erf"):
            hidden = F.gelu(up, "tanh" if self.kind == "gelu" else "none")
        elif self.kind == "gelu_quick":
            hidden = up * F.sigmoid(up * 1.702)
        else:
            hidden = {"relu": F.relu, "silu": F.silu, "tanh": F.tanh}[self.kind](up)
        return self.dropout(self.c_proj(hidden), key)


def default_hidden(embed_dim: int, kind: str) -> int:
    """The usual hidden width: 4 C; for the gated MLP 8/3 C, rounded up to a multiple of 8."""
    return -(-8 * embed_dim // 24) * 8 if kind == "swiglu" else 4 * embed_dim


class TransformerBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    `attn_bias` and `mlp_bias` say for these two what `bias` says for all.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, num_kv_heads: int | None = None, norm: str = "layer",
        mlp: str = "gelu", hidden_dim: int | None = None, bias: bool = True, dropout: float = 0.0,
        norm_eps: float = 1e-5, proj_std: float = STD, rng: np.random.Generator | None = None,
        attn_bias: bool | None = None, mlp_bias: bool | None = None, **attention: Any,
    ):  # fmt: skip
        self.ln_1 = make_norm(norm, embed_dim, norm_eps, bias, rng)
        self.attn = MultiHeadAttention(
            embed_dim,
            num_heads,
            num_kv_heads,
            bias if attn_bias is None else attn_bias,
            dropout,
            proj_std=proj_std,
            rng=rng,
            **attention,
        )
        self.ln_2 = make_norm(norm, embed_dim, norm_eps, bias, rng)
        mlp_bias = bias if mlp_bias is None else mlp_bias
        self.mlp = MLP(embed_dim, hidden_dim, mlp, mlp_bias, dropout, proj_std, rng)

    def forward(
        self, x: Any, key: Any = None, cache: Any = None, pos: Any = None, places: Any = None,
        ends: Any = None, last: Any = None,
    ) -> Any:  # fmt: skip
        """[B, T, C] -> [B, T, C]; with a cache, (that, the new cache).

        With `ends` [B], x [1, N, C] is ragged; with `last`, [B, 1, C] comes out of it.
        """
        keys = (None, None) if key is None else (fold_in(key, 0), fold_in(key, 1))
        y = self.attn(self.ln_1(x), keys[0], cache, pos, places, ends, last)
        y, cache = (y, None) if cache is None else y
        if last is not None:
            x = apply("take", x, last, axis=1).reshape(*y.shape)
        x = x + y
        x = x + self.mlp(self.ln_2(x), keys[1])
        return x if cache is None else (x, cache)


def make_norm(kind: str, width: int, eps: float, bias: bool, rng: Any = None) -> Module:
    """The normalisation called "layer" or "rms"."""
    if kind not in NORMS:
        raise DataError(f"norm is one of {', '.join(NORMS)}, got {kind!r}")
    return LayerNorm(width, eps, bias, rng) if kind == "layer" else RMSNorm(width, eps, rng)
