"""Matrix loops: the one shape of loops that a processor's matrix unit runs as a whole.

    matrix k in K:
      serial i in R:                  (left out where R is 1)
        vector[N] j in N:
          acc[i, j] = dpbf16(select(k == 0, 0.0, acc[i, j]), a[.. i, k], b[.. k, j])

K is a multiple of 16 and looks it (n, or x * n); so is N. As in any loop the sum starts with 0 at
k = 0; what the kind permits is another order: steps of 16 words are added up apart, upper and lower
halves apart, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir import types as t
from planish.ir.loops import Const, Expr, For, Load, Scalar, Store, Var, scalar, select

SIDE = 16  # rows, columns, and words of k of a tile


@dataclass(frozen=True)
class Matrix:
    """The parts of a matrix loop. `i` is None for a single row."""

    k: Var
    i: Var | None
    j: Var
    depth: Expr
    rows: Expr
    columns: int
    store: Store
    a: Load
    b: Load


def matrix_step(k: Expr, total: Load, a: Expr, b: Expr) -> Expr:
    """The value that a matrix loop stores: the sum so far, which starts at 0, and one step."""
    start = select(scalar("eq", k, 0), Const(0.0, t.f32), total)
    return scalar("dpbf16", start, a, b)


def matrix_parts(loop: For) -> Matrix | None:
    """The parts of a loop that has the shape of a matrix loop; None where it has not."""
    rows: Expr = Const(1, t.i64)
    i, body = None, loop.body
    match body:
        case (For(var, extent, "serial", inner),):
            i, rows, body = var, extent, inner
    match body:
        case (For(j, Const(columns), "vector", (Store(buffer, place, value) as store,)),):
            pass
        case _:
            return None
    match loop.extent:
        case Const(depth) | Scalar("mul", (_, Const(depth))) if int(depth) % SIDE == 0:
            pass
        case _:
            return None
    if int(columns) % SIDE:
        return None
    match value:
        case Scalar("dpbf16", (_, Load() as a, Load() as b)):
            wanted = matrix_step(loop.var, Load(buffer, place), a, b)
            if value == wanted and {x.buffer.dtype for x in (a, b)} == {t.u32}:
                found = (loop.var, i, j, loop.extent, rows, int(columns))
                return Matrix(*found, store, a, b)
    return None
