"""Turning loops: square blocks of a matrix are transposed in registers.

    void planish.turn_LxTYPE(ptr from, i64 row, ptr to, i64 line)

is the function that does it, of L rows that lie `row` elements apart. It is long, so a program has
it once, in a module of its own, and kernels call it: `turn_module`. Blocks whose rows lie at
distances that differ are transposed where they are.
"""

from __future__ import annotations

from itertools import pairwise

from planish.ir.index import coefficient, to_poly
from planish.ir.loop_turn import Turn
from planish.ir.loops import Expr, Load, Store, Var, as_index
from planish.runtime.codegen.expression import Expressions
from planish.runtime.codegen.text import Writer, memory_type, vector_type
from planish.runtime.codegen.value import Linear, Value

TURN = "planish.turn_"  # how names of the functions begin


def turn_block(code: Expressions, turn: Turn, k: Linear, lanes: int) -> None:
    """All columns for k .. k + lanes - 1."""
    down, along = _apart(turn.read, turn.j), _apart(turn.store, turn.k)
    for first in range(0, turn.columns, lanes):
        if down is not None and along is not None:
            row, line = (_offset(code, turn, x, k, first) for x in (turn.read, turn.store))
            _turned(code, turn, lanes, row, Linear(down), line, Linear(along))
            continue
        rows = [_offset(code, turn, turn.read, k, first + i) for i in range(lanes)]
        near = [code.registers.add(k, Linear(i)) for i in range(lanes)]
        lines = [_offset(code, turn, turn.store, x, first) for x in near]
        steps = _step(code, rows), _step(code, lines)
        if steps[0] is None or steps[1] is None:
            _in_place(code, turn, rows, lines)
        else:
            _turned(code, turn, lanes, rows[0], steps[0], lines[0], steps[1])


def _apart(access: Load | Store, variable: Var) -> int | None:
    """How far apart the elements lie of neighbours in `variable`, where that is one number."""
    place: Expr = as_index(0)
    for i, size in zip(access.index, access.buffer.shape, strict=True):
        place = place * size + i
    found = coefficient(to_poly(place, {}), variable)
    return found[()] if found is not None and set(found) == {()} else None


def _turned(
    code: Expressions, turn: Turn, lanes: int, row: Linear, down: Linear, line: Linear,
    along: Linear,
) -> None:  # fmt: skip
    """Call the function that turns a block."""
    read, store = (code.places[x.buffer.name] for x in (turn.read, turn.store))
    name = f"{TURN}{lanes}x{memory_type(read.dtype)}"
    ends = [code.memory.address(read, row), code.memory.address(store, line)]
    by = [code.registers.scalar(step) for step in (down, along)]
    given = (("ptr", ends[0]), ("i64", by[0]), ("ptr", ends[1]), ("i64", by[1]))
    code.writer.call(name, "void", *given)


def turn_module(name: str) -> str:
    """The module of the function `name`."""
    lanes, element = name.removeprefix(TURN).split("x")
    count, writer = int(lanes), Writer({})
    kind = vector_type(element, count)
    rows = []
    for i in range(count):
        at = _pointer(writer, element, "%from", "%row", i)
        rows.append(writer.op(f"load {kind}, ptr {at}, align {_bytes(element)}"))
    for i, row in enumerate(_transposed(writer, kind, rows)):
        at = _pointer(writer, element, "%to", "%line", i)
        writer.do(f"store {kind} {row}, ptr {at}, align {_bytes(element)}")
    head = f"define void @{name}(ptr %from, i64 %row, ptr %to, i64 %line) noinline nounwind uwtable"
    return "\n".join([f"{head} {{", "entry:", *writer.body(), "  ret void", "}"])


def _pointer(writer: Writer, element: str, base: str, step: str, number: int) -> str:
    if not number:
        return base
    by = writer.op(f"mul i64 {step}, {number}")
    return writer.op(f"getelementptr {element}, ptr {base}, i64 {by}")


def _bytes(element: str) -> int:
    return {"float": 4, "double": 8}.get(element) or int(element.removeprefix("i")) // 8


def _step(code: Expressions, places: list[Linear]) -> Linear | None:
    """How far apart places lie, or None where the distances differ."""
    by = code.registers.add(places[1], places[0], -1)
    pairs = pairwise(places)
    return by if all(code.registers.add(b, a, -1) == by for a, b in pairs) else None


def _in_place(code: Expressions, turn: Turn, rows: list[Linear], lines: list[Linear]) -> None:
    read, store = (code.places[x.buffer.name] for x in (turn.read, turn.store))
    lanes = len(rows)
    values = [code.memory.load(read, Linear(x.const, x.terms, 1, 1), lanes, None) for x in rows]
    kind = values[0].type
    refs = _transposed(code.writer, kind, [x.ref for x in values])
    for at, ref in zip(lines, refs, strict=True):
        value = Value(ref, read.dtype, lanes)
        code.memory.store(store, Linear(at.const, at.terms, 1, 1), value, None)


def _offset(code: Expressions, turn: Turn, access: Load | Store, k: Linear, j: int) -> Linear:
    """Where the elements of a row begin."""
    code.env[turn.k.name], code.env[turn.j.name] = k, Linear(j)
    code.begin()
    index = tuple(map(code.index, access.index))
    found = code.memory.offset(code.places[access.buffer.name], index, 0)
    return found if isinstance(found, Linear) else code.registers.atom(found.ref)


def _transposed(writer: Writer, kind: str, rows: list[str]) -> list[str]:
    """Lane i of row r becomes lane r of row i: bit by bit of their numbers, lane and row swap."""
    lanes, refs = len(rows), list(rows)
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
                    refs[at] = writer.op(f"{text}<{lanes} x i32> <{mask}>")
        bit *= 2
    return refs
