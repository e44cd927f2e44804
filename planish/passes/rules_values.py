"""Rewrite rules on values: arithmetic, comparison, logic, casts; `simplify` says what binds them.

No rule changes a bit of a result but the sign of a zero, except `pow_by_squares` (x^3 by two
products) and scaling by powers of two where it meets the ends of the exponent's range. So x * 0 is
0 and x - x is 0 for integers only: for floats they are NaN where x is NaN or infinite.
"""

from __future__ import annotations

import math

from planish.ir import types as t
from planish.ir.node import Node
from planish.ir.ops.arithmetic import (
    Add,
    Cast,
    Div,
    Maximum,
    Minimum,
    Mul,
    Pow,
    Sub,
    cast,
    mul,
)
from planish.ir.ops.base import const
from planish.ir.ops.compare import (
    Eq,
    LogicalAnd,
    LogicalNot,
    LogicalOr,
    Ne,
    Select,
    eq,
    ne,
    select,
)
from planish.ir.ops.functions import Abs, Neg, Square, neg, reciprocal, square
from planish.ir.types import DType
from planish.passes.rewrite import full, scalar_of

SAFE = 2.0**14  # scales up to this are finite and normal in every float dtype


def constant_last(node: Node) -> Node | None:
    """c + x -> x + c, likewise mul, eq, ne, logical_and, logical_or"""
    match node.inputs:
        case (a, b) if scalar_of(a) is not None and scalar_of(b) is None:
            return node.with_inputs((b, a))
    return None


def add_zero(node: Node) -> Node | None:
    """x + 0 -> x,  x - 0 -> x"""
    match node:
        case Node(Add() | Sub(), (x, c)) if scalar_of(c) == 0 and x.type == node.type:
            return x
    return None


def mul_one(node: Node) -> Node | None:
    """x * 1 -> x,  x / 1 -> x"""
    match node:
        case Node(Mul() | Div(), (x, c)) if scalar_of(c) == 1 and x.type == node.type:
            return x
    return None


def mul_minus_one(node: Node) -> Node | None:
    """x * -1 -> -x,  x / -1 -> -x"""
    match node:
        case Node(Mul() | Div(), (x, c)) if scalar_of(c) == -1 and x.type == node.type:
            return neg(x)
    return None


def integer_zero(node: Node) -> Node | None:
    """x * 0 -> 0,  x - x -> 0, for integers"""
    match node:
        case Node(Mul(), (_, c)) if node.dtype.is_int and scalar_of(c) == 0:
            return full(0, node)
        case Node(Sub(), (x, y)) if node.dtype.is_int and x is y:
            return full(0, node)
    return None


def neg_neg(node: Node) -> Node | None:
    """-(-x) -> x,  -(x - y) -> y - x"""
    match node:
        case Node(Neg(), (Node(Neg(), (x,)),)):
            return x
        case Node(Neg(), (Node(Sub(), (x, y)),)):
            return y - x
    return None


def add_neg(node: Node) -> Node | None:
    """x + -y -> x - y,  -x + y -> y - x,  x - -y -> x + y"""
    match node:
        case Node(Add(), (x, Node(Neg(), (y,)))):
            return x - y
        case Node(Add(), (Node(Neg(), (x,)), y)):
            return y - x
        case Node(Sub(), (x, Node(Neg(), (y,)))):
            return x + y
    return None


def even_of_neg(node: Node) -> Node | None:
    """square(-x) -> square(x),  abs(-x) -> abs(x)"""
    match node:
        case Node(Square() | Abs(), (Node(Neg(), (x,)),)):
            return node.with_inputs((x,))
    return None


def merge_constants(node: Node) -> Node | None:
    """(x + a) + b -> x + (a + b),  (x * a) * b -> x * (a * b), where that rounds alike"""
    match node:
        case Node(Add() | Mul(), (Node(op, (x, a)), b)) if op is node.op:
            first, second = scalar_of(a), scalar_of(b)
            if first is None or second is None or scalar_of(x) is not None:
                return None
            scales = isinstance(op, Mul) and (is_power_of_two(first) or is_power_of_two(second))
            if x.type != node.type:
                return None
            if node.dtype.is_int:
                return op(x, op(a, b))
            if scales and 1 / SAFE <= abs(first * second) <= SAFE:
                return mul(x, const(first * second, node.dtype))
    return None


def is_power_of_two(value: float) -> bool:
    """Whether multiplying by `value` only changes exponents."""
    return value != 0 and math.isfinite(value) and abs(math.frexp(value)[0]) == 0.5


def div_by_power_of_two(node: Node) -> Node | None:
    """x / 2^k -> x * 2^-k"""
    match node:
        case Node(Div(), (x, c)) if is_power_of_two(value := scalar_of(c) or 0):
            return x * const(1 / value, node.dtype) if 1 / SAFE <= abs(value) <= SAFE else None
    return None


