"""Who runs each step of a plan, and where all threads must meet.

    shared   each thread runs its share of a parallel kernel's iterations
    one      thread 0 runs all of it: too little work to share
    each     every thread runs all of it, into memory of its own: too little work to share, or none
             that can be shared, and the others would wait for the result anyway; it saves the
             meeting after the step

Threads meet before a step that reads or writes what another thread may have written or read since
the last meeting. Two shared steps of equally many iterations, whose iteration p touches only its
own pieces of a buffer (see `pieces`), need no meeting for that buffer: each thread finds its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from planish.ir.dims import AnySize
from planish.ir.loops import Const
from planish.runtime.nests import Nest, Nests
from planish.runtime.plan import Plan, Step
from planish.runtime.sizes import LINE, PARALLEL_WORK
from planish.runtime.slots import Slot

# Scalar operations, about 8 us, up to which a step that no thread can share is run by all of them:
# they would wait for it, and a meeting more is what they save.
WAITED = 8 * PARALLEL_WORK

Place = tuple[str, int, int]  # memory: a space, where it begins and ends there
Storage = Callable[[Slot], Place]


@dataclass(frozen=True)
class Schedule:
    """For each step who `runs` it, and whether all meet before it (`meets`).

    `private` are the temporaries of which each thread has its own: index -> offset, in `bytes`.
    `spare`, by step and place among its args, is where other threads than the first write what an
    `each` step leaves in memory that all share.
    """

    runs: tuple[str, ...]
    meets: tuple[bool, ...]
    private: dict[int, int]
    spare: dict[tuple[int, int], int]
    bytes: int


class Job:
    """What there is to know of a step."""

    def __init__(self, step: Step, nest: Nest):
        self.step, self.nest = step, nest
        self.kernel, self.work, self.trips = nest.kernel, nest.work, nest.trips
        self.loop = nest.loop

    @property
    def small(self) -> bool:
        """Whether it is too little work to share, whatever the sizes."""
        return self.nest.small

    @property
    def waited(self) -> bool:
        """Whether all threads may run it as well as one: little work, or not much that none can
        share."""
        whole = self.loop is None and isinstance(self.work, Const)
        return self.small or (whole and self.work.value < WAITED)  # type: ignore[attr-defined]

    @property
    def fixed(self) -> bool:
        """Whether threads always share it out in the same way."""
        return self.loop is not None and isinstance(self.trips, Const) and not self.open

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
    def pieces(self) -> dict[Slot, int]:
        """The slots of which iteration p touches its own pieces alone, and of how many rounds."""
        apart = self.nest.apart if self.fixed else {}
        found: dict[Slot, set[int]] = {}
        for slot, buffer in zip(self.step.args, self.kernel.params, strict=True):
            found.setdefault(slot, set()).add(apart.get(buffer.name, 0))
        return {x: min(rounds) for x, rounds in found.items() if len(rounds) == 1 and all(rounds)}

    def splits_like(self, other: Job, mine: Slot, theirs: Slot) -> bool:
        """Whether a thread that runs its share of both meets only its own pieces of a slot."""
        if not (self.fixed and other.fixed):
            return False
        if self.trips != other.trips or size_of(mine) != size_of(theirs):
            return False  # of bytes: the other may read words of several elements
        rounds = self.pieces.get(mine)
        return rounds is not None and rounds == other.pieces.get(theirs)


def size_of(slot: Slot) -> AnySize:
    """Bytes of a slot."""
    return slot.type.size * slot.type.dtype.itemsize


def schedule(plan: Plan, storage: Storage, fixed: bool, nests: Nests) -> Schedule:
    """The schedule of a plan. `storage` gives a slot's memory as (space, begin, end), which are
    right for all sizes where `fixed`."""
    jobs = [Job(step, nests.of(step.kernel, step.sizes)) for step in plan.steps]
    storage = _remembered(storage)
    runs = ["one" if job.loop is None or job.small else "shared" for job in jobs]
    readers = _readers(jobs, storage)
    for k in reversed(range(len(jobs))):
        if runs[k] == "one" and _joins(jobs, runs, k, readers):
            runs[k] = "shared"
    private = _private(jobs, runs, readers, storage)
    offsets: dict[int, int] = {}
    spare: dict[tuple[int, int], int] = {}
    total = 0
    for k in (k for k, run in enumerate(runs) if run == "each"):
        for place, slot in enumerate(jobs[k].step.args):
            if slot not in jobs[k].slots(written=True):
                continue
            if slot in private:
                offsets[slot.index] = total
            else:
                spare[k, place] = total
            size = int(slot.type.size) * slot.type.dtype.itemsize  # type: ignore[arg-type]
            total += -(-size // LINE) * LINE  # what threads write apart shares no line
    meets = _meetings(jobs, runs, storage, fixed, private)
    return Schedule(tuple(runs), tuple(meets), offsets, spare, total)


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
    jobs: Sequence[Job],
    runs: list[str],
    readers: list[list[tuple[int, Slot, Slot]]],
    storage: Storage,
) -> frozenset[Slot]:
    """Let each thread run the `waited` steps of whose results all threads read some; those results.

    Of results that are outputs or written anew later, what the first thread writes counts. Such a
    step must not read that memory: the others would find in it what the first has written.
    """
    count: dict[int, int] = {}
    for job in jobs:
        for slot in job.slots(written=True):
            if slot.kind == "temp":
                count[slot.index] = count.get(slot.index, 0) + 1
    found: list[Slot] = []
    for k in reversed(range(len(jobs))):
        writes, reads = jobs[k].slots(written=True), map(storage, jobs[k].slots(written=False))
        own = [s for s in writes if s.kind == "temp" and count[s.index] == 1]
        shared = [storage(s) for s in writes if s not in own]
        wanted = any(runs[r] != "one" and mine in own for r, mine, _ in readers[k])
        again = any(overlap(x, y) for y in reads for x in shared)
        if runs[k] == "one" and jobs[k].waited and wanted and not again:
            runs[k] = "each"
            found += own
    return frozenset(found)


def _meetings(
    jobs: Sequence[Job], runs: Sequence[str], storage: Storage, fixed: bool,
    private: frozenset[Slot],
) -> list[bool]:  # fmt: skip
    """For each step, whether all threads must meet before it."""
    result = []
    pending = _Pending(storage)
    for k, job in enumerate(jobs):
        needed = any(
            not (runs[k] == runs[o] == "one")
            and (not fixed or _conflict(job, runs[k], jobs[o], runs[o], storage, private))
            for o in (pending.near(job) if fixed else pending.steps)
        )
        if needed:
            pending = _Pending(storage)
        pending.add(k, job)
        result.append(needed)
    return result


class _Pending:
    """The steps since the last meeting, and who of them wrote or read which memory."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.steps: list[int] = []
        self._touched: dict[tuple[str, bool], dict[Place, list[int]]] = {}

    def add(self, k: int, job: Job) -> None:
        """One more step."""
        self.steps.append(k)
        for written in (True, False):
            for place in map(self.storage, job.slots(written)):
                known = self._touched.setdefault((place[0], written), {})
                known.setdefault(place, []).append(k)

    def near(self, job: Job) -> dict[int, None]:
        """The steps that wrote what a step touches, or touched what it writes."""
        found: dict[int, None] = {}
        for mine in (True, False):
            for place in map(self.storage, job.slots(mine)):
                for written in (True, False) if mine else (True,):
                    known = self._touched.get((place[0], written), {})
                    for other, steps in known.items():
                        if overlap(place, other):
                            found.update(dict.fromkeys(steps))
        return found


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
