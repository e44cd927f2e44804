"""Views: reshape, transpose, broadcast, slice, flip. Each output element is one input element."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import AnySize, Shape, Size, divide, lower, product, upper
from planish.ir.errors import AxisError, IRError, ShapeError
from planish.ir.loops import Const, Expr, size_expr
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Index, View, axes_of, axis_of, broadcast_index, broadcast_shapes
from planish.ir.ops.reduction import sum_to
from planish.ir.types import TensorType

Grads = tuple[Node | None, ...]
ZERO = Const(0, t.i64)


def check_shape(name: str, shape: object) -> Shape:
    """`shape` as a tuple of sizes; refused where an entry is no size."""
    if isinstance(shape, (int, Size)) and not isinstance(shape, bool):
        shape = (shape,)
    if not isinstance(shape, (tuple, list)):
        raise ShapeError(f"{name}: a shape is a tuple of sizes, got {shape!r}")
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, (int, Size)):
            raise ShapeError(f"{name}: {size!r} in shape {tuple(shape)} is not a size")
    return tuple(shape)


def refuse_negative(name: str, shape: Shape) -> None:
    """Refuse sizes below 0."""
    if any(isinstance(size, int) and size < 0 for size in shape):
        raise ShapeError(f"{name}: shape {list(shape)} has a negative size")


class Reshape(View):
    """The same elements in row-major order at another shape. One size may be -1: what is left."""

    name = "reshape"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        if operands and "shape" in attrs:
            shape = check_shape(self.name, attrs["shape"])
            attrs = {**attrs, "shape": self.resolved(operands[0].type, shape)}
        return operands, attrs

    def resolved(self, x: TensorType, shape: Shape) -> Shape:
        """`shape` with the size that -1 stands for."""
        unknown = [axis for axis, size in enumerate(shape) if size == -1]
        if len(unknown) > 1:
            raise ShapeError(f"reshape: shape {list(shape)} has two -1")
        if not unknown:
            return shape
        (axis,) = unknown
        known = product(size for size in shape if size != -1)
        try:
            if known == 0:
                raise ShapeError("nothing is known about -1 beside a size of 0")
            rest = divide(x.size, known)
        except ShapeError as error:
            raise ShapeError(f"reshape: {x} does not fit in shape {list(shape)}: {error}") from None
        return (*shape[:axis], rest, *shape[axis + 1 :])

    def infer(self, x: TensorType, *, shape: Shape) -> TensorType:
        """The same dtype at `shape`."""
        shape = check_shape(self.name, shape)
        refuse_negative(self.name, shape)
        if product(shape) != x.size:
            raise ShapeError(
                f"reshape: {x} has {x.size} elements, shape {list(shape)} has {product(shape)}"
            )
        return x.with_shape(shape)

    def ref(self, x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
        return np.reshape(x, shape)

    def index(self, out_index: Index, in_type, out_type, *, shape: Shape) -> Index:
        return reshape_index(out_index, in_type.shape, out_type.shape)

    def vjp(self, y: Node, dy: Node, x: Node, *, shape: Shape) -> Grads:
        return (reshape(dy, shape=x.shape),)


def segments(ins: Shape, outs: Shape) -> list[tuple[list[int], list[int]]]:
    """Pairs of runs of axes with equal products, as short as can be; sizes of 1 are left out.

    [2, 3, 4] and [6, 2, 2] give [2, 3] with [6] and [4] with [2, 2].
    """
    left = [a for a, size in enumerate(ins) if size != 1]
    right = [a for a, size in enumerate(outs) if size != 1]
    ends = {product(ins[a] for a in left[: i + 1]): i + 1 for i in range(len(left))}
    found = []
    i = j = 0
    total: AnySize = 1
    for n, axis in enumerate(right, 1):
        total = total * outs[axis]
        if total in ends:
            found.append((left[i : ends[total]], right[j:n]))
            i, j = ends[total], n
    return found


def reshape_index(index: Index, ins: Shape, outs: Shape) -> Index:
    """Where in an array of shape `ins` the element at `index` of shape `outs` is.

    Segment by segment, so that an axis that both shapes have in common keeps its index and a
    merge of axes needs no division.
    """
    result: list[Expr] = [ZERO] * len(ins)
    if 0 in ins or 0 in outs:
        return tuple(result)
    for left, right in segments(ins, outs):
        flat: Expr = index[right[0]]
        for axis in right[1:]:
            flat = flat * size_expr(outs[axis]) + index[axis]
        for axis in reversed(left[1:]):
            size = size_expr(ins[axis])
            result[axis] = flat % size
            flat = flat // size
        result[left[0]] = flat
    return tuple(result)


class Transpose(View):
    """Axes in another order: axis i of the result is axis perm[i] of the operand."""

    name = "transpose"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        if not operands:
            return operands, attrs
        rank = operands[0].type.rank
        perm = attrs.get("perm")
        perm = tuple(reversed(range(rank))) if perm is None else perm
        if not isinstance(perm, (tuple, list)):
            raise AxisError(f"transpose: perm is a tuple of axes, got {perm!r}")
        return operands, {**attrs, "perm": tuple(axis_of(self.name, a, rank) for a in perm)}

    def infer(self, x: TensorType, *, perm: tuple[int, ...]) -> TensorType:
        """The permuted shape."""
        if not isinstance(perm, tuple) or any(isinstance(a, bool) for a in perm):
            raise AxisError(f"transpose: perm is a tuple of axes, got {perm!r}")
        if len(perm) != x.rank or set(perm) != set(range(x.rank)):
            raise AxisError(f"transpose: perm {perm} is no permutation of the {x.rank} axes of {x}")
        return x.with_shape(tuple(x.shape[a] for a in perm))

    def ref(self, x: np.ndarray, *, perm: tuple[int, ...]) -> np.ndarray:
        return np.transpose(x, perm)

    def index(self, out_index, in_type, out_type, *, perm):
        return tuple(out_index[i] for i in inverse(perm))

    def vjp(self, y: Node, dy: Node, x: Node, *, perm: tuple[int, ...]) -> Grads:
        return (transpose(dy, perm=inverse(perm)),)


def inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes `perm`."""
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


