"""Leaves: inputs, parameters, constants, sizes; and the pair that carries fusion."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import AnySize
from planish.ir.errors import DTypeError, IRError
from planish.ir.graph import Graph
from planish.ir.loops import Const, cast, size_expr
from planish.ir.node import Op, register
from planish.ir.types import DType, TensorType, TupleType, Type


class Input(Op):
    """An argument of the graph."""

    name, kind, arity = "input", "leaf", 0

    def infer(self, *, name: str, type: TensorType) -> TensorType:
        """The declared type."""
        return type


class Param(Op):
    """A weight: an array that travels with the graph under `name`."""

    name, kind, arity = "param", "leaf", 0

    def infer(self, *, name: str, type: TensorType) -> TensorType:
        """The declared type."""
        if any(not isinstance(size, int) for size in type.shape):
            raise IRError(f"param {name!r}: {type} has a symbolic size; weights are static")
        return type


class Constant(Op):
    """A scalar literal."""

    name, kind, arity = "const", "leaf", 0

    def infer(self, *, value: bool | int | float, dtype: DType) -> TensorType:
        """A scalar of `dtype`."""
        wanted = float if dtype.is_float else bool if dtype == t.boolean else int
        if type(value) is not wanted:
            raise DTypeError(f"const {value!r} is not a {dtype}")
        if dtype.is_int and not dtype.least <= value <= dtype.most:
            raise DTypeError(f"{value} is outside {dtype}, {dtype.least} to {dtype.most}")
        return TensorType(dtype, ())

    def ref(self, *, value: Any, dtype: DType) -> np.ndarray:
        return np.asarray(value, dtype.numpy)

    def element(self, out_index, reads, in_types, out_type, *, value, dtype):
        return Const(value, dtype)


class SizeOf(Op):
    """The value of a symbolic size, as an i64 scalar."""

    name, kind, arity = "size", "leaf", 0

    def infer(self, *, size: AnySize) -> TensorType:
        """i64[]"""
        return TensorType(t.i64, ())

    def ref(self, *, size: int) -> np.ndarray:
        return np.asarray(size, np.int64)

    def element(self, out_index, reads, in_types, out_type, *, size):
        return cast(size_expr(size), t.i64)


class Fused(Op):
    """A graph run as one kernel; operands are the body's inputs, in order."""

    name, kind = "fused", "fused"
    no_vjp = "fusion runs after autodiff"

    def infer(self, *types: Type, body: Graph) -> Type:
        """The body's output type; a tuple where it has several."""
        expected = tuple(x.type for x in body.inputs)
        if types != expected:
            raise IRError(f"fused @{body.name} takes {expected}, got {types}")
        outputs = body.output_types
        return outputs[0] if len(outputs) == 1 else TupleType(outputs)


class Get(Op):
    """One result of a fused node."""

    name, kind, arity = "get", "get", 1
    no_vjp = "fusion runs after autodiff"

    def infer(self, x: TupleType, *, index: int) -> TensorType:
        """The type of that result."""
        if not isinstance(x, TupleType) or not 0 <= index < len(x.items):
            raise IRError(f"get: no result {index} in {x}")
        return x.items[index]


input_ = register(Input)
param = register(Param)
constant = register(Constant)
size_of = register(SizeOf)
fused = register(Fused)
get = register(Get)
