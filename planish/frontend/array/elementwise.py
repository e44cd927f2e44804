"""Elementwise functions of the array API standard, and a few that models need."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from planish.frontend.shapes import cast, dtype_of, power
from planish.frontend.tensor import apply
from planish.ir import types as t
from planish.ir.node import OPS


def _unary(name: str, op: str) -> Callable[[Any], Any]:
    """The function of one argument that applies `op`."""

    def function(x: Any, /) -> Any:
        return apply(op, x)

    return _named(function, name, op)


def _binary(name: str, op: str) -> Callable[[Any, Any], Any]:
    """The function of two arguments, which broadcast, that applies `op`."""

    def function(x1: Any, x2: Any, /) -> Any:
        return apply(op, x1, x2)

    return _named(function, name, op)


def _logic(name: str, word: str) -> Callable[[Any, Any], Any]:
    """bitwise_and and the like: on booleans they are the logical ops."""

    def function(x1: Any, x2: Any, /) -> Any:
        both = dtype_of(x1) == t.boolean and dtype_of(x2) == t.boolean
        return apply(f"logical_{word}" if both else f"bitwise_{word}", x1, x2)

    return _named(function, name, f"bitwise_{word}")


def _named(function: Any, name: str, op: str) -> Any:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = OPS[op].__doc__
    return function


abs = absolute = _unary("abs", "abs")
ceil = _unary("ceil", "ceil")
cos = _unary("cos", "cos")
erf = _unary("erf", "erf")
exp = _unary("exp", "exp")
exp2 = _unary("exp2", "exp2")
expm1 = _unary("expm1", "expm1")
floor = _unary("floor", "floor")
isfinite = _unary("isfinite", "isfinite")
isinf = _unary("isinf", "isinf")
isnan = _unary("isnan", "isnan")
log = _unary("log", "log")
log1p = _unary("log1p", "log1p")
log2 = _unary("log2", "log2")
negative = _unary("negative", "neg")
reciprocal = _unary("reciprocal", "reciprocal")
round = rint = _unary("round", "round")
rsqrt = _unary("rsqrt", "rsqrt")
sigmoid = _unary("sigmoid", "sigmoid")
sign = _unary("sign", "sign")
sin = _unary("sin", "sin")
sqrt = _unary("sqrt", "sqrt")
square = _unary("square", "square")
stop_gradient = _unary("stop_gradient", "stop_gradient")
tan = _unary("tan", "tan")
tanh = _unary("tanh", "tanh")
trunc = _unary("trunc", "trunc")

add = _binary("add", "add")
divide = true_divide = _binary("divide", "div")
equal = _binary("equal", "eq")
floor_divide = _binary("floor_divide", "floor_div")
greater = _binary("greater", "gt")
greater_equal = _binary("greater_equal", "ge")
less = _binary("less", "lt")
less_equal = _binary("less_equal", "le")
logical_and = _binary("logical_and", "logical_and")
logical_or = _binary("logical_or", "logical_or")
logical_xor = _binary("logical_xor", "logical_xor")
maximum = _binary("maximum", "maximum")
minimum = _binary("minimum", "minimum")
multiply = _binary("multiply", "mul")
not_equal = _binary("not_equal", "ne")
remainder = mod = _binary("remainder", "mod")
subtract = _binary("subtract", "sub")
bitwise_left_shift = left_shift = _binary("bitwise_left_shift", "shift_left")
bitwise_right_shift = right_shift = _binary("bitwise_right_shift", "shift_right")

bitwise_and = _logic("bitwise_and", "and")
bitwise_or = _logic("bitwise_or", "or")
bitwise_xor = _logic("bitwise_xor", "xor")


def logical_not(x: Any, /) -> Any:
    """Whether an element is false or zero."""
    return apply("logical_not", _truth(x))


def bitwise_invert(x: Any, /) -> Any:
    """Every bit flipped; not x for booleans."""
    return apply("logical_not" if dtype_of(x) == t.boolean else "bitwise_not", x)


bitwise_not = invert = bitwise_invert


def positive(x: Any, /) -> Any:
    """The same values."""
    return apply("mul", x, 1)


def pow(x1: Any, x2: Any, /) -> Any:
    """x1 ** x2."""
    return power(apply, x1, x2)


def log10(x: Any, /) -> Any:
    """The logarithm to base 10."""
    return apply("mul", apply("log", x), 1.0 / math.log(10.0))


def logaddexp(x1: Any, x2: Any, /) -> Any:
    """log(exp(x1) + exp(x2)), without overflow."""
    high, low = maximum(x1, x2), minimum(x1, x2)
    return add(high, log1p(exp(subtract(low, high))))


def sinh(x: Any, /) -> Any:
    """Hyperbolic sine."""
    return multiply(0.5, subtract(exp(x), exp(negative(x))))


def cosh(x: Any, /) -> Any:
    """Hyperbolic cosine."""
    return multiply(0.5, add(exp(x), exp(negative(x))))


def hypot(x1: Any, x2: Any, /) -> Any:
    """sqrt(x1^2 + x2^2)."""
    return sqrt(add(square(x1), square(x2)))


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """Every element moved into [min, max]; None means no bound."""
    if min is not None and max is not None:
        return apply("clip", x, min, max)
    low = x if min is None else apply("maximum", x, min)
    return low if max is None else apply("minimum", low, max)


def where(condition: Any, x1: Any, x2: Any, /) -> Any:
    """x1 where the condition is true, else x2."""
    if isinstance(x1, (bool, int, float)) and isinstance(x2, (bool, int, float)):
        x1 = apply("cast", x1, dtype=t.promote(dtype_of(x1), dtype_of(x2)))
    return apply("select", _truth(condition), x1, x2)


def _truth(x: Any) -> Any:
    return x if dtype_of(x) == t.boolean else apply("ne", x, 0)


def astype(x: Any, dtype: Any, /, *, copy: bool = True) -> Any:
    """The same values in another dtype."""
    return cast(apply, x, t.dtype(dtype))


def isclose(x1: Any, x2: Any, rtol: float = 1e-5, atol: float = 1e-8) -> Any:
    """Whether |x1 - x2| <= atol + rtol |x2|."""
    bound = add(atol, multiply(rtol, abs(x2)))
    return logical_or(equal(x1, x2), less_equal(abs(subtract(x1, x2)), bound))
