"""One kernel becomes one LLVM function.

    void kernel(ptr param ..., i64 dim ..., i64 thread, i64 threads, ptr scratch, ptr status)

The outermost parallel loop runs this thread's share of the extent. A vector loop of width w is
a loop over whole vectors and one masked step for what is left; expressions that do not depend
on its variable stay scalar. A reduction over lanes has w partial results, which meet in a fixed
order (halves, then quarters ...) whatever the extent.
"""

from __future__ import annotations

from collections.abc import Callable

from planish.ir import types as t
from planish.ir.errors import IRError, TargetError
from planish.ir.loop_matrix import matrix_parts
from planish.ir.loop_turn import Turn, turn_parts
from planish.ir.loops import (
    Accumulate,
    Buffer,
    Const,
    Expr,
    Fetch,
    For,
    If,
    Kernel,
    Let,
    Stmt,
    Store,
    walk,
)
from planish.runtime.codegen.expression import Expressions
from planish.runtime.codegen.matrix import Matrices
from planish.runtime.codegen.memory import Place
from planish.runtime.codegen.reduction import Partials, identity
from planish.runtime.codegen.text import Writer, memory_type
from planish.runtime.codegen.trips import stays, trips
from planish.runtime.codegen.turn import turn_block
from planish.runtime.codegen.value import Linear, Operand, Value
from planish.runtime.target import Target

STACK_BYTES = 8192  # locals up to this size may become registers, larger ones are scratch memory


def scratch_buffers(kernel: Kernel) -> tuple[Buffer, ...]:
    """The locals that live in scratch memory."""
    return tuple(b for b in kernel.locals if not _on_stack(b))


def _on_stack(buffer: Buffer) -> bool:
    size = buffer.dtype.itemsize
    for extent in buffer.shape:
        if not isinstance(extent, Const):
            return False
        size *= int(extent.value)
    return size <= STACK_BYTES


def kernel_function(
    kernel: Kernel,
    dims: tuple[str, ...],
    symbol: str,
    target: Target,
    declarations: dict[str, str],
    aliased: frozenset[int] = frozenset(),
    alone: bool = False,
) -> str:
    """The LLVM function of `kernel`, whose dimensions are `dims`.

    Params numbered in `aliased` may share memory. `alone`: one thread does all; then more is known.
    """
    _check_dtypes(kernel, target)
    writer = Writer(declarations)
    _Kernel(kernel, writer, target, alone).function(dims)
    params = [
        _parameter(i, i not in aliased, buffer.name in kernel.writes)
        for i, buffer in enumerate(kernel.params)
    ]
    sizes = [f"i64 %d{i}" for i in range(len(dims))]
    rest = ["i64 %thread", "i64 %threads", "ptr noalias %scratch", "ptr noalias %status"]
    signature = ", ".join(params + sizes + rest)
    # Without builtins LLVM makes no calls of memset and memcpy out of loops.
    head = f'define void @{symbol}({signature}) noinline nounwind uwtable "no-builtins" {{'
    return "\n".join([head, "entry:", *writer.body(), "  ret void", "}"])


def _parameter(number: int, alone: bool, written: bool) -> str:
    flags = ("noalias " if alone else "") + ("" if written else "readonly ")
    return f"ptr {flags}captures(none) %p{number}"


def _check_dtypes(kernel: Kernel, target: Target) -> None:
    uses_f16 = any(b.dtype == t.f16 for b in (*kernel.params, *kernel.locals))
    if uses_f16 and target.arch == "x86_64" and not target.has("f16c"):
        raise TargetError(f"f16 needs the feature f16c, which target {target} lacks")


