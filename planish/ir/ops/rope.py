"""Rotary position embedding (Su et al., RoFormer, 2021)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.attributes import as_float
from planish.ir.errors import IRError, ShapeError
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Composite, need_float, need_int, promoted
from planish.ir.types import TensorType


class Rope(Composite):
    """Rotate pairs of features of x [..., T, D] by angles position * base^(-2i / D), i < D / 2.

    `positions` is an integer array [T], or [B, T] for the first axis of `x`. The pair i is
    (i, i + D / 2), "rotate half", as in Llama checkpoints of Hugging Face; with `interleaved` it is
    (2i, 2i + 1), as in those of Meta and in the paper. The angle of pair i is divided by the i-th
    of `factors` [D / 2], floats, which may be absent.
    """

    name, at_least = "rope", 2

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, {"base": 1e4, "interleaved": False, **attrs})
        (x,) = promoted(operands[:1], at_least_float=True)
        return (x, *operands[1:]), {**attrs, "base": as_float(self.name, "base", attrs["base"])}

    def infer(
        self, x: TensorType, positions: TensorType, *factors: TensorType, base: float,
        interleaved: bool = False,
    ) -> TensorType:  # fmt: skip
        """The type of `x`."""
        need_float(self.name, x, *factors)
        need_int(self.name, positions)
        if x.rank < 2 or not isinstance(x.shape[-1], int) or x.shape[-1] % 2:
            raise ShapeError(f"rope takes x [..., T, D] with D even, got {x}")
        shapes = [x.shape[-2:-1], (x.shape[0], x.shape[-2])][: x.rank - 1]
        if positions.shape not in shapes:
            listed = " or ".join(str(list(s)) for s in shapes)
            raise ShapeError(f"rope of {x} takes positions of shape {listed}, got {positions}")
        if len(factors) > 1 or any(f.shape != (x.shape[-1] // 2,) for f in factors):
            listed = ", ".join(map(str, factors))
            raise ShapeError(f"rope of {x} takes factors [{x.shape[-1] // 2}] once, got {listed}")
        if not base > 0.0:
            raise IRError(f"rope: base must be positive, got {base}")
        return x

    def ref(
        self, x: np.ndarray, positions: np.ndarray, *factors: np.ndarray, base: float,
        interleaved: bool,
    ) -> np.ndarray:  # fmt: skip
        half = x.shape[-1] // 2
        angles = positions[..., None].astype(np.float64) * base ** (-np.arange(half) / max(half, 1))
        for factor in factors:
            angles = angles / factor.astype(np.float64)
        if positions.ndim == 2:
            angles = angles.reshape(len(x), *[1] * (x.ndim - 3), *angles.shape[1:])
        parts = (
            (np.s_[..., ::2], np.s_[..., 1::2])
            if interleaved
            else (
                np.s_[..., :half],
                np.s_[..., half:],
            )
        )
        y = np.empty(x.shape, np.result_type(x.dtype, np.float32))
        a, b = (x[part].astype(y.dtype) for part in parts)
        cos, sin = np.cos(angles).astype(y.dtype), np.sin(angles).astype(y.dtype)
        y[parts[0]] = a * cos - b * sin
        y[parts[1]] = b * cos + a * sin
        return y.astype(x.dtype)

    def expand(
        self, x: Node, positions: Node, *factors: Node, base: float, interleaved: bool
    ) -> Node:
        """y = x * cos + sign * partner(x) * sin, where a pair is an axis of size 2 of its own.

        Splitting the last axis keeps every read contiguous: the partner is a flip of the pair axis.
        """
        half = x.shape[-1] // 2
        pair = (
            x.type.rank if interleaved else x.type.rank - 1
        )  # the axis of a pair, after splitting
        tail = (half, 2) if interleaved else (2, half)
        pairs = OPS["reshape"](x, shape=(*x.shape[:-1], *tail))
        cos, sin = _tables(x, positions, factors, base, pair)
        sign = OPS["iota"](shape=(2, 1) if not interleaved else (2,), axis=0, dtype=t.i32)
        sign = OPS["cast"](sign * 2 - 1, dtype=x.dtype)
        turned = pairs * cos + OPS["flip"](pairs, axes=(pair,)) * (sign * sin)
        return OPS["reshape"](turned, shape=x.shape)


def _tables(
    x: Node, positions: Node, factors: tuple[Node, ...], base: float, pair: int
) -> tuple[Node, Node]:
    """cos and sin of the angles, with a size 1 at axis `pair` of [..., T, D / 2].

    They depend on the positions alone, so all layers share them.
    """
    half = x.shape[-1] // 2
    wide = t.promote(x.dtype, t.f32)  # angles reach the thousands: too much for 16 bits
    i = OPS["cast"](OPS["iota"](shape=(half,), axis=0, dtype=t.i32), dtype=wide)
    rates = OPS["exp"](i * (-math.log(base) / max(half, 1)))
    for factor in factors:
        rates = rates / OPS["cast"](factor, dtype=wide)
    column = OPS["cast"](OPS["reshape"](positions, shape=(*positions.shape, 1)), dtype=wide)
    angles = column * rates
    middle = (1,) * (x.type.rank - 3)
    lead = (x.shape[0], *middle) if positions.type.rank == 2 else ()
    tail = (half, 1) if pair == x.type.rank else (1, half)
    angles = OPS["reshape"](angles, shape=(*lead, x.shape[-2], *tail))
    cos, sin = OPS["cos"](angles), OPS["sin"](angles)
    if wide == x.dtype:
        return cos, sin
    return OPS["cast"](cos, dtype=x.dtype), OPS["cast"](sin, dtype=x.dtype)


rope = register(Rope)
