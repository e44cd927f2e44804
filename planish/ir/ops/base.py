"""The bases of ops, one per kind, and what they share: promotion, broadcasting, axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import AnySize, Shape
from planish.ir.errors import AxisError, DTypeError, IRError, ShapeError
from planish.ir.loops import Const, Expr
from planish.ir.node import OPS, Attrs, Node, Op
from planish.ir.types import DType, TensorType

Index = tuple[Expr, ...]
Read = Callable[[Index], Expr]


def const(value: bool | int | float, dtype: DType) -> Node:
    """A scalar constant."""
    if dtype.is_float:
        value = float(value)
    elif dtype.is_int:
        value = int(value)
    return OPS["const"](value=value, dtype=dtype)


def promoted(operands: Sequence[object], at_least_float: bool = False) -> tuple[Node, ...]:
    """Operands at their common dtype: casts inserted, Python scalars made constants."""
    nodes = [x for x in operands if isinstance(x, Node)]
    if not nodes:
        raise IRError("an op needs at least one node among its operands")
    common = nodes[0].dtype
    for node in nodes[1:]:
        common = t.promote(common, node.dtype)
    for x in operands:
        if not isinstance(x, Node):
            if not isinstance(x, (bool, int, float)):
                raise DTypeError(f"operands are arrays or Python numbers, got {type(x).__name__}")
            common = t.weak(x, common)
    if at_least_float and not common.is_float:
        common = t.f32
    return tuple(as_node(x, common) for x in operands)


def as_node(x: object, dtype: DType) -> Node:
    """`x` (a node or a Python number) as a node of this dtype."""
    if not isinstance(x, Node):
        return const(x, dtype)  # type: ignore[arg-type]
    return x if x.dtype == dtype else OPS["cast"](x, dtype=dtype)


def broadcast_shapes(name: str, *shapes: Shape) -> Shape:
    """The shape at which `shapes` meet by NumPy's rule; ShapeError names them all if none."""
    rank = max(map(len, shapes), default=0)
    result: list[AnySize] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if size == 1 or size == result[axis]:
                continue
            if result[axis] != 1:
                listed = ", ".join(str(list(s)) for s in shapes)
                raise ShapeError(
                    f"{name}: shapes {listed} do not broadcast, {result[axis]} != {size}"
                )
            result[axis] = size
    return tuple(result)


def broadcast_index(index: Index, shape: Shape) -> Index:
    """The index of the element of an operand of `shape` that a broadcast element reads."""
    kept = index[len(index) - len(shape) :]
    zero = Const(0, t.i64)
    return tuple(zero if size == 1 else i for i, size in zip(kept, shape, strict=True))


def axis_of(name: str, axis: object, rank: int) -> int:
    """`axis` counted from the front; AxisError where there is no such axis."""
    if type(axis) is int and 0 <= axis < rank:
        return axis
    if isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis < rank:
        raise AxisError(f"{name}: axis {axis} is outside an array of {rank} axes")
    return axis % rank


def axes_of(name: str, axes: object, rank: int) -> tuple[int, ...]:
    """Sorted axes counted from the front; None means all. Doubled axes are refused."""
    if axes is None:
        return tuple(range(rank))
    listed = axes if isinstance(axes, (tuple, list)) else (axes,)
    found = tuple(sorted(axis_of(name, a, rank) for a in listed))
    if len(set(found)) != len(found):
        raise AxisError(f"{name}: axes {tuple(listed)} name an axis twice")
    return found


def need_float(name: str, *types: TensorType) -> None:
    """Refuse operands that are not floating point."""
    for x in types:
        if not x.dtype.is_float:
            raise DTypeError(f"{name} takes floating-point arrays, got {x}")


def need_int(name: str, x: TensorType) -> None:
    """Refuse an operand that is not an integer array."""
    if not x.dtype.is_int:
        raise DTypeError(f"{name} takes integer indices, got {x}")


