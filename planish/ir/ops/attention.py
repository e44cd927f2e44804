"""Scaled dot-product attention: plain, causal, grouped-query, and against a cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from planish.ir import types as t
from planish.ir.dims import AnySize
from planish.ir.errors import DTypeError, GradientError, IRError, ShapeError
from planish.ir.node import OPS, Node, register
from planish.ir.ops import random
from planish.ir.ops.base import Composite, as_node, const, promoted
from planish.ir.ops.linalg import swap_last
from planish.ir.ops.ragged import begin_of, check_ends, pieces, row_of
from planish.ir.types import DType, TensorType

Kept = TypeVar("Kept")


def extras(rest: Sequence[Kept], dropout: float) -> tuple[Kept | None, Kept | None]:
    """The offset and the random key among the operands after the arrays; None where not given."""
    key = rest[-1] if dropout and rest else None
    return (rest[0] if len(rest) > (key is not None) else None), key


def prepared(
    operands: tuple, attrs: dict[str, Any], arrays: int
) -> tuple[tuple[Node, ...], dict[str, Any]]:
    """Operands and attributes in canonical form; the first `arrays` operands have one dtype."""
    rest = (as_node(x, t.i64) if type(x) is int else x for x in operands[arrays:])
    nodes = (*promoted(operands[:arrays], at_least_float=True), *rest)
    scale = attrs.pop("scale", None)
    width = nodes[0].shape[-1] if nodes[0].shape else 1
    if scale is None and isinstance(width, int):
        scale = 1.0 / math.sqrt(max(width, 1))
    if isinstance(attrs.get("dropout"), (int, float)) and not attrs["dropout"]:
        del attrs["dropout"]
    return nodes, {"causal": False, "scale": scale, **attrs}


class Attention(Composite):
    """softmax(scale * q @ k^T) @ v for q [B, H, T, D], k [B, G, S, D], v [B, G, S, E].

    H is a multiple of G: H / G neighbouring query heads share a key head (grouped-query attention).
    With `causal`, query i sees the keys j <= offset + i. `offset` is an integer operand, a scalar
    or [B], the number of keys before the first query; without it, it is S - T: the queries are the
    last ones. A query that sees no key gives zeros. The default scale is 1 / sqrt(D). With a rate
    of `dropout` the last operand is a key, and weights are dropped as `dropout` of [B, H, T, S]
    drops them. The result is rounded to `out`, where that is given; with `time_first` it is
    [B, T, H, E], so that merging heads is to reshape it.

    With `ragged`, q is [1, H, N, D]: the queries of B rows of different lengths, one after another.
    The operand after the offsets [B] says where each row ends, see `planish.ir.ops.ragged`; the
    result is [1, H, N, E] or [1, N, H, E].

    `expand` is the definition; lowering has a streaming kernel that never stores the T * S scores.
    """

    name, at_least, own_vjp = "attention", 3, True

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        nodes, attrs = super().prepare(*prepared(operands, attrs, 3))
        if attrs.get("ragged") is False:
            del attrs["ragged"]
        out = attrs.pop("out", None)
        if out is not None and t.dtype(out) != nodes[0].dtype:
            attrs["out"] = t.dtype(out)
        return nodes, attrs

    def infer(
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        *rest: TensorType,
        causal: bool,
        scale: float,
        dropout: float = 0.0,
        out: DType | None = None,
        time_first: bool = False,
        ragged: bool = False,
    ) -> TensorType:
        """[B, H, T, E], or [B, T, H, E]"""
        check_operands(self.name, q, k, v, scale, ragged)
        if ragged:
            check_ragged(self.name, rest, dropout, k.shape[0])
            rest = rest[:1]
        check_extras(self.name, rest, causal, dropout, k.shape[0])
        if out is not None and not out.is_float:
            raise DTypeError(f"{self.name}: out is a floating-point dtype, got {out}")
        places = (q.shape[0], *(q.shape[2:0:-1] if time_first else q.shape[1:3]))
        return TensorType(q.dtype if out is None else out, (*places, v.shape[3]))

    def ref(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        *rest: np.ndarray,
        causal: bool,
        scale: float,
        dropout: float = 0.0,
        out: DType | None = None,
        time_first: bool = False,
        ragged: bool = False,
    ) -> np.ndarray:
        if ragged:
            return self._by_rows(
                q, k, v, *rest, causal=causal, scale=scale, out=out, time_first=time_first
            )
        offset, key = extras(rest, dropout)
        weights = weights_of_arrays(q, k, offset, causal, scale)
        if key is not None:
            weights = random.dropout.ref(weights, key, rate=dropout)
        values = np.repeat(v.astype(weights.dtype), q.shape[1] // k.shape[1], axis=1)
        result = q.dtype if out is None else out.numpy
        places = "bthe" if time_first else "bhte"
        return np.einsum(f"bhts,bhse->{places}", weights, values).astype(result)

    def _by_rows(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, offset: np.ndarray, ends: np.ndarray,
        **attrs: Any,
    ) -> np.ndarray:  # fmt: skip
        """Ragged rows, one after the other."""
        return np.concatenate(
            [
                self.ref(q[:, :, a:b], k[r : r + 1], v[r : r + 1], offset[r], **attrs)
                for r, (a, b) in enumerate(pieces(ends, q.shape[2]))
            ],
            axis=1 if attrs["time_first"] else 2,
        )

    def expand(
        self, q: Node, k: Node, v: Node, *rest: Node, causal: bool, scale: float,
        dropout: float = 0.0, out: DType | None = None, time_first: bool = False,
        ragged: bool = False,
    ) -> Node:  # fmt: skip
        """Heads that share a key head are rows of one product, so no key is ever repeated.

        Of ragged rows each query is a batch by itself, and has the keys of its row.
        """
        if ragged:
            y = self.expand(*by_query(q, k, v, *rest), causal=causal, scale=scale, out=out)
            return OPS["transpose"](y, perm=(2, 0, 1, 3) if time_first else (2, 1, 0, 3))
        offset, key = extras(rest, dropout)
        weights = weights_of(q, k, offset, causal, scale)
        if key is not None:
            weights = random.dropout(weights, key, rate=dropout)
        y = reshaped(by_key_head(weights, k) @ v, (*q.shape[:3], v.shape[3]))
        y = OPS["transpose"](y, perm=(0, 2, 1, 3)) if time_first else y
        return y if out is None else as_node(y, out)

    def vjp(
        self, y: Node, dy: Node, q: Node, k: Node, v: Node, *rest: Node, causal: bool, scale: float,
        dropout: float = 0.0, out: DType | None = None, time_first: bool = False,
        ragged: bool = False,
    ) -> tuple[Node | None, ...]:  # fmt: skip
        if ragged:
            raise GradientError("attention of ragged rows is for prompts, which nobody trains on")
        dy = OPS["transpose"](dy, perm=(0, 2, 1, 3)) if time_first else dy
        op = OPS["attention_grad"]
        found = op(
            q, k, v, as_node(dy, q.dtype), *rest, causal=causal, scale=scale, dropout=dropout,
            merged=q.shape[2] == k.shape[2],
        )  # fmt: skip
        return (*op.parts(found, q, k, v), *(None for _ in rest))  # type: ignore[attr-defined]


def by_query(q: Node, k: Node, v: Node, offset: Node, ends: Node) -> tuple[Node, Node, Node, Node]:
    """Operands of ragged attention with each query as a batch of its own, [N, H, 1, D]."""
    count = q.shape[2]
    row = row_of(ends, count)
    place = OPS["iota"](shape=(count,), axis=0, dtype=t.i32)
    first = OPS["take"](offset - as_node(begin_of(ends), offset.dtype), row, axis=0)
    keys, values = (OPS["take"](x, row, axis=0) for x in (k, v))
    return OPS["transpose"](q, perm=(2, 1, 0, 3)), keys, values, as_node(first, t.i32) + place


def check_ragged(name: str, rest: tuple[TensorType, ...], dropout: float, rows: AnySize) -> None:
    """An offset and an end for each row."""
    if dropout or len(rest) != 2 or rest[0].shape != (rows,):
        raise IRError(f"{name}: ragged rows take offsets and ends, one for each of {rows} rows")
    check_ends(name, rest[1], rows)


def check_operands(
    name: str, q: TensorType, k: TensorType, v: TensorType, scale: object, ragged: bool = False
) -> None:
    """Refuse arrays that do not fit together."""
    named = f"{name}(q: {q}, k: {k}, v: {v})"
    if {q.rank, k.rank, v.rank} != {4}:
        raise ShapeError(f"{named}: takes q [B, H, T, D], k [B, G, S, D], v [B, G, S, E]")
    if not q.dtype.is_float or not q.dtype == k.dtype == v.dtype:
        raise DTypeError(f"{named}: takes one floating-point dtype")
    if ragged and q.shape[0] != 1:
        raise ShapeError(f"{named}: ragged queries lie in one row, [1, H, N, D]")
    if not ragged and q.shape[0] != k.shape[0]:
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


def check_extras(
    name: str, rest: tuple[TensorType, ...], causal: bool, dropout: float, batch: AnySize
) -> None:
    """At most one offset, and only where it has a meaning; a key where weights drop out."""
    random.need_probability(name, "dropout", dropout)
    offset, key = extras(rest, dropout)
    if dropout and key is None:
        raise IRError(f"{name}: dropout takes a key as the last operand")
    known = (offset is not None) + (key is not None)
    if len(rest) > known:
        raise IRError(f"{name} takes arrays and an offset at most, got {len(rest) - known} more")
    if key is not None:
        random.need_key(name, key, ())
    if offset is not None:
        if offset.shape not in ((), (batch,)) or not offset.dtype.is_int:
            raise DTypeError(
                f"{name}: offset is an integer scalar, or one for each of a batch of {batch}, got "
                f"{offset}"
            )
        if not causal:
            raise IRError(f"{name}: an offset has a meaning only with causal=True")


def weights_of_arrays(
    q: np.ndarray, k: np.ndarray, offset: np.ndarray | None, causal: bool, scale: float
) -> np.ndarray:
    """The weights [B, H, T, S], at least f32; 0 in the row of a query that sees no key."""
    wide = np.result_type(q.dtype, np.float32)
    keys = np.repeat(k.astype(wide), q.shape[1] // k.shape[1], axis=1)
    scores = np.einsum("bhtd,bhsd->bhts", q.astype(wide), keys) * scale
    if causal:
        first = np.asarray(k.shape[2] - q.shape[2] if offset is None else offset, np.int64)
        last = np.arange(q.shape[2])[:, None] + first.reshape(-1, 1, 1, 1)
        seen = np.arange(k.shape[2]) <= last
        scores = np.where(seen, scores, np.full_like(scores, -np.inf))
    top = scores.max(-1, keepdims=True)
    e = np.exp(scores - np.where(np.isneginf(top), np.zeros_like(top), top))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, np.ones_like(total), total)


def weights_of(q: Node, k: Node, offset: Node | None, causal: bool, scale: float) -> Node:
    """The same in primitives."""
    scores = by_key_head(q, k) @ swap_last(k) * scale
    scores = reshaped(scores, (*q.shape[:3], k.shape[2]))
    if causal:
        hidden = const(-math.inf, scores.dtype)
        scores = OPS["select"](_visible(q, k, offset), scores, hidden)
    return OPS["softmax"](scores, axis=3)


def by_key_head(x: Node, k: Node) -> Node:
    """[B, H, T, n] as [B, G, H / G * T, n]: the rows of the heads that share a key head."""
    b, h, n, width = x.shape
    return reshaped(x, (b, k.shape[1], h // k.shape[1] * n, width))


def reshaped(x: Node, shape: tuple) -> Node:
    """`x` at this shape; itself where it has it."""
    return x if x.shape == shape else OPS["reshape"](x, shape=shape)


def _visible(q: Node, k: Node, offset: Node | None) -> Node:
    """bool [T, S], or [B, 1, T, S]: whether key j <= offset + query i."""
    n, m = q.shape[2], k.shape[2]
    if offset is not None:
        given = as_node(offset, t.i32)
        first: object = reshaped(given, (*given.shape, 1, 1, 1)) if given.shape else given
    else:
        gap = m - n
        first = gap if isinstance(gap, int) else as_node(OPS["size"](size=gap), t.i32)
    last = OPS["iota"](shape=(n, 1), axis=0, dtype=t.i32) + first
    return OPS["le"](OPS["iota"](shape=(m,), axis=0, dtype=t.i32), last)


attention = register(Attention)
