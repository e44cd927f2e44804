"""Elementwise comparison, logic, bits, and the choice that follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.errors import DTypeError, IRError
from planish.ir.loops import Const, Expr, scalar
from planish.ir.loops import select as select_expr
from planish.ir.node import Node, register
from planish.ir.ops.base import Elementwise, as_node, broadcast_shapes, promoted
from planish.ir.types import TensorType

Grads = tuple[Node | None, ...]


class Comparison(Elementwise):
    """x compared with y, a bool; false where either is NaN (but for `ne`)."""

    arity, result = 2, "bool"
    no_vjp = "a comparison is constant between its steps"

    def scalar(self, x: Expr, y: Expr) -> Expr:
        return scalar(self.name, x, y)


class Eq(Comparison):
    """x == y."""

    name, domain = "eq", "any"
    function = staticmethod(np.equal)


class Ne(Comparison):
    """x != y; true where either is NaN."""

    name, domain = "ne", "any"
    function = staticmethod(np.not_equal)


class Lt(Comparison):
    """x < y."""

    name = "lt"
    function = staticmethod(np.less)


class Le(Comparison):
    """x <= y."""

    name = "le"
    function = staticmethod(np.less_equal)


class Gt(Comparison):
    """x > y."""

    name = "gt"
    function = staticmethod(np.greater)


class Ge(Comparison):
    """x >= y."""

    name = "ge"
    function = staticmethod(np.greater_equal)


def as_bool(x: object) -> Node:
    """A node or a Python number as a bool node: what is not 0 is true."""
    if not isinstance(x, (Node, bool, int, float)):
        raise DTypeError(f"operands are arrays or Python numbers, got {type(x).__name__}")
    return as_node(x, t.boolean) if isinstance(x, Node) else as_node(bool(x), t.boolean)


class Logical(Elementwise):
    """Logic of truth values; operands of other dtypes are compared with 0 first."""

    domain = "bool"
    no_vjp = "a truth value has no gradient"
    loop_name = ""

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        return tuple(map(as_bool, operands)), attrs

    def scalar(self, *xs: Expr) -> Expr:
        return scalar(self.loop_name, *xs)


class LogicalAnd(Logical):
    """Whether both x and y are true."""

    name, arity, loop_name = "logical_and", 2, "and"
    function = staticmethod(np.logical_and)


class LogicalOr(Logical):
    """Whether x or y is true."""

    name, arity, loop_name = "logical_or", 2, "or"
    function = staticmethod(np.logical_or)


class LogicalXor(Logical):
    """Whether exactly one of x and y is true."""

    name, arity, loop_name = "logical_xor", 2, "xor"
    function = staticmethod(np.logical_xor)


class LogicalNot(Logical):
    """Whether x is false."""

    name, arity, loop_name = "logical_not", 1, "not"
    function = staticmethod(np.logical_not)


class Bitwise(Elementwise):
    """The same logic on every bit of integers, or on bools."""

    domain = "logic"
    no_vjp = "bits have no gradient"
    loop_name = ""

    def scalar(self, *xs: Expr) -> Expr:
        return scalar(self.loop_name, *xs)


class BitwiseAnd(Bitwise):
    """x & y."""

    name, arity, loop_name = "bitwise_and", 2, "and"
    function = staticmethod(np.bitwise_and)


class BitwiseOr(Bitwise):
    """x | y."""

    name, arity, loop_name = "bitwise_or", 2, "or"
    function = staticmethod(np.bitwise_or)


class BitwiseXor(Bitwise):
    """x ^ y."""

    name, arity, loop_name = "bitwise_xor", 2, "xor"
    function = staticmethod(np.bitwise_xor)


class BitwiseNot(Bitwise):
    """~x."""

    name, arity, loop_name = "bitwise_not", 1, "not"
    function = staticmethod(np.invert)


class Shift(Elementwise):
    """A shift of integers; by less than 0 or by all bits or more, every bit falls out."""

    arity, domain = 2, "int"
    no_vjp = "bits have no gradient"

    def clamped(self, y: Expr, limit: int) -> tuple[Expr, Expr | None]:
        """A count inside 0..bits-1, `limit` where y is outside, and whether it was inside."""
        bits = y.type.bits
        if isinstance(y, Const) and 0 <= y.value < bits:
            return y, None
        inside = y < bits
        if y.type.kind == "i":
            inside = inside & (y >= 0)
        return select_expr(inside, y, limit), inside


class ShiftLeft(Shift):
    """x << y."""

    name = "shift_left"
    function = staticmethod(np.left_shift)

    def scalar(self, x: Expr, y: Expr) -> Expr:
        count, inside = self.clamped(y, 0)
        return x << count if inside is None else select_expr(inside, x << count, 0)


class ShiftRight(Shift):
    """x >> y, which keeps the sign of signed integers."""

    name = "shift_right"
    function = staticmethod(np.right_shift)

    def scalar(self, x: Expr, y: Expr) -> Expr:
        signed = x.type.kind == "i"
        count, inside = self.clamped(y, x.type.bits - 1 if signed else 0)
        shifted = x >> count
        return shifted if signed or inside is None else select_expr(inside, shifted, 0)


class IsNan(Elementwise):
    """Whether x is NaN."""

    name, arity, domain, floats, result = "isnan", 1, "float", True, "bool"
    no_vjp = "a truth value has no gradient"
    function = staticmethod(np.isnan)

    def scalar(self, x: Expr) -> Expr:
        return scalar("ne", x, x)


class IsInf(Elementwise):
    """Whether x is inf or -inf."""

    name, arity, domain, floats, result = "isinf", 1, "float", True, "bool"
    no_vjp = "a truth value has no gradient"
    function = staticmethod(np.isinf)

    def scalar(self, x: Expr) -> Expr:
        return scalar("eq", scalar("abs", x), float("inf"))


class IsFinite(Elementwise):
    """Whether x is neither infinite nor NaN."""

    name, arity, domain, floats, result = "isfinite", 1, "float", True, "bool"
    no_vjp = "a truth value has no gradient"
    function = staticmethod(np.isfinite)

    def scalar(self, x: Expr) -> Expr:
        return scalar("abs", x) < float("inf")


class Select(Elementwise):
    """x where `cond` holds, else y: select(cond, x, y)."""

    name, arity, domain = "select", 3, "any"
    function = staticmethod(np.where)

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        """`cond` becomes a bool, x and y meet; two Python numbers give f32, i64 or bool."""
        if len(operands) != 3:
            raise IRError(f"select takes 3 operands, got {len(operands)}")
        cond, *rest = operands
        if any(isinstance(x, Node) for x in rest):
            return (as_bool(cond), *promoted(rest)), attrs
        numbers = {type(x) for x in rest}
        if not numbers <= {bool, int, float}:
            raise DTypeError(f"select takes arrays or Python numbers, got {rest}")
        common = t.f32 if float in numbers else t.i64 if int in numbers else t.boolean
        return (as_bool(cond), *(as_node(x, common) for x in rest)), attrs

    def infer(self, cond: TensorType, x: TensorType, y: TensorType) -> TensorType:
        """The broadcast of all three at the dtype of x and y."""
        if cond.dtype != t.boolean or x.dtype != y.dtype:
            raise DTypeError(f"select takes a bool and two of one dtype, got {cond}, {x}, {y}")
        return x.with_shape(broadcast_shapes(self.name, cond.shape, x.shape, y.shape))

    def scalar(self, cond: Expr, x: Expr, y: Expr) -> Expr:
        return select_expr(cond, x, y)

    def vjp(self, y: Node, dy: Node, cond: Node, a: Node, b: Node) -> Grads:
        return None, select(cond, dy, 0.0), select(cond, 0.0, dy)


eq = register(Eq)
ne = register(Ne)
lt = register(Lt)
le = register(Le)
gt = register(Gt)
ge = register(Ge)
logical_and = register(LogicalAnd)
logical_or = register(LogicalOr)
logical_xor = register(LogicalXor)
logical_not = register(LogicalNot)
bitwise_and = register(BitwiseAnd)
bitwise_or = register(BitwiseOr)
bitwise_xor = register(BitwiseXor)
bitwise_not = register(BitwiseNot)
shift_left = register(ShiftLeft)
shift_right = register(ShiftRight)
isnan = register(IsNan)
isinf = register(IsInf)
isfinite = register(IsFinite)
select = register(Select)