class Elementwise(Op):
    """One output element per broadcast element of the operands, which have one dtype.

    `scalar(*exprs)` is its meaning in loop IR, `function` (or `ref`) on arrays. `domain` says which
    dtypes it takes: "any", "number", "float", "int", "bool", "logic" (bool or int). `floats`
    promotes integers to f32 first. `result` is "same" or "bool".
    """

    kind = "elementwise"
    domain = "number"
    floats = False
    result = "same"
    function: Callable[..., Any]

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        return promoted(operands, self.floats), attrs

    def infer(self, *types: TensorType) -> TensorType:
        """The broadcast of the operands."""
        return self.joined(types)

    def joined(self, types: tuple[TensorType, ...]) -> TensorType:
        """Check domain and agreement of the operands; the broadcast type."""
        first = types[0].dtype
        if any(x.dtype != first for x in types):
            raise DTypeError(f"{self.name} takes one dtype, got {', '.join(map(str, types))}")
        self.check_domain(first)
        shape = broadcast_shapes(self.name, *(x.shape for x in types))
        return TensorType(t.boolean if self.result == "bool" else first, shape)

    def check_domain(self, dtype: DType) -> None:
        """Refuse a dtype that this op has no meaning for."""
        allowed = {
            "any": True,
            "number": dtype.is_float or dtype.is_int,
            "float": dtype.is_float,
            "int": dtype.is_int,
            "logic": dtype == t.boolean or dtype.is_int,
            "bool": dtype == t.boolean,
        }[self.domain]
        if dtype == t.i4 and self.domain != "any":
            raise DTypeError(f"{self.name}: i4 is for storage, cast it to i8 to compute with it")
        if not allowed:
            raise DTypeError(f"{self.name} has no meaning on {dtype}, it takes {self.domain}")

    def ref(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(type(self).function(*arrays, **attrs))

    def scalar(self, *xs: Expr, **attrs: Any) -> Expr:
        """The element of the result, from elements of the operands."""
        raise NotImplementedError(self.name)

    def element(self, out_index, reads, in_types, out_type, **attrs):
        found = [
            read(broadcast_index(out_index, x.shape))
            for read, x in zip(reads, in_types, strict=True)
        ]
        return self.scalar(*found, **attrs)


class Reduction(Op):
    """Combine all elements along `axes`, which are dropped (`keep=True` keeps them with size 1).

    `combine` is the op of an `Accumulate` and `identity(dtype)` its neutral element.
    """

    kind = "reduction"
    arity = 1
    combine = ""

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        (x,), attrs = super().prepare(operands, attrs)
        axes = axes_of(self.name, attrs.get("axes"), x.type.rank)
        return (x,), {"keep": False, **attrs, "axes": axes}

    def infer(self, x: TensorType, *, axes: tuple[int, ...], keep: bool = False) -> TensorType:
        """The operand's type without `axes`."""
        return reduced(self.name, x, axes, keep)

    def identity(self, dtype: DType) -> bool | int | float:
        """The neutral element."""
        raise NotImplementedError(self.name)


def reduced(name: str, x: TensorType, axes: tuple[int, ...], keep: bool) -> TensorType:
    """The type of `x` after reducing sorted, non-negative `axes`."""
    if not isinstance(keep, bool):
        raise IRError(f"{name}: keep is True or False, got {keep!r}")
    if not isinstance(axes, tuple) or list(axes) != sorted(
        {axis_of(name, a, x.rank) for a in axes}
    ):
        raise AxisError(f"{name}: axes {axes} must be sorted and inside 0..{x.rank - 1}")
    if keep:
        return x.with_shape(tuple(1 if a in axes else s for a, s in enumerate(x.shape)))
    return x.with_shape(tuple(s for a, s in enumerate(x.shape) if a not in axes))


class View(Op):
    """The operand's elements at other places: each output element is one input element."""

    kind = "view"
    arity = 1

    def index(self, out_index: Index, in_type, out_type, **attrs: Any) -> Index:
        """Which element of the operand the output element at `out_index` is."""
        raise NotImplementedError(self.name)

    def element(self, out_index, reads, in_types, out_type, **attrs):
        return reads[0](self.index(out_index, in_types[0], out_type, **attrs))


class Indexing(Op):
    """Pull-shaped ops whose indices depend on data or position: `element` says it all."""

    kind = "indexing"


class Composite(Op):
    """An op defined by primitives: `expand` is the definition, the judge of any vjp or kernel.

    Without a `vjp` of its own (`own_vjp`), autodiff differentiates the expansion.
    """

    kind = "composite"
    own_vjp = False

    def expand(self, *xs: Node, **attrs: Any) -> Node:
        """The same value in primitives (or simpler composites)."""
        raise NotImplementedError(self.name)


def make(op: Op, inputs: tuple[Node, ...], attrs: dict[str, Any]) -> Node:
    """A node from canonical operands and attributes, without `prepare` (the parser's way in)."""
    kept = Attrs(attrs)
    return Node(op, inputs, kept, op.type_of(tuple(x.type for x in inputs), kept))
