"""The plan becomes one function that calls every kernel, with barriers where steps depend.

    void planish_main(ptr call, i64 thread, i64 threads)

Every thread runs the same steps: its share of a parallel kernel; a serial kernel, and one with
little work, is run by thread 0 alone. A barrier stands only between steps of which one reads or
writes what the other wrote or reads on another thread. `call` points to the words of `CALL`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from planish.ir import types as t
from planish.ir.loop_text import kernel_text
from planish.ir.loops import Const, For, Kernel, Var
from planish.runtime.codegen.expression import Expressions
from planish.runtime.codegen.kernel import kernel_function
from planish.runtime.codegen.sync import sync_text
from planish.runtime.codegen.text import Writer
from planish.runtime.codegen.value import Linear
from planish.runtime.plan import Plan, Slot, Step
from planish.runtime.sizes import work
from planish.runtime.target import Target

# What a caller hands in: the pointer table, sizes, how often to run, memory, and where to report.
CALL = ("slots", "dims", "repeat", "scratch", "scratch_stride", "status", "barrier", "profile")

# Scalar operations below which a step stays on one thread: about 1 us, where a barrier of two
# threads costs 0.1 us and the other thread has to fetch the operands from this one's cache.
PARALLEL_WORK = 20_000

Place = tuple[str, int, int]  # memory: a space, where it begins and ends there
Storage = Callable[[Slot], Place]


@dataclass(frozen=True)
class Module:
    """LLVM text of a plan; `symbols` names the function of each step."""

    text: str
    dims: tuple[str, ...]
    symbols: tuple[str, ...]
    barriers: tuple[bool, ...]


def slot_order(plan: Plan) -> dict[tuple[str, int], int]:
    """The place of each slot in the pointer table."""
    slots = [(s.kind, s.index) for s in (*plan.inputs, *plan.outputs)]
    slots += [("param", i) for i in range(len(plan.params))]
    slots += [(s.kind, s.index) for s in plan.temps]
    return {key: number for number, key in enumerate(slots)}


def program_module(plan: Plan, target: Target, storage: Storage, fixed: bool) -> Module:
    """The module of a plan. `storage` gives a slot's memory as (space, begin, end)."""
    builder = _Module(plan, target, storage)
    symbols = [builder.kernel(step) for step in plan.steps]
    barriers = _barriers(plan.steps, storage, fixed)
    main = builder.main(symbols, barriers)
    text = "\n".join([*builder.functions, main, *builder.declarations.values(), sync_text(target)])
    return Module(text, builder.dims, tuple(symbols), tuple(barriers))


@dataclass
class _Module:
    plan: Plan
    target: Target
    storage: Storage
    functions: list[str] = field(default_factory=list)
    declarations: dict[str, str] = field(default_factory=dict)
    known: dict[object, str] = field(default_factory=dict)
    dims: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.dims = tuple(sorted({d for s in self.plan.steps for d in s.kernel.dims}))

    def kernel(self, step: Step) -> str:
        """The function of a step's kernel; equal kernels are one function."""
        aliased = _aliased(step, self.storage)
        key = (kernel_text(step.kernel, "kernel"), aliased)
        if key not in self.known:
            plain = re.sub(r"\W+", "_", step.kernel.name, flags=re.ASCII)
            symbol = f"k{len(self.known)}_{plain}"
            text = kernel_function(step.kernel, symbol, self.target, self.declarations, aliased)
            self.functions.append(text)
            self.known[key] = symbol
        return self.known[key]

    def main(self, symbols: list[str], barriers: list[bool]) -> str:
        """The function that runs all steps."""
        main = _Main(Writer(self.declarations), self.target, self.plan, self.dims)
        main.begin_call()
        for number, step in enumerate(self.plan.steps):
            if barriers[number]:
                main.barrier()
            main.step(step, symbols[number], number)
        main.end_call()
        head = "define void @planish_main(ptr %call, i64 %thread, i64 %threads) nounwind {"
        return "\n".join([head, "entry:", *main.writer.body(), "}"])


