"""Which pieces of a buffer an iteration of a parallel loop touches.

A buffer is cut into equal pieces that are dealt out to the iterations in order, over and over:
with `count` iterations and `rounds` rounds, there are count * rounds pieces, and iteration p has
those with the numbers p, count + p, 2 * count + p ... So of [count, n] an iteration has a row, of
[n, count] a column, and of q, k and v side by side, as [3, heads, n], those of a head.
"""

from __future__ import annotations

from collections.abc import Iterable

from planish.ir import types as t
from planish.ir.index import Ranges, largest, to_poly
from planish.ir.loops import (
    Accumulate,
    Buffer,
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
    walk,
)


def in_pieces(kernel: Kernel, loop: For) -> dict[str, int]:
    """The params of which an iteration of `loop` touches its own pieces alone, and their rounds."""
    lets = {s.var.name: s.value for s in walk(kernel.body) if isinstance(s, Let)}
    ranges = _ranges(loop)
    inside = set(map(id, _accesses((loop,))))
    found: dict[str, int] = {}
    for access in _accesses(kernel.body):
        name = access.buffer.name
        if found.get(name) != 0:  # else no other access changes that
            index = tuple(_inlined(i, lets) for i in access.index)
            rounds = _rounds(access.buffer, index, loop, ranges) if id(access) in inside else 0
            found[name] = rounds if found.setdefault(name, rounds) == rounds else 0
    return {name: rounds for name, rounds in found.items() if rounds}


def _ranges(loop: For) -> Ranges:
    """The largest extent of each name of loop variables, where all are numbers."""
    found: dict[str, list[Expr]] = {}
    for inner in (s for s in walk((loop,)) if isinstance(s, For)):
        found.setdefault(inner.var.name, []).append(inner.extent)
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


def _inlined(expr: Expr, lets: dict[str, Expr]) -> Expr:
    """An integer expression without the names of other integers."""
    match expr:
        case Var(name) if name in lets and expr.type == t.i64:
            return _inlined(lets[name], lets)
        case Scalar(op, args, dtype) if dtype == t.i64:
            return Scalar(op, tuple(_inlined(x, lets) for x in args), dtype)
    return expr


def _rounds(buffer: Buffer, index: tuple[Expr, ...], loop: For, ranges: Ranges) -> int:
    """In how many rounds pieces are dealt out, if iteration p has the element; 0 if not.

    Some leading indexes, taken together, tell whose an element is.
    """
    if not isinstance(loop.extent, Const):
        return 0
    count, size = int(loop.extent.value), 1
    whose: Expr = Const(0, t.i64)
    for i, extent in zip(index, buffer.shape, strict=True):
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
