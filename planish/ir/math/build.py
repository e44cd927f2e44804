"""What a definition of a mathematical function is, and the few helpers that write one.

A `Function` is straight-line code over the primitive scalars of `planish.ir.loops`: no branch,
no table, no call, so that code generation turns each `Let` into one instruction on a scalar or
on a whole vector. The order of the operations is part of the definition: a code generator may
not reassociate them (`(x + magic) - magic` is not x), contracting a * b + c to fma is fine.
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir import types as t
from planish.ir.loops import Const, Expr, Let, Operand, Var, as_expr, bitcast, scalar, select
from planish.ir.types import DType


@dataclass(frozen=True, slots=True)
class Function:
    """result(params), computed by `lets` in order. Names are local to the function."""

    name: str
    params: tuple[Var, ...]
    lets: tuple[Let, ...]
    result: Expr


@dataclass(frozen=True, slots=True)
class Float:
    """An IEEE format as the definitions see it: the integer of its width, and its layout."""

    dtype: DType
    bits: DType
    mantissa: int
    bias: int
    log2e: float
    ln2_high: float  # so short that n * ln2_high is exact for every exponent n
    ln2_low: float


F32 = Float(
    t.f32, t.i32, 23, 127, 1.4426950216293335, float.fromhex("0x1.62e4p-1"), 1.428606765330187e-06
)
F64 = Float(
    t.f64, t.i64, 52, 1023, 1.4426950408889634, float.fromhex("0x1.62e42fefap-1"),
    float.fromhex("0x1.cf79abc9e3b39p-40"),
)  # fmt: skip
FORMATS = {t.f32: F32, t.f64: F64}


class Body:
    """A definition being written: `let` names a value once, `function` closes it."""

    def __init__(self, name: str, fmt: Float) -> None:
        self.name, self.fmt = name, fmt
        self.lets: list[Let] = []

    def const(self, value: float) -> Expr:
        """A literal of the format's dtype."""
        return Const(value, self.fmt.dtype)

    def bits(self, value: int) -> Expr:
        """A literal of the format's integer."""
        return Const(value, self.fmt.bits)

    def let(self, name: str, value: Expr) -> Var:
        """Name `value`; a second value of the same name gets a number."""
        taken = sum(x.var.name.split(".")[0] == name for x in self.lets)
        var = Var(f"{name}.{taken}" if taken else name, value.type)
        self.lets.append(Let(var, value))
        return var

    def function(self, params: tuple[Var, ...], result: Expr) -> Function:
        """The finished definition."""
        return Function(self.name, params, tuple(self.lets), result)

    def polynomial(self, name: str, x: Expr, coefficients: tuple[float, ...]) -> Expr:
        """c0 + c1 x + c2 x^2 + ... by Horner's rule, one fma a step."""
        total: Expr = self.const(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            total = self.let(name, fma(total, x, self.const(c)))
        return total


def fma(a: Operand, b: Operand, c: Operand) -> Expr:
    """a * b + c, rounded once."""
    return scalar("fma", a, b, c)


def equal(a: Operand, b: Operand) -> Expr:
    """a == b; false where either is NaN."""
    return scalar("eq", a, b)


def at_most(x: Expr, bound: float) -> Expr:
    """min(x, bound), and NaN where x is NaN; one `minps` on x86, which `min` is not."""
    limit = as_expr(bound, x.type)
    return select(x > limit, limit, x)


def at_least(x: Expr, bound: float) -> Expr:
    """max(x, bound), and NaN where x is NaN."""
    limit = as_expr(bound, x.type)
    return select(x < limit, limit, x)


def magnitude(body: Body, x: Expr) -> Expr:
    """|x| by clearing the sign bit."""
    fmt = body.fmt
    mask = (1 << (fmt.dtype.bits - 1)) - 1
    return bitcast(bitcast(x, fmt.bits) & mask, fmt.dtype)


def sign_bit(body: Body, x: Expr) -> Expr:
    """The sign bit of x alone, as an integer."""
    return bitcast(x, body.fmt.bits) & -(1 << (body.fmt.dtype.bits - 1))


def with_sign(body: Body, x: Expr, sign: Expr) -> Expr:
    """x with its sign flipped where `sign` (from `sign_bit`) is set."""
    return bitcast(bitcast(x, body.fmt.bits) ^ sign, body.fmt.dtype)
