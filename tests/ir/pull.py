"""Run the loop meaning of one op: a loop nest over its result that pulls every element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planish.ir import types as t
from planish.ir.loop_eval import run_kernel
from planish.ir.loops import (
    Accumulate,
    Buffer,
    Const,
    For,
    Kernel,
    Let,
    Stmt,
    Store,
    Var,
    size_expr,
)
from planish.ir.node import Node
from planish.ir.types import TensorType
from planish.runtime.kernels.tidy import number_sites

PULLED = ("leaf", "elementwise", "view", "indexing", "random")


def has_loops(node: Node) -> bool:
    """Whether the op says element by element what it means."""
    return node.op.kind in (*PULLED, "reduction")


def run_loops(
    node: Node, arrays: Sequence[np.ndarray], sizes: dict[str, int], shape: tuple[int, ...]
) -> np.ndarray:
    """The value of `node`, whose result has `shape`, by its loop meaning."""
    inputs = [buffer(f"x{i}", x.type) for i, x in enumerate(node.inputs)]
    result = buffer("y", node.type)
    out = np.zeros(shape, node.dtype.numpy)
    body = (
        reduction(node, inputs, result)
        if node.op.kind == "reduction"
        else pull(node, inputs, result)
    )
    kernel = number_sites(Kernel("one", (*inputs, result), ("y",), (), body), [])
    status: list[tuple[int, int, int]] = []
    given = [np.ascontiguousarray(x).reshape(x.shape) for x in arrays]
    run_kernel(kernel, [*given, out], sizes, status, definitions=False)
    if status:
        raise AssertionError(f"a guard failed: {status}")
    return out


def buffer(name: str, kind: TensorType) -> Buffer:
    """Memory for an array of this type."""
    return Buffer(name, kind.dtype, tuple(map(size_expr, kind.shape)))


def nest(index: Sequence[Var], shape: Sequence, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """`body` inside one serial loop per axis."""
    for var, size in zip(reversed(index), reversed(shape), strict=True):
        body = (For(var, size_expr(size), "serial", body),)
    return body


def pull(node: Node, inputs: list[Buffer], result: Buffer) -> tuple[Stmt, ...]:
    """Store `element` at every place of the result."""
    index = tuple(Var(f"i{axis}") for axis in range(node.type.rank))
    types = tuple(x.type for x in node.inputs)
    reads = tuple(x.__getitem__ for x in inputs)
    value = node.op.element(index, reads, types, node.type, **node.attrs)
    named = Var("value", value.type)
    return nest(index, node.shape, (Let(named, value), Store(result, index, named)))


def reduction(node: Node, inputs: list[Buffer], result: Buffer) -> tuple[Stmt, ...]:
    """Store the identity everywhere, then accumulate every element of the operand."""
    (x,), axes, keep = node.inputs, node.attrs["axes"], node.attrs["keep"]
    places = tuple(Var(f"o{axis}") for axis in range(node.type.rank))
    identity = Const(node.op.identity(x.dtype), x.dtype)  # type: ignore[attr-defined]
    index = tuple(Var(f"i{axis}") for axis in range(x.type.rank))
    left = [i for axis, i in enumerate(index) if keep or axis not in axes]
    target = tuple(Const(0, t.i64) if keep and i in [index[a] for a in axes] else i for i in left)
    step = Accumulate(result, target, node.op.combine, inputs[0][index])
    return (
        *nest(places, node.shape, (Store(result, places, identity),)),
        *nest(index, x.shape, (step,)),
    )
