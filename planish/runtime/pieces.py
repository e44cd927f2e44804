"""Which pieces of a buffer an iteration of a parallel loop touches.

A buffer is cut into equal pieces that are dealt out to the iterations in order, over and over:
with `count` iterations and `rounds` rounds, there are count * rounds pieces, and iteration p has
those with the numbers p, count + p, 2 * count + p ... So of [count, n] an iteration has a row, of
[n, count] a column, and of q, k and v side by side, as [3, heads, n], those of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from planish.ir import types as t
from planish.ir.index import Ranges, largest, to_poly
from planish.ir.loops import (
    Accumulate,
    Const,
    Expr,
    For,
    Kernel,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
    as_index,
    fold_index,
    walk,
)


def in_pieces(kernel: Kernel, loop: For, sizes: Mapping[str, Expr] | None = None) -> dict[str, int]:
    """The params of which an iteration of `loop` touches its own pieces alone, and their rounds.

    `sizes` are those of dimensions that are known.
    """
    lets = {s.var.name: s.value for s in walk(kernel.body) if isinstance(s, Let)}
    lets.update(sizes or {})
    ranges = _ranges(loop, lets)
    inside = set(map(id, _accesses((loop,))))
    found: dict[str, int] = {}
    for access in _accesses(kernel.body):
        name = access.buffer.name
        if found.get(name) != 0:  # else no other access changes that
            rounds = _rounds(access, lets, loop, ranges) if id(access) in inside else 0
            found[name] = rounds if found.setdefault(name, rounds) == rounds else 0
    return {name: rounds for name, rounds in found.items() if rounds}


def _ranges(loop: For, lets: Mapping[str, Expr]) -> Ranges:
    """The largest extent of each name of loop variables, where all are numbers."""
    found: dict[str, list[Expr]] = {}
    for inner in (s for s in walk((loop,)) if isinstance(s, For)):
        found.setdefault(inner.var.name, []).append(in_full(inner.extent, lets))
    numbers = {
        name: [int(x.value) for x in extents if isinstance(x, Const)]
        for name, extents in found.items()
    }
    whole = {name: max(x) for name, x in numbers.items() if len(x) == len(found[name])}
    return {name: as_index(x) for name, x in whole.items()}


def _accesses(body: tuple[Stmt, ...]) -> Iterable[Load | Store | Accumulate]:
    for item in walk(body):
        if isinstance(item, (Load, Store, Accumulate)) and item.buffer.space == "param":
            yield item


def in_full(expr: Expr, known: Mapping[str, Expr]) -> Expr:
    """An integer expression without the names of integers that are known."""
    match expr:
        case Var(name) if name in known and expr.type == t.i64:
            return in_full(known[name], known)
        case Scalar(op, args, dtype) if dtype == t.i64:
            full = tuple(in_full(x, known) for x in args)
            return fold_index(op, full) or Scalar(op, full, dtype)
    return expr


def _rounds(
    access: Load | Store | Accumulate, known: Mapping[str, Expr], loop: For, ranges: Ranges
) -> int:
    """In how many rounds pieces are dealt out, if iteration p has the element; 0 if not.

    Some leading indexes, taken together, tell whose an element is.
    """
    index, shape = ([in_full(x, known) for x in xs] for xs in (access.index, access.buffer.shape))
    trips = in_full(loop.extent, known)
    if not isinstance(trips, Const):
        return 0
    count, size = int(trips.value), 1
    whose: Expr = Const(0, t.i64)
    for i, extent in zip(index, shape, strict=True):
        if not isinstance(extent, Const):
            return 0
        size *= int(extent.value)
        whose = whose * extent + i
        place = to_poly(whose, ranges)
        piece = place.pop((loop.var,), 0)
        if piece <= 0 or size % (piece * count):
            continue
        place[()] = place.get((), 0) % (piece * count)
        rest = {term: factor for term, factor in place.items() if factor % (piece * count)}
        most = largest(rest, ranges)
        if most is not None and most < piece:
            return size // (piece * count)
    return 0
