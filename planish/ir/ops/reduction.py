"""Reductions: sum, prod, max, min, any, all; mean, var, logsumexp made of them; argmax, argmin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import AnySize, Shape, product
from planish.ir.errors import DTypeError, IRError, ShapeError
from planish.ir.node import OPS, Node, Op, register
from planish.ir.ops.base import Composite, Reduction, as_node, axes_of, axis_of, need_float, reduced
from planish.ir.ops.elementwise import (
    add,
    cast,
    div,
    eq,
    exp,
    isfinite,
    log,
    maximum,
    mul,
    select,
    square,
    stop_gradient,
    sub,
)  # fmt: skip
from planish.ir.types import DType, TensorType

Grads = tuple[Node | None, ...]
Axes = tuple[int, ...]


def kept(x: Node, axes: Axes, like: Shape) -> Node:
    """`x`, which was reduced over `axes` of an array of shape `like`, with size 1 there again."""
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(like))
    return x if x.shape == shape else OPS["reshape"](x, shape=shape)


def sum_to(x: Node, shape: Shape) -> Node:
    """`x` summed over the axes along which it was broadcast from `shape`."""
    extra = x.type.rank - len(shape)
    axes = [a for a, size in enumerate(shape, extra) if size == 1 and x.shape[a] != 1]
    if extra or axes:
        x = sum_(x, axes=(*range(extra), *axes), keep=True)
    return x if x.shape == shape else OPS["reshape"](x, shape=shape)


def count_of(shape: Shape, axes: Axes, dtype: DType) -> Node | float:
    """How many elements are reduced: a number, or the value of a symbolic size."""
    count: AnySize = product(shape[a] for a in axes)
    if isinstance(count, int):
        return float(count)
    return as_node(OPS["size"](size=count), dtype)


def widened(x: np.ndarray) -> np.ndarray:
    """16-bit floats as float32, in which they are summed."""
    narrow = t.dtype(x.dtype).is_float and x.dtype.itemsize == 2
    return x.astype(np.float32) if narrow else x


def refuse_empty(name: str, x: TensorType, axes: Axes) -> None:
    """Refuse axes of size 0, of which there is no largest or smallest element."""
    for axis in axes:
        if x.shape[axis] == 0:
            raise ShapeError(f"{name}: {x} has no elements along axis {axis}")


class Number(Reduction):
    """A reduction of numbers; bools are counted in i64."""

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        inputs, attrs = super().prepare(operands, attrs)
        return tuple(as_node(x, t.i64) if x.dtype == t.boolean else x for x in inputs), attrs

    def infer(self, x: TensorType, *, axes: Axes, keep: bool = False) -> TensorType:
        """The operand's type without `axes`."""
        found = super().infer(x, axes=axes, keep=keep)
        if x.dtype in (t.boolean, t.i4):
            raise DTypeError(f"{self.name} takes numbers, got {x}; cast it first")
        return found


class Sum(Number):
    """The sum along `axes`; 0 over nothing. Integers wrap."""

    name, combine = "sum", "add"

    def identity(self, dtype: DType) -> bool | int | float:
        return 0.0 if dtype.is_float else 0

    def ref(self, x: np.ndarray, *, axes: Axes, keep: bool = False) -> np.ndarray:
        wide = widened(x)
        return np.asarray(wide.sum(axes, dtype=wide.dtype, keepdims=keep)).astype(x.dtype)

    def vjp(self, y: Node, dy: Node, x: Node, *, axes: Axes, keep: bool = False) -> Grads:
        return (OPS["broadcast"](kept(dy, axes, x.shape), shape=x.shape),)


class Prod(Number):
    """The product along `axes`; 1 over nothing. Integers wrap."""

    name, combine = "prod", "mul"

    def identity(self, dtype: DType) -> bool | int | float:
        return 1.0 if dtype.is_float else 1

    def ref(self, x: np.ndarray, *, axes: Axes, keep: bool = False) -> np.ndarray:
        wide = widened(x)
        return np.asarray(wide.prod(axes, dtype=wide.dtype, keepdims=keep)).astype(x.dtype)

    def vjp(self, y: Node, dy: Node, x: Node, *, axes: Axes, keep: bool = False) -> Grads:
        """The product of the others: y / x, but for zeros, where one alone takes it all."""
        zero = eq(x, 0.0)
        zeros = sum_(cast(zero, dtype=x.dtype), axes=axes, keep=True)
        safe = select(zero, 1.0, x)
        others = prod(safe, axes=axes, keep=True)
        at_zero = select(eq(zeros, 1.0), others, 0.0)
        elsewhere = select(eq(zeros, 0.0), div(others, safe), 0.0)
        return (mul(kept(dy, axes, x.shape), select(zero, at_zero, elsewhere)),)