class Broadcast(View):
    """The operand repeated to `shape` by NumPy's rule: new axes in front, sizes of 1 stretched."""

    name = "broadcast"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        if "shape" in attrs:
            attrs = {**attrs, "shape": check_shape(self.name, attrs["shape"])}
        return operands, attrs

    def infer(self, x: TensorType, *, shape: Shape) -> TensorType:
        """The same dtype at `shape`."""
        shape = check_shape(self.name, shape)
        refuse_negative(self.name, shape)
        if broadcast_shapes(self.name, x.shape, shape) != shape:
            raise ShapeError(f"broadcast: {x} does not stretch to {list(shape)}")
        return x.with_shape(shape)

    def ref(self, x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(x, shape)

    def index(self, out_index, in_type, out_type, *, shape):
        return broadcast_index(out_index, in_type.shape)

    def vjp(self, y: Node, dy: Node, x: Node, *, shape: Shape) -> Grads:
        return (sum_to(dy, x.shape),)


class Flip(View):
    """The order of elements reversed along `axes`."""

    name = "flip"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        if operands:
            axes = axes_of(self.name, attrs.get("axes"), operands[0].type.rank)
            attrs = {**attrs, "axes": axes}
        return operands, attrs

    def infer(self, x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
        """The operand's type."""
        axes_of(self.name, axes, x.rank)
        return x

    def ref(self, x: np.ndarray, *, axes: tuple[int, ...]) -> np.ndarray:
        return np.flip(x, axes)

    def index(self, out_index, in_type, out_type, *, axes):
        return tuple(
            size_expr(size - 1) - i if axis in axes else i
            for axis, (i, size) in enumerate(zip(out_index, in_type.shape, strict=True))
        )

    def vjp(self, y: Node, dy: Node, x: Node, *, axes: tuple[int, ...]) -> Grads:
        return (flip(dy, axes=axes),)


class Slice(View):
    """Elements start, start + step, ... short of stop, along every axis.

    Starts and stops are counted from the front, as `slice.indices` gives them: 0 <= start <= stop
    <= size, or, for a negative step, size > start >= stop >= -1. What cannot be shown to lie inside
    an axis of symbolic size is refused (`dynamic_slice` checks when the program runs).
    """

    name = "slice"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        for name in ("starts", "stops", "steps"):
            if isinstance(attrs.get(name), list):
                attrs = {**attrs, name: tuple(attrs[name])}
        if operands and attrs.get("steps") is None:
            attrs = {**attrs, "steps": (1,) * operands[0].type.rank}
        return operands, attrs

    def infer(
        self, x: TensorType, *, starts: Shape, stops: Shape, steps: tuple[int, ...]
    ) -> TensorType:
        """The lengths of the slices."""
        for name, items in (("starts", starts), ("stops", stops), ("steps", steps)):
            if not isinstance(items, tuple) or len(items) != x.rank:
                raise ShapeError(f"slice: {name} {items!r} needs one entry per axis of {x}")
            if any(isinstance(i, bool) or not isinstance(i, (int, Size)) for i in items):
                raise IRError(f"slice: {name} {items!r} are not all sizes")
        return x.with_shape(tuple(map(slice_length, range(x.rank), x.shape, starts, stops, steps)))

    def ref(self, x: np.ndarray, *, starts, stops, steps) -> np.ndarray:
        for axis, (stop, size) in enumerate(zip(stops, x.shape, strict=True)):
            if stop > size:
                raise ShapeError(f"slice up to {stop} of axis {axis}, which has size {size}")
        return x[tuple(map(python_slice, starts, stops, steps))]

    def index(self, out_index, in_type, out_type, *, starts, stops, steps):
        return tuple(
            size_expr(start) + i * step
            for i, start, step in zip(out_index, starts, steps, strict=True)
        )

    def vjp(self, y: Node, dy: Node, x: Node, *, starts, stops, steps) -> Grads:
        """Zeros between and around. Backward slices are turned around first."""
        backward = tuple(a for a, step in enumerate(steps) if step < 0)
        dy = flip(dy, axes=backward) if backward else dy
        low, high = [], []
        for axis, (size, start, step) in enumerate(zip(x.shape, starts, steps, strict=True)):
            first = start + (dy.shape[axis] - 1) * step if step < 0 else start
            first = 0 if y.shape[axis] == 0 else first
            dy = spread(dy, axis, abs(step), size - first)
            low.append(first)
            high.append(size - first - dy.shape[axis])
        if any(low) or any(high):
            dy = OPS["pad"](dy, low=tuple(low), high=tuple(high), value=0.0)
        return (dy,)


def python_slice(start: int, stop: int, step: int) -> slice:
    """The same as a Python slice, which calls the place before the front None and not -1."""
    if start == stop:
        return slice(0, 0)
    return slice(start, None if stop < 0 else stop, step)


def slice_length(axis: int, size: AnySize, start: AnySize, stop: AnySize, step: int) -> AnySize:
    """How many elements a slice takes; AxisError where it leaves the axis.

    A stop without a maximum may cut a static axis (`table[:T]`): a run with T above it is refused.
    """
    if not isinstance(step, int) or step == 0:
        raise IRError(f"slice: step {step} of axis {axis} must be an integer other than 0")
    back = step < 0
    length = start - stop if back else stop - start
    inside = [size - 1 - start, stop + 1] if back else [start, size - stop]
    if not back and isinstance(size, int) and upper(stop) is None:
        inside = [start]
    if length != 0 and any(not at_least_zero(rest) for rest in (length, *inside)):
        raise AxisError(
            f"slice: {start}:{stop}:{step} is not known to lie inside axis {axis} of size {size}"
        )
    if abs(step) == 1:
        return length
    if isinstance(length, int):
        return -(-length // abs(step))
    (constant,) = [n for symbols, n in length.terms if not symbols] or [0]
    return divide(length + -constant % abs(step), abs(step))


def at_least_zero(size: AnySize) -> bool:
    """Whether `size` cannot be negative, as no symbol is less than 1."""
    least = lower(size)
    return least is not None and least >= 0


def spread(x: Node, axis: int, step: int, room: AnySize) -> Node:
    """`x` with step - 1 zeros after each element along `axis`, cut off after `room` elements."""
    count = x.shape[axis]
    if step == 1 or count == 0:
        return x
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    column = reshape(x, shape=(*before, count, 1, *after))
    width = [0] * column.type.rank
    none = tuple(width)
    width[axis + 1] = step - 1
    padded = OPS["pad"](column, low=none, high=tuple(width), value=0.0)
    flat = reshape(padded, shape=(*before, count * step, *after))
    excess = count * step - room
    if lower(excess) is not None and lower(excess) <= 0:  # type: ignore[operator]
        return flat
    stops = (*before, room, *after)
    return slice_(flat, starts=(0,) * len(stops), stops=stops)


reshape = register(Reshape)
transpose = register(Transpose)
broadcast = register(Broadcast)
slice_ = register(Slice)
flip = register(Flip)
