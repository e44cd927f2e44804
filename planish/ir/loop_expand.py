"""Expanding: the shape of expressions that puts kept values back to where the bits of a mask are.

    values f32   lane j is values[start + rank(mask, j)] where bit j is set, else 0
    values u8    lane j is a word of four bytes, which belong to bits 4 j .. 4 j + 3

`rank` counts the bits below. A vector loop over 16 lanes reads so what 16 floats or 64 bytes were
before their zeros were left out. Processors have an instruction that does it, or shuffle bytes by a
table; any other expression of the same meaning, and any other loop, goes lane by lane.

What no bit asks for has no meaning, but is read: so values have `SPARE` bytes more at their end.
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir import types as t
from planish.ir.loops import Buffer, Const, Expr, Load, Scalar, Var, cast, select
from planish.ir.ops.sparse import is_set, rank

LANES = 16  # of an expanded vector
EXPANSIONS = ("select", "or")  # what its expression may be, at last
SPARE = 64  # bytes: as many may be read from where a value is, or would be


@dataclass(frozen=True)
class Expansion:
    """The parts of an expanded vector, whose lane is `lane`."""

    values: Buffer
    start: Expr
    mask: Expr
    lane: Var


def expanded(values: Buffer, start: Expr, mask: Expr, lane: Expr) -> Expr:
    """Lane `lane` of what 16 numbers were: a float, or four bytes as a word."""
    if values.dtype == t.f32:
        return _kept(values, start, mask, lane)
    word, *rest = (cast(_kept(values, start, mask, lane * 4 + i), t.u32) for i in range(4))
    for i, x in enumerate(rest, 1):
        word = word | x << 8 * i
    return word


def _kept(values: Buffer, start: Expr, mask: Expr, bit: Expr) -> Expr:
    zero = Const(0.0 if values.dtype.is_float else 0, values.dtype)
    return select(is_set(mask, bit), Load(values, (start + rank(mask, bit),)), zero)


def expansion_parts(expr: Expr) -> Expansion | None:
    """The parts of an expression that `expanded` made; None where it has another shape."""
    match expr:
        case Scalar("or", (_, Scalar("shl", (Scalar("cast", (last,)), _)))):
            pass
        case _:
            last = expr
    match last:
        case Scalar(
            "select",
            (
                Scalar("ne", (Scalar("and", (Scalar("shr", (mask, bit)), _)), _)),
                Load(values, (Scalar("add", (start, _)),)),
                _,
            ),
        ):
            lane = bit
        case _:
            return None
    if last is not expr:
        match bit:
            case Scalar("add", (Scalar("mul", (lane, _)), _)):
                pass
            case _:
                return None
    if not isinstance(lane, Var) or values.dtype not in (t.f32, t.u8):
        return None
    found = Expansion(values, start, mask, lane)
    return found if expanded(values, start, mask, lane) == expr else None


def bits_in(values: Buffer) -> int:
    """How many bits of a mask one vector takes."""
    return LANES if values.dtype == t.f32 else 4 * LANES
