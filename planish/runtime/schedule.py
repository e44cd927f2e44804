"""Who runs each step of a plan, and where all threads must meet.

    shared   each thread runs its share of a parallel kernel's iterations
    one      thread 0 runs all of it: too little work to share
    each     every thread runs all of it, into memory of its own: too little work to share, and the
             others would wait for the result anyway; it saves the meeting after the step

Threads meet before a step that reads or writes what another thread may have written or read since
the last meeting. Two shared steps of equally many iterations, whose iteration p touches only the
p-th piece of a buffer, need no meeting for that buffer: each thread finds its own pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from planish.ir import types as t
from planish.ir.index import linear_index
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
    walk,
)
from planish.runtime.plan import Plan, Step
from planish.runtime.sizes import work
from planish.runtime.slots import Slot

# Scalar operations below which a step stays on one thread: about 1 us, where a meeting of two
# threads costs 0.1 us and the other thread has to fetch the operands from this one's cache.
PARALLEL_WORK = 20_000

LINE = 64  # bytes of a cache line: what threads write apart begins on lines of its own

Place = tuple[str, int, int]  # memory: a space, where it begins and ends there
Storage = Callable[[Slot], Place]


@dataclass(frozen=True)
class Schedule:
    """For each step who `runs` it, and whether all meet before it (`meets`).

    `private` are the temporaries of which each thread has its own: index -> offset, in `bytes`.
    """

    runs: tuple[str, ...]
    meets: tuple[bool, ...]
    private: dict[int, int]
    bytes: int


class Job:
    """What there is to know of a step's kernel."""

    def __init__(self, step: Step, work: Expr):
        self.step, self.kernel, self.work = step, step.kernel, work
        loops = (s for s in step.kernel.body if isinstance(s, For) and s.kind == "parallel")
        self.loop = next((s for s in loops if s.extent != Const(1, t.i64)), None)

    @property
    def small(self) -> bool:
        """Whether it is too little work to share, whatever the sizes."""
        return isinstance(self.work, Const) and self.work.value < PARALLEL_WORK

    @property
    def fixed(self) -> bool:
        """Whether threads always share it out in the same way."""
        return self.loop is not None and isinstance(self.loop.extent, Const) and not self.open

    @property
    def open(self) -> bool:
        """Whether the amount of work is known at run time only."""
        return not isinstance(self.work, Const)

    def slots(self, written: bool) -> list[Slot]:
        """What the step writes, or what it reads."""
        return self._written if written else self._read

    @cached_property
    def _written(self) -> list[Slot]:
        return [slot for slot, name in self._named if name in self.kernel.writes]

    @cached_property
    def _read(self) -> list[Slot]:
        return [slot for slot, name in self._named if name not in self.kernel.writes]

    @property
    def _named(self) -> list[tuple[Slot, str]]:
        return [(s, b.name) for s, b in zip(self.step.args, self.kernel.params, strict=True)]

    @cached_property
    def pieces(self) -> frozenset[Slot]:
        """The slots of which iteration p touches the p-th piece alone."""
        apart = in_pieces(self.kernel, self.loop) if self.loop and self.fixed else set()
        pairs = list(zip(self.step.args, self.kernel.params, strict=True))
        whole = {slot for slot, buffer in pairs if buffer.name not in apart}
        return frozenset(slot for slot, _ in pairs if slot not in whole)

    def splits_like(self, other: Job, mine: Slot, theirs: Slot) -> bool:
        """Whether a thread that runs its share of both meets only its own pieces of a slot."""
        if not (self.fixed and other.fixed and self.loop and other.loop):
            return False
        same = self.loop.extent == other.loop.extent and mine.type.size == theirs.type.size
        return same and mine in self.pieces and theirs in other.pieces


