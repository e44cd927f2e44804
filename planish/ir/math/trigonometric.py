"""sin and cos.

f32: the quarter turns x * 2 / pi modulo 4 come from f64 products with 29-bit pieces of 2 / pi,
which are exact (24 + 29 = 53 bits), whatever the size of x (after Payne and Hanek 1983; pieces
that only add whole turns drop out by themselves). f64: three-part reduction by pi / 2 (Cody and
Waite 1980), good to |x| = 10^5 and slowly worse beyond. Then minimax polynomials on
|a| <= pi / 4, made as those of `exponential`.
"""

from __future__ import annotations

from math import pi

from planish.ir import types as t
from planish.ir.loops import Expr, Var, bitcast, cast, scalar, select
from planish.ir.math.build import (
    FORMATS,
    Body,
    Function,
    at_least,
    at_most,
    equal,
    fma,
    with_sign,
)
from planish.ir.types import DType

# 2 / pi = sum of these; all but the last have 29 bits at most.
TWO_OVER_PI = (
    0.636619770899415, 1.4681663246252086e-09, 2.2760100671971816e-18,
    5.8812147387730434e-27, 1.0346868700836215e-35, 3.7832563882960676e-45,
)  # fmt: skip
# pi / 2 in three parts; multiples of the first two up to 2^20 are exact.
HALF_PI = (
    1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21,
)  # fmt: skip
# (sin(a) - a) / a^3 in a^2; relative error 2^-27.9, 2^-56.4.
SIN = {
    t.f32: (-0.16666655242443085, 0.008332189172506332, -0.00019518285989761353),
    t.f64: (
        -0.1666666666666663, 0.008333333333322108, -0.00019841269829580198,
        2.7557313618049607e-06, -2.505074722533506e-08, 1.5896198133540355e-10,
    ),
}  # fmt: skip
# (cos(a) - 1 + a^2 / 2) / a^4 in a^2; relative error 2^-33, 2^-59.6.
COS = {
    t.f32: (0.04166664555668831, -0.0013887309469282627, 2.4432327336398885e-05),
    t.f64: (
        0.041666666666666595, -0.001388888888887304, 2.480158728884182e-05,
        -2.7557314176352877e-07, 2.087570043053024e-09, -1.1358514662537685e-11,
    ),
}  # fmt: skip


def quarter_turns(body: Body, x: Expr) -> tuple[Expr, Expr]:
    """(a, n): x = a + n pi / 2 modulo whole turns, |a| <= pi / 4 in f32, n whole and small."""
    wide = body.let("wide", cast(x, t.f64))
    parts: list[Expr] = []
    for i, piece in enumerate(TWO_OVER_PI):
        part = body.let("part", wide * piece)
        if i < len(TWO_OVER_PI) - 1:  # the last is always below 1
            turns = body.let("turns", scalar("round", part * 0.25))
            part = body.let("part", fma(turns, -4.0, part))
        parts.append(part)
    total: Expr = parts[0]
    for term in parts[1:]:
        total = body.let("total", total + term)
    n = body.let("n", scalar("round", total))
    # Taking n away first keeps every further sum exact where x is close to a multiple of pi / 2.
    rest: Expr = body.let("rest", parts[0] - n)
    for term in parts[1:]:
        rest = body.let("rest", rest + term)
    return body.let("a", cast(rest * (pi / 2), t.f32)), body.let("n", cast(n, t.f32))


def quarter_turns_f64(body: Body, x: Expr) -> tuple[Expr, Expr]:
    """The same for f64; a is kept within bounds where x is too large to be reduced."""
    n = body.let("n", scalar("round", x * (2 / pi)))
    a: Expr = x
    for part in HALF_PI:
        a = body.let("a", fma(n, body.const(-part), a))
    bounded = body.let("a", at_least(body.let("a", at_most(a, 0.79)), -0.79))
    quarters = body.let("quarters", scalar("floor", n * 0.25))
    return bounded, body.let("n", fma(quarters, -4.0, n))


def _wave(name: str, dtype: DType, shift: int) -> tuple[Body, Var, Expr]:
    """sin(x + shift * pi / 2), which is sin or cos of a by the parity of n, with a sign."""
    body = Body(name, FORMATS[dtype])
    fmt = body.fmt
    x = Var("x", dtype)
    a, n = (quarter_turns if dtype == t.f32 else quarter_turns_f64)(body, x)
    big = float(3 << (fmt.mantissa - 1)) + shift
    quarter = body.let("quarter", bitcast(body.let("moved", n + big), fmt.bits))
    square = body.let("square", a * a)
    cube = body.let("cube", square * a)
    sine = body.let("sine", fma(body.polynomial("s", square, SIN[dtype]), cube, a))
    c = body.polynomial("c", square, (1.0, -0.5, *COS[dtype]))
    value = body.let("value", select(equal(quarter & 1, 0), sine, c))
    sign = body.let("sign", (quarter & 2) << (dtype.bits - 2))
    return body, x, with_sign(body, value, sign)


def sin(dtype: DType) -> Function:
    """Sine. f32: at most 1.6 ulp for every x."""
    body, x, value = _wave("sin", dtype, 0)
    return body.function((x,), select(equal(x, 0.0), x, value))  # keeps -0


def cos(dtype: DType) -> Function:
    """Cosine. f32: at most 1.6 ulp for every x."""
    body, x, value = _wave("cos", dtype, 1)
    return body.function((x,), value)
