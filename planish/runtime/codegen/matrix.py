"""Matrix loops on AMX, whose tiles are 16 rows of 64 bytes.

Up to two by two tiles of the result stay in tmm0 to tmm3 over the whole of k; each step loads two
tiles of A (tmm4, tmm5) and two of B (tmm6, tmm7) and multiplies each by each. Tiles of A and of the
result have as many rows as there are, which their configuration says; it is loaded where that
number changes. Panels of B are whole.
"""

from __future__ import annotations

from planish.ir.errors import IRError
from planish.ir.loop_matrix import SIDE, Matrix
from planish.ir.loops import Load
from planish.runtime.codegen.expression import Expressions
from planish.runtime.codegen.value import Linear

WORD = 4  # bytes of a word, and of a sum
TILE = SIDE * WORD  # bytes of a row of a tile
A, B = 4, 6  # the first register of each; the result begins at 0
# The byte of register n in the word of row counts is byte n.
UPPER, LOWER, WHOLE = (sum(1 << 8 * n for n in group) for group in ((0, 1, 4), (2, 3, 5), (6, 7)))


class Matrices:
    """Emits the matrix loops of one function."""

    def __init__(self, code: Expressions) -> None:
        self.code, self.writer = code, code.writer
        self.config = self.current = ""  # memory: the configuration, its row counts

    def emit(self, m: Matrix) -> None:
        """One matrix loop."""
        if m.columns > 2 * SIDE:
            raise IRError(f"a matrix loop of {m.columns} columns, {2 * SIDE} at most")
        self._prepare()
        result = Load(m.store.buffer, m.store.index)
        places = [self._place(m, x) for x in (m.a, m.b, result)]
        sizes = self.code.uniform(m.rows), self.code.uniform(m.depth)
        rows, depth = map(self.code.registers.scalar, sizes)
        done = self.writer.name("done")
        for size in sizes:
            if size.constant is None:
                self._skip(self.code.registers.scalar(size), 0, done)
            elif size.constant <= 0:
                return
        wide, height = m.columns // SIDE, sizes[0].constant
        if height is None:
            many = self.writer.name("many")
            self._skip(rows, SIDE, many, more=True)
            self._product(depth, places, rows, 1, wide)
            self.writer.do(f"br label %{done}")
            self.writer.label(many)
        self._product(depth, places, rows, 1 + (height is None or height > SIDE), wide)
        self.writer.do(f"br label %{done}")
        self.writer.label(done)

    def _skip(self, size: str, bound: int, label: str, more: bool = False) -> None:
        """Go to `label` unless `size` is above `bound`; with `more`, if it is."""
        after = self.writer.name("some")
        test = self.writer.op(f"icmp {'sle' if more else 'sgt'} i64 {size}, {bound}")
        self.writer.do(f"br i1 {test}, label %{after}, label %{label}")
        self.writer.label(after)

    def close(self) -> None:
        """At the end of the function: tiles in use would make switching threads slow."""
        if self.config:
            self.writer.call("llvm.x86.tilerelease", "void")

    def _prepare(self) -> None:
        if self.config:
            return
        self.config = self.writer.alloca("[64 x i8], align 64")
        self.current = self.writer.alloca("i64")
        columns = f"{self.config}.columns"
        self.writer.entry += [
            f"  store i64 0, ptr {self.current}",
            f"  store <64 x i8> zeroinitializer, ptr {self.config}",
            f"  store i8 1, ptr {self.config}",  # the palette
            f"  {columns} = getelementptr i8, ptr {self.config}, i64 16",
            f"  store <8 x i16> splat (i16 {TILE}), ptr {columns}",
        ]

    def _place(self, m: Matrix, x: Load) -> tuple[str, str]:
        """The address of an operand's first element, and the bytes between its rows."""
        registers = self.code.registers
        start = self._offset(m, x, 0, 0, 0)
        step = registers.add(self._offset(m, x, 1, 0, 0), start, -1)
        down = registers.add(self._offset(m, x, 0, 1, 0), start, -1)
        along = registers.add(self._offset(m, x, 0, 0, 1), start, -1)
        one = Linear(1)
        if x == m.b:
            down, fits = step, (down, along) == (Linear(), one)
        elif x == m.a:
            fits = (step, along) == (one, Linear())
        else:
            fits = (step, along) == (Linear(), one)
        if not fits:
            raise IRError(f"a matrix loop reads {x.buffer.name} at places that are no matrix")
        place = self.code.places[x.buffer.name]
        stride = registers.scalar(registers.scale(down, WORD))
        return self.code.memory.address(place, start), stride

    def _offset(self, m: Matrix, x: Load, k: int, i: int, j: int) -> Linear:
        """The element number at a point of the loops."""
        for var, value in ((m.k, k), (m.i, i), (m.j, j)):
            if var is not None:
                self.code.env[var.name] = Linear(value)
        self.code.begin()
        index = tuple(self.code.index(axis) for axis in x.index)
        found = self.code.memory.offset(self.code.places[x.buffer.name], index, 0)
        if not isinstance(found, Linear):
            raise IRError(f"a matrix loop reads {x.buffer.name} at places that are no matrix")
        return found

    def _product(
        self, depth: str, places: list[tuple[str, str]], count: str, high: int, wide: int
    ) -> None:
        """`high` times `wide` tiles of the result, over the whole depth."""
        writer, (a, b, c) = self.writer, places
        self._configure(count, high)
        tiles = [(y, x) for y in range(high) for x in range(wide)]
        for y, x in tiles:
            self._tile("tilezero", "void", 2 * y + x)
        before, head, done = (writer.name(x) for x in ("before", "tiles", "summed"))
        following = f"%{writer.name('k')}"
        uppers = [a[0]] + [self._below(*a)] * (high - 1)
        writer.do(f"br label %{before}")
        writer.label(before)
        writer.do(f"br label %{head}")
        writer.label(head)
        k = writer.op(f"phi i64 [ 0, %{before} ], [ {following}, %{head} ]")
        row = writer.op(f"mul i64 {k}, {b[1]}")
        for x in range(wide):
            at = self._step(self._step(b[0], row), str(TILE * x))
            self._move("tileloadd64", B + x, at, b[1])
        column = writer.op(f"mul i64 {k}, {WORD}")
        for y in range(high):
            self._move("tileloadd64", A + y, self._step(uppers[y], column), a[1])
            for x in range(wide):
                self._tile("tdpbf16ps", "void", 2 * y + x, A + y, B + x)
        writer.do(f"{following} = add nuw nsw i64 {k}, {SIDE}")
        again = writer.op(f"icmp slt i64 {following}, {depth}")
        writer.do(f"br i1 {again}, label %{head}, label %{done}")
        writer.label(done)
        lowers = [c[0]] + [self._below(*c)] * (high - 1)
        for y, x in tiles:
            self._move("tilestored64", 2 * y + x, self._step(lowers[y], str(TILE * x)), c[1])

    def _configure(self, count: str, high: int) -> None:
        """Load the configuration for `count` rows, unless it is there."""
        writer = self.writer
        if high == 2:
            lower = writer.op(f"sub i64 {count}, {SIDE}")
            varying, fixed = writer.op(f"mul i64 {lower}, {LOWER}"), SIDE * (UPPER + WHOLE)
        else:
            varying, fixed = writer.op(f"mul i64 {count}, {UPPER}"), SIDE * WHOLE + LOWER
        rows = writer.op(f"add i64 {varying}, {fixed}")
        old = writer.op(f"load i64, ptr {self.current}")
        same = writer.op(f"icmp eq i64 {rows}, {old}")
        change, ready = writer.name("change"), writer.name("ready")
        writer.do(f"br i1 {same}, label %{ready}, label %{change}")
        writer.label(change)
        writer.do(f"store i64 {rows}, ptr {self.current}")
        writer.do(f"store i64 {rows}, ptr {self._step(self.config, '48')}")
        writer.call("llvm.x86.ldtilecfg", "void", ("ptr", self.config))
        writer.do(f"br label %{ready}")
        writer.label(ready)

    def _below(self, pointer: str, stride: str) -> str:
        """The address of the second tile of rows."""
        return self._step(pointer, self.writer.op(f"mul i64 {stride}, {SIDE}"))

    def _step(self, pointer: str, amount: str) -> str:
        return self.writer.op(f"getelementptr i8, ptr {pointer}, i64 {amount}")

    def _tile(self, name: str, result: str, *registers: int) -> None:
        self.writer.call(f"llvm.x86.{name}", result, *(("i8", str(n)) for n in registers))

    def _move(self, name: str, register: int, pointer: str, stride: str) -> None:
        given = ("i8", str(register)), ("ptr", pointer), ("i64", stride)
        self.writer.call(f"llvm.x86.{name}", "void", *given)
