"""A profile: the time of each step, what it does in that time, and what the machine would allow.

profile = program.profile(*arrays)
print(profile)                   a row for each step
print(profile.by_kernel())       a row for each kernel: equal kernels of layers together
profile.trace("trace.json")      for Perfetto (ui.perfetto.dev) and chrome://tracing
profile.roofline("roofline.svg")
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from planish.runtime.cost import Cost, Read, kernel_cost, step_bytes, step_flops
from planish.runtime.in_place import storage
from planish.runtime.memory import Memory
from planish.runtime.plan import Plan, Step
from planish.runtime.recording import Span, trace_events
from planish.runtime.report import aligned_rows
from planish.runtime.roof import Roof
from planish.runtime.roofline import draw
from planish.runtime.slots import Slot

COLUMNS = ("label", "kernel", "calls", "us", "%", "MFLOP", "MB", "GFLOP/s", "GB/s", "% of roof")


@dataclass(frozen=True, slots=True)
class Row:
    """A step, or all steps of one kernel: seconds, operations and bytes of all its calls.

    `ideal` is the least number of seconds under the roof; None where no roof was measured.
    """

    label: str
    kernel: str
    seconds: float
    flops: int
    bytes: int
    ideal: float | None = None
    calls: int = 1

    @property
    def flop_rate(self) -> float:
        """Operations a second."""
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def byte_rate(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def of_roof(self) -> float | None:
        """The part of what the machine allows that is reached: 1 is all."""
        if self.ideal is None:
            return None
        return self.ideal / self.seconds if self.seconds else 0.0

    @property
    def layer(self) -> str:
        """The layer that the label names: "h.3", "ln_f", or "" for what is in none."""
        found = re.match(r"(\w+\.(\d+|\*)|[^.]+)(?=\.)", self.label)
        return found[0] if found else ""


@dataclass(frozen=True, slots=True)
class Profile:
    """The rows, in the order in which they run; `seconds` is their sum.

    `steps` are the rows of single steps, and `recorded` tells when each thread did each of them in
    one more run.
    """

    name: str
    rows: tuple[Row, ...]
    roof: Roof | None = None
    threads: int = 1
    steps: tuple[Row, ...] = ()
    recorded: tuple[Span, ...] = ()

    @property
    def seconds(self) -> float:
        """The time of all steps."""
        return sum(row.seconds for row in self.rows)

    @property
    def total(self) -> Row:
        """All rows as one."""
        return _sum("total", "", self.rows)

    def share(self, row: Row) -> float:
        """The part of the time that a row takes."""
        return row.seconds / self.seconds if self.seconds else 0.0

    def by_kernel(self) -> Profile:
        """One row for each kernel, the slowest first: h.0, h.1 ... that share it become h.*."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            label = re.sub(r"(?<=\.)\d+(?=\.)", "*", row.label)
            groups.setdefault((label, row.kernel), []).append(row)
        rows = [
            _sum(label if len({r.label for r in group}) > 1 else group[0].label, kernel, group)
            for (label, kernel), group in groups.items()
        ]
        return replace(self, rows=tuple(sorted(rows, key=lambda row: -row.seconds)))

    def cells(self) -> list[tuple[str, ...]]:
        """What a table shows, under `COLUMNS`; the last line is the total."""
        return [self._cells(row) for row in (*self.rows, self.total)]

    def _cells(self, row: Row) -> tuple[str, ...]:
        return (
            row.label, row.kernel, str(row.calls), f"{1e6 * row.seconds:.1f}",
            f"{100 * self.share(row):.1f}", f"{row.flops / 1e6:.2f}", f"{row.bytes / 1e6:.2f}",
            f"{row.flop_rate / 1e9:.1f}", f"{row.byte_rate / 1e9:.1f}",
            "-" if row.of_roof is None else f"{100 * row.of_roof:.0f}",
        )  # fmt: skip

    def __str__(self) -> str:
        title = f"{self.name}: {1e6 * self.seconds:.1f} us a run, {self.threads} threads"
        return "\n".join([title, *aligned_rows([COLUMNS, *self.cells()])])

    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries, for JSON: what they hold and what is derived from it."""
        return [
            {
                **asdict(row),
                "layer": row.layer,
                "share": self.share(row),
                "flop_rate": row.flop_rate,
                "byte_rate": row.byte_rate,
                "of_roof": row.of_roof,
            }
            for row in self.rows
        ]

    def trace(self, path: str | Path) -> None:
        """Write the run that was recorded as a trace for Perfetto: a track for each thread.

        That run is none of those whose steps were timed, after each of which all threads meet.
        """
        names, layers = [x.label for x in self.steps], [x.layer for x in self.steps]
        facts = [_facts(x) for x in self.steps]
        found = trace_events(self.name, names, layers, facts, self.recorded)
        Path(path).write_text(json.dumps(found), "utf-8")

    def roofline(self, path: str | Path) -> None:
        """Draw the kernels under the machine's roofs (.svg, .png, .pdf); needs matplotlib."""
        draw(path, self.name, self.by_kernel().rows, self.roof)


def _facts(row: Row) -> dict[str, Any]:
    """What a trace says of a step; rates are those of its median."""
    facts: dict[str, Any] = {"kernel": row.kernel, "flops": row.flops, "bytes": row.bytes}
    facts |= {"median us": 1e6 * row.seconds}
    facts |= {"GFLOP/s": row.flop_rate / 1e9, "GB/s": row.byte_rate / 1e9}
    return facts if row.of_roof is None else facts | {"% of roof": 100 * row.of_roof}