class _Main(Expressions):
    def __init__(self, writer: Writer, target: Target, plan: Plan, dims: tuple[str, ...]) -> None:
        super().__init__(writer, target)
        self.slots = slot_order(plan)
        self.dims = dims

    def begin_call(self) -> None:
        """Read the call, and begin to repeat."""
        w = self.writer
        for number, name in enumerate(CALL):
            kind = "i64" if name in ("repeat", "scratch_stride") else "ptr"
            w.do(f"%a.{name} = getelementptr i64, ptr %call, i64 {number}")
            w.do(f"%{name} = load {kind}, ptr %a.{name}, !invariant.load !1")
        for number, name in enumerate(self.dims):
            at = w.op(f"getelementptr i64, ptr %dims, i64 {number}")
            self.env[name] = self.registers.atom(w.op(f"load i64, ptr {at}, !invariant.load !1"))
        w.do("%mine = mul i64 %scratch_stride, %thread")
        w.do("%my_scratch = getelementptr i8, ptr %scratch, i64 %mine")
        w.do("%first = icmp eq i64 %thread, 0")
        w.do("%profiling = icmp ne ptr %profile, null")
        self.tick(-1)
        self.registers.enter()
        w.do("br label %begin")
        w.label("begin")
        w.do("br label %again")
        w.label("again")
        w.do("%round = phi i64 [ 0, %begin ], [ %next, %repeat_more ]")

    def end_call(self) -> None:
        """Repeat, or return."""
        w = self.writer
        w.do("%next = add nuw nsw i64 %round, 1")
        w.do("%more = icmp slt i64 %next, %repeat")
        w.do("br i1 %more, label %repeat_more, label %end")
        w.label("repeat_more")
        self.barrier()
        w.do("br label %again")
        w.label("end")
        w.do("ret void")

    def barrier(self) -> None:
        """Wait for all threads."""
        self.writer.do("call void @planish.barrier(ptr %barrier, i64 %threads)")

    def tick(self, number: int) -> None:
        """Note the time that the step took, if anybody wants to know."""
        now, after = self.writer.name("tick"), self.writer.name("go")
        self.writer.do(f"br i1 %profiling, label %{now}, label %{after}, !prof !0")
        self.writer.label(now)
        given = f"ptr %profile, i64 {number + 1}, ptr %barrier, i64 %thread, i64 %threads"
        self.writer.do(f"call void @planish.tick({given})")
        self.writer.do(f"br label %{after}")
        self.writer.label(after)

    def step(self, step: Step, symbol: str, number: int) -> None:
        """Call a kernel on all threads, or on the first one only."""
        w = self.writer
        self.begin()
        amount = Const(0, t.i64) if is_serial(step.kernel) else work(step.kernel)
        run, after = w.name("run"), w.name("step")
        if isinstance(amount, Const) and amount.value >= PARALLEL_WORK:
            self._call(step, symbol, "%thread", "%threads")
        elif isinstance(amount, Const):
            w.do(f"br i1 %first, label %{run}, label %{after}")
            w.label(run)
            self._call(step, symbol, "0", "1")
            w.do(f"br label %{after}")
            w.label(after)
        else:
            total = self.registers.scalar(self.uniform(amount))
            small = w.op(f"icmp slt i64 {total}, {PARALLEL_WORK}")
            threads = w.op(f"select i1 {small}, i64 1, i64 %threads")
            mine = w.op(f"icmp slt i64 %thread, {threads}")
            w.do(f"br i1 {mine}, label %{run}, label %{after}")
            w.label(run)
            self._call(step, symbol, "%thread", threads)
            w.do(f"br label %{after}")
            w.label(after)
        self.tick(number)

    def _call(self, step: Step, symbol: str, thread: str, threads: str) -> None:
        w = self.writer
        given = []
        for slot in step.args:
            at = w.op(f"getelementptr ptr, ptr %slots, i64 {self.slots[slot.kind, slot.index]}")
            given.append(f"ptr {w.op(f'load ptr, ptr {at}, !invariant.load !1')}")
        given += [f"i64 {self.registers.scalar(self._dim(d))}" for d in step.kernel.dims]
        given += [f"i64 {thread}", f"i64 {threads}", "ptr %my_scratch", "ptr %status"]
        w.do(f"call void @{symbol}({', '.join(given)})")

    def _dim(self, name: str) -> Linear:
        return self.uniform(Var(name))


def is_serial(kernel: Kernel) -> bool:
    """Whether only one thread can run a kernel."""
    return not any(isinstance(s, For) and s.kind == "parallel" for s in kernel.body)


def _is_solo(step: Step) -> bool:
    """Whether thread 0 alone runs a step, whatever the sizes."""
    if is_serial(step.kernel):
        return True
    amount = work(step.kernel)
    return isinstance(amount, Const) and amount.value < PARALLEL_WORK


def _barriers(steps: tuple[Step, ...], storage: Storage, fixed: bool) -> list[bool]:
    """For each step, whether all threads must meet before it."""
    result = []
    pending: list[
        tuple[list[Place], list[Place], bool]
    ] = []  # reads, writes and solo since the last meeting
    for step in steps:
        reads, writes = _touched(step, storage)
        solo = _is_solo(step)
        needed = any(
            not (solo and other_solo)
            and (
                not fixed
                or _overlap(writes, other_reads)
                or _overlap(writes, other_writes)
                or _overlap(reads, other_writes)
            )
            for other_reads, other_writes, other_solo in pending
        )
        if needed:
            pending.clear()
        pending.append((reads, writes, solo))
        result.append(needed)
    return result


def _touched(step: Step, storage: Storage) -> tuple[list[Place], list[Place]]:
    reads: list[Place] = []
    writes: list[Place] = []
    for slot, buffer in zip(step.args, step.kernel.params, strict=True):
        (writes if buffer.name in step.kernel.writes else reads).append(storage(slot))
    return reads, writes


def _overlap(a: Iterable[Place], b: list[Place]) -> bool:
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)


def _aliased(step: Step, storage: Storage) -> frozenset[int]:
    """Numbers of the params that share memory with another one, of which one is written."""
    places = [[storage(slot)] for slot in step.args]
    names = [b.name in step.kernel.writes for b in step.kernel.params]
    pairs = [
        (i, j)
        for i in range(len(places))
        for j in range(i)
        if (names[i] or names[j]) and _overlap(places[i], places[j])
    ]
    return frozenset(x for pair in pairs for x in pair)
