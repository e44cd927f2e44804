"""Reductions and searches."""

from __future__ import annotations

from typing import Any, NoReturn

from planish.frontend import shapes
from planish.frontend.indexing import MASKED
from planish.frontend.tensor import apply
from planish.ir import types as t
from planish.ir.errors import UnsupportedError
from planish.ir.ops.base import axes_of


def sum(x: Any, /, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """The sum over `axis`; None means all axes."""
    return shapes.reduce(apply, "sum", x, axis, keepdims, dtype)


def prod(x: Any, /, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """The product over `axis`."""
    return shapes.reduce(apply, "prod", x, axis, keepdims, dtype)


def max(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """The maximum over `axis`; NaN where there is one."""
    return shapes.reduce(apply, "max", x, axis, keepdims)


def min(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """The minimum over `axis`; NaN where there is one."""
    return shapes.reduce(apply, "min", x, axis, keepdims)


def any(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether any element along `axis` is true."""
    return shapes.reduce(apply, "any", x, axis, keepdims)


def all(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether all elements along `axis` are true."""
    return shapes.reduce(apply, "all", x, axis, keepdims)


def mean(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean over `axis`."""
    return shapes.mean(apply, x, axis, keepdims)


def var(x: Any, /, axis: Any = None, correction: float = 0, keepdims: bool = False) -> Any:
    """The variance over `axis`: squared distances over the count less `correction`."""
    return shapes.variance(apply, x, axis, keepdims, correction)


def std(x: Any, /, axis: Any = None, correction: float = 0, keepdims: bool = False) -> Any:
    """The standard deviation over `axis`."""
    return apply("sqrt", var(x, axis, correction, keepdims))


def logsumexp(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """log of the sum of exp over `axis`, without overflow."""
    axes = axes_of("logsumexp", axis, len(shapes.shape_of(x)))
    return apply("logsumexp", x, axes=axes, keep=keepdims)


def count_nonzero(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """How many elements along `axis` are not zero."""
    if shapes.dtype_of(x) != t.boolean:
        x = apply("ne", x, 0)
    return shapes.reduce(apply, "sum", x, axis, keepdims)


def argmax(x: Any, /, axis: int | None = None, keepdims: bool = False) -> Any:
    """The place of the maximum along `axis`, the first among equals."""
    return shapes.extremum(apply, "argmax", x, axis, keepdims)


def argmin(x: Any, /, axis: int | None = None, keepdims: bool = False) -> Any:
    """The place of the minimum along `axis`, the first among equals."""
    return shapes.extremum(apply, "argmin", x, axis, keepdims)


def softmax(x: Any, /, axis: int = -1) -> Any:
    """exp(x) over its sum along `axis`, without overflow."""
    return apply("softmax", x, axis=axis)


def log_softmax(x: Any, /, axis: int = -1) -> Any:
    """The logarithm of softmax."""
    return apply("log_softmax", x, axis=axis)


def nonzero(x: Any, /) -> NoReturn:
    """Refused: how many there are depends on data."""
    raise UnsupportedError(MASKED.format(what="the result of nonzero"))


def unique_values(x: Any, /) -> NoReturn:
    """Refused: how many there are depends on data."""
    raise UnsupportedError(MASKED.format(what="the result of unique"))


unique = unique_all = unique_counts = unique_inverse = unique_values
argwhere = flatnonzero = nonzero
