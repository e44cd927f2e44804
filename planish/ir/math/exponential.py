"""exp, exp2, expm1, sigmoid and tanh.

All reduce their argument to n * ln 2 + r with |r| <= ln 2 / 2, and multiply a polynomial in r by
2^n. Adding `magic` = 1.5 * 2^mantissa rounds to an integer and leaves that integer in the low
bits of the sum, from where a shift takes it to the exponent field: no conversion between float
and integer is needed. Coefficients are minimax (Remez exchange in 160 bits, weighted for relative
error of the whole function; rounded from the lowest power on, refitting the rest each time).
"""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.loops import Expr, Var, bitcast
from planish.ir.math.build import FORMATS, Body, Float, Function, at_least, at_most, fma
from planish.ir.types import DType

# (exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2; relative error of exp 2^-28.2.
EXP = {
    t.f32: (
        0.4999999403953552, 0.16666516661643982, 0.04166810214519501, 0.008369192481040955,
        0.001383890165016055,
    ),
}  # fmt: skip
# Below the first bound exp rounds to 0, above the second to inf.
EXP_RANGE = {t.f32: (-104.0, 89.0)}


def scale_by_two_powers(body: Body, p: Expr, shifted: Expr) -> Expr:
    """p * 2^n as (p * 2^(n >> 1)) * 2^(n - (n >> 1)), so that only the last product rounds.

    One factor would overflow for n = 128 and could not reach the denormals. `shifted` holds
    n + 2 * bias in its low bits; whatever stands above is shifted out.
    """
    fmt = body.fmt
    half = body.let("half", shifted >> 1)
    rest = body.let("rest", shifted - half)
    first = body.let("first", bitcast(half << fmt.mantissa, fmt.dtype))
    second = body.let("second", bitcast(rest << fmt.mantissa, fmt.dtype))
    return body.let("scaled", p * first) * second


def magic(fmt: Float, offset: int) -> float:
    """The number whose addition rounds to an integer n and leaves n + offset in the low bits."""
    return float(3 << (fmt.mantissa - 1)) + offset


def reduce_exp(body: Body, x: Expr, offset: int) -> tuple[Expr, Expr]:
    """(r, bits): x = n * ln 2 + r, and n + offset in the low bits."""
    fmt = body.fmt
    big = magic(fmt, offset)
    total = body.let("total", fma(x, body.const(fmt.log2e), big))
    n = body.let("n", total - big)
    high = body.let("high", fma(n, body.const(-fmt.ln2_high), x))
    r = body.let("r", fma(n, body.const(-fmt.ln2_low), high))
    return r, body.let("bits", bitcast(total, fmt.bits))


def exp(dtype: DType) -> Function:
    """e^x."""
    body = Body("exp", FORMATS[dtype])
    x = Var("x", dtype)
    low, high = EXP_RANGE[dtype]
    inside = body.let("inside", at_least(body.let("below", at_most(x, high)), low))
    r, bits = reduce_exp(body, inside, 2 * body.fmt.bias)
    p = body.polynomial("p", r, (1.0, 1.0, *EXP[dtype]))
    return body.function((x,), scale_by_two_powers(body, p, bits))
