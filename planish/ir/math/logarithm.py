"""log, log2, log1p and pow.

x = 2^e * m with 2/3 <= m < 4/3, read off the bits of x; with f = m - 1 the rest is a polynomial
(f32), or an odd polynomial in f / (2 + f) (f64, as in FreeBSD's msun). Coefficients are minimax
for the relative error of log1p, made as those of `exponential`.
"""

from __future__ import annotations

from math import inf, nan

from planish.ir import types as t
from planish.ir.loops import Expr, Var, bitcast, cast, scalar, select
from planish.ir.math.build import (
    F64,
    FORMATS,
    Body,
    Function,
    equal,
    fma,
    magnitude,
    sign_bit,
    with_sign,
)
from planish.ir.math.exponential import EXP2_RANGE, clamp, exp2_parts, nearest
from planish.ir.types import DType

# (log1p(f) - f + f^2 / 2) / f^3 on |f| <= 1/3; relative error 2^-27.7.
LOG = (
    0.3333321511745453, -0.2499980628490448, 0.2001042664051056, -0.16680195927619934,
    0.14005734026432037, -0.12187479436397552, 0.13984593749046326, -0.1288004219532013,
)  # fmt: skip
# (2 atanh(s) - 2 s) / s^3 in z = s^2, |s| <= 1/5; relative error 2^-55.8.
LOG_F64 = (
    0.6666666666667272, 0.399999999961535, 0.2857142939704171, 0.22222138339617947,
    0.18186363343334558, 0.15250032185675885, 0.1536947978046945,
)  # fmt: skip
TWO_THIRDS = {t.f32: 0x3F2AAAAB, t.f64: 0x3FE5555555555555}
LN2 = {t.f32: 0.6931471824645996, t.f64: 0.6931471805599453}


def log1p_polynomial(body: Body, f: Expr) -> Expr:
    """log(1 + f) for |f| <= 1/3."""
    if body.fmt.dtype == t.f64:
        return _log1p_f64(body, f)
    square = body.let("square", f * f)
    p = body.polynomial("p", f, (-0.5, *LOG))
    return body.let("log", fma(p, square, f))


def _log1p_f64(body: Body, f: Expr) -> Expr:
    """f - (f^2 / 2 - s (f^2 / 2 + z R(z))), s = f / (2 + f), z = s^2."""
    s = body.let("s", f / body.let("lower", f + 2.0))
    z = body.let("z", s * s)
    p = body.polynomial("p", z, LOG_F64)
    half = body.let("half", body.let("square", f * f) * 0.5)
    inner = body.let("inner", fma(p, z, half))
    return body.let("log", f - body.let("rest", fma(-s, inner, half)))


def split(body: Body, x: Expr) -> tuple[Expr, Expr]:
    """(bits of the power, e as a float): x / 2^e is within [2/3, 4/3) for normal x > 0."""
    fmt = body.fmt
    offset = body.let("offset", bitcast(x, fmt.bits) - body.bits(TWO_THIRDS[fmt.dtype]))
    exponent = body.let("exponent", offset >> fmt.mantissa)
    power = body.let("power", exponent << fmt.mantissa)
    return power, body.let("e", cast(exponent, fmt.dtype))


def log_parts(body: Body, x: Expr) -> tuple[Expr, Expr]:
    """(e, r) with log x = e log 2 + r for x > 0, denormals included."""
    fmt = body.fmt
    small = body.let("small", x < float(2.0 ** (1 - fmt.bias)))
    scaled = body.let("scaled", x * float(2.0**fmt.mantissa))
    normal = body.let("normal", select(small, scaled, x))
    power, e = split(body, normal)
    m = body.let("m", bitcast(bitcast(normal, fmt.bits) - power, fmt.dtype))
    undone = body.let("undone", select(small, body.const(fmt.mantissa), 0.0))
    return body.let("whole", e - undone), log1p_polynomial(body, body.let("f", m - 1.0))


def at_the_edges(body: Body, x: Expr, zero: float, result: Expr) -> Expr:
    """-inf at `zero`, NaN below, inf at inf, NaN at NaN, else `result`."""
    finite = body.let("finite", select(x < inf, result, x))
    valid = body.let("valid", select(x < zero, body.const(nan), finite))
    return select(equal(x, zero), body.const(-inf), valid)


