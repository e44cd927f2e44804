"""Ops that place elements by position or by run-time starts: concat, pad, iota, masks, slices.

All are pull shaped: an output element is an expression of input elements, so they fuse. Such an
expression is evaluated whole, the side of a `select` that is not taken included, so every index is
clamped into its operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.attributes import literal
from planish.ir.dims import AnySize, Shape, lower
from planish.ir.errors import DTypeError, ShapeError, TokenError
from planish.ir.loops import Const, Expr, cast, scalar, select, size_expr
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Index, Indexing, Read, axis_of, const, promoted
from planish.ir.ops.view import check_shape
from planish.ir.types import DType, TensorType

Reads = Sequence[Read]
Types = tuple[TensorType, ...]


def range_message(what: str, value: int, size: int, position: tuple[int, ...] = ()) -> str:
    """What is said of an index outside its table: "token id 70 is outside 0 <= id < 65"."""
    place = f" at position {position}" if position else ""
    return f"{what} {value}{place} is outside 0 <= {what.split()[-1]} < {size}"


def check_range(what: str, indices: np.ndarray, size: int) -> None:
    """TokenError, naming the first index that is not in 0 .. size - 1."""
    bad = np.argwhere((indices < 0) | (indices >= size))
    if len(bad):
        position = tuple(int(i) for i in bad[0])
        raise TokenError(range_message(what, int(indices[position]), size, position))


def guarded(i: Expr, size: AnySize | Expr, what: str) -> Expr:
    """`i` as i64, reported at run time (and 0 instead) where it is not in 0 .. size - 1."""
    n = size if isinstance(size, Expr) else size_expr(size)
    if isinstance(i, Const):
        i = Const(int(i.value), t.i64)
        if isinstance(n, Const) and 0 <= i.value < n.value:
            return i
    return scalar("guard", cast(i, t.i64), n, Const(what, t.i64))  # type: ignore[arg-type]


def clamped(i: Expr, size: AnySize) -> Expr:
    """The nearest place to `i` in an axis of `size`."""
    return scalar("max", scalar("min", i, size_expr(size) - 1), 0)


def zeros(like: TensorType) -> Node:
    """An array of zeros."""
    zero = const(False if like.dtype == t.boolean else 0, like.dtype)
    return OPS["broadcast"](zero, shape=like.shape) if like.shape else zero


def need_rank(name: str, x: TensorType, least: int) -> None:
    """Refuse an operand with too few axes."""
    if x.rank < least:
        raise ShapeError(f"{name} takes an array of at least {least} axes, got {x}")


class Concat(Indexing):
    """The operands one after another along `axis`."""

    name, at_least = "concat", 1

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        nodes = promoted(operands)
        axis = axis_of(self.name, attrs.pop("axis", 0), max(x.type.rank for x in nodes))
        return nodes, {"axis": axis, **attrs}

    def infer(self, *types: TensorType, axis: int) -> TensorType:
        """The first operand's type with the sizes along `axis` added up."""
        first = types[0]
        axis_of(self.name, axis, first.rank)
        for x in types[1:]:
            others = [s for a, s in enumerate(x.shape) if a != axis]
            if x.dtype != first.dtype or x.rank != first.rank:
                raise ShapeError(f"concat takes arrays of one dtype and rank, got {first} and {x}")
            if others != [s for a, s in enumerate(first.shape) if a != axis]:
                raise ShapeError(f"concat: {first} and {x} differ beside axis {axis}")
        total: AnySize = 0
        for x in types:
            total = total + x.shape[axis]
        return first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))

    def ref(self, *arrays: np.ndarray, axis: int) -> np.ndarray:
        return np.concatenate(arrays, axis)

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, *, axis: int
    ) -> Expr:
        value: Expr | None = None
        end: AnySize = 0
        parts = []
        for read, x in zip(reads, types, strict=True):
            start, size = end, x.shape[axis]
            end = start + size
            if size != 0:
                place = clamped(out[axis] - size_expr(start), size)
                parts.append((end, read((*out[:axis], place, *out[axis + 1 :]))))
        for end, part in reversed(parts):
            value = part if value is None else select(out[axis] < size_expr(end), part, value)
        return Const(0, out_type.dtype) if value is None else value

    def vjp(self, y: Node, dy: Node, *xs: Node, axis: int) -> tuple[Node | None, ...]:
        found = []
        end: AnySize = 0
        for x in xs:
            start, end = end, end + x.shape[axis]
            found.append(_slice_axis(dy, axis, start, end))
        return tuple(found)


def _slice_axis(x: Node, axis: int, start: AnySize, stop: AnySize) -> Node:
    starts = tuple(start if a == axis else 0 for a in range(x.type.rank))
    stops = tuple(stop if a == axis else s for a, s in enumerate(x.shape))
    return OPS["slice"](x, starts=starts, stops=stops, steps=(1,) * x.type.rank)