class Extremum(Number):
    """What max and min share: refused over nothing, and a tie splits the gradient evenly."""

    function: np.ufunc

    def infer(self, x: TensorType, *, axes: Axes, keep: bool = False) -> TensorType:
        """The operand's type without `axes`."""
        found = super().infer(x, axes=axes, keep=keep)
        refuse_empty(self.name, x, axes)
        return found

    def ref(self, x: np.ndarray, *, axes: Axes, keep: bool = False) -> np.ndarray:
        start = np.asarray(self.identity(t.dtype(x.dtype)), x.dtype)
        return np.asarray(self.function.reduce(x, axes, keepdims=keep, initial=start))

    def vjp(self, y: Node, dy: Node, x: Node, *, axes: Axes, keep: bool = False) -> Grads:
        here = cast(eq(x, kept(y, axes, x.shape)), dtype=x.dtype)
        share = div(kept(dy, axes, x.shape), sum_(here, axes=axes, keep=True))
        return (mul(here, share),)


class Max(Extremum):
    """The largest element along `axes`; NaN where there is one."""

    name, combine, function = "max", "max", np.maximum

    def identity(self, dtype: DType) -> bool | int | float:
        return -math.inf if dtype.is_float else dtype.least


class Min(Extremum):
    """The smallest element along `axes`; NaN where there is one."""

    name, combine, function = "min", "min", np.minimum

    def identity(self, dtype: DType) -> bool | int | float:
        return math.inf if dtype.is_float else dtype.most


class Truth(Reduction):
    """A reduction of truth values; other dtypes are compared with 0 first."""

    no_vjp = "a truth value has no gradient"
    function: np.ufunc

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        inputs, attrs = super().prepare(operands, attrs)
        return tuple(as_node(x, t.boolean) for x in inputs), attrs

    def infer(self, x: TensorType, *, axes: Axes, keep: bool = False) -> TensorType:
        """The operand's type without `axes`."""
        if x.dtype != t.boolean:
            raise DTypeError(f"{self.name} takes bools, got {x}; cast it first")
        return super().infer(x, axes=axes, keep=keep)

    def ref(self, x: np.ndarray, *, axes: Axes, keep: bool = False) -> np.ndarray:
        return np.asarray(self.function.reduce(x, axes, keepdims=keep))


class Any_(Truth):
    """Whether one element along `axes` is true; false over nothing."""

    name, combine, function = "any", "or", np.logical_or

    def identity(self, dtype: DType) -> bool | int | float:
        return False


class All(Truth):
    """Whether all elements along `axes` are true; true over nothing."""

    name, combine, function = "all", "and", np.logical_and

    def identity(self, dtype: DType) -> bool | int | float:
        return True


class Statistic(Composite):
    """A composite over `axes`, with the attributes of a reduction. Integers become f32."""

    arity = 1

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        (x,) = operands
        x = x if x.dtype.is_float else as_node(x, t.f32)
        axes = axes_of(self.name, attrs.get("axes"), x.type.rank)
        return (x,), {"keep": False, **attrs, "axes": axes}

    def infer(self, x: TensorType, *, axes: Axes, keep: bool = False) -> TensorType:
        """The operand's type without `axes`."""
        need_float(self.name, x)
        return reduced(self.name, x, axes, keep)


class Mean(Statistic):
    """The mean along `axes`; NaN over nothing."""

    name = "mean"

    def expand(self, x: Node, *, axes: Axes, keep: bool = False) -> Node:
        return div(sum_(x, axes=axes, keep=keep), count_of(x.shape, axes, x.dtype))

    def ref(self, x: np.ndarray, *, axes: Axes, keep: bool = False) -> np.ndarray:
        with np.errstate(all="ignore"):
            total = widened(x).sum(axes, keepdims=keep)
            count = math.prod(x.shape[a] for a in axes)
            return np.asarray(total / np.asarray(count, total.dtype)).astype(x.dtype)