def log(dtype: DType) -> Function:
    """Natural logarithm. f32: at most 1.0 ulp."""
    body = Body("log", FORMATS[dtype])
    x = Var("x", dtype)
    e, rest = log_parts(body, x)
    result = body.let("result", fma(e, body.const(LN2[dtype]), rest))
    return body.function((x,), at_the_edges(body, x, 0.0, result))


def log2(dtype: DType) -> Function:
    """Logarithm to base 2. f32: at most 1.8 ulp, exact for powers of 2."""
    body = Body("log2", FORMATS[dtype])
    x = Var("x", dtype)
    e, rest = log_parts(body, x)
    result = body.let("result", fma(rest, body.const(body.fmt.log2e), e))
    return body.function((x,), at_the_edges(body, x, 0.0, result))


def log1p(dtype: DType) -> Function:
    """log(1 + x). f32: at most 1.6 ulp.

    The exponent is that of 1 + x, whose rounding does no harm there; f is x 2^-e + (2^-e - 1)
    from x itself. 2^-e may have no normal float, so 2^(2 - e) is made and divided by 4.
    """
    body = Body("log1p", FORMATS[dtype])
    fmt = body.fmt
    x = Var("x", dtype)
    one = body.let("one", x + 1.0)
    power, e = split(body, one)
    top = body.bits((fmt.bias + 2) << fmt.mantissa)
    scale = body.let("scale", body.let("four", bitcast(top - power, dtype)) * 0.25)
    f = body.let("f", fma(x, scale, body.let("rest", scale - 1.0)))
    result = body.let("result", fma(e, body.const(LN2[dtype]), log1p_polynomial(body, f)))
    tiny = body.let("tiny", select(equal(one, 1.0), x, result))  # keeps denormals and -0
    return body.function((x,), at_the_edges(body, x, -1.0, tiny))


def rsqrt(dtype: DType) -> Function:
    """1 / sqrt(x). f32: at most 1.5 ulp."""
    body = Body("rsqrt", FORMATS[dtype])
    x = Var("x", dtype)
    return body.function((x,), 1.0 / body.let("root", scalar("sqrt", x)))


def pow_of(dtype: DType) -> Function:
    """x to the power y, with the special cases of C99 and NumPy. f32: at most 0.51 ulp.

    2^(y log2 |x|) in f64, whatever the dtype; NaN where a negative x meets a y that is not whole.
    """
    body = Body("pow", F64)
    x, y = Var("x", dtype), Var("y", dtype)
    a, b = body.let("a", cast(x, t.f64)), body.let("b", cast(y, t.f64))
    size = body.let("size", magnitude(body, a))
    power = body.let("size_power", _power(body, size, b))
    whole = body.let("is_whole", equal(b, scalar("trunc", b)))
    half = body.let("halved", b * 0.5)
    odd = body.let("odd", scalar("and", whole, scalar("ne", half, scalar("trunc", half))))
    sign = body.let("sign", select(odd, sign_bit(body, a), body.bits(0)))
    signed = body.let("signed", with_sign(body, power, sign))
    below = body.let("negative", scalar("and", a < 0.0, a > -inf))
    broken = body.let("broken", scalar("and", below, scalar("not", whole)))
    valid = body.let("valid", select(broken, body.const(nan), signed))
    always = body.let("always", scalar("or", equal(b, 0.0), equal(a, 1.0)))
    return body.function((x, y), cast(select(always, body.const(1.0), valid), dtype))


def _power(body: Body, x: Expr, y: Expr) -> Expr:
    """x^y for x >= 0. The whole part of y log2 x is taken off y e, which fma has exactly."""
    e, rest = log_parts(body, x)
    log2_m = body.let("log2", rest * body.fmt.log2e)
    edge = body.let("edge", at_the_edges(body, x, 0.0, body.let("total_log", e + log2_m)))
    product = body.let("product", edge * y)
    inside = clamp(body, product, *EXP2_RANGE[t.f64])
    n, bits = nearest(body, inside)
    fraction = body.let("fraction", fma(log2_m, y, body.let("excess", fma(e, y, -n))))
    r = body.let("r", select(equal(product, inside), fraction, inside - n))
    result = body.let("raised", exp2_parts(body, r, bits))
    return select(equal(x, 1.0), body.const(1.0), result)
