"""The error function.

Odd polynomial for small |x|. Beyond, 1 - erfc |x|, where f32 takes erfc(x)^(1/8), which is nearly
a straight line, as a polynomial and squares it three times, and f64 has exp(-x^2) times a
polynomial in t = 2 / (2 + x). Coefficients are made as those of `exponential`.
"""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.loops import Expr, Var, select
from planish.ir.math.build import (
    FORMATS,
    Body,
    Function,
    at_most,
    fma,
    magnitude,
    sign_bit,
    with_sign,
)
from planish.ir.math.exponential import exp_inside
from planish.ir.types import DType

# erf(x) / x - 1 in z = x^2, |x| <= SPLIT; relative error of erf 2^-26.9, 2^-55.
SPLIT = {t.f32: 1.1, t.f64: 1.0}
NEAR = {
    t.f32: (
        0.12837916612625122, -0.3761259913444519, 0.11283276975154877, -0.02684195153415203,
        0.005167240742594004, -0.0007832489209249616, 7.281338184839115e-05,
    ),
    t.f64: (
        0.12837916709551256, -0.3761263890318352, 0.11283791670944185, -0.026866170643111496,
        0.005223977606118874, -0.0008548325929339261, 0.0001205529357776931,
        -1.4924712320735747e-05, 1.6447131824117955e-06, -1.6206315842930357e-07,
        1.3710989989641106e-08, -7.779487363222051e-10,
    ),
}  # fmt: skip
# erfc(x)^(1/8) on [1.1, 4]; relative error of erf 2^-26.8.
FAR = (
    1.001076102256775, -0.14595790207386017, -0.06006323918700218, -0.012455789372324944,
    0.013399125076830387, -0.002577740466222167, 0.00015989423263818026,
)  # fmt: skip
# exp(x^2) erfc(x) in 2 / (2 + x) - 7 / 16, x in [1, 6]; absolute error 2^-55.5.
FAR_F64 = (
    0.20562022082810233, 0.7408717917397515, 0.8500965210243399, 0.608481058227336,
    0.1254729852856223, -0.19360571518576605, -0.10609513399291931, 0.10706379297246386,
    0.06363936757044189, -0.0919338651049836, -0.02356719518242043, 0.0897889738693468,
    -0.022711488630607155, -0.07510394285081995, 0.06986284277103115, 0.03242208081365751,
    -0.07364147321883924,
)  # fmt: skip


def erf(dtype: DType) -> Function:
    """Error function. f32: at most 1.8 ulp."""
    body = Body("erf", FORMATS[dtype])
    x = Var("x", dtype)
    # From the bound on, erf rounds to 1.
    bound = {t.f32: 4.0, t.f64: 6.0}[dtype]
    size = body.let("size", at_most(body.let("abs", magnitude(body, x)), bound))
    p = body.polynomial("near", body.let("square", size * size), NEAR[dtype])
    near = body.let("near", fma(p, size, size))
    far = (_far_f64 if dtype == t.f64 else _far_f32)(body, size)
    result = body.let("result", select(size < SPLIT[dtype], near, far))
    return body.function((x,), with_sign(body, result, sign_bit(body, x)))


def _far_f32(body: Body, x: Expr) -> Expr:
    root = body.polynomial("root", x, FAR)
    square = body.let("root", root * root)
    fourth = body.let("root", square * square)
    return body.let("far", fma(-fourth, fourth, 1.0))


def _far_f64(body: Body, x: Expr) -> Expr:
    turn = body.let("turn", 2.0 / body.let("lower", x + 2.0))
    p = body.polynomial("far", body.let("w", turn - 0.4375), FAR_F64)
    return body.let("far", fma(-p, exp_inside(body, body.let("minus", -x * x)), 1.0))
