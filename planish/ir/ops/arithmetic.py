"""Elementwise arithmetic: + - * / // % **, extremes, casts.

Integers wrap. Division and powers of integers give f32: a power is made of exp and log.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.errors import DTypeError
from planish.ir.loops import Const, Expr, scalar
from planish.ir.loops import cast as cast_expr
from planish.ir.loops import select as select_expr
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Elementwise
from planish.ir.types import DType, TensorType

Grads = tuple[Node | None, ...]


class Add(Elementwise):
    """x + y."""

    name, arity = "add", 2
    function = staticmethod(np.add)

    def scalar(self, x: Expr, y: Expr) -> Expr:
        return x + y

    def vjp(self, y: Node, dy: Node, a: Node, b: Node) -> Grads:
        return dy, dy


class Sub(Elementwise):
    """x - y."""

    name, arity = "sub", 2
    function = staticmethod(np.subtract)

    def scalar(self, x: Expr, y: Expr) -> Expr:
        return x - y

    def vjp(self, y: Node, dy: Node, a: Node, b: Node) -> Grads:
        return dy, -dy


class Mul(Elementwise):
    """x * y."""

    name, arity = "mul", 2
    function = staticmethod(np.multiply)

    def scalar(self, x: Expr, y: Expr) -> Expr:
        return x * y

    def vjp(self, y: Node, dy: Node, a: Node, b: Node) -> Grads:
        return dy * b, dy * a


class Div(Elementwise):
    """x / y; integers are divided in f32."""

    name, arity, domain, floats = "div", 2, "float", True
    function = staticmethod(np.true_divide)

    def scalar(self, x: Expr, y: Expr) -> Expr:
        return x / y

    def vjp(self, y: Node, dy: Node, a: Node, b: Node) -> Grads:
        return dy / b, -(dy * y) / b


def floor_and_rest(x: Expr, y: Expr) -> tuple[Expr, Expr]:
    """(x // y, x % y) of floats. x / y may have been rounded up to an integer: then undo it.

    Exact while |x / y| fits in the mantissa. Where the quotient is 0 the rest is x, y = inf too.
    """
    q = scalar("floor", x / y)
    rest = select_expr(scalar("eq", q, 0.0), x, scalar("fma", -q, y, x))
    wrong_sign = scalar("ne", rest, 0.0) & scalar("ne", rest < 0.0, y < 0.0)
    quotient = select_expr(wrong_sign, q - 1.0, q)
    no_number = select_expr(scalar("eq", y, 0.0), x / y, rest)
    quotient = select_expr(scalar("ne", rest, rest), no_number, quotient)
    return quotient, select_expr(wrong_sign, rest + y, rest)


class FloorDiv(Elementwise):
    """x / y rounded to minus infinity; 0 where integers are divided by 0."""

    name, arity = "floor_div", 2
    function = staticmethod(np.floor_divide)

    def scalar(self, x: Expr, y: Expr) -> Expr:
        return floor_and_rest(x, y)[0] if x.type.is_float else x // y

    def vjp(self, y: Node, dy: Node, a: Node, b: Node) -> Grads:
        return None, None  # constant between its steps


class Mod(Elementwise):
    """x - y * (x // y), which has the sign of y; 0 where y is the integer 0."""

    name, arity = "mod", 2
    function = staticmethod(np.mod)

    def scalar(self, x: Expr, y: Expr) -> Expr:
        return floor_and_rest(x, y)[1] if x.type.is_float else x % y

    def vjp(self, y: Node, dy: Node, a: Node, b: Node) -> Grads:
        return dy, -(dy * floor_div(a, b))


class Pow(Elementwise):
    """x ** y; integers become f32. x < 0 with a y that is no integer gives NaN."""

    name, arity, domain, floats = "pow", 2, "float", True
    function = staticmethod(np.power)

    def scalar(self, x: Expr, y: Expr) -> Expr:
        return scalar("pow", x, y)

    def vjp(self, y: Node, dy: Node, a: Node, b: Node) -> Grads:
        """Where b is 0 the slope in a is 0, not 0 * inf; in b there is none unless a > 0."""
        select = OPS["select"]
        slope = select(OPS["eq"](b, 0.0), 0.0, b * pow_(a, b - 1.0))
        return dy * slope, dy * y * OPS["log"](select(OPS["gt"](a, 0.0), a, 1.0))


class Extreme(Elementwise):
    """What maximum and minimum share; a tie splits the gradient evenly."""

    arity = 2
    loop_name = ""
    wins = ""

    def scalar(self, x: Expr, y: Expr) -> Expr:
        return scalar(self.loop_name, x, y)

    def vjp(self, y: Node, dy: Node, a: Node, b: Node) -> Grads:
        select, half = OPS["select"], dy * 0.5
        tie, first, second = OPS["eq"](a, b), OPS[self.wins](a, b), OPS[self.wins](b, a)
        return select(tie, half, select(first, dy, 0.0)), select(tie, half, select(second, dy, 0.0))


class Maximum(Extreme):
    """The larger of x and y; NaN where either is NaN."""

    name, loop_name, wins = "maximum", "max", "gt"
    function = staticmethod(np.maximum)


class Minimum(Extreme):
    """The smaller of x and y; NaN where either is NaN."""

    name, loop_name, wins = "minimum", "min", "lt"
    function = staticmethod(np.minimum)


class Clip(Elementwise):
    """minimum(maximum(x, low), high). On a bound the whole gradient is x's."""

    name, arity = "clip", 3

    def ref(self, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.minimum(np.maximum(x, low), high)  # np.clip makes float32 of bf16

    def scalar(self, x: Expr, low: Expr, high: Expr) -> Expr:
        return scalar("min", scalar("max", x, low), high)

    def vjp(self, y: Node, dy: Node, x: Node, low: Node, high: Node) -> Grads:
        select, less, both = OPS["select"], OPS["lt"], OPS["logical_and"]
        outside = OPS["logical_or"](less(x, low), less(high, x))
        takes_low = both(less(x, low), OPS["le"](low, high))
        takes_high = less(high, maximum(x, low))
        return (
            select(outside, 0.0, dy),
            select(takes_low, dy, 0.0),
            select(takes_high, dy, 0.0),
        )


class Cast(Elementwise):
    """x as another dtype, by value.

    Float to integer drops the fraction, stops at the ends of the range, and gives 0 for NaN;
    integer to integer keeps the low bits; to bool is `x != 0`. Only float to float has a gradient.
    """

    name, arity, domain = "cast", 1, "any"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        if "dtype" in attrs:
            attrs = {**attrs, "dtype": t.dtype(attrs["dtype"])}
        return operands, attrs

    def infer(self, x: TensorType, *, dtype: DType) -> TensorType:
        """The operand's shape at `dtype`."""
        if not isinstance(dtype, DType):
            raise DTypeError(f"cast: dtype {dtype!r} is not a dtype")
        return x.with_dtype(dtype)

    @staticmethod
    def function(x: np.ndarray, *, dtype: DType) -> np.ndarray:
        """NumPy's astype, but saturating where NumPy leaves the result to the machine."""
        if dtype == t.boolean:
            return x != 0
        if not dtype.is_int or not t.dtype(x.dtype).is_float:
            return x.astype(dtype.numpy)
        low, high = float(dtype.least), float(dtype.most + 1)
        wide = np.trunc(x.astype(np.float64))
        inside = np.where((wide >= low) & (wide < high), wide, 0.0)
        # i4 has no conversion from float64 of its own
        whole = inside.astype(np.int64 if dtype.bits < 64 else dtype.numpy).astype(dtype.numpy)
        ends = np.array([dtype.least, dtype.most]).astype(dtype.numpy)
        return np.where(wide >= high, ends[1], np.where(wide < low, ends[0], whole))

    def scalar(self, x: Expr, *, dtype: DType) -> Expr:
        if dtype == t.boolean and x.type != t.boolean:
            return scalar("ne", x, Const(0.0 if x.type.is_float else 0, x.type))
        return cast_expr(x, dtype)

    def vjp(self, y: Node, dy: Node, x: Node, *, dtype: DType) -> Grads:
        return (cast(dy, dtype=x.dtype) if dtype.is_float and x.dtype.is_float else None,)


add = register(Add)
sub = register(Sub)
mul = register(Mul)
div = register(Div)
floor_div = register(FloorDiv)
mod = register(Mod)
pow_ = register(Pow)
maximum = register(Maximum)
minimum = register(Minimum)
clip = register(Clip)
cast = register(Cast)
