"""exp, exp2, expm1, sigmoid and tanh.

All reduce their argument to n * ln 2 + r with |r| <= ln 2 / 2, and multiply a polynomial in r by
2^n. Adding `magic` = 1.5 * 2^mantissa rounds to an integer and leaves that integer in the low
bits of the sum, from where a shift takes it to the exponent field: no conversion between float
and integer is needed. Coefficients are minimax for the relative error of the whole function: f32
by linear programming on 600 Chebyshev points, rounding one coefficient after the other and
refitting the rest; f64 by Remez exchange in 160 bits, then rounded.
"""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.loops import Expr, Var, bitcast, select
from planish.ir.math.build import (
    FORMATS,
    Body,
    Float,
    Function,
    at_least,
    at_most,
    equal,
    fma,
    magnitude,
    sign_bit,
    with_sign,
)
from planish.ir.types import DType

# (exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2; relative error of exp 2^-28.2, 2^-56.3.
EXP = {
    t.f32: (
        0.4999999403953552, 0.1666652113199234, 0.04166826605796814, 0.008368683978915215,
        0.0013820946915075183,
    ),
    t.f64: (
        0.5000000000000011, 0.16666666666666413, 0.04166666666653027, 0.008333333333494192,
        0.0013888888943595237, 0.0001984126950707795, 2.4801493139098765e-05,
        2.755758600777618e-06, 2.763023278462527e-07, 2.500015119272452e-08,
    ),
}  # fmt: skip
# The same, for the relative error of exp(r) - 1: 2^-31.1, 2^-56.2.
EXPM1 = {
    t.f32: (
        0.5, 0.1666666567325592, 0.04166649281978607, 0.008333546109497547,
        0.0013932324945926666, 0.00019761803559958935,
    ),
    t.f64: (
        0.5000000000000001, 0.1666666666666667, 0.0416666666666523, 0.00833333333332616,
        0.0013888888895593051, 0.00019841269874744635, 2.480157454327728e-05,
        2.755725548788616e-06, 2.7567925047977044e-07, 2.510518333832551e-08,
        1.7687709831507881e-09,
    ),
}  # fmt: skip
# (tanh(x) - x) / x^3 in z = x^2, |x| <= 0.55; relative error of tanh 2^-24.7, 2^-56.5.
TANH_SPLIT = 0.55
TANH = {
    t.f32: (
        -0.3333294689655304, 0.1332072913646698, -0.05267200991511345, 0.01643787883222103,
    ),
    t.f64: (
        -0.333333333333333, 0.1333333333332615, -0.0539682539634807, 0.02186948837764065,
        -0.008863232463496589, 0.0035920906033173935, -0.0014555334403666199,
        0.0005884049071359974, -0.00023327863671931877, 8.316577013828398e-05,
        -1.9399748994536665e-05,
    ),
}  # fmt: skip
# (2^r - 1) / r on |r| <= 1/2; relative error of exp2 2^-28.3, 2^-54.4.
EXP2 = {
    t.f32: (
        0.6931471824645996, 0.24022647738456726, 0.05550359562039375, 0.009618503041565418,
        0.001339100650511682, 0.00015328019799198955,
    ),
    t.f64: (
        0.6931471805599457, 0.24022650695910097, 0.05550410866479039, 0.009618129107607003,
        0.0013333558153440243, 0.00015403530441570476, 1.5252727384977982e-05,
        1.3215442676323899e-06, 1.0180647749352702e-07, 7.072570229547735e-09,
        4.078057407836614e-10,
    ),
}  # fmt: skip

# Below the first bound the result rounds to 0, above the second to inf.
EXP_RANGE = {t.f32: (-104.0, 89.0), t.f64: (-746.0, 710.0)}
EXP2_RANGE = {t.f32: (-151.0, 129.0), t.f64: (-1076.0, 1025.0)}
# Below -EXPM1_LOW expm1 rounds to -1; above TANH_HIGH tanh rounds to 1.
EXPM1_LOW = {t.f32: 18.0, t.f64: 38.0}
TANH_HIGH = {t.f32: 9.5, t.f64: 20.0}
# Above SIGMOID_HIGH sigmoid rounds to 1.
SIGMOID_HIGH = {t.f32: 18.0, t.f64: 38.0}
SIGMOID_SHIFT = {t.f32: 64, t.f64: 128}


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
    return body.let("scaled", body.let("partly", p * first) * second)


def exp_inside(body: Body, x: Expr) -> Expr:
    """e^x for x within EXP_RANGE."""
    r, bits = reduce_exp(body, x, 2 * body.fmt.bias)
    p = body.polynomial("p", r, (1.0, 1.0, *EXP[body.fmt.dtype]))
    return scale_by_two_powers(body, p, bits)


def nearest(body: Body, x: Expr) -> tuple[Expr, Expr]:
    """(n, bits): x rounded to an integer, and n + 2 * bias in the low bits."""
    big = magic(body.fmt, 2 * body.fmt.bias)
    total = body.let("total", x + big)
    return body.let("n", total - big), body.let("bits", bitcast(total, body.fmt.bits))


