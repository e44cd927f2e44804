"""Ops whose places come from an array of indices: take, take_along, one_hot, scatter_add.

An index outside its table, a negative one included, is refused at run time: the interpreter raises
TokenError, compiled code reports through a guard. `what` names the index in that message.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import AnySize
from planish.ir.errors import DTypeError, ShapeError
from planish.ir.loops import Const, Expr, cast, scalar, select
from planish.ir.node import OPS, Node, Op, register
from planish.ir.ops.base import Index, Indexing, axis_of, const, need_int
from planish.ir.ops.indexing import Reads, Types, check_range, guarded, zeros
from planish.ir.types import DType, TensorType


def _with_axis(name: str, rank: int, attrs: dict[str, Any], default: int) -> dict[str, Any]:
    """The attributes with `axis` counted from the front and `what` stated."""
    axis = axis_of(name, attrs.pop("axis", default), rank)
    return {"axis": axis, "what": "index", **attrs}


def _need_entries(name: str, x: TensorType, indices: TensorType, axis: int) -> None:
    if x.shape[axis] == 0 and indices.size != 0:
        raise ShapeError(f"{name}: axis {axis} of {x} is empty, there is nothing to index")


class Take(Indexing):
    """Slices of `x` along `axis`, in the order of `indices`: an embedding for axis 0."""

    name, arity = "take", 2

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        return operands, _with_axis(self.name, operands[0].type.rank, attrs, 0)

    def infer(
        self, x: TensorType, indices: TensorType, *, axis: int, what: str = "index"
    ) -> TensorType:
        """`axis` replaced by the shape of `indices`."""
        axis_of(self.name, axis, x.rank)
        need_int(self.name, indices)
        _need_entries(self.name, x, indices, axis)
        return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))

    def ref(self, x: np.ndarray, indices: np.ndarray, *, axis: int, what: str) -> np.ndarray:
        check_range(what, indices, x.shape[axis])
        return np.take(x, indices.astype(np.int64), axis)

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, *, axis, what
    ) -> Expr:
        after = axis + types[1].rank
        chosen = guarded(reads[1](out[axis:after]), types[0].shape[axis], what)
        return reads[0]((*out[:axis], chosen, *out[after:]))

    def vjp(
        self, y: Node, dy: Node, x: Node, indices: Node, *, axis: int, what: str
    ) -> tuple[Node | None, ...]:
        return scatter_add(zeros(x.type), indices, dy, axis=axis, what=what), None


class TakeAlong(Indexing):
    """y[i, j] = x[i, indices[i, j]]: one choice per place along `axis`; other sizes agree."""

    name, arity = "take_along", 2

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        return operands, _with_axis(self.name, operands[0].type.rank, attrs, -1)

    def infer(
        self, x: TensorType, indices: TensorType, *, axis: int, what: str = "index"
    ) -> TensorType:
        """The shape of `indices`."""
        axis_of(self.name, axis, x.rank)
        need_int(self.name, indices)
        others = [s for a, s in enumerate(x.shape) if a != axis]
        if indices.rank != x.rank or others != [
            s for a, s in enumerate(indices.shape) if a != axis
        ]:
            raise ShapeError(f"take_along: {x} and {indices} differ beside axis {axis}")
        _need_entries(self.name, x, indices, axis)
        return x.with_shape(indices.shape)

    def ref(self, x: np.ndarray, indices: np.ndarray, *, axis: int, what: str) -> np.ndarray:
        check_range(what, indices, x.shape[axis])
        return np.take_along_axis(x, indices.astype(np.int64), axis)

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, *, axis, what
    ) -> Expr:
        chosen = guarded(reads[1](out), types[0].shape[axis], what)
        return reads[0]((*out[:axis], chosen, *out[axis + 1 :]))

    def vjp(
        self, y: Node, dy: Node, x: Node, indices: Node, *, axis: int, what: str
    ) -> tuple[Node | None, ...]:
        zero = const(0, dy.dtype)
        if indices.shape[axis] == 1:  # one choice per row: a comparison, which stays in the row
            place = OPS["iota"](shape=x.shape, axis=axis, dtype=t.i32)
            return OPS["select"](OPS["eq"](place, indices), dy, zero), None
        split = (*indices.shape[: axis + 1], 1, *indices.shape[axis + 1 :])
        wide = (*indices.shape[: axis + 1], *x.shape[axis:])
        place = OPS["iota"](shape=wide, axis=axis + 1, dtype=t.i32)
        chosen = OPS["eq"](place, OPS["reshape"](indices, shape=split))
        spread = OPS["select"](chosen, OPS["reshape"](dy, shape=split), zero)
        return OPS["sum"](spread, axes=(axis,)), None


class OneHot(Indexing):
    """1 at the index and 0 elsewhere, along a new last axis; an index outside it gives zeros."""

    name, arity = "one_hot", 1
    no_vjp = "the indices of one_hot are integers"

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        dtype = t.dtype(attrs.pop("dtype", t.f32))
        return super().prepare(operands, {"dtype": dtype, **attrs})

    def infer(self, indices: TensorType, *, size: AnySize, dtype: DType) -> TensorType:
        """A new last axis of `size`."""
        need_int(self.name, indices)
        if isinstance(size, int) and size < 0:
            raise ShapeError(f"one_hot takes a size >= 0, got {size}")
        return TensorType(dtype, (*indices.shape, size))

    def ref(self, indices: np.ndarray, *, size: int, dtype: DType) -> np.ndarray:
        return (np.asarray(indices)[..., None] == np.arange(size)).astype(dtype.numpy)

    def element(
        self, out: Index, reads: Reads, types: Types, out_type: TensorType, **attrs: Any
    ) -> Expr:
        dtype = out_type.dtype
        one, zero = (True, False) if dtype == t.boolean else (1, 0)
        here = scalar("eq", cast(reads[0](out[:-1]), t.i64), out[-1])
        return select(here, Const(one, dtype), Const(zero, dtype))


class ScatterAdd(Op):
    """`x` with `updates` added at `indices` along `axis`; the gradient of `take`.

    y = x;  y[..., indices[p], ...] += updates[..., p, ...]  for every position p, in order, so that
    repeated indices add up in a fixed order.
    """

    name, kind, arity = "scatter_add", "special", 3

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        operands, attrs = super().prepare(operands, attrs)
        return operands, _with_axis(self.name, operands[0].type.rank, attrs, 0)

    def infer(
        self,
        x: TensorType,
        indices: TensorType,
        updates: TensorType,
        *,
        axis: int,
        what: str = "index",
    ) -> TensorType:
        """The type of `x`."""
        axis_of(self.name, axis, x.rank)
        need_int(self.name, indices)
        _need_entries(self.name, x, indices, axis)
        if x.dtype == t.boolean:
            raise DTypeError(f"scatter_add adds numbers, got {x}")
        wanted = x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
        if updates != wanted:
            raise ShapeError(f"scatter_add into {x} takes updates {wanted}, got {updates}")
        return x

    def ref(
        self, x: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int, what: str
    ) -> np.ndarray:
        check_range(what, indices, x.shape[axis])
        y = x.copy()
        rank = np.ndim(indices)
        front = np.moveaxis(updates, range(axis, axis + rank), range(rank))
        np.add.at(np.moveaxis(y, axis, 0), indices.astype(np.int64), front)
        return y

    def vjp(
        self, y: Node, dy: Node, x: Node, indices: Node, updates: Node, *, axis, what
    ) -> tuple[Node | None, ...]:
        return dy, None, take(dy, indices, axis=axis, what=what)


take = register(Take)
take_along = register(TakeAlong)
one_hot = register(OneHot)
scatter_add = register(ScatterAdd)