class _Kernel(Expressions):
    """Emits the statements of a kernel."""

    def __init__(self, kernel: Kernel, writer: Writer, target: Target, alone: bool) -> None:
        super().__init__(writer, target)
        self.kernel, self.target, self.alone = kernel, target, alone
        self.matrices = Matrices(self)
        self.partials: Partials | None = None

    def function(self, dims: tuple[str, ...]) -> None:
        """The whole body."""
        for i, name in enumerate(dims):
            self.env[name] = self.registers.atom(f"%d{i}")
        for i, buffer in enumerate(self.kernel.params):
            self.places[buffer.name] = self._place(buffer, f"%p{i}")
        used = Linear()
        for buffer in self.kernel.locals:
            if _on_stack(buffer):
                count = 1
                for size in buffer.shape:
                    count *= int(size.value)  # type: ignore[attr-defined]
                base = self.writer.alloca(f"[{count} x {memory_type(buffer.dtype)}], align 64")
                self.places[buffer.name] = self._place(buffer, base)
            else:
                used = self._scratch(buffer, used)
        self.block(self.kernel.body)
        self.matrices.close()

    def _scratch(self, buffer: Buffer, used: Linear) -> Linear:
        """Place a local in scratch memory, behind `used` bytes; returns the bytes used with it."""
        start = self.registers.scalar(used)
        base = self.writer.op(f"getelementptr i8, ptr %scratch, i64 {start}")
        place = self.places[buffer.name] = self._place(buffer, base)
        first = self._size(buffer.shape[0]) if buffer.shape else Linear(1)
        count = self.product(first, place.strides[0]) if buffer.shape else first
        size = self.registers.scalar(self.registers.scale(count, buffer.dtype.itemsize))
        padded = self.writer.op(f"add i64 {size}, 63")
        whole = self.registers.atom(self.writer.op(f"and i64 {padded}, -64"))
        return self.registers.add(used, whole)

    def _place(self, buffer: Buffer, base: str) -> Place:
        strides, step = list[Linear](), Linear(1)
        for size in reversed(buffer.shape):
            strides.append(step)
            step = self.product(step, self._size(size))
        return Place(base, buffer.dtype, tuple(reversed(strides)))

    def _size(self, expr: Expr) -> Linear:
        self.begin()
        return self.uniform(expr)

    # statements

    def block(self, body: tuple[Stmt, ...]) -> None:
        """Statements in order."""
        for stmt in body:
            self.begin()
            match stmt:
                case Let(var, value):
                    found = self.env[var.name] = self.operand(value)
                    if isinstance(found, Value) and not found.lanes:
                        self.registers.atom(found.ref)  # it was made here, wherever it is used
                case Store(buffer, index, value):
                    self._store(buffer, index, value)
                case Accumulate():
                    self._accumulate(stmt)
                case Fetch(buffer, index):
                    self.memory.fetch(self.places[buffer.name], self._at(buffer, index))
                case If(cond, inner):
                    self._if(cond, inner)
                case For():
                    self._for(stmt)

    def _for(self, loop: For) -> None:
        extent = self.uniform(loop.extent)
        match loop.kind:
            case "unroll":
                self._unroll(loop, extent)
            case "parallel":
                if extent.constant != 0:  # a loop of constant bounds runs once before it asks
                    self._counted(loop, *self._share(extent))
            case "vector" if loop.width > 1 and not self.lanes:
                self._vector(loop, extent)
            case "turn" if (turn := turn_parts(loop)) is not None:
                self._turn(loop, turn, extent)
            case "matrix" if self.target.has_matrix and (found := matrix_parts(loop)):
                self.matrices.emit(found)
            case _:
                self._serial(loop, extent)

    def _turn(self, loop: For, turn: Turn, extent: Linear) -> None:
        """Blocks of as many rows as there are lanes, and what is left row by row."""
        dtype = turn.read.buffer.dtype
        lanes = self.target.lanes(dtype)
        if self.lanes or lanes == 1 or dtype.bits < 32 or turn.columns % lanes:
            self._serial(loop, extent)
            return
        if extent.constant is None:
            count = self.registers.scalar(extent)
            whole = self.registers.atom(self.writer.op(f"and i64 {count}, {-lanes}"))
        else:
            whole = Linear(extent.constant - extent.constant % lanes)
        blocks = For(loop.var, loop.extent, "turn", ())
        if whole.constant != 0:
            self._counted(
                blocks, Linear(), whole, lanes, lambda k: turn_block(self, turn, k, lanes)
            )
        if whole != extent:
            self._counted(loop, whole, extent)

    def _unroll(self, loop: For, extent: Linear) -> None:
        if extent.constant is None:
            raise IRError(f"{self.kernel.name}: unroll {loop.var.name} needs a constant extent")
        for i in range(extent.constant):
            self.env[loop.var.name] = Linear(i)
            self.block(loop.body)

    def _serial(self, loop: For, extent: Linear) -> None:
        if extent.constant == 1:
            self.env[loop.var.name] = Linear()
            self.block(loop.body)
        elif extent.constant is None or extent.constant > 0:
            self._counted(loop, Linear(), extent)

    def _share(self, extent: Linear) -> tuple[Linear, Linear]:
        """This thread's part of a parallel loop."""
        if self.alone:
            return Linear(), extent
        whole = self.registers.scalar(extent)
        below = self.writer.op(f"mul i64 {whole}, %thread")
        above = self.writer.op(f"add i64 {below}, {whole}")
        begin, end = (self.writer.op(f"udiv i64 {x}, %threads") for x in (below, above))
        return self.registers.atom(begin), self.registers.atom(end)

    def _counted(
        self, loop: For, begin: Linear, end: Linear, step: int = 1,
        body: Callable[[Linear], None] | None = None,
    ) -> None:  # fmt: skip
        """A loop over begin, begin + step ... below end, with the variable bound as it says."""
        writer, registers = self.writer, self.registers
        first, last = registers.scalar(begin), registers.scalar(end)
        before, head, latch, done = (writer.name(x) for x in ("before", "loop", "next", "done"))
        registers.enter()
        writer.do(f"br label %{before}")
        writer.label(before)
        if begin.constant is not None and end.constant is not None:
            writer.do(f"br label %{head}")
        else:
            some = writer.op(f"icmp slt i64 {first}, {last}")
            writer.do(f"br i1 {some}, label %{head}, label %{done}")
        writer.label(head)
        following = f"%{writer.name('i')}"
        counter = writer.op(f"phi i64 [ {first}, %{before} ], [ {following}, %{latch} ]")
        mine = writer.loops = writer.loops + 1
        at = registers.atom(counter)
        if body is None:
            self.bind(loop, at)
            self.block(loop.body)
        else:
            body(at)
        registers.leave()
        writer.do(f"br label %{latch}")
        writer.label(latch)
        writer.do(f"{following} = add nuw nsw i64 {counter}, {step}")
        again = writer.op(f"icmp slt i64 {following}, {last}")
        count = trips(begin, end, step)
        told = writer.told(count, writer.loops > mine or stays(loop, count, self.target))
        writer.do(f"br i1 {again}, label %{head}, label %{done}{told}")
        writer.label(done)

    def bind(self, loop: For, at: Linear) -> None:
        """Give a loop variable its value: a scalar, or consecutive numbers in a vector loop."""
        lanes = self.lanes if loop.kind == "vector" and self.owner is loop else 0
        self.env[loop.var.name] = Linear(at.const, at.terms, 1, lanes) if lanes else at

    def _if(self, cond: Expr, body: tuple[Stmt, ...]) -> None:
        test = self.operand(cond)
        outer = self.mask
        if isinstance(test, Value) and test.lanes:
            both = test.ref
            if outer is not None:
                both = self.writer.op(f"and {test.type} {test.ref}, {outer}")
            self.mask = both
            test = Value(self.any(both, test.lanes), t.boolean)
        condition = self.register(test)
        if condition.ref == "false":
            return
        inside, after = self.writer.name("then"), self.writer.name("after")
        self.registers.enter()
        self.writer.do(f"br i1 {condition.ref}, label %{inside}, label %{after}")
        self.writer.label(inside)
        self.block(body)
        self.registers.leave()
        self.writer.do(f"br label %{after}")
        self.writer.label(after)
        self.mask = outer

    # vector loops

    def _vector(self, loop: For, extent: Linear) -> None:
        size, lanes = extent.constant, loop.width
        while size is not None and 1 <= size <= lanes // 2:
            lanes //= 2  # the upper half would be masked, and adds nothing to a reduction
        self.lanes, self.owner = lanes, loop
        self.partials = Partials(self, loop)
        if size is None and extent.is_multiple(lanes):
            self._counted(loop, Linear(), extent, lanes)
        elif size is None:
            self._open_vector(loop, extent)
        else:
            rest = size % lanes
            whole = size - rest
            if whole == lanes:
                self.bind(loop, Linear())
                self.block(loop.body)
            elif whole:
                self._counted(loop, Linear(), Linear(whole), lanes)
            if rest:
                flags = ", ".join(["i1 true"] * rest + ["i1 false"] * (lanes - rest))
                self._tail(loop, Linear(whole), f"<{flags}>")
        self.lanes, self.owner = 0, None
        self.partials.close()
        self.partials = None

    def _open_vector(self, loop: For, extent: Linear) -> None:
        """A vector loop over an extent known at run time."""
        writer, lanes = self.writer, self.lanes
        count = self.registers.scalar(extent)
        if lanes & (lanes - 1):
            rest = writer.op(f"srem i64 {count}, {lanes}")
            whole = self.registers.atom(writer.op(f"sub i64 {count}, {rest}"))
        else:
            whole = self.registers.atom(writer.op(f"and i64 {count}, {-lanes}"))
        self._counted(loop, Linear(), whole, lanes)
        tail, after = writer.name("tail"), writer.name("after")
        some = writer.op(f"icmp slt i64 {self.registers.scalar(whole)}, {count}")
        self.registers.enter()
        writer.do(f"br i1 {some}, label %{tail}, label %{after}")
        writer.label(tail)
        base = Linear(whole.const, whole.terms, 1, lanes)
        mask = self.compare_lanes("lt", base, self._unknown(extent, loop.body))
        self._tail(loop, whole, self.register(mask).ref)
        self.registers.leave()
        writer.do(f"br label %{after}")
        writer.label(after)

    def _unknown(self, extent: Linear, body: tuple[Stmt, ...]) -> Linear:
        """`extent`, hidden from LLVM where `body` stores elements of 8 or 16 bits.

        A masked store that is found to be of one such lane may become a store of 32 bits, past the
        end of the array (LLVM 22.1, reduceMaskedStoreToScalarStore of AVX-512).
        """
        if all(x.buffer.dtype.bits > 16 for x in walk(body) if isinstance(x, Store)):
            return extent
        count = self.registers.scalar(extent)
        return self.registers.atom(self.writer.op(f'call i64 asm "", "=r,0"(i64 {count})'))

    def _tail(self, loop: For, base: Linear, mask: str) -> None:
        self.mask = mask
        self.bind(loop, base)
        self.block(loop.body)
        self.mask = None

    # writing

    def _at(self, buffer: Buffer, index: tuple[Expr, ...]) -> Operand:
        return self.memory.offset(self.places[buffer.name], (*map(self.index, index),), self.lanes)

    def _store(self, buffer: Buffer, index: tuple[Expr, ...], value: Expr) -> None:
        at = self._at(buffer, index)
        moving = isinstance(at, Value) or at.step != 0
        x = self.register(self.operand(value), self.lanes if moving else 0)
        if x.lanes and not moving:
            raise IRError(f"{self.kernel.name}: all lanes write one element of {buffer.name}")
        self.memory.store(self.places[buffer.name], at, x, self.mask)

    def _accumulate(self, stmt: Accumulate) -> None:
        dtype, lanes = stmt.buffer.dtype, self.lanes
        value = self.register(self.operand(stmt.value), lanes)
        place, at = self.places[stmt.buffer.name], self._at(stmt.buffer, stmt.index)
        if isinstance(at, Value):
            self._accumulate_apart(stmt.op, place, at, value)
            return
        if self.partials is not None and self.partials.take(stmt, place, at, value):
            return
        if lanes and not at.step:
            start = self.scalars.const(identity(stmt.op, dtype), value)
            value = self.across(stmt.op, self.chosen(value, start))
        old = self.memory.load(place, at, lanes if at.step else 0, self.mask)
        total = self.scalars.emit(stmt.op, [old, value], dtype)
        self.memory.store(place, at, total, self.mask)

    def _accumulate_apart(self, op: str, place: Place, at: Value, value: Value) -> None:
        """Lane after lane: several may mean the same element."""
        for lane in range(value.lanes):
            after = self.enter_lane(lane)
            where = Value(self.writer.op(f"extractelement {at.typed}, i64 {lane}"), t.i64)
            one = Value(self.writer.op(f"extractelement {value.typed}, i64 {lane}"), value.dtype)
            there = self.registers.atom(where.ref)
            old = self.memory.load(place, there, 0, None)
            self.memory.store(place, there, self.scalars.emit(op, [old, one], value.dtype), None)
            self.leave_lane(after)