def schedule(plan: Plan, storage: Storage, fixed: bool) -> Schedule:
    """The schedule of a plan. `storage` gives a slot's memory as (space, begin, end), which are
    right for all sizes where `fixed`."""
    kernels = {id(step.kernel): step.kernel for step in plan.steps}  # the same in many steps
    works = {key: work(kernel, kernel.dims) for key, kernel in kernels.items()}
    jobs = [Job(step, works[id(step.kernel)]) for step in plan.steps]
    storage = _remembered(storage)
    runs = ["one" if job.loop is None or job.small else "shared" for job in jobs]
    readers = _readers(jobs, storage)
    for k in reversed(range(len(jobs))):
        if runs[k] == "one" and _joins(jobs, runs, k, readers):
            runs[k] = "shared"
    private = _private(jobs, runs, readers)
    offsets, total = {}, 0
    for slot in private:
        offsets[slot.index] = total
        size = int(slot.type.size) * slot.type.dtype.itemsize  # type: ignore[arg-type]
        total += -(-size // LINE) * LINE
    meets = _meetings(jobs, runs, storage, fixed, frozenset(private))
    return Schedule(tuple(runs), tuple(meets), offsets, total)


def _readers(jobs: Sequence[Job], storage: Storage) -> list[list[tuple[int, Slot, Slot]]]:
    """For each step the later ones that read what it wrote: (step, slot written, slot read)."""
    found: list[list[tuple[int, Slot, Slot]]] = [[] for _ in jobs]
    writer: dict[Place, tuple[int, Slot]] = {}
    for k, job in enumerate(jobs):
        for slot in job.slots(written=False):
            if (last := writer.get(_key(slot, storage))) is not None:
                found[last[0]].append((k, last[1], slot))
        for slot in job.slots(written=True):
            writer[_key(slot, storage)] = (k, slot)
    return found


def _key(slot: Slot, storage: Storage) -> Place:
    """Temporaries by number, as several of them use the same bytes one after the other."""
    return ("temp", slot.index, slot.index) if slot.kind == "temp" else storage(slot)


def _joins(
    jobs: Sequence[Job], runs: Sequence[str], k: int, readers: list[list[tuple[int, Slot, Slot]]]
) -> bool:
    """Whether a small step is better shared: a later one reads its results in the same pieces."""
    return any(
        runs[r] == "shared" and jobs[k].splits_like(jobs[r], mine, theirs)
        for r, mine, theirs in readers[k]
    )


def _private(
    jobs: Sequence[Job], runs: list[str], readers: list[list[tuple[int, Slot, Slot]]]
) -> list[Slot]:
    """Let each thread run the small steps whose results all threads read; what those write."""
    count: dict[int, int] = {}
    for job in jobs:
        for slot in job.slots(written=True):
            if slot.kind == "temp":
                count[slot.index] = count.get(slot.index, 0) + 1
    found: list[Slot] = []
    for k in reversed(range(len(jobs))):
        writes = jobs[k].slots(written=True)
        own = all(s.kind == "temp" and count[s.index] == 1 for s in writes)
        wanted = any(runs[r] != "one" for r, _, _ in readers[k])
        if runs[k] == "one" and jobs[k].small and own and wanted:
            runs[k] = "each"
            found += writes
    return found


def _meetings(
    jobs: Sequence[Job], runs: Sequence[str], storage: Storage, fixed: bool,
    private: frozenset[Slot],
) -> list[bool]:  # fmt: skip
    """For each step, whether all threads must meet before it."""
    result = []
    pending: list[int] = []  # steps since the last meeting
    for k in range(len(jobs)):
        needed = any(
            not (runs[k] == runs[o] == "one")
            and (not fixed or _conflict(jobs[k], runs[k], jobs[o], runs[o], storage, private))
            for o in pending
        )
        if needed:
            pending.clear()
        pending.append(k)
        result.append(needed)
    return result


def _conflict(
    a: Job, runs_a: str, b: Job, runs_b: str, storage: Storage, private: frozenset[Slot]
) -> bool:
    """Whether one step reads or writes what another thread writes or reads in the other step."""
    both_shared = runs_a == runs_b == "shared"
    for wrote, other, first, second in (
        (a.slots(True), [*b.slots(True), *b.slots(False)], a, b),
        (b.slots(True), a.slots(False), b, a),
    ):
        for x in wrote:
            here = storage(x)
            for y in other:
                there = storage(y)
                if not overlap(here, there) or x in private or y in private:
                    continue
                same = here == there
                if not (both_shared and same and first.splits_like(second, x, y)):
                    return True
    return False


def _remembered(storage: Storage) -> Storage:
    """`storage`, asked once for each slot."""
    known: dict[tuple[str, int], Place] = {}

    def place(slot: Slot) -> Place:
        key = (slot.kind, slot.index)
        if key not in known:
            known[key] = storage(slot)
        return known[key]

    return place


def overlap(x: Place, y: Place) -> bool:
    """Whether two places have memory in common."""
    return x[0] == y[0] and x[1] < y[2] and y[1] < x[2]


# Pieces


def in_pieces(kernel: Kernel, loop: For) -> set[str]:
    """The params of which iteration p of `loop` touches the p-th of as many equal pieces alone."""
    lets = {s.var.name: s.value for s in walk(kernel.body) if isinstance(s, Let)}
    inside = set(map(id, _accesses((loop,))))
    good = {b.name for b in kernel.params}
    for access in _accesses(kernel.body):
        buffer = access.buffer
        if buffer.name in good:
            index = tuple(_inlined(i, lets) for i in access.index)
            if id(access) not in inside or not _is_piece(buffer, index, loop):
                good.discard(buffer.name)
    return good


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


def _is_piece(buffer: Buffer, index: tuple[Expr, ...], loop: For) -> bool:
    """Whether the leading indexes, taken together, are the loop variable."""
    if not isinstance(loop.extent, Const):
        return False
    count = 1
    shape: list[int] = []
    for k in range(len(index) + 1):
        if count == loop.extent.value:
            at = linear_index(index[:k], tuple(shape), {loop.var.name: loop.extent})
            if at == loop.var or (count == 1 and at == Const(0, t.i64)):
                return True
        if k < len(index):
            size = buffer.shape[k]
            if not isinstance(size, Const):
                return False
            count *= int(size.value)
            shape.append(int(size.value))
    return False
