"""The array API standard's names: traced on tensors, computed at once on NumPy arrays.

    import planish.numpy as pnp
    y = pnp.where(x > 0, x, 0.1 * x)

Python floats and created arrays are float32 unless a dtype is given. Functions whose result has a
shape that depends on data (`nonzero`, `unique`) are refused, as are masks as indices.
"""

from math import e, inf, nan, pi

from planish.frontend.array.creation import (
    arange, array, asarray, empty, empty_like, eye, full, full_like, linspace, meshgrid,
    one_hot, ones, ones_like, tril, triu, zeros, zeros_like,
)  # fmt: skip
from planish.frontend.array.elementwise import (
    abs, absolute, add, astype, bitwise_and, bitwise_invert, bitwise_left_shift, bitwise_not,
    bitwise_or, bitwise_right_shift, bitwise_xor, ceil, clip, cos, cosh, divide, equal, erf,
    exp, exp2, expm1, floor, floor_divide, greater, greater_equal, hypot, invert, isclose,
    isfinite, isinf, isnan, left_shift, less, less_equal, log, log10, log1p, log2, logaddexp,
    logical_and, logical_not, logical_or, logical_xor, maximum, minimum, mod, multiply,
    negative, not_equal, positive, pow, reciprocal, remainder, right_shift, rint, round, rsqrt,
    sigmoid, sign, sin, sinh, sqrt, square, stop_gradient, subtract, tan, tanh, true_divide,
    trunc, where,
)  # fmt: skip
from planish.frontend.array.linear import (
    dot, einsum, matmul, outer, tensordot, vecdot,
)  # fmt: skip
from planish.frontend.array.manipulation import (
    broadcast_to, concat, concatenate, dynamic_slice, expand_dims, flip, matrix_transpose,
    moveaxis, pad, permute_dims, ravel, repeat, reshape, roll, split, squeeze, stack, swapaxes,
    take, take_along_axis, tile, transpose, unstack, update_slice,
)  # fmt: skip
from planish.frontend.array.reductions import (
    all, any, argmax, argmin, argwhere, count_nonzero, flatnonzero, log_softmax, logsumexp, max,
    mean, min, nonzero, prod, softmax, std, sum, unique, unique_all, unique_counts,
    unique_inverse, unique_values, var,
)  # fmt: skip
from planish.ir import types as _types

newaxis = None
float64, float32, float16, bfloat16 = (
    _types.f64.numpy, _types.f32.numpy, _types.f16.numpy, _types.bf16.numpy,
)  # fmt: skip
int64, int32, int8, uint32, uint8 = (
    _types.i64.numpy, _types.i32.numpy, _types.i8.numpy, _types.u32.numpy, _types.u8.numpy,
)  # fmt: skip
bool = _types.boolean.numpy
