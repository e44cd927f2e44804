"""What several ops make together, written once for methods, `planish.numpy` and eager arrays.

Every function takes `op`, the way to apply an op by name, first: a Tensor's own, or `apply`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from planish.frontend.sizes import plain_shape
from planish.ir import types as t
from planish.ir.dims import AnySize, Shape, divide, product
from planish.ir.errors import AxisError, ShapeError, TraceError
from planish.ir.ops.base import axes_of, axis_of
from planish.ir.types import DType

Apply = Callable[..., Any]


def shape_of(x: Any) -> Shape:
    """The shape of a tensor, an array or a number, with sizes as the IR keeps them."""
    found = getattr(x, "type", None)
    return found.shape if found is not None and hasattr(found, "shape") else np.shape(x)


def dtype_of(x: Any) -> DType:
    """The dtype of a tensor, an array or a number; Python floats count as f32."""
    found = getattr(x, "dtype", None)
    if found is not None:
        return t.dtype(found)
    return t.boolean if isinstance(x, bool) else t.i64 if isinstance(x, int) else t.f32


def no_out(out: Any) -> None:
    """Refuse `out=`: results are new arrays."""
    if out is not None:
        raise TraceError("out= is not provided: traced arrays never change, use the result")


def cast(op: Apply, x: Any, dtype: DType) -> Any:
    """`x` in another dtype; itself where it has it."""
    same = not isinstance(x, (bool, int, float)) and dtype_of(x) == dtype
    return x if same else op("cast", x, dtype=dtype)


def reshape(op: Apply, x: Any, shape: Any) -> Any:
    """`x` in another shape, one size of which may be -1."""
    old, wanted = shape_of(x), list(plain_shape(shape))
    if [s for s in wanted if isinstance(s, int) and s < -1] or wanted.count(-1) > 1:
        raise ShapeError(f"reshape: {wanted} must have sizes >= 0 and at most one -1")
    total = product(old)
    if -1 in wanted:
        at = wanted.index(-1)
        known = product(wanted[:at] + wanted[at + 1 :])
        wanted[at] = _rest(total, known, old, wanted)
    if product(wanted) != total:
        raise ShapeError(
            f"reshape of {list(old)} ({total} elements) to {wanted} ({product(wanted)} elements)"
        )
    return x if tuple(wanted) == tuple(old) else op("reshape", x, shape=tuple(wanted))


def _rest(total: AnySize, known: AnySize, old: Shape, wanted: list[AnySize]) -> AnySize:
    """The size that -1 stands for."""
    if known == 0:
        raise ShapeError(f"reshape of {list(old)} to {wanted}: -1 may be anything beside a 0")
    try:
        return divide(total, known)
    except ShapeError:
        raise ShapeError(
            f"reshape of {list(old)} to {wanted}: {total} elements are no multiple of {known}"
        ) from None


def transpose(op: Apply, x: Any, axes: Any) -> Any:
    """`x` with its axes in another order; reversed for None."""
    rank = len(shape_of(x))
    if axes is None:
        perm = tuple(reversed(range(rank)))
    else:
        perm = tuple(axis_of("transpose", a, rank) for a in axes)
    if sorted(perm) != list(range(rank)):
        raise AxisError(f"transpose: axes {tuple(axes)} are no permutation of {rank} axes")
    return x if perm == tuple(range(rank)) else op("transpose", x, perm=perm)


def swapaxes(op: Apply, x: Any, axis1: int, axis2: int) -> Any:
    """`x` with two axes exchanged."""
    rank = len(shape_of(x))
    a, b = axis_of("swapaxes", axis1, rank), axis_of("swapaxes", axis2, rank)
    perm = list(range(rank))
    perm[a], perm[b] = b, a
    return transpose(op, x, perm)


def squeeze(op: Apply, x: Any, axis: Any) -> Any:
    """`x` without axes of size 1: all of them, or those named."""
    shape = shape_of(x)
    if axis is None:
        axes = tuple(a for a, size in enumerate(shape) if size == 1)
    else:
        axes = axes_of("squeeze", axis, len(shape))
    for a in axes:
        if shape[a] != 1:
            raise ShapeError(f"squeeze: axis {a} of {list(shape)} has size {shape[a]}, not 1")
    return reshape(op, x, tuple(size for a, size in enumerate(shape) if a not in axes))


def expand_dims(op: Apply, x: Any, axis: Any) -> Any:
    """`x` with axes of size 1 at the places `axis` of the result."""
    shape = list(shape_of(x))
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    for a in axes_of("expand_dims", axis, len(shape) + count):
        shape.insert(a, 1)
    return reshape(op, x, shape)


def broadcast_to(op: Apply, x: Any, shape: Any) -> Any:
    """`x` repeated to a shape."""
    wanted = plain_shape(shape)
    return x if tuple(shape_of(x)) == wanted else op("broadcast", x, shape=wanted)


def reduce(
    op: Apply, name: str, x: Any, axis: Any, keepdims: bool, dtype: Any = None, out: Any = None
) -> Any:
    """A reduction over `axis` (None: all); booleans and small integers add up in i64."""
    no_out(out)
    found = dtype_of(x)
    if dtype is not None:
        x = cast(op, x, t.dtype(dtype))
    elif name in ("sum", "prod") and not found.is_float and found.bits < 64:
        x = cast(op, x, t.i64)
    elif name in ("any", "all") and found != t.boolean:
        x = op("ne", x, False if found == t.boolean else 0)
    axes = axes_of(name, _axis_arg(axis), len(shape_of(x)))
    return op(name, x, axes=axes, keep=bool(keepdims))


def _axis_arg(axis: Any) -> Any:
    if isinstance(axis, np.integer):
        return int(axis)
    return tuple(int(a) for a in axis) if isinstance(axis, (tuple, list)) else axis


def mean(op: Apply, x: Any, axis: Any, keepdims: bool, dtype: Any = None, out: Any = None) -> Any:
    """The mean over `axis`, in f32 for integers."""
    no_out(out)
    x = _floats(op, x, dtype)
    axes = axes_of("mean", _axis_arg(axis), len(shape_of(x)))
    return op("mean", x, axes=axes, keep=bool(keepdims))


def variance(
    op: Apply, x: Any, axis: Any, keepdims: bool, correction: Any, dtype: Any = None,
    out: Any = None,
) -> Any:  # fmt: skip
    """The variance over `axis`; `correction` is what is subtracted from the count."""
    no_out(out)
    x = _floats(op, x, dtype)
    axes = axes_of("var", _axis_arg(axis), len(shape_of(x)))
    return op("var", x, axes=axes, keep=bool(keepdims), correction=correction)


def _floats(op: Apply, x: Any, dtype: Any) -> Any:
    if dtype is not None:
        return cast(op, x, t.dtype(dtype))
    return x if dtype_of(x).is_float else cast(op, x, t.f32)


def extremum(op: Apply, name: str, x: Any, axis: Any, keepdims: bool, out: Any = None) -> Any:
    """argmax or argmin over one axis; None means the flattened array."""
    no_out(out)
    if axis is None:
        rank = len(shape_of(x))
        found = op(name, reshape(op, x, -1), axis=0, keep=False)
        return reshape(op, found, (1,) * rank) if keepdims else found
    return op(name, x, axis=axis_of(name, _axis_arg(axis), len(shape_of(x))), keep=bool(keepdims))


def matmul(op: Apply, a: Any, b: Any) -> Any:
    """The matrix product; an operand of one axis is a row (first) or a column (second)."""
    if not shape_of(a) or not shape_of(b):
        raise ShapeError("matmul takes arrays of at least one axis, use * for scalars")
    row, column = len(shape_of(a)) == 1, len(shape_of(b)) == 1
    if row:
        a = reshape(op, a, (1, *shape_of(a)))
    if column:
        b = reshape(op, b, (*shape_of(b), 1))
    y = op("matmul", a, b)
    shape = list(shape_of(y))
    if column:
        del shape[-1]
    if row:
        del shape[-1 if column else -2]
    return reshape(op, y, shape)


def power(op: Apply, x: Any, exponent: Any) -> Any:
    """x ** exponent; small integer exponents multiply, so that integers stay integers."""
    if isinstance(exponent, (int, float)) and exponent in (1, 2, 3, 4):
        square = op("mul", x, x) if exponent > 1 else x
        return {1: lambda: x, 2: lambda: square, 3: lambda: op("mul", square, x),
                4: lambda: op("mul", square, square)}[int(exponent)]()  # fmt: skip
    if isinstance(exponent, float) and exponent in (0.5, -0.5):
        return op("sqrt" if exponent > 0 else "rsqrt", x)
    return op("pow", x, exponent)
