"""Elementwise functions of one operand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from planish.ir.loops import Expr, scalar
from planish.ir.node import Node, register
from planish.ir.ops.base import Elementwise

Grads = tuple[Node | None, ...]
LN2 = math.log(2.0)


class Unary(Elementwise):
    """A function of one number, called in loop IR as it is here."""

    arity = 1

    def scalar(self, x: Expr) -> Expr:
        return scalar(self.name, x)


class FloatUnary(Unary):
    """A function of one floating-point number; integers become f32."""

    domain, floats = "float", True


class Step(Unary):
    """A function that is constant between its steps, so its gradient is 0. Integers stay."""

    steps: Callable[..., Any]

    @classmethod
    def function(cls, x: np.ndarray) -> np.ndarray:
        """`steps`, of what is not an integer yet."""
        return x if x.dtype.kind in "iu" else cls.steps(x)

    def scalar(self, x: Expr) -> Expr:
        return scalar(self.name, x) if x.type.is_float else x

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (None,)


class Floor(Step):
    """The largest integer not above x."""

    name, steps = "floor", staticmethod(np.floor)


class Ceil(Step):
    """The least integer not below x."""

    name, steps = "ceil", staticmethod(np.ceil)


class Round(Step):
    """The nearest integer, a half to the even one."""

    name, steps = "round", staticmethod(np.rint)


class Trunc(Step):
    """x without its fraction."""

    name, steps = "trunc", staticmethod(np.trunc)


class Sign(Unary):
    """-1, 0 or 1; NaN of NaN."""

    name = "sign"
    function = staticmethod(np.sign)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (None,)


class Neg(Unary):
    """-x."""

    name = "neg"
    function = staticmethod(np.negative)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (-dy,)


class Abs(Unary):
    """|x|; the least integer stays negative. The gradient at 0 is 0."""

    name = "abs"
    function = staticmethod(np.abs)

    def scalar(self, x: Expr) -> Expr:
        return x if x.type.kind == "u" else scalar("abs", x)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * sign(x),)


class Square(Unary):
    """x * x."""

    name = "square"
    function = staticmethod(np.square)

    def scalar(self, x: Expr) -> Expr:
        return x * x

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * (x * 2.0),)


class Reciprocal(FloatUnary):
    """1 / x."""

    name = "reciprocal"
    function = staticmethod(np.reciprocal)

    def scalar(self, x: Expr) -> Expr:
        return 1.0 / x

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (-(dy * y * y),)


class Exp(FloatUnary):
    """e ** x."""

    name = "exp"
    function = staticmethod(np.exp)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * y,)


class Exp2(FloatUnary):
    """2 ** x."""

    name = "exp2"
    function = staticmethod(np.exp2)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * y * LN2,)


class Expm1(FloatUnary):
    """e ** x - 1, exact near 0."""

    name = "expm1"
    function = staticmethod(np.expm1)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * (y + 1.0),)


class Log(FloatUnary):
    """The natural logarithm: -inf of 0, NaN below."""

    name = "log"
    function = staticmethod(np.log)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy / x,)


class Log2(FloatUnary):
    """The logarithm to base 2."""

    name = "log2"
    function = staticmethod(np.log2)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy / (x * LN2),)


class Log1p(FloatUnary):
    """log(1 + x), exact near 0."""

    name = "log1p"
    function = staticmethod(np.log1p)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy / (x + 1.0),)


class Sqrt(FloatUnary):
    """The square root; NaN below 0."""

    name = "sqrt"
    function = staticmethod(np.sqrt)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * 0.5 / y,)


class Rsqrt(FloatUnary):
    """1 / sqrt(x)."""

    name = "rsqrt"

    @staticmethod
    def function(x: np.ndarray) -> np.ndarray:
        """The reciprocal of the root, rounded once."""
        return (1 / np.sqrt(x.astype(np.float64))).astype(x.dtype)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * -0.5 * (y * y * y),)


class Sin(FloatUnary):
    """The sine of an angle in radians."""

    name = "sin"
    function = staticmethod(np.sin)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * cos(x),)


class Cos(FloatUnary):
    """The cosine of an angle in radians."""

    name = "cos"
    function = staticmethod(np.cos)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (-(dy * sin(x)),)


class Tan(FloatUnary):
    """The tangent of an angle in radians."""

    name = "tan"
    function = staticmethod(np.tan)

    def scalar(self, x: Expr) -> Expr:
        return scalar("sin", x) / scalar("cos", x)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * (1.0 + y * y),)


class Tanh(FloatUnary):
    """The hyperbolic tangent."""

    name = "tanh"
    function = staticmethod(np.tanh)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * (1.0 - y * y),)


class Erf(FloatUnary):
    """The error function, 2 / sqrt(pi) times the integral of exp(-s * s) from 0 to x."""

    name = "erf"

    @staticmethod
    def function(x: np.ndarray) -> np.ndarray:
        """The C library's erf in float64; NumPy has none."""
        return np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64)).astype(x.dtype)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * exp(-(x * x)) * (2.0 / math.sqrt(math.pi)),)


class Sigmoid(FloatUnary):
    """1 / (1 + exp(-x))."""

    name = "sigmoid"

    @staticmethod
    def function(x: np.ndarray) -> np.ndarray:
        """Of |x|, whose exp(-|x|) cannot overflow, mirrored below 0; rounded once."""
        small = np.exp(-np.abs(x.astype(np.float64)))
        return np.where(x < 0, small / (1 + small), 1 / (1 + small)).astype(x.dtype)

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy * (y * (1.0 - y)),)


class StopGradient(Elementwise):
    """x, which autodiff takes for a constant."""

    name, arity, domain = "stop_gradient", 1, "any"
    function = staticmethod(np.copy)

    def scalar(self, x: Expr) -> Expr:
        return x

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (None,)


class Again(Elementwise):
    """x, to compute something again from: fusion keeps that apart from the kernel that made x.

    `remat` puts it in, so that what is recomputed late is not computed early and kept after all.
    """

    name, arity, domain = "again", 1, "any"
    function = staticmethod(np.copy)

    def scalar(self, x: Expr) -> Expr:
        return x

    def vjp(self, y: Node, dy: Node, x: Node) -> Grads:
        return (dy,)


floor = register(Floor)
ceil = register(Ceil)
round_ = register(Round)
trunc = register(Trunc)
sign = register(Sign)
neg = register(Neg)
abs_ = register(Abs)
square = register(Square)
reciprocal = register(Reciprocal)
exp = register(Exp)
exp2 = register(Exp2)
expm1 = register(Expm1)
log = register(Log)
log2 = register(Log2)
log1p = register(Log1p)
sqrt = register(Sqrt)
rsqrt = register(Rsqrt)
sin = register(Sin)
cos = register(Cos)
tan = register(Tan)
tanh = register(Tanh)
erf = register(Erf)
sigmoid = register(Sigmoid)
stop_gradient = register(StopGradient)
again = register(Again)
