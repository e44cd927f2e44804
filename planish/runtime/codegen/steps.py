"""The plan becomes modules: its kernels, and one function that calls them, with barriers where
steps depend.

    void planish_main(ptr call, i64 thread, i64 threads)

Every thread goes through the same steps and does what `planish.runtime.schedule` says: its share,
all, or nothing; barriers stand where all must meet. `call` points to the words of `CALL`.
"""

from __future__ import annotations

from planish.ir.loops import Const, Var
from planish.runtime.codegen.expression import Expressions
from planish.runtime.codegen.functions import Functions, aliased
from planish.runtime.codegen.sync import DECLARED
from planish.runtime.codegen.text import CALLS, Writer
from planish.runtime.nests import Nest
from planish.runtime.plan import Plan, Step
from planish.runtime.schedule import Schedule, Storage, schedule
from planish.runtime.sizes import PARALLEL_WORK
from planish.runtime.slots import Slot
from planish.runtime.target import Target

# What a caller hands in: the pointer table, sizes, how often to run, memory, and where to report.
CALL = ("slots", "dims", "repeat", "scratch", "scratch_stride", "status", "barrier", "profile")


def slot_order(plan: Plan) -> dict[tuple[str, int], int]:
    """The place of each slot in the pointer table."""
    slots = [(s.kind, s.index) for s in (*plan.inputs, *plan.outputs)]
    slots += [("param", i) for i in range(len(plan.params))]
    slots += [(s.kind, s.index) for s in plan.temps]
    return {key: number for number, key in enumerate(slots)}


class Modules:
    """A plan as LLVM modules. `dims` are the sizes that a caller hands in, `schedule` says which
    threads do what, `symbols` are the functions of the steps.

    `storage` gives a slot's memory as (space, begin, end). `functions` are those that are there
    already, and make what is missing.
    """

    def __init__(
        self, plan: Plan, target: Target, storage: Storage, fixed: bool, functions: Functions
    ) -> None:
        self.plan, self.target = plan, target
        self.schedule = schedule(plan, storage, fixed, functions.nests)
        self._nests = [functions.nests.of(step.kernel, step.sizes) for step in plan.steps]
        self.symbols = tuple(
            functions.symbol(
                step.kernel, aliased(step, storage), run != "shared" and not step.sizes
            )
            for step, run in zip(plan.steps, self.schedule.runs, strict=True)
        )
        functions.flush()
        self.dims = tuple(sorted({d for x in self._nests for d in x.dims if d not in x.sizes}))

    def main(self) -> str:
        """The module of the main function, which needs that of `sync_text`."""
        declarations: dict[str, str] = {}
        main = _Main(Writer(declarations), self.target, self.plan, self.dims, self.schedule)
        main.begin_call()
        for number, (step, nest) in enumerate(zip(self.plan.steps, self._nests, strict=True)):
            if self.schedule.meets[number]:
                main.barrier()
            main.note(number)
            main.step(number, step, nest, self.symbols[number])
            main.tick(number)
        main.end_call()
        # There is nothing to optimise in a list of calls, and the list is long.
        declarations.update(DECLARED)
        signature = "ptr %call, i64 %thread, i64 %threads"
        head = f"define void @planish_main({signature}) noinline optnone nounwind uwtable {{"
        body = [head, "entry:", *main.writer.body(), "}"]
        return CALLS + "\n".join([*body, *declarations.values()])


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

    def step(self, number: int, step: Step, nest: Nest, symbol: str) -> None:
        """Call a kernel on all threads, for their share or all of it, or on the first one only."""
        w, run = self.writer, self.schedule.runs[number]
        self.begin()
        args = [self._pointer(slot) for slot in step.args]
        if run == "each":
            for place, at in enumerate(args):
                if (offset := self.schedule.spare.get((number, place))) is not None:
                    own = w.op(f"getelementptr i8, ptr %my_temps, i64 {offset}")
                    args[place] = w.op(f"select i1 %first, ptr {at}, ptr {own}")
            self._call(symbol, args, nest, "0", "1")
            return
        if run == "shared" and isinstance(nest.work, Const):
            self._call(symbol, args, nest, "%thread", "%threads")
            return
        mine, threads = "%first", "1"
        if run == "shared":
            total = self.registers.scalar(self.uniform(nest.work))
            small = w.op(f"icmp slt i64 {total}, {PARALLEL_WORK}")
            threads = w.op(f"select i1 {small}, i64 1, i64 %threads")
            mine = w.op(f"icmp slt i64 %thread, {threads}")
        inside, after = w.name("run"), w.name("step")
        w.do(f"br i1 {mine}, label %{inside}, label %{after}")
        w.label(inside)
        self._call(symbol, args, nest, "%thread", threads)
        w.do(f"br label %{after}")
        w.label(after)

    def _call(self, symbol: str, args: list[str], nest: Nest, thread: str, threads: str) -> None:
        w = self.writer
        given = [("ptr", at) for at in args]
        known = {name: str(size.value) for name, size in nest.sizes.items()}
        read = (known.get(d) or self.registers.scalar(self.uniform(Var(d))) for d in nest.dims)
        given += [("i64", size) for size in read]
        given += [("i64", thread), ("i64", threads), ("ptr", "%my_scratch"), ("ptr", "%status")]
        w.call(symbol, "void", *given)

    def _pointer(self, slot: Slot) -> str:
        """Where a slot lies, found before the first step; that of a private temporary on this
        thread."""
        make, key = self.registers.make, (slot.kind, slot.index)
        if slot.kind == "temp" and slot.index in self.schedule.private:
            offset = self.schedule.private[slot.index]
            return make(key, f"getelementptr i8, ptr %my_temps, i64 {offset}")
        at = make((*key, "at"), f"getelementptr ptr, ptr %slots, i64 {self.slots[key]}")
        return make(key, f"load ptr, ptr {at}", at)
