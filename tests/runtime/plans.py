"""Plans made by hand, for the tests of memory, threads and programs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from planish.ir import types as t
from planish.ir.dims import AnySize, Dim, Size
from planish.ir.loops import Buffer, Const, Expr, For, Kernel, Let, Stmt, Store, Var, cast, scalar
from planish.ir.types import DType, TensorType
from planish.runtime.plan import Plan, Step
from planish.runtime.slots import Slot
from tests.ir.nests import I, J, n

B = Dim("B", max=64)


def slot(kind: str, index: int, name: str, *shape: AnySize, dtype: DType = t.f32) -> Slot:
    return Slot(kind, index, TensorType(dtype, shape), name)


def size(x: AnySize) -> Expr:
    return Var(str(x)) if isinstance(x, Size) else Const(x, t.i64)


def view(name: str, of: Slot) -> Buffer:
    return Buffer(name, of.type.dtype, tuple(map(size, of.type.shape)))


def elementwise(
    value: object, *given: Slot, out: Slot, kind: str = "parallel", name: str = "f"
) -> Step:
    """out[i, j] = value(given[i, j] ...); the shapes are equal and of rank 2."""
    buffers = [view(f"p{k}", s) for k, s in enumerate(given)]
    target = view("o0", out)
    expr = value(*(b[I, J] for b in buffers))  # type: ignore[operator]
    inner = For(J, size(out.type.shape[1]), "vector", (Store(target, (I, J), expr),), 16)
    body: tuple[Stmt, ...] = (For(I, size(out.type.shape[0]), kind, (inner,)),)
    return Step(Kernel(name, (*buffers, target), ("o0",), (), body), (*given, out), name)


def chain(length: int, rows: AnySize = B, columns: int = 40, kind: str = "parallel") -> Plan:
    """y = x + length, one step for each + 1."""
    first, last = slot("input", 0, "x", rows, columns), slot("output", 0, "y", rows, columns)
    temps = tuple(slot("temp", k, f"t{k}", rows, columns) for k in range(length - 1))
    places = [first, *temps, last]
    steps = tuple(
        elementwise(lambda x: x + 1.0, a, out=b, kind=kind, name=f"add{k}")
        for k, (a, b) in enumerate(pairwise(places))
    )
    return Plan("chain", (first,), (last,), temps, (), steps)


def counter(columns: int = 40) -> Plan:
    """state += x in place; also returns state * 2."""
    state, x = slot("input", 0, "state", B, columns), slot("input", 1, "x", B, columns)
    new, twice = slot("output", 0, "new", B, columns), slot("output", 1, "twice", B, columns)
    steps = (
        elementwise(lambda s, v: s + v, state, x, out=new, name="update"),
        elementwise(lambda s: s * 2.0, new, out=twice, name="double"),
    )
    return Plan("counter", (state, x), (new, twice), (), (), steps, aliases=((0, 0),))


def embedding(count: int = 50, width: int = 20) -> Plan:
    """Rows of a table."""
    tokens, out = slot("input", 0, "tokens", B, dtype=t.i32), slot("output", 0, "y", B, width)
    weight = slot("param", 0, "wte", count, width)
    ids, table, y = view("p0", tokens), view("p1", weight), view("o0", out)
    token = Var("token")
    guarded = scalar("guard", cast(ids[I], t.i64), n(count), n(0))
    inner = For(J, n(width), "vector", (Store(y, (I, J), table[token, J]),), 16)
    body = (For(I, size(B), "parallel", (Let(token, guarded), inner)),)
    kernel = Kernel("take", (ids, table, y), ("o0",), (), body)
    array = np.arange(count * width, dtype=np.float32).reshape(count, width)
    steps = (Step(kernel, (tokens, weight, out), "wte"),)
    return Plan("embedding", (tokens,), (out,), (), (array,), steps, sites=("token id",))
