"""Turning loops: square blocks of a matrix are transposed in registers."""

from __future__ import annotations

from planish.ir.loop_turn import Turn
from planish.ir.loops import Buffer, Expr
from planish.runtime.codegen.expression import Expressions
from planish.runtime.codegen.value import Linear, Value


def turn_block(code: Expressions, turn: Turn, k: Linear, lanes: int) -> None:
    """All columns for k .. k + lanes - 1."""
    for first in range(0, turn.columns, lanes):
        rows = []
        for i in range(lanes):
            at = _offset(code, turn, turn.read.buffer, turn.read.index, k, first + i)
            rows.append(code.memory.load(code.places[turn.read.buffer.name], at, lanes, None))
        for i, row in enumerate(_transposed(code, rows)):
            below = code.registers.add(k, Linear(i))
            at = _offset(code, turn, turn.store.buffer, turn.store.index, below, first)
            code.memory.store(code.places[turn.store.buffer.name], at, row, None)


def _offset(
    code: Expressions, turn: Turn, buffer: Buffer, index: tuple[Expr, ...], k: Linear, j: int
) -> Linear:
    """The elements from a place on, as many as there are lanes."""
    code.env[turn.k.name], code.env[turn.j.name] = k, Linear(j)
    code.begin()
    found = code.memory.offset(code.places[buffer.name], tuple(map(code.index, index)), 0)
    start = found if isinstance(found, Linear) else code.registers.atom(found.ref)
    return Linear(start.const, start.terms, 1, 1)


def _transposed(code: Expressions, rows: list[Value]) -> list[Value]:
    """Lane i of row r becomes lane r of row i: bit by bit of their numbers, lane and row swap."""
    lanes, dtype, kind = len(rows), rows[0].dtype, rows[0].type
    refs = [row.ref for row in rows]
    bit = 1
    while bit < lanes:
        lower = [r if not r & bit else lanes + (r ^ bit) for r in range(lanes)]
        upper = [lanes + r if r & bit else r ^ bit for r in range(lanes)]
        for i in range(lanes):
            if not i & bit:
                pair = refs[i], refs[i + bit]
                for at, order in ((i, lower), (i + bit, upper)):
                    mask = ", ".join(f"i32 {r}" for r in order)
                    text = f"shufflevector {kind} {pair[0]}, {kind} {pair[1]}, "
                    refs[at] = code.writer.op(f"{text}<{lanes} x i32> <{mask}>")
        bit *= 2
    return [Value(ref, dtype, lanes) for ref in refs]
