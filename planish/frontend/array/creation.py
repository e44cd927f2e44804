"""New arrays: filled, counted, triangular. Inside a trace they are tensors, else NumPy arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from planish.frontend.context import as_array
from planish.frontend.shapes import broadcast_to, cast, dtype_of, expand_dims, shape_of
from planish.frontend.sizes import plain_shape, plain_size
from planish.frontend.tensor import Parameter, Tensor, apply
from planish.ir import types as t
from planish.ir.dims import AnySize
from planish.ir.errors import ShapeError


def asarray(x: Any, /, dtype: Any = None, copy: bool | None = None) -> Any:
    """Tensors stay tensors; anything else becomes a NumPy array, Python floats as f32."""
    if not isinstance(x, (Tensor, Parameter)):
        if dtype is not None and isinstance(x, (list, tuple, int, float, bool)):
            return np.asarray(x, t.dtype(dtype).numpy)
        x = as_array(x)
    return x if dtype is None else cast(apply, x, t.dtype(dtype))


array = asarray


def full(shape: Any, fill_value: Any, dtype: Any = None) -> Any:
    """An array of one value."""
    wanted = dtype_of(fill_value) if dtype is None else t.dtype(dtype)
    if isinstance(fill_value, (bool, int, float)):
        kind = float if wanted.is_float else int if wanted.is_int else bool
        value = apply("const", value=kind(fill_value), dtype=wanted)
    else:
        value = cast(apply, fill_value, wanted)
    return broadcast_to(apply, value, plain_shape(shape))


def zeros(shape: Any, dtype: Any = "f32") -> Any:
    """An array of zeros."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = "f32") -> Any:
    """An array of ones."""
    return full(shape, 1, dtype)


empty = zeros


def full_like(x: Any, /, fill_value: Any, dtype: Any = None) -> Any:
    """An array of one value, with the shape and dtype of `x`."""
    return full(shape_of(x), fill_value, dtype_of(x) if dtype is None else dtype)


def zeros_like(x: Any, /, dtype: Any = None) -> Any:
    """Zeros with the shape and dtype of `x`."""
    return full_like(x, 0, dtype)


def ones_like(x: Any, /, dtype: Any = None) -> Any:
    """Ones with the shape and dtype of `x`."""
    return full_like(x, 1, dtype)


empty_like = zeros_like


def arange(start: Any, /, stop: Any = None, step: Any = 1, dtype: Any = None) -> Any:
    """start, start + step ... short of stop; the count may be symbolic where step is 1."""
    start, stop = (0, start) if stop is None else (start, stop)
    floats = any(isinstance(v, (float, np.floating)) for v in (start, stop, step))
    wanted = t.dtype(dtype) if dtype is not None else t.f32 if floats else t.i64
    count = _float_count(start, stop, step) if floats else _count(start, stop, step)
    line = apply("iota", shape=(count,), axis=0, dtype=wanted)
    line = line if step == 1 else apply("mul", line, step)
    if isinstance(start, (int, float)) and start == 0:
        return line
    return apply("add", line, start)


def _count(start: Any, stop: Any, step: Any) -> AnySize:
    first, last, by = plain_size(start), plain_size(stop), plain_size(step)
    if all(isinstance(v, int) for v in (first, last, by)):
        if by == 0:
            raise ShapeError("arange: step is 0")
        return len(range(first, last, by))  # type: ignore[arg-type]
    if by != 1:
        raise ShapeError(f"arange of symbolic size takes step 1, got {by}")
    return last - first


def _float_count(start: float, stop: float, step: float) -> int:
    if step == 0:
        raise ShapeError("arange: step is 0")
    return max(0, math.ceil((stop - start) / step))


def linspace(
    start: float, stop: float, /, num: int, dtype: Any = "f32", endpoint: bool = True
) -> Any:
    """`num` numbers from start to stop at equal distances."""
    if num < 0:
        raise ShapeError(f"linspace takes num >= 0, got {num}")
    gaps = max(num - 1 if endpoint else num, 1)
    line = apply("iota", shape=(num,), axis=0, dtype=t.dtype(dtype))
    return apply("add", apply("mul", line, (stop - start) / gaps), start)


def eye(n_rows: Any, n_cols: Any = None, /, *, k: int = 0, dtype: Any = "f32") -> Any:
    """Ones on the k-th diagonal, zeros elsewhere."""
    rows = plain_size(n_rows)
    columns = rows if n_cols is None else plain_size(n_cols)
    row = apply("iota", shape=(rows, columns), axis=0, dtype=t.i64)
    column = apply("iota", shape=(rows, columns), axis=1, dtype=t.i64)
    return apply("cast", apply("eq", apply("add", row, k), column), dtype=t.dtype(dtype))


def tril(x: Any, /, k: int = 0) -> Any:
    """`x` with zeros above the k-th diagonal of the last two axes."""
    return apply("tril", x, k=k)


def triu(x: Any, /, k: int = 0) -> Any:
    """`x` with zeros below the k-th diagonal of the last two axes."""
    return apply("triu", x, k=k)


def meshgrid(*arrays: Any, indexing: str = "xy") -> list[Any]:
    """Coordinates of a grid, one array per axis."""
    if indexing not in ("xy", "ij"):
        raise ShapeError(f"meshgrid: indexing is 'xy' or 'ij', got {indexing!r}")
    order = list(range(len(arrays)))
    if indexing == "xy" and len(arrays) > 1:
        order[:2] = [1, 0]
    sizes = [shape_of(x)[0] for x in arrays]
    shape = [sizes[i] for i in order]
    found = []
    for axis, x in enumerate(arrays):
        others = [a for a in range(len(arrays)) if a != order.index(axis)]
        found.append(broadcast_to(apply, expand_dims(apply, x, tuple(others)), shape))
    return found


def one_hot(indices: Any, num_classes: int, dtype: Any = "f32") -> Any:
    """1 at the index and 0 elsewhere along a new last axis."""
    return apply("one_hot", indices, size=plain_size(num_classes), dtype=t.dtype(dtype))