class Pad(Indexing):
    """`low` elements of `value` before and `high` after, along every axis."""

    name, arity = "pad", 1

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        (x,), attrs = super().prepare(operands, attrs)
        value = literal(self.name, "value", attrs.get("value", 0), x.dtype)
        return (x,), {**attrs, "value": value}

    def infer(
        self, x: TensorType, *, low: Shape, high: Shape, value: bool | float = 0
    ) -> TensorType:
        """The operand's type, each axis grown by low + high."""
        literal(self.name, "value", value, x.dtype)
        fits = len(low) == len(high) == x.rank
        if not fits or any((lower(n) or 0) < 0 for n in (*low, *high)):
            raise ShapeError(f"pad of {x} takes {x.rank} counts >= 0, got low={low}, high={high}")
        return x.with_shape(tuple(a + s + b for s, a, b in zip(x.shape, low, high, strict=True)))

    def ref(self, x: np.ndarray, *, low: tuple, high: tuple, value: float = 0) -> np.ndarray:
        inner = tuple(slice(a, a + n) for a, n in zip(low, x.shape, strict=True))
        y = np.full([a + n + b for a, n, b in zip(low, x.shape, high, strict=True)], value, x.dtype)
        y[inner] = x
        return y

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, *, low, high, value=0
    ) -> Expr:
        padding = Const(value, out_type.dtype)
        shape = types[0].shape
        if 0 in shape:
            return padding
        axes = [a for a in range(len(shape)) if low[a] or high[a]]
        place = list(out)
        for a in axes:
            place[a] = clamped(out[a] - size_expr(low[a]), shape[a])
        found = reads[0](tuple(place))
        for a in axes:
            before, after = size_expr(low[a]), size_expr(low[a] + shape[a])
            found = select(out[a] < after, found, padding) if high[a] else found
            found = select(out[a] >= before, found, padding) if low[a] else found
        return found

    def vjp(self, y: Node, dy: Node, x: Node, *, low, high, value=0) -> tuple[Node | None, ...]:
        stops = tuple(a + s for a, s in zip(low, x.shape, strict=True))
        return (OPS["slice"](dy, starts=low, stops=stops, steps=(1,) * len(low)),)


class Iota(Indexing):
    """0, 1, 2 ... along `axis`, repeated along the others."""

    name, arity = "iota", 0

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        shape = check_shape(self.name, attrs.pop("shape", ()))
        axis = axis_of(self.name, attrs.pop("axis", -1), len(shape))
        dtype = t.dtype(attrs.pop("dtype", t.i32))
        return super().prepare(operands, {"shape": shape, "axis": axis, "dtype": dtype, **attrs})

    def infer(self, *, shape: Shape, axis: int, dtype: DType) -> TensorType:
        """The stated type."""
        axis_of(self.name, axis, len(shape))
        if dtype == t.boolean:
            raise DTypeError("iota counts in numbers, got dtype bool")
        return TensorType(dtype, shape)

    def ref(self, *, shape: tuple[int, ...], axis: int, dtype: DType) -> np.ndarray:
        line = np.arange(shape[axis]).astype(dtype.numpy)
        return np.broadcast_to(line.reshape([-1] + [1] * (len(shape) - 1 - axis)), shape)

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, **attrs: Any
    ) -> Expr:
        return cast(out[attrs["axis"]], out_type.dtype)

    def vjp(self, y: Node, dy: Node, **attrs: Any) -> tuple[Node | None, ...]:
        return ()


class _Triangle(Indexing):
    """Zero on one side of the k-th diagonal of the last two axes."""

    arity = 1
    keeps = ""  # comparison of column with row + k

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        return super().prepare(operands, {"k": 0, **attrs})

    def infer(self, x: TensorType, *, k: int) -> TensorType:
        """The operand's type."""
        need_rank(self.name, x, 2)
        return x

    def ref(self, x: np.ndarray, *, k: int) -> np.ndarray:
        return getattr(np, self.name)(x, k)

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, *, k: int
    ) -> Expr:
        zero = False if out_type.dtype == t.boolean else 0
        kept = scalar(self.keeps, out[-1], out[-2] + k)
        return select(kept, reads[0](out), Const(zero, out_type.dtype))

    def vjp(self, y: Node, dy: Node, x: Node, *, k: int) -> tuple[Node | None, ...]:
        return (self(dy, k=k),)


class Tril(_Triangle):
    """The lower triangle: zero where column > row + k."""

    name, keeps = "tril", "le"


class Triu(_Triangle):
    """The upper triangle: zero where column < row + k."""

    name, keeps = "triu", "ge"


def _start_nodes(starts: Sequence[object]) -> tuple[Any, ...]:
    return tuple(const(s, t.i64) if type(s) is int else s for s in starts)