def exp2_parts(body: Body, r: Expr, bits: Expr) -> Expr:
    """2^(n + r) for |r| <= 1/2, with n + 2 * bias in the low bits of `bits`."""
    p = body.polynomial("p", r, (1.0, *EXP2[body.fmt.dtype]))
    return scale_by_two_powers(body, p, bits)


def clamp(body: Body, x: Expr, low: float, high: float) -> Expr:
    """x within [low, high]; NaN stays NaN."""
    return body.let("inside", at_least(body.let("below", at_most(x, high)), low))


def exp(dtype: DType) -> Function:
    """e^x. f32: at most 0.9 ulp.

    What rounds to 0 is computed as e^0 and replaced: a product that underflows takes a hundred
    cycles on some processors, and masked scores are all -inf.
    """
    body = Body("exp", FORMATS[dtype])
    x = Var("x", dtype)
    low, high = EXP_RANGE[dtype]
    nothing = body.let("nothing", x < low)
    inside = body.let("inside", at_most(body.let("kept", select(nothing, 0.0, x)), high))
    return body.function((x,), select(nothing, 0.0, exp_inside(body, inside)))


def exp2(dtype: DType) -> Function:
    """2^x. f32: at most 0.9 ulp, exact for integers."""
    body = Body("exp2", FORMATS[dtype])
    x = Var("x", dtype)
    inside = clamp(body, x, *EXP2_RANGE[dtype])
    n, bits = nearest(body, inside)
    return body.function((x,), exp2_parts(body, body.let("r", inside - n), bits))


def expm1_parts(body: Body, x: Expr, offset: int) -> tuple[Expr, Expr]:
    """(q, s): exp(x) - 1 = 2^n q + (2^n - 1), and s = 2^(n + offset)."""
    fmt = body.fmt
    r, bits = reduce_exp(body, x, fmt.bias + offset)
    square = body.let("square", r * r)
    p = body.polynomial("p", r, EXPM1[fmt.dtype])
    q = body.let("q", fma(p, square, r))
    return q, body.let("s", bitcast(bits << fmt.mantissa, fmt.dtype))


def expm1(dtype: DType) -> Function:
    """e^x - 1. f32: at most 1.5 ulp.

    s = 2^(n - 1), because 2^128 has no float: (s 2q + (s - 1/2)) + (s - 1/2).
    """
    body = Body("expm1", FORMATS[dtype])
    x = Var("x", dtype)
    inside = clamp(body, x, -EXPM1_LOW[dtype], EXP_RANGE[dtype][1])
    q, s = expm1_parts(body, inside, -1)
    half = body.let("half", s - 0.5)
    total = body.let("sum", fma(s, body.let("twice", q + q), half))
    result = body.let("result", total + half)
    return body.function((x,), select(equal(x, 0.0), x, result))  # keeps -0


def sigmoid(dtype: DType) -> Function:
    """1 / (1 + e^-x). f32: at most 2.5 ulp, denormal results included.

    With x = n ln 2 + r it is q / (q + e^-r), where q = 2^n, a factor above and one below instead of
    two that scale e^-x. Above, q is larger by 2^SIGMOID_SHIFT, which the result gets back: q may be
    less than there is.
    """
    body = Body("sigmoid", FORMATS[dtype])
    x, shift = Var("x", dtype), SIGMOID_SHIFT[dtype]
    inside = clamp(body, x, EXP_RANGE[dtype][0], SIGMOID_HIGH[dtype])
    r, bits = reduce_exp(body, inside, body.fmt.bias + shift)
    signs = (1.0, -1.0, *(c * (-1.0) ** k for k, c in enumerate(EXP[dtype])))
    p = body.polynomial("p", r, signs)
    upper = body.let("upper", bitcast(bits << body.fmt.mantissa, dtype))
    small = body.const(2.0**-shift)
    quotient = body.let("quotient", upper / body.let("lower", fma(upper, small, p)))
    return body.function((x,), body.let("result", quotient * small))


def tanh(dtype: DType) -> Function:
    """Hyperbolic tangent. f32: at most 1.6 ulp.

    x + x^3 P(x^2) where |tanh x| < 1/2, else 1 - 2 / (exp(2 |x|) + 1), where the quotient is
    small and its error with it.
    """
    body = Body("tanh", FORMATS[dtype])
    x = Var("x", dtype)
    size = body.let("size", at_most(body.let("abs", magnitude(body, x)), TANH_HIGH[dtype]))
    square = body.let("square", size * size)
    cube = body.let("cube", size * square)
    near = body.let("near", fma(body.polynomial("c", square, TANH[dtype]), cube, size))
    r, bits = reduce_exp(body, body.let("twice", size + size), body.fmt.bias)
    s = body.let("s", bitcast(bits << body.fmt.mantissa, dtype))
    p = body.polynomial("p", r, (1.0, 1.0, *EXP[dtype]))
    quotient = body.let("quotient", 2.0 / body.let("lower", fma(p, s, 1.0)))
    far = body.let("far", 1.0 - quotient)
    result = body.let("result", select(size < TANH_SPLIT, near, far))
    return body.function((x,), with_sign(body, result, sign_bit(body, x)))
