"""The gradient of attention with respect to queries, keys and values, as one op."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir.dims import AnySize
from planish.ir.errors import IRError, ShapeError
from planish.ir.node import OPS, Node, register
from planish.ir.ops import random
from planish.ir.ops.attention import (
    by_key_head,
    check_extras,
    check_operands,
    extras,
    prepared,
    reshaped,
    weights_of,
    weights_of_arrays,
)
from planish.ir.ops.base import Composite
from planish.ir.ops.linalg import swap_last
from planish.ir.types import TensorType


class AttentionGrad(Composite):
    """dq, dk and dv of y = attention(q, k, v), side by side, given dy [B, H, T, E].

    With P the weights, Z what dropout multiplies them by (1 without it) and all products by head,

        dv = (P Z)^T dy     dP = Z (dy v^T)     dS = P (dP - rowsum(P dP))
        dq = scale dS k     dk = scale dS^T q

    as in FlashAttention-2 (Dao, 2023), where rowsum(P dP) is rowsum(dy y). dk and dv are summed
    over the query heads that share a key head. The result is [B, T*H*D + S*G*D + S*G*E], each part
    in the order [.., head, width]; with `merged`, for as many queries as keys, it is
    [B, T, H * D + G * D + G * E]: the gradient of the projection that q, k and v are cut out of.

    `expand` is the definition; lowering has a kernel that stores T * S scores a block at a time.
    """

    name, at_least = "attention_grad", 4

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        nodes, attrs = super().prepare(*prepared(operands, attrs, 4))
        return nodes, {"merged": False, **attrs}

    def infer(
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        dy: TensorType,
        *rest: TensorType,
        causal: bool,
        scale: float,
        merged: bool,
        dropout: float = 0.0,
    ) -> TensorType:
        """[B, T * H * D + S * G * D + S * G * E], or [B, T, H * D + G * D + G * E]"""
        check_operands(self.name, q, k, v, scale)
        check_extras(self.name, rest, causal, dropout, q.shape[0])
        wanted = q.with_shape((*q.shape[:3], v.shape[3]))
        if dy != wanted:
            raise ShapeError(f"{self.name}: dy is {wanted}, got {dy}")
        if merged and q.shape[2] != k.shape[2]:
            raise IRError(f"{self.name}: merged takes as many queries as keys, got {q} and {k}")
        width: AnySize = 0
        for x in (q, k, v):
            width = width + _columns(x, merged)
        return q.with_shape((q.shape[0], q.shape[2], width) if merged else (q.shape[0], width))

    def ref(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        dy: np.ndarray,
        *rest: np.ndarray,
        causal: bool,
        scale: float,
        merged: bool,
        dropout: float = 0.0,
    ) -> np.ndarray:
        offset, key = extras(rest, dropout)
        weights = weights_of_arrays(q, k, offset, causal, scale)
        b, groups, shared = *k.shape[:2], q.shape[1] // k.shape[1]
        kept = np.ones_like(weights)
        if key is not None:
            kept = random.dropout.ref(kept, key, rate=dropout)
        queries, keys, values, slopes = (x.astype(weights.dtype) for x in (q, k, v, dy))
        slopes = slopes.reshape(b, groups, shared, *dy.shape[2:])
        queries = queries.reshape(b, groups, shared, *q.shape[2:])
        kept, weights = (x.reshape(b, groups, shared, *x.shape[2:]) for x in (kept, weights))
        dv = np.einsum("bgnts,bgnte->bsge", weights * kept, slopes)
        error = kept * np.einsum("bgnte,bgse->bgnts", slopes, values)
        error = weights * (error - (weights * error).sum(-1, keepdims=True)) * scale
        dq = np.einsum("bgnts,bgsd->btgnd", error, keys)
        dk = np.einsum("bgnts,bgntd->bsgd", error, queries)
        places = (b, q.shape[2], -1) if merged else (b, -1)
        return np.concatenate([x.reshape(places) for x in (dq, dk, dv)], -1).astype(q.dtype)

    def expand(
        self, q: Node, k: Node, v: Node, dy: Node, *rest: Node, causal: bool, scale: float,
        merged: bool, dropout: float = 0.0,
    ) -> Node:  # fmt: skip
        offset, key = extras(rest, dropout)
        weights = dropped = weights_of(q, k, offset, causal, scale)
        error = reshaped(by_key_head(dy, k) @ swap_last(v), weights.shape)
        if key is not None:
            dropped, error = (random.dropout(x, key, rate=dropout) for x in (weights, error))
        error = weights * (error - OPS["sum"](weights * error, axes=(3,), keep=True)) * scale
        error = by_key_head(error, k)
        dq = reshaped(error @ k, q.shape)
        dk = swap_last(error) @ by_key_head(q, k)
        dv = swap_last(by_key_head(dropped, k)) @ by_key_head(dy, k)
        parts = (OPS["transpose"](x, perm=(0, 2, 1, 3)) for x in (dq, dk, dv))
        flat = []
        for x in parts:
            b, length, heads, width = x.shape
            columns = heads * width if merged else length * heads * width
            flat.append(reshaped(x, (b, length, columns) if merged else (b, columns)))
        return OPS["concat"](*flat, axis=2 if merged else 1)

    def parts(self, y: Node, q: Node, k: Node, v: Node) -> tuple[Node, ...]:
        """dq, dk and dv as they lie in the result `y`."""
        found, merged = [], y.attrs["merged"]
        start: AnySize = 0
        front = y.shape[:-1]
        for x in (q, k, v):
            stop = start + _columns(x.type, merged)
            part = OPS["slice"](y, starts=(*(0 for _ in front), start), stops=(*front, stop))
            b, heads, length, width = x.shape
            part = OPS["reshape"](part, shape=(b, length, heads, width))
            found.append(OPS["transpose"](part, perm=(0, 2, 1, 3)))
            start = stop
        return tuple(found)


def _columns(x: TensorType, merged: bool) -> AnySize:
    """Elements of one part, of a time or of all."""
    _, heads, length, width = x.shape
    return heads * width if merged else length * heads * width


attention_grad = register(AttentionGrad)
