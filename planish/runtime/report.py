"""What a program tells about itself: its steps, and the time that each takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from planish.ir.dims import upper
from planish.runtime.plan import Plan, Slot, Step


def explain(plan: Plan, symbols: Sequence[str], barriers: Sequence[bool], threads: int) -> str:
    """A table of steps."""
    rows = [("step", "label", "kernel", "writes", "bytes", "meet")]
    for number, (step, symbol) in enumerate(zip(plan.steps, symbols, strict=True)):
        written = ", ".join(str(s.type) for s in _written(step))
        size = _bytes(step.args)
        meet = "yes" if barriers[number] else ""
        rows.append((str(number), step.label, symbol, written, size, meet))
    title = f"{plan.name}: {len(plan.steps)} steps, {len(set(symbols))} kernels, {threads} threads"
    return "\n".join([title, *_aligned(rows)])


def _written(step: Step) -> list[Slot]:
    pairs = zip(step.args, step.kernel.params, strict=True)
    return [slot for slot, buffer in pairs if buffer.name in step.kernel.writes]


def _bytes(slots: Sequence[Slot]) -> str:
    total = 0
    for slot in slots:
        count = upper(slot.type.size)
        if count is None:
            return "?"
        total += count * slot.type.dtype.itemsize
    return f"{total:,}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """A step of a profile: seconds of one run, and the bytes of its arguments."""

    label: str
    kernel: str
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Profile:
    """The time of each step, in order; `seconds` is that of a whole run."""

    rows: tuple[Row, ...]
    seconds: float

    def __str__(self) -> str:
        table = [("label", "kernel", "us", "%", "GB/s")]
        for row in sorted(self.rows, key=lambda row: -row.seconds):
            share = 100 * row.seconds / self.seconds if self.seconds else 0.0
            speed = row.bytes / row.seconds / 1e9 if row.seconds else 0.0
            table.append(
                (row.label, row.kernel, f"{1e6 * row.seconds:.1f}", f"{share:.1f}", f"{speed:.1f}")
            )
        return "\n".join([f"{1e6 * self.seconds:.1f} us a run", *_aligned(table)])


def timed(work: Callable[[], None]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def profile(
    plan: Plan, ticks: np.ndarray, seconds: float, repeat: int, sizes: Sequence[int]
) -> Profile:
    """Ticks of a counter as seconds: all of them together took `seconds`."""
    second = seconds / max(1, int(ticks.sum())) / repeat
    rows = tuple(
        Row(step.label, step.kernel.name, int(count) * second, size)
        for step, count, size in zip(plan.steps, ticks, sizes, strict=True)
    )
    return Profile(rows, seconds / repeat)
