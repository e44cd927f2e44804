"""Turning loops: the shape of loops that copies a matrix to its transpose.

    turn k in K:
      vector[N] j in N:
        out[.., j] = x[.. j .., k]

where k is added to the last index of x alone, and j to that of out alone. A processor reads such
rows of x as vectors, transposes them in registers, and writes vectors. A loop of any other shape
runs as if it were serial.
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir.loops import Const, Expr, For, Load, Scalar, Store, Var, walk


@dataclass(frozen=True)
class Turn:
    """The parts of a turning loop."""

    k: Var
    j: Var
    columns: int
    store: Store
    read: Load


def turn_parts(loop: For) -> Turn | None:
    """The parts of a loop that has the shape of a turning loop; None where it has not."""
    match loop.body:
        case (For(j, Const(columns), "vector", (Store(buffer, place, Load() as read) as store,)),):
            apart = buffer != read.buffer
            out = _steps_by_one(place, j) and _steps_by_one(read.index, loop.var)
            if apart and out and not _mentions(read.index[-1], j):
                return Turn(loop.var, j, int(columns), store, read)
    return None


def _steps_by_one(index: tuple[Expr, ...], var: Var) -> bool:
    """Whether `var` is one of the terms of the last index, and nowhere else."""
    *front, last = index
    terms, plain = [last], 0
    while terms:
        match terms.pop():
            case Scalar("add", args):
                terms.extend(args)
            case Var() as found if found == var:
                plain += 1
            case other:
                front.append(other)
    return plain == 1 and not any(_mentions(x, var) for x in front)


def _mentions(root: Expr, var: Var) -> bool:
    return any(x == var for x in walk((root,)) if isinstance(x, Var))  # type: ignore[arg-type]
