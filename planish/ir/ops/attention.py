"""Scaled dot-product attention: plain, causal, grouped-query, and against a cache."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.errors import DTypeError, IRError, ShapeError
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Composite, as_node, const, promoted
from planish.ir.ops.linalg import swap_last
from planish.ir.types import DType, TensorType


class Attention(Composite):
    """softmax(scale * q @ k^T) @ v for q [B, H, T, D], k [B, G, S, D], v [B, G, S, E].

    H is a multiple of G: H / G neighbouring query heads share a key head (grouped-query attention).
    With `causal`, query i sees the keys j <= offset + i. `offset` is an integer scalar operand, the
    number of keys before the first query; without it, it is S - T: the queries are the last ones.
    A query that sees no key gives zeros. The default scale is 1 / sqrt(D). The result is rounded to
    `out`, where that is given; with `time_first` it is [B, T, H, E], so that merging heads is to
    reshape it.

    `expand` is the definition; lowering has a streaming kernel that never stores the T * S scores.
    """

    name, at_least = "attention", 3

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        offset = tuple(as_node(x, t.i64) if type(x) is int else x for x in operands[3:])
        nodes, attrs = super().prepare(
            (*promoted(operands[:3], at_least_float=True), *offset), attrs
        )
        scale = attrs.pop("scale", None)
        width = nodes[0].shape[-1] if nodes[0].shape else 1
        if scale is None and isinstance(width, int):
            scale = 1.0 / math.sqrt(max(width, 1))
        out = attrs.pop("out", None)
        if out is not None and t.dtype(out) != nodes[0].dtype:
            attrs["out"] = t.dtype(out)
        return nodes, {"causal": False, "scale": scale, **attrs}

    def infer(
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        *offset: TensorType,
        causal: bool,
        scale: float,
        out: DType | None = None,
        time_first: bool = False,
    ) -> TensorType:
        """[B, H, T, E], or [B, T, H, E]"""
        named = f"attention(q: {q}, k: {k}, v: {v})"
        if {q.rank, k.rank, v.rank} != {4}:
            raise ShapeError(f"{named}: takes q [B, H, T, D], k [B, G, S, D], v [B, G, S, E]")
        if not q.dtype.is_float or not q.dtype == k.dtype == v.dtype:
            raise DTypeError(f"{named}: takes one floating-point dtype")
        if q.shape[0] != k.shape[0]:
            raise ShapeError(f"{named}: batches of q and k differ, {q.shape[0]} != {k.shape[0]}")
        if q.shape[3] != k.shape[3]:
            raise ShapeError(f"{named}: widths of q and k differ, {q.shape[3]} != {k.shape[3]}")
        if k.shape[:3] != v.shape[:3]:
            raise ShapeError(f"{named}: k and v differ before their last axis")
        if k.shape[2] == 0:
            raise ShapeError(f"{named}: there are no keys")
        heads, groups = q.shape[1], k.shape[1]
        if not (isinstance(heads, int) and isinstance(groups, int)):
            raise ShapeError(f"{named}: the numbers of heads must be static")
        if groups < 1 or heads % groups:
            raise ShapeError(f"{named}: {heads} query heads are no multiple of {groups} key heads")
        if isinstance(scale, bool) or not isinstance(scale, float):
            raise IRError(f"{named}: scale must be a float, got {scale!r}")
        if out is not None and not out.is_float:
            raise DTypeError(f"{named}: out is a floating-point dtype, got {out}")
        self.check_offset(offset, causal)
        places = (q.shape[0], *(q.shape[2:0:-1] if time_first else q.shape[1:3]))
        return TensorType(q.dtype if out is None else out, (*places, v.shape[3]))

    def check_offset(self, offset: tuple[TensorType, ...], causal: bool) -> None:
        """At most one integer scalar, and only where it has a meaning."""
        if len(offset) > 1:
            raise IRError(f"attention takes q, k, v and at most an offset, got {3 + len(offset)}")
        for x in offset:
            if x.shape or not x.dtype.is_int:
                raise DTypeError(f"attention: offset is an integer scalar, got {x}")
            if not causal:
                raise IRError("attention: an offset has a meaning only with causal=True")

    def ref(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        *offset: np.ndarray,
        causal: bool,
        scale: float,
        out: DType | None = None,
        time_first: bool = False,
    ) -> np.ndarray:
        shared = q.shape[1] // k.shape[1]
        wide = np.result_type(q.dtype, np.float32)
        keys, values = (np.repeat(x.astype(wide), shared, axis=1) for x in (k, v))
        scores = np.einsum("bhtd,bhsd->bhts", q.astype(wide), keys) * scale
        if causal:
            seen = np.tri(q.shape[2], k.shape[2], self.first(q, k, offset), dtype=bool)
            scores = np.where(seen, scores, np.full_like(scores, -np.inf))
        top = scores.max(-1, keepdims=True)
        e = np.exp(scores - np.where(np.isneginf(top), np.zeros_like(top), top))
        total = e.sum(-1, keepdims=True)
        weights = e / np.where(total == 0, np.ones_like(total), total)
        result = q.dtype if out is None else out.numpy
        places = "bthe" if time_first else "bhte"
        return np.einsum(f"bhts,bhse->{places}", weights, values).astype(result)

    def first(self, q: np.ndarray, k: np.ndarray, offset: tuple) -> int:
        """The number of keys before the first query."""
        return int(offset[0]) if offset else k.shape[2] - q.shape[2]

    def expand(
        self, q: Node, k: Node, v: Node, *offset: Node,
        causal: bool, scale: float, out: DType | None = None, time_first: bool = False,
    ) -> Node:  # fmt: skip
        """Heads that share a key head are rows of one product, so no key is ever repeated."""
        b, h, n, d = q.shape
        groups, m, e = k.shape[1], k.shape[2], v.shape[3]
        merged = (b, groups, h // groups * n)
        scores = _reshape(q, (*merged, d)) @ swap_last(k) * scale
        scores = _reshape(scores, (b, h, n, m))
        if causal:
            hidden = const(-math.inf, scores.dtype)
            scores = OPS["select"](_visible(q, k, offset), scores, hidden)
        weights = OPS["softmax"](scores, axis=3)
        y = _reshape(_reshape(weights, (*merged, m)) @ v, (b, h, n, e))
        y = OPS["transpose"](y, perm=(0, 2, 1, 3)) if time_first else y
        return y if out is None else as_node(y, out)


def _reshape(x: Node, shape: tuple) -> Node:
    return x if x.shape == shape else OPS["reshape"](x, shape=shape)


def _visible(q: Node, k: Node, offset: tuple[Node, ...]) -> Node:
    """bool [T, S]: whether key j <= offset + query i."""
    n, m = q.shape[2], k.shape[2]
    if offset:
        first: object = as_node(offset[0], t.i32)
    else:
        gap = m - n
        first = gap if isinstance(gap, int) else as_node(OPS["size"](size=gap), t.i32)
    last = OPS["iota"](shape=(n, 1), axis=0, dtype=t.i32) + first
    return OPS["le"](OPS["iota"](shape=(m,), axis=0, dtype=t.i32), last)


attention = register(Attention)
