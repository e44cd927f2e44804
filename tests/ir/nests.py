"""Short spellings of loop nests, for tests."""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.loops import (
    Accumulate,
    Buffer,
    Const,
    Expr,
    For,
    Kernel,
    Let,
    Stmt,
    Store,
    Var,
    scalar,
)
from planish.ir.types import DType

I, J, K, T = Var("i"), Var("j"), Var("k"), Var("T")  # noqa: E741


def n(value: int) -> Const:
    """An i64."""
    return Const(value, t.i64)


def f(value: float) -> Const:
    """An f32."""
    return Const(value, t.f32)


def buffer(name: str, *shape: int | Expr, dtype: DType = t.f32, space: str = "param") -> Buffer:
    """A buffer; ints are sizes."""
    return Buffer(name, dtype, tuple(n(s) if isinstance(s, int) else s for s in shape), space)


def kernel(params: tuple[Buffer, ...], *body: Stmt, local: tuple[Buffer, ...] = ()) -> Kernel:
    """A kernel that writes its last param."""
    return Kernel("f", params, (params[-1].name,), local, body)


def over(var: Var, extent: int | Expr, *body: Stmt, kind: str = "serial", width: int = 1) -> For:
    """A loop; vector loops have 8 lanes."""
    size = n(extent) if isinstance(extent, int) else extent
    return For(var, size, kind, body, 8 if kind == "vector" else width)


def vector(var: Var, extent: int | Expr, *body: Stmt) -> For:
    """A vector loop of 8 lanes."""
    return over(var, extent, *body, kind="vector")


def softmax() -> Kernel:
    """Row-wise, of 4 rows of symbolic length, without the maximum."""
    x, out, total = buffer("x", 4, T), buffer("out", 4, T), buffer("total", 1, space="local")
    e = Var("e", t.f32)
    row = (
        Store(total, (n(0),), f(0.0)),
        vector(
            J, T, Let(e, scalar("exp", x[I, J])), Store(out, (I, J), e),
            Accumulate(total, (n(0),), "add", e),
        ),
        vector(K, T, Store(out, (I, K), out[I, K] / total[0])),
    )  # fmt: skip
    return kernel((x, out), over(I, 4, *row, kind="parallel"), local=(total,))
