"""Choosing the next token inside a compiled program: thresholds of top-k and top-p, and `sample`.

Neither threshold needs a sort. The bits of a float, read as an integer, are in the order of the
floats (`ordered_bits`), so the threshold is found bit by bit from the top, with one pass over the
row for each bit: `kth_largest_by_bits` and `nucleus_by_bits` state what a kernel does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.draws import GREEDY_BELOW
from planish.ir.errors import DTypeError, IRError, ShapeError
from planish.ir.node import OPS, Node, Op, register
from planish.ir.ops.base import Composite, as_node, const, need_int, promoted
from planish.ir.types import TensorType


def ordered_bits(x: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of the floats `x`, with -0.0 and 0.0 equal.

    u = bits(x + 0.0);  u ^ (all bits if the sign is set else the sign bit)
    """
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    bits = (x + np.zeros((), x.dtype)).view(unsigned)
    sign = unsigned.type(1 << (8 * x.dtype.itemsize - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def floats_of(ordered: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The inverse of `ordered_bits`."""
    sign = ordered.dtype.type(1 << (8 * ordered.dtype.itemsize - 1))
    return np.where(ordered & sign, ordered & ~sign, ~ordered).view(dtype)


def kth_largest_by_bits(x: np.ndarray, k: int) -> np.ndarray:
    """The k-th largest of each row of `x`, as a kernel finds it; k is moved into 1 .. V.

    The largest t with count(u >= t) >= k is the k-th largest u itself. It is built from the top
    bit: a bit stays where enough elements are still at or above it.

        t = 0
        for bit = 31 .. 0:  c = t | 1 << bit;  if count(u >= c) >= k:  t = c
    """
    u = ordered_bits(np.ascontiguousarray(x))
    k = min(max(k, 1), x.shape[-1])
    threshold = np.zeros((*x.shape[:-1], 1), u.dtype)
    for bit in reversed(range(8 * u.dtype.itemsize)):
        raised = threshold | u.dtype.type(1 << bit)
        enough = (u >= raised).sum(-1, keepdims=True) >= k
        threshold = np.where(enough, raised, threshold)
    return floats_of(threshold, x.dtype)


def nucleus_by_bits(probs: np.ndarray, p: float) -> np.ndarray:
    """The top-p threshold of each row, as a kernel finds it.

    Bits of numbers >= 0 are in order as they are, so only the sign bit is left out.

        t = 0;  top = bits(max(probs))
        for bit = 30 .. 0:  c = t | 1 << bit;  if c <= top and sum(probs where u >= c) >= p:  t = c

    The mass changes only at elements, so the largest t is one of them; it is 0 where p is more
    than the mass of the row.
    """
    u = np.ascontiguousarray(probs).view(np.dtype(f"u{probs.dtype.itemsize}"))
    top = u.max(-1, keepdims=True)
    threshold = np.zeros_like(top)
    for bit in reversed(range(8 * u.dtype.itemsize - 1)):
        raised = threshold | u.dtype.type(1 << bit)
        mass = np.where(u >= raised, probs, np.zeros_like(probs)).sum(-1, keepdims=True)
        threshold = np.where((raised <= top) & (mass >= p), raised, threshold)
    return threshold.view(probs.dtype)


def _check_rows(name: str, x: TensorType) -> None:
    if x.dtype != t.f32:  # whose bits the kernels search
        raise DTypeError(f"{name} takes f32, got {x}; cast it first")
    if x.rank == 0 or x.shape[-1] == 0:
        raise ShapeError(f"{name} takes rows [..., V] with V > 0, got {x}")


class KthLargest(Op):
    """The k-th largest element of each row, kept with size 1; `k` is an integer scalar operand.

    k below 1 counts as 1, k above the row's length as that length (so the result is the minimum).
    Rows with NaN have no defined result. The kernel is `kth_largest_by_bits`.
    """

    name, kind, arity = "kth_largest", "special", 2
    no_vjp = "it chooses a threshold for sampling"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        x, *k = operands
        return super().prepare((x, *(as_node(n, t.i32) if type(n) is int else n for n in k)), attrs)

    def infer(self, x: TensorType, k: TensorType) -> TensorType:
        """[..., 1]"""
        _check_rows(self.name, x)
        need_int(self.name, k)
        if k.shape:
            raise ShapeError(f"kth_largest takes an integer scalar k, got {k}")
        return x.with_shape((*x.shape[:-1], 1))

    def ref(self, x: np.ndarray, k: np.ndarray) -> np.ndarray:
        place = x.shape[-1] - min(max(int(k), 1), x.shape[-1])
        return np.sort(x, -1)[..., place : place + 1]


class Nucleus(Op):
    """The largest t with sum(probs >= t) at least p, for each row, kept with size 1.

    Keeping the probabilities >= t is nucleus (top-p) sampling (Holtzman et al., 2019); equal ones
    are kept together. `p` is a scalar operand: p <= 0 gives the largest, p above the sum of the
    row gives 0. Rows with NaN have no defined result. The kernel is `nucleus_by_bits`.
    """

    name, kind, arity = "nucleus", "special", 2
    no_vjp = "it chooses a threshold for sampling"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        return promoted(operands, at_least_float=True), attrs

    def infer(self, probs: TensorType, p: TensorType) -> TensorType:
        """[..., 1]"""
        _check_rows(self.name, probs)
        if p.shape or p.dtype != probs.dtype:
            raise ShapeError(f"nucleus takes a scalar p of the dtype of probs, got {probs}, {p}")
        return probs.with_shape((*probs.shape[:-1], 1))

    def ref(self, probs: np.ndarray, p: np.ndarray) -> np.ndarray:
        falling = -np.sort(-probs, -1)
        mass = np.cumsum(falling.astype(np.float64), -1)
        enough = mass >= float(p)
        first = np.where(enough.any(-1), enough.argmax(-1), probs.shape[-1] - 1)
        found = np.take_along_axis(falling, first[..., None], -1)
        return np.where(enough.any(-1, keepdims=True), found, np.zeros_like(found))


class Sample(Composite):
    """Draw an id i32[...] from each row of logits [..., V]: top-k, temperature, top-p, min-p.

    `key` is a random key u32[2], or u32[..., 2] with a key for each row (then a row's id does not
    depend on the other rows); temperature, top_k and top_p are scalar operands, so one program
    serves all settings (top_k >= V and top_p >= 1 switch those off; logits equal to the k-th
    largest are all kept). `min_p`, an operand that may be left out, keeps what is at least so many
    times as likely as the likeliest; 0 keeps all. A temperature below 1e-6 gives the most likely
    id, the lowest of equal ones, whatever the key. A row that has no finite maximum (NaN, or
    everything masked) gives -1, never an id, and so does a temperature that is NaN or infinite.
    The draw is the Gumbel-max trick: argmax(logits + noise).
    """

    name, at_least = "sample", 5
    no_vjp = "sampling gives integers"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        if len(operands) not in (5, 6) or not isinstance(operands[0], Node):
            raise IRError("sample takes logits, key, temperature, top_k, top_p, maybe min_p")
        logits, key, temperature, top_k, *least = operands
        k = top_k if isinstance(top_k, Node) else as_node(top_k, t.i32)
        heat, *least = (as_node(x, t.f32) for x in (temperature, *least))
        return super().prepare((as_node(logits, t.f32), key, heat, k, *least), attrs)

    def infer(
        self,
        logits: TensorType,
        key: TensorType,
        temperature: TensorType,
        top_k: TensorType,
        top_p: TensorType,
        *min_p: TensorType,
    ) -> TensorType:
        """i32[...]"""
        _check_rows(self.name, logits)
        if key not in (TensorType(t.u32, (2,)), TensorType(t.u32, (*logits.shape[:-1], 2))):
            raise DTypeError(f"sample takes a key u32[2], or one for each row, got {key}")
        need_int(self.name, top_k)
        scalar = TensorType(logits.dtype, ())
        if len(min_p) > 1:
            raise IRError(f"sample takes at most 6 operands, got {5 + len(min_p)}")
        if {temperature, top_p, *min_p} != {scalar} or top_k.shape:
            given = ", ".join(map(str, (temperature, top_k, top_p, *min_p)))
            raise ShapeError(
                f"sample takes scalars temperature, top_k, top_p, maybe min_p: {scalar}, an "
                f"integer, {scalar}, {scalar}; got {given}"
            )
        return TensorType(t.i32, logits.shape[:-1])

    def ref(
        self,
        logits: np.ndarray,
        key: np.ndarray,
        temperature: np.ndarray,
        top_k: np.ndarray,
        top_p: np.ndarray,
        min_p: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        rows = logits.reshape(-1, logits.shape[-1])
        bits = OPS["random_bits"].ref(key, shape=logits.shape).reshape(rows.shape)
        settings = float(temperature), int(top_k), float(top_p), float(min_p)
        ids = [_draw(row, b, *settings) for row, b in zip(rows, bits, strict=True)]
        return np.array(ids, np.int32).reshape(logits.shape[:-1])

    def expand(
        self, logits: Node, key: Node, temperature: Node, top_k: Node, top_p: Node, *min_p: Node
    ) -> Node:
        axis, dtype = logits.type.rank - 1, logits.dtype
        hidden = const(-np.inf, dtype)
        greedy = OPS["lt"](temperature, GREEDY_BELOW)
        heat = OPS["select"](greedy, const(1.0, dtype), temperature)
        top = OPS["max"](logits, axes=(axis,), keep=True)
        kept = OPS["ge"](logits, OPS["kth_largest"](logits, top_k))
        warm = OPS["select"](kept, (logits - top) / heat, hidden)
        probs = OPS["softmax"](warm, axis=axis)
        likely = OPS["ge"](probs, OPS["nucleus"](probs, top_p))
        for least in min_p:
            likely = OPS["logical_and"](likely, OPS["ge"](warm, OPS["log"](least)))
        noisy = OPS["select"](likely, warm + _gumbel(logits, key), hidden)
        ids = OPS["argmax"](OPS["select"](greedy, logits, noisy), axis=axis)
        usable = OPS["logical_and"](OPS["isfinite"](top), OPS["isfinite"](heat))
        usable = OPS["reshape"](usable, shape=logits.shape[:-1])
        return OPS["select"](usable, OPS["cast"](ids, dtype=t.i32), const(-1, t.i32))


def _gumbel(like: Node, key: Node) -> Node:
    """-log(-log(u)), u uniform in the open interval (0, 1): 23 random bits and a half, exact."""
    bits = OPS["random_bits"](key, shape=like.shape)
    whole = OPS["cast"](OPS["shift_right"](bits, 9), dtype=t.i32)
    u = (OPS["cast"](whole, dtype=like.dtype) + 0.5) * 2.0**-23
    return -OPS["log"](-OPS["log"](u))


def _draw(row: np.ndarray, bits: np.ndarray, heat: float, k: int, p: float, least: float) -> int:
    """One row of `sample`, by sorting."""
    if not np.isfinite(row.max()) or not (np.isfinite(heat) or heat < 0):
        return -1
    if heat < GREEDY_BELOW:
        return int(row.argmax())
    falling = np.sort(row)[::-1]
    kept = row >= falling[min(max(k, 1), len(row)) - 1]
    warm = np.where(kept, (row - row.max()) / row.dtype.type(heat), row.dtype.type(-np.inf))
    probs = np.exp(warm) / np.exp(warm).sum()
    with np.errstate(divide="ignore"):
        kept = (probs >= nucleus.ref(probs, np.asarray(p))) & (warm >= np.log(np.float32(least)))
    u = ((bits >> np.uint32(9)).astype(row.dtype) + row.dtype.type(0.5)) * row.dtype.type(2.0**-23)
    return int(np.where(kept, warm - np.log(-np.log(u)), row.dtype.type(-np.inf)).argmax())


kth_largest = register(KthLargest)
nucleus = register(Nucleus)
sample = register(Sample)
