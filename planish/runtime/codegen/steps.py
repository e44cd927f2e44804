"""The plan becomes modules: its kernels, and one function that calls them, with barriers where
steps depend.

    void planish_main(ptr call, i64 thread, i64 threads)

Every thread goes through the same steps and does what `planish.runtime.schedule` says: its share,
all, or nothing; barriers stand where all must meet. `call` points to the words of `CALL`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from planish.ir.loop_text import kernel_text
from planish.ir.loops import Const, Expr, Kernel, Var
from planish.runtime.cache import digest
from planish.runtime.codegen.expression import Expressions
from planish.runtime.codegen.kernel import kernel_function
from planish.runtime.codegen.sync import DECLARED, FAIL, sync_text
from planish.runtime.codegen.text import CALLS, KERNELS, Writer
from planish.runtime.codegen.turn import TURN, turn_module
from planish.runtime.memo import Memo
from planish.runtime.plan import Plan, Step
from planish.runtime.schedule import Schedule, Storage, overlap, schedule
from planish.runtime.sizes import PARALLEL_WORK, work
from planish.runtime.slots import Slot
from planish.runtime.target import Target

# What a caller hands in: the pointer table, sizes, how often to run, memory, and where to report.
CALL = ("slots", "dims", "repeat", "scratch", "scratch_stride", "status", "barrier", "profile")


# Characters of a module: some kernels, 20 to 100 ms of LLVM's time. Smaller ones would share the
# work among cores more evenly, and each takes 1 ms more.
MODULE_TEXT = 32_000
# Characters of a function that gets a module of its own, under a name that comes from its text
# alone: other programs of a process, such as those of a generator, find its code.
LONG_TEXT = 16_000

NAME = "k_"  # of a function that no module has taken in yet

# Functions of kernels, and what they declare, by all that they depend on; limited by characters
FUNCTIONS: Memo[tuple[str, dict[str, str]]] = Memo(32 << 20, lambda found: len(found[0]))


def slot_order(plan: Plan) -> dict[tuple[str, int], int]:
    """The place of each slot in the pointer table."""
    slots = [(s.kind, s.index) for s in (*plan.inputs, *plan.outputs)]
    slots += [("param", i) for i in range(len(plan.params))]
    slots += [(s.kind, s.index) for s in plan.temps]
    return {key: number for number, key in enumerate(slots)}


@dataclass(frozen=True, slots=True)
class _Native:
    """The function of a kernel, its dimensions, and how much work it is.

    `text` is the kernel's but for its name.
    """

    text: str
    symbol: str
    kernel: Kernel
    dims: tuple[str, ...]
    aliased: frozenset[int]
    alone: bool
    work: Expr

    def function(self, target: Target) -> tuple[str, dict[str, str]]:
        """Its LLVM text, called `NAME` there, and what that declares."""
        key = (target, digest(self.text), self.dims, self.aliased, self.alone)
        known = FUNCTIONS.get(key)
        if known is None:
            needs: dict[str, str] = {}
            given = self.dims, NAME, target, needs, self.aliased, self.alone
            known = FUNCTIONS.put(key, (kernel_function(self.kernel, *given), needs))
        return known


class Modules:
    """A plan as LLVM modules. `dims` are the sizes that a caller hands in, `schedule` says which
    threads do what.

    `storage` gives a slot's memory as (space, begin, end).
    """

    def __init__(self, plan: Plan, target: Target, storage: Storage, fixed: bool) -> None:
        self.plan, self.target = plan, target
        self._known: dict[object, _Native] = {}
        self._keys: dict[int, str] = {}  # of a kernel that is the same object in many steps
        self.schedule = schedule(plan, storage, fixed)
        steps = zip(plan.steps, self.schedule.runs, strict=True)
        self._natives = [
            self._native(step.kernel, _aliased(step, storage), run != "shared")
            for step, run in steps
        ]
        self._symbols: dict[str, str] = {}  # of the function of a kernel: that of an equal one
        self.dims = tuple(sorted({d for native in self._natives for d in native.dims}))

    def _native(self, kernel: Kernel, aliased: frozenset[int], alone: bool) -> _Native:
        if id(kernel) not in self._keys:
            self._keys[id(kernel)] = kernel_text(kernel, "kernel")
        key = (self._keys[id(kernel)], aliased, alone)
        if key not in self._known:
            plain = re.sub(r"\W+", "_", kernel.name, flags=re.ASCII)
            symbol, dims = f"k{len(self._known)}_{plain}", kernel.dims
            amount = work(kernel, dims)
            self._known[key] = _Native(key[0], symbol, kernel, dims, aliased, alone, amount)
        return self._known[key]

    @property
    def symbols(self) -> tuple[str, ...]:
        """The function of each step."""
        for _ in self._functions():
            pass
        return tuple(self._symbols[native.symbol] for native in self._natives)

    def _functions(self) -> Iterator[tuple[str, dict[str, str]]]:
        """The functions, each once, and what they declare. Kernels of one may differ in names."""
        known: dict[str, str] = {}
        for native in self._known.values():
            function, needs = native.function(self.target)
            if function in known:
                self._symbols[native.symbol] = known[function]
                continue
            symbol = native.symbol if len(function) < LONG_TEXT else _own_symbol(native, function)
            known[function] = self._symbols[native.symbol] = symbol
            yield function.replace(f"@{NAME}(", f"@{symbol}(", 1), needs

    def texts(self) -> Iterator[str]:
        """The modules: what waits, kernels, some in each, what they call, and the main function.

        Parts that are the same in all programs have modules of their own, which are made once.
        """
        yield KERNELS + sync_text(self.target)
        functions: list[str] = []
        declarations: dict[str, str] = {}
        shared: set[str] = set()
        for function, needs in self._functions():
            for name in needs:
                if name.startswith(TURN) and name not in shared:
                    shared.add(name)
                    yield KERNELS + turn_module(name)
            if len(function) >= LONG_TEXT:
                yield _module([function], needs)
                continue
            functions.append(function)
            declarations.update(needs)
            if sum(map(len, functions)) >= MODULE_TEXT:
                yield _module(functions, declarations)
                functions, declarations = [], {}
        if functions:
            yield _module(functions, declarations)
        yield self._main()

    def _main(self) -> str:
        declarations: dict[str, str] = {}
        main = _Main(Writer(declarations), self.target, self.plan, self.dims, self.schedule)
        main.begin_call()
        for number, (step, native) in enumerate(zip(self.plan.steps, self._natives, strict=True)):
            if self.schedule.meets[number]:
                main.barrier()
            main.note(number)
            main.step(number, step, native, self._symbols[native.symbol])
            main.tick(number)
        main.end_call()
        # There is nothing to optimise in a list of calls, and the list is long.
        declarations.update(DECLARED)
        signature = "ptr %call, i64 %thread, i64 %threads"
        head = f"define void @planish_main({signature}) noinline optnone nounwind uwtable {{"
        body = [head, "entry:", *main.writer.body(), "}"]
        return CALLS + "\n".join([*body, *declarations.values()])


def _own_symbol(native: _Native, function: str) -> str:
    """A name that other programs give the same function, and this one to no other kernel."""
    return f"k{int(digest(function)[:12], 16)}_{native.symbol.partition('_')[2]}"


def _module(functions: list[str], declarations: dict[str, str]) -> str:
    """Functions of kernels as a module."""
    text = "\n".join(functions)
    fails = [FAIL] if "@planish.fail(" in text or "!prof !0" in text else []
    return KERNELS + "\n".join([text, *declarations.values(), *fails])


class _Main(Expressions):
    def __init__(
        self, writer: Writer, target: Target, plan: Plan, dims: tuple[str, ...], schedule: Schedule
    ) -> None:
        super().__init__(writer, target)
        self.slots = slot_order(plan)
        self.dims = dims
        self.schedule = schedule

    def begin_call(self) -> None:
        """Read the call, and begin to repeat."""
        w = self.writer
        for number, name in enumerate(CALL):
            kind = "i64" if name in ("repeat", "scratch_stride") else "ptr"
            w.do(f"%a.{name} = getelementptr i64, ptr %call, i64 {number}")
            w.do(f"%{name} = load {kind}, ptr %a.{name}")
        for number, name in enumerate(self.dims):
            at = w.op(f"getelementptr i64, ptr %dims, i64 {number}")
            self.env[name] = self.registers.atom(w.op(f"load i64, ptr {at}"))
        w.do("%mine = mul i64 %scratch_stride, %thread")
        w.do("%my_temps = getelementptr i8, ptr %scratch, i64 %mine")
        w.do(f"%my_scratch = getelementptr i8, ptr %my_temps, i64 {self.schedule.bytes}")
        w.do("%first = icmp eq i64 %thread, 0")
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
        self.writer.do("call void @planish.barrier(ptr %barrier, i64 %thread, i64 %threads)")

    def tick(self, number: int) -> None:
        """Note the time that the step took, if anybody wants to know."""
        given = f"ptr %profile, i64 {number + 1}, ptr %barrier, i64 %thread, i64 %threads"
        self.writer.do(f"call void @planish.tick({given})")

    def note(self, number: int) -> None:
        """Note when this thread begins a step, if it waited before and anybody wants to know."""
        if self.schedule.meets[number]:
            n = len(self.schedule.meets) + 1 + number
            self.writer.do(f"call void @planish.note(ptr %profile, i64 {n}, i64 %thread)")

    def step(self, number: int, step: Step, native: _Native, symbol: str) -> None:
        """Call a kernel on all threads, for their share or all of it, or on the first one only."""
        w, run = self.writer, self.schedule.runs[number]
        self.begin()
        args = [self._pointer(slot) for slot in step.args]
        if run == "each":
            for place, at in enumerate(args):
                if (offset := self.schedule.spare.get((number, place))) is not None:
                    own = w.op(f"getelementptr i8, ptr %my_temps, i64 {offset}")
                    args[place] = w.op(f"select i1 %first, ptr {at}, ptr {own}")
            self._call(symbol, args, native, "0", "1")
            return
        if run == "shared" and isinstance(native.work, Const):
            self._call(symbol, args, native, "%thread", "%threads")
            return
        mine, threads = "%first", "1"
        if run == "shared":
            total = self.registers.scalar(self.uniform(native.work))
            small = w.op(f"icmp slt i64 {total}, {PARALLEL_WORK}")
            threads = w.op(f"select i1 {small}, i64 1, i64 %threads")
            mine = w.op(f"icmp slt i64 %thread, {threads}")
        inside, after = w.name("run"), w.name("step")
        w.do(f"br i1 {mine}, label %{inside}, label %{after}")
        w.label(inside)
        self._call(symbol, args, native, "%thread", threads)
        w.do(f"br label %{after}")
        w.label(after)

    def _call(
        self, symbol: str, args: list[str], native: _Native, thread: str, threads: str
    ) -> None:
        w = self.writer
        given = [("ptr", at) for at in args]
        given += [("i64", self.registers.scalar(self.uniform(Var(d)))) for d in native.dims]
        given += [("i64", thread), ("i64", threads), ("ptr", "%my_scratch"), ("ptr", "%status")]
        w.call(symbol, "void", *given)

    def _pointer(self, slot: Slot) -> str:
        """Where a slot lies; that of a private temporary on this thread."""
        w = self.writer
        if slot.kind == "temp" and slot.index in self.schedule.private:
            offset = self.schedule.private[slot.index]
            return w.op(f"getelementptr i8, ptr %my_temps, i64 {offset}")
        at = w.op(f"getelementptr ptr, ptr %slots, i64 {self.slots[slot.kind, slot.index]}")
        return w.op(f"load ptr, ptr {at}")


def _aliased(step: Step, storage: Storage) -> frozenset[int]:
    """Numbers of the params that share memory with another one, of which one is written."""
    places = [storage(slot) for slot in step.args]
    names = [b.name in step.kernel.writes for b in step.kernel.params]
    pairs = [
        (i, j)
        for i in range(len(places))
        for j in range(i)
        if (names[i] or names[j]) and overlap(places[i], places[j])
    ]
    return frozenset(x for pair in pairs for x in pair)