def one_over(node: Node) -> Node | None:
    """1 / x -> reciprocal(x)"""
    match node:
        case Node(Div(), (c, x)) if scalar_of(c) == 1 and x.type == node.type:
            return reciprocal(x)
    return None


def mul_same(node: Node) -> Node | None:
    """x * x -> square(x)"""
    match node:
        case Node(Mul(), (x, y)) if x is y:
            return square(x)
    return None


def pow_by_squares(node: Node) -> Node | None:
    """pow(x, 1) -> x,  2 -> square(x),  3 -> square(x) * x,  -1 -> reciprocal(x)"""
    match node:
        case Node(Pow(), (x, c)) if x.type == node.type:
            match scalar_of(c):
                case 1:
                    return x
                case 2:
                    return square(x)
                case 3:
                    return square(x) * x
                case -1:
                    return reciprocal(x)
    return None


def extreme_of_same(node: Node) -> Node | None:
    """maximum(x, x) -> x, likewise minimum, logical_and, logical_or"""
    match node:
        case Node(Maximum() | Minimum() | LogicalAnd() | LogicalOr(), (x, y)) if x is y:
            return x
    return None


def logic_with_constant(node: Node) -> Node | None:
    """x and true -> x,  x and false -> false,  x or false -> x,  x or true -> true"""
    match node:
        case Node(LogicalAnd() | LogicalOr() as op, (x, c)) if scalar_of(c) is not None:
            if (known := bool(scalar_of(c))) is not isinstance(op, LogicalAnd):
                return full(known, node)
            return x if x.type == node.type else None
    return None


def not_not(node: Node) -> Node | None:
    """not not x -> x,  not (x == y) -> x != y,  not (x != y) -> x == y"""
    match node:
        case Node(LogicalNot(), (Node(LogicalNot(), (x,)),)):
            return x
        case Node(LogicalNot(), (Node(Eq(), (x, y)),)):
            return ne(x, y)
        case Node(LogicalNot(), (Node(Ne(), (x, y)),)):
            return eq(x, y)
    return None


def select_known(node: Node) -> Node | None:
    """select(true, x, y) -> x,  select(false, x, y) -> y,  select(c, x, x) -> x"""
    match node:
        case Node(Select(), (c, x, y)):
            known = scalar_of(c)
            chosen = x if x is y or known is True else y if known is False else None
            return chosen if chosen is not None and chosen.type == node.type else None
    return None


def select_not(node: Node) -> Node | None:
    """select(not c, x, y) -> select(c, y, x)"""
    match node:
        case Node(Select(), (Node(LogicalNot(), (c,)), x, y)):
            return select(c, y, x)
    return None


def cast_same(node: Node) -> Node | None:
    """cast(x) to the dtype of x -> x"""
    match node:
        case Node(Cast(), (x,)) if x.dtype == node.dtype:
            return x
    return None


def cast_chain(node: Node) -> Node | None:
    """cast(cast(x)) -> cast(x), where the inner one is exact"""
    match node:
        case Node(Cast(), (Node(Cast(), (x,)) as inner,)) if exact(x.dtype, inner.dtype):
            return cast(x, dtype=node.dtype)
    return None


DIGITS = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}  # bits of the significand
EXPONENT = {"f64": 11, "f32": 8, "f16": 5, "bf16": 8}


def exact(source: DType, target: DType) -> bool:
    """Whether every value of `source` is one of `target`."""
    if source == target:
        return True
    if target == t.boolean:
        return False
    if source == t.boolean:
        return True
    if source.is_float:
        return (
            target.is_float
            and DIGITS[source.name] <= DIGITS[target.name]
            and EXPONENT[source.name] <= EXPONENT[target.name]
        )
    digits = source.bits - (source.kind == "i")
    if target.is_float:
        return digits <= DIGITS[target.name]
    signed = target.kind == "i"
    return (signed or source.kind == "u") and digits <= target.bits - signed


VALUE_RULES = {
    "add": (constant_last, add_zero, add_neg, merge_constants),
    "sub": (add_zero, integer_zero, add_neg),
    "mul": (constant_last, mul_one, mul_minus_one, integer_zero, merge_constants, mul_same),
    "div": (mul_one, mul_minus_one, div_by_power_of_two, one_over),
    "pow": (pow_by_squares,),
    "neg": (neg_neg,),
    "square": (even_of_neg,),
    "abs": (even_of_neg,),
    "maximum": (extreme_of_same,),
    "minimum": (extreme_of_same,),
    "eq": (constant_last,),
    "ne": (constant_last,),
    "logical_and": (constant_last, extreme_of_same, logic_with_constant),
    "logical_or": (constant_last, extreme_of_same, logic_with_constant),
    "logical_not": (not_not,),
    "select": (select_known, select_not),
    "cast": (cast_same, cast_chain),
}
