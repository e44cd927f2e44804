"""Ragged rows: pieces of different lengths, one after another along an axis of one row.

`ends`, integers [B], says where they end: row b of B has the places from ends[b - 1], 0 for the
first, up to ends[b]; the last one has all that is left, whatever its end. A row may have none. Ends
that fall, or lie outside the axis, are refused at run time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import AnySize
from planish.ir.errors import DTypeError, ShapeError
from planish.ir.loops import Expr, select, size_expr
from planish.ir.node import OPS, Node, register
from planish.ir.ops.base import Index, Indexing, Read, axis_of
from planish.ir.ops.indexing import Reads, Types, check_range, clamped, guarded
from planish.ir.types import TensorType

END = "end"  # how refusals name one


def check_ends(name: str, ends: TensorType, rows: AnySize) -> None:
    """Refuse what are no ends of so many rows."""
    if ends.shape != (rows,) or not ends.dtype.is_int:
        raise DTypeError(f"{name}: ends are integers, one for each of {rows} rows, got {ends}")


def pieces(ends: np.ndarray, size: int) -> list[tuple[int, int]]:
    """Where the places of each row begin and end, on an axis of `size`."""
    stops = np.append(np.asarray(ends, np.int64)[:-1], size)
    starts = np.append(0, stops[:-1])
    check_range(END, stops, size + 1)
    check_range(END, stops - starts, size + 1)
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def bounds(read: Read, row: Expr, rows: AnySize, size: AnySize) -> tuple[Expr, Expr]:
    """Where the places of a row begin, and how many they are; `read` reads ends."""
    count, whole = size_expr(rows), size_expr(size)

    def end(of: Expr) -> Expr:
        return guarded(read((clamped(of, rows),)), whole + 1, END)

    first = select(row > 0, end(row - 1), 0)
    last = select(row < count - 1, end(row), whole)
    return first, guarded(last - first, whole - first + 1, END)


def row_of(ends: Node, size: AnySize) -> Node:
    """The row of each place on an axis of `size`: how many rows but the last end before it."""
    place = OPS["iota"](shape=(size, 1), axis=0, dtype=ends.dtype)
    passed = OPS["le"](OPS["reshape"](_but_last(ends), shape=(1, ends.shape[0] - 1)), place)
    return OPS["sum"](OPS["cast"](passed, dtype=t.i32), axes=(1,))


def begin_of(ends: Node) -> Node:
    """Where each row begins."""
    zero = OPS["iota"](shape=(1,), axis=0, dtype=ends.dtype)
    return OPS["concat"](zero, _but_last(ends), axis=0)


def _but_last(ends: Node) -> Node:
    return OPS["slice"](ends, starts=(0,), stops=(ends.shape[0] - 1,), steps=(1,))


class UpdateRows(Indexing):
    """`x` [B, ...] with each row's piece of `update` [1, ...] written into it along `axis`.

    update_rows(x, update, starts, ends): the places of row b in `update`, which `ends` tells, lie
    from starts[b] on in row b of `x`; all other axes are those of `x`. A piece that does not lie
    inside is refused at run time. Where `x` is donated and has no other reader, lowering writes
    the pieces only.
    """

    name, arity = "update_rows", 4
    no_vjp = "update_rows is for caches of keys and values, which nobody trains"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        axis = axis_of(self.name, attrs.pop("axis", None), operands[0].type.rank)
        return operands, {"axis": axis, **attrs}

    def infer(
        self, x: TensorType, update: TensorType, starts: TensorType, ends: TensorType, *, axis: int
    ) -> TensorType:
        """The type of `x`."""
        axis_of(self.name, axis, x.rank)
        named = f"{self.name}({x}, {update})"
        if x.dtype != update.dtype:
            raise DTypeError(f"{named}: takes one dtype")
        others = [s for a, s in enumerate(x.shape) if a not in (0, axis)]
        own = [s for a, s in enumerate(update.shape) if a not in (0, axis)]
        one = update.rank == x.rank and update.shape[0] == 1
        if not (one and others == own and 0 < axis < x.rank - 1):
            raise ShapeError(f"{named}: takes [B, ...] and [1, ...] that differ along one between")
        if starts.shape != x.shape[:1] or not starts.dtype.is_int:
            raise DTypeError(f"{named}: starts are integers, one for each row, got {starts}")
        check_ends(self.name, ends, x.shape[0])
        return x

    def ref(
        self, x: np.ndarray, update: np.ndarray, starts: np.ndarray, ends: np.ndarray, *, axis: int
    ) -> np.ndarray:
        y = x.copy()
        for row, (first, end) in enumerate(pieces(ends, update.shape[axis])):
            start, size = int(starts[row]), end - first
            check_range(f"axis {axis} start", np.asarray(start), x.shape[axis] - size + 1)
            out = np.moveaxis(y[row], axis - 1, 0)
            out[start : start + size] = np.moveaxis(update[0], axis - 1, 0)[first:end]
        return y

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, *, axis: int
    ) -> Expr:
        if 0 in types[1].shape:
            return reads[0](out)
        size = types[1].shape[axis]
        first, count = bounds(reads[3], out[0], types[0].shape[0], size)
        at = out[axis] - start_in(axis, reads[2], out[0], types[0].shape[axis], count)
        inside = (at >= 0) & (at < count)
        place = clamped(first + at, size)
        new = reads[1]((out[0] * 0, *out[1:axis], place, *out[axis + 1 :]))
        return select(inside, new, reads[0](out))


def start_in(axis: int, read: Read, row: Expr, size: AnySize, count: Expr) -> Expr:
    """Where a piece of `count` places begins in an axis of `size`, guarded."""
    return guarded(read((row,)), size_expr(size) - count + 1, f"axis {axis} start")


update_rows = register(UpdateRows)
