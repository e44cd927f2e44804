"""All elementwise ops in one place: arithmetic, comparison, logic, functions, casts."""

from planish.ir.ops.arithmetic import (
    add, cast, clip, div, floor_div, maximum, minimum, mod, mul, pow_, sub,
)  # fmt: skip
from planish.ir.ops.compare import (
    bitwise_and, bitwise_not, bitwise_or, bitwise_xor, eq, ge, gt, isfinite, isinf, isnan, le,
    logical_and, logical_not, logical_or, logical_xor, lt, ne, select, shift_left, shift_right,
)  # fmt: skip
from planish.ir.ops.functions import (
    abs_, ceil, cos, erf, exp, exp2, expm1, floor, log, log1p, log2, neg, reciprocal, round_,
    rsqrt, sigmoid, sign, sin, sqrt, square, stop_gradient, tan, tanh, trunc,
)  # fmt: skip

__all__ = [
    "abs_", "add", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "cast", "ceil",
    "clip", "cos", "div", "eq", "erf", "exp", "exp2", "expm1", "floor", "floor_div", "ge", "gt",
    "isfinite", "isinf", "isnan", "le", "log", "log1p", "log2", "logical_and", "logical_not",
    "logical_or", "logical_xor", "lt", "maximum", "minimum", "mod", "mul", "ne", "neg", "pow_",
    "reciprocal", "round_", "rsqrt", "select", "shift_left", "shift_right", "sigmoid", "sign",
    "sin", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "trunc",
]  # fmt: skip