def _check_starts(name: str, x: TensorType, starts: Types, sizes: Shape) -> None:
    """One integer start and one size per axis, no static size above the axis.

    A start is a scalar; beyond the first axis it may be one for each row of the block.
    """
    if len(starts) != x.rank or len(sizes) != x.rank:
        raise ShapeError(
            f"{name} of {x} takes {x.rank} starts and sizes, got {len(starts)} and {len(sizes)}"
        )
    for axis, start in enumerate(starts):
        if start.shape not in ((), sizes[: min(axis, 1)]) or not start.dtype.is_int:
            rows = f", or one for each of {sizes[0]} rows" if axis else ""
            raise DTypeError(f"{name}: a start is an integer scalar{rows}, got {start}")
    for size, n in zip(sizes, x.shape, strict=True):
        if any(isinstance(rest, int) and rest < 0 for rest in (size, n - size)):
            raise ShapeError(f"{name}: {list(sizes)} does not fit into {x}")


def start_of(axis: int, read: Read, start: TensorType, row: Expr, room: AnySize) -> Expr:
    """Where the block begins for one of its rows, guarded by 0 <= start <= room."""
    return guarded(read((row,) if start.rank else ()), room + 1, f"axis {axis} start")


def _block(starts: Sequence[Any], shape: tuple, sizes: tuple) -> tuple[np.ndarray, ...]:
    """The places of a block along each axis, which broadcast to `sizes`."""
    places = []
    for axis, (start, n, size) in enumerate(zip(starts, shape, sizes, strict=True)):
        first = np.asarray(start, np.int64)
        check_range(f"axis {axis} start", first, n - size + 1)
        line = np.arange(size).reshape([-1] + [1] * (len(shape) - 1 - axis))
        places.append(first.reshape([-1] + [1] * (len(shape) - 1)) + line)
    return tuple(places)


class DynamicSlice(Indexing):
    """The block of `sizes` that begins at run-time starts, an integer scalar for each axis.

    Beyond the first axis a start may be i[N], one for each of the block's N rows. A block that
    does not lie inside the operand is refused at run time, never moved or cut.
    """

    name, at_least = "dynamic_slice", 1

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        return super().prepare((operands[:1] + _start_nodes(operands[1:])), attrs)

    def infer(self, x: TensorType, *starts: TensorType, sizes: Shape) -> TensorType:
        """The operand's dtype at `sizes`."""
        _check_starts(self.name, x, starts, sizes)
        return x.with_shape(sizes)

    def ref(self, x: np.ndarray, *starts: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
        return x[_block(starts, x.shape, sizes)]

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, *, sizes: Shape
    ) -> Expr:
        rooms = (n - size for n, size in zip(types[0].shape, sizes, strict=True))
        starts = zip(reads[1:], types[1:], rooms, strict=True)
        found = (start_of(axis, read, x, out[0], n) for axis, (read, x, n) in enumerate(starts))
        return reads[0](tuple(i + start for i, start in zip(out, found, strict=True)))

    def vjp(
        self, y: Node, dy: Node, x: Node, *starts: Node, sizes: Shape
    ) -> tuple[Node | None, ...]:
        return (update_slice(zeros(x.type), dy, *starts), *[None] * len(starts))


class UpdateSlice(Indexing):
    """`x` with the block that begins at run-time starts replaced by `update`.

    Starts are those of `dynamic_slice`. A block that does not lie inside `x` is refused at run
    time. Where `x` is donated and has no other reader, lowering writes the block only.
    """

    name, at_least = "update_slice", 2

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        return super().prepare((operands[:2] + _start_nodes(operands[2:])), attrs)

    def infer(self, x: TensorType, update: TensorType, *starts: TensorType) -> TensorType:
        """The type of `x`."""
        if x.dtype != update.dtype:
            raise DTypeError(f"update_slice takes one dtype, got {x} and {update}")
        _check_starts(self.name, x, starts, update.shape)
        return x

    def ref(self, x: np.ndarray, update: np.ndarray, *starts: np.ndarray) -> np.ndarray:
        y = x.copy()
        y[_block(starts, x.shape, update.shape)] = update
        return y

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, **attrs: Any
    ) -> Expr:
        shape, sizes = types[0].shape, types[1].shape
        if 0 in sizes:
            return reads[0](out)
        inside: Expr | None = None
        place: list[Expr] = []
        for axis, (i, n, size) in enumerate(zip(out, shape, sizes, strict=True)):
            row = place[0] if axis else i
            at = i - start_of(axis, reads[2 + axis], types[2 + axis], row, n - size)
            place.append(at if n == size else clamped(at, size))
            if n != size:  # else the guarded start is 0, and every place is inside
                here = (at >= 0) & (at < size_expr(size))
                inside = here if inside is None else inside & here
        new = reads[1](tuple(place))
        return new if inside is None else select(inside, new, reads[0](out))

    def vjp(
        self, y: Node, dy: Node, x: Node, update: Node, *starts: Node
    ) -> tuple[Node | None, ...]:
        dx = self(dy, zeros(update.type), *starts)
        return (dx, dynamic_slice(dy, *starts, sizes=update.shape), *[None] * len(starts))


concat = register(Concat)
pad = register(Pad)
iota = register(Iota)
tril = register(Tril)
triu = register(Triu)
dynamic_slice = register(DynamicSlice)
update_slice = register(UpdateSlice)