class Var(Statistic):
    """The mean square distance from the mean along `axes`, over the count less `correction`."""

    name = "var"

    def infer(
        self, x: TensorType, *, axes: Axes, keep: bool = False, correction: int = 0
    ) -> TensorType:
        """The operand's type without `axes`."""
        if isinstance(correction, bool) or not isinstance(correction, int):
            raise IRError(f"var: correction is an integer, got {correction!r}")
        return super().infer(x, axes=axes, keep=keep)

    def expand(self, x: Node, *, axes: Axes, keep: bool = False, correction: int = 0) -> Node:
        away = sub(x, mean(x, axes=axes, keep=True))
        count = count_of(x.shape, axes, x.dtype)
        total = sum_(square(away), axes=axes, keep=keep)
        if isinstance(count, Node):
            return div(total, maximum(count - correction, 0.0) if correction else count)
        return div(total, max(count - correction, 0.0))

    def ref(
        self, x: np.ndarray, *, axes: Axes, keep: bool = False, correction: int = 0
    ) -> np.ndarray:
        with np.errstate(all="ignore"):
            wide = x.astype(np.float64)
            count = np.float64(math.prod(x.shape[a] for a in axes))
            centre = wide.sum(axes, keepdims=True) / count
            total = np.square(wide - centre).sum(axes, keepdims=keep)
            return np.asarray(total / max(count - correction, 0.0)).astype(x.dtype)


class LogSumExp(Statistic):
    """log(sum(exp(x))) along `axes`, without overflow; -inf where all elements are -inf."""

    name = "logsumexp"

    def infer(self, x: TensorType, *, axes: Axes, keep: bool = False) -> TensorType:
        """The operand's type without `axes`."""
        found = super().infer(x, axes=axes, keep=keep)
        refuse_empty(self.name, x, axes)
        return found

    def expand(self, x: Node, *, axes: Axes, keep: bool = False) -> Node:
        """The maximum only shifts: its own gradient cancels, so none is computed."""
        top = stop_gradient(max_(x, axes=axes, keep=True))
        top = select(isfinite(top), top, 0.0)
        total = log(sum_(exp(sub(x, top)), axes=axes, keep=keep))
        dropped = top if keep else OPS["reshape"](top, shape=total.shape)
        return add(total, dropped)

    def ref(self, x: np.ndarray, *, axes: Axes, keep: bool = False) -> np.ndarray:
        with np.errstate(all="ignore"):
            found = np.logaddexp.reduce(x.astype(np.float64), axes, keepdims=keep)  # type: ignore
            return np.asarray(found).astype(x.dtype)


class ArgExtremum(Op):
    """The index along `axis` of the first extreme element, i64. The first NaN counts as extreme."""

    kind, arity = "special", 1
    no_vjp = "an index has no gradient"
    largest = True

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        (x,), attrs = super().prepare(operands, attrs)
        axis = axis_of(self.name, attrs.get("axis"), x.type.rank)
        return (x,), {"keep": False, **attrs, "axis": axis}

    def infer(self, x: TensorType, *, axis: int, keep: bool = False) -> TensorType:
        """The operand's shape without `axis`, i64."""
        if x.dtype in (t.boolean, t.i4):
            raise DTypeError(f"{self.name} takes numbers, got {x}; cast it first")
        found = reduced(self.name, x, (axis,), keep)
        refuse_empty(self.name, x, (axis,))
        return found.with_dtype(t.i64)

    def ref(self, x: np.ndarray, *, axis: int, keep: bool = False) -> np.ndarray:
        found = (np.argmax if self.largest else np.argmin)(widened(x), axis, keepdims=keep)
        return np.asarray(found, np.int64)


class ArgMax(ArgExtremum):
    """The index of the first largest element along `axis`."""

    name = "argmax"


class ArgMin(ArgExtremum):
    """The index of the first smallest element along `axis`."""

    name, largest = "argmin", False


sum_ = register(Sum)
prod = register(Prod)
max_ = register(Max)
min_ = register(Min)
any_ = register(Any_)
all_ = register(All)
mean = register(Mean)
var = register(Var)
logsumexp = register(LogSumExp)
argmax = register(ArgMax)
argmin = register(ArgMin)