def _sum(label: str, kernel: str, rows: Iterable[Row]) -> Row:
    rows = list(rows)
    ideals = [row.ideal for row in rows if row.ideal is not None]
    return Row(
        label, kernel, sum(row.seconds for row in rows), sum(row.flops for row in rows),
        sum(row.bytes for row in rows), sum(ideals) if len(ideals) == len(rows) else None,
        sum(row.calls for row in rows),
    )  # fmt: skip


# What steps do


@dataclass(frozen=True, slots=True)
class Work:
    """What a step does: operations, dot products of bf16 and of bytes among them, and (bytes,
    distance) moved.

    The distance is how many bytes of others were touched since these were: what fits in a cache
    is still there.
    """

    flops: int
    dots: int
    byte_dots: int
    moved: tuple[tuple[int, int], ...]

    def ideal(self, roof: Roof) -> float:
        """The least number of seconds."""
        return roof.seconds(self.flops, self.dots, self.byte_dots, self.moved)


def profile(
    plan: Plan, work: Sequence[Work], seconds: np.ndarray, roof: Roof | None, threads: int,
    recorded: tuple[Span, ...],
) -> Profile:  # fmt: skip
    """The profile of a plan whose steps take so many seconds."""
    rows = tuple(
        Row(
            step.label, step.kernel.name, float(spent), done.flops, sum(n for n, _ in done.moved),
            done.ideal(roof) if roof else None,
        )
        for step, done, spent in zip(plan.steps, work, seconds, strict=True)
    )  # fmt: skip
    return Profile(plan.name, rows, roof, threads, rows, recorded)


def plan_work(
    plan: Plan, memory: Memory, arrays: Sequence[np.ndarray], binding: dict[str, int]
) -> list[Work]:
    """What the steps of a plan do, for these arguments."""
    costs: dict[Any, Cost] = {}
    counted = []
    for step in plan.steps:
        numbers = tuple(s for s in step.args if s.kind == "input" and not s.type.dtype.is_float)
        key = (id(step.kernel), step.sizes, numbers)
        if key not in costs:
            costs[key] = kernel_cost(step.kernel, step.known(binding), _reader(plan, step, arrays))
        counted.append(costs[key])
    touched = [step_bytes(s, c, binding) for s, c in zip(plan.steps, counted, strict=True)]
    places = [{s: _place(plan, memory, s) for s in sizes} for sizes in touched]
    moved: list[dict[Place, int]] = []
    for sizes, at in zip(touched, places, strict=True):
        moved.append(dict.fromkeys(at.values(), 0))
        for slot, number in sizes.items():
            moved[-1][at[slot]] += number
    return [
        Work(
            step_flops(step, cost, binding),
            cost.dots,
            cost.byte_dots,
            tuple((n, far[p]) for p, n in mine.items()),
        )
        for step, cost, mine, far in zip(plan.steps, counted, moved, distances(moved), strict=True)
    ]


def _reader(plan: Plan, step: Step, arrays: Sequence[np.ndarray]) -> Read:
    """Elements of integer inputs, by the names of the kernel's params."""
    places = {
        buffer.name: storage(plan, slot)
        for slot, buffer in zip(step.args, step.kernel.params, strict=True)
    }

    def read(name: str, index: tuple[int, ...]) -> int | None:
        kind, number = places[name]
        if kind != "input" or arrays[number].dtype.kind not in "iu":
            return None
        array = arrays[number]
        if len(index) != array.ndim or any(
            not 0 <= i < n for i, n in zip(index, array.shape, strict=True)
        ):
            return None
        return int(array[index])

    return read


Place = tuple[str, int, int]


def _place(plan: Plan, memory: Memory, slot: Slot) -> Place:
    """Memory: a space, where it begins and ends there."""
    if slot.kind == "temp":
        life = memory.lives[slot.index]
        return "arena", life.offset, life.offset + life.bytes
    kind, index = storage(plan, slot)
    return f"{kind} {index}", 0, 1


def distances(steps: Sequence[dict[Place, int]]) -> list[dict[Place, int]]:
    """For each place that a step touches, the bytes touched since it was touched before.

    The steps run again and again: what the first one reads was touched in the run before.
    """
    twice = [*steps, *steps]
    sums = np.concatenate([[0], np.cumsum([sum(step.values()) for step in twice])])
    last: dict[Place, int] = {}  # outside of the arena, where nothing overlaps
    arena: dict[Place, int] = {}
    found = []
    for number, step in enumerate(twice):
        far = {}
        for place in step:
            seen = arena if place[0] == "arena" else last
            inside = [p for p in arena if _overlap(p, place)] if seen is arena else [place]
            before = max((seen[p] for p in inside if p in seen), default=number - len(steps))
            far[place] = int(sums[number + 1] - sums[max(0, before)])
            for p in inside:
                if place[1] <= p[1] and p[2] <= place[2]:
                    seen.pop(p, None)
        for place in step:
            (arena if place[0] == "arena" else last)[place] = number
        found.append(far)
    return found[len(steps) :]


def _overlap(a: Place, b: Place) -> bool:
    return a[1] < b[2] and b[1] < a[2]
