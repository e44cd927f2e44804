"""What a program tells about itself: its steps. `profile` has the time that each takes."""

from __future__ import annotations

from collections.abc import Sequence

from planish.ir.dims import upper
from planish.runtime.plan import Plan, Step
from planish.runtime.schedule import Schedule
from planish.runtime.slots import Slot


def explain(plan: Plan, symbols: Sequence[str], schedule: Schedule, threads: int) -> str:
    """A table of steps; `runs` and `meet` are explained in `planish.runtime.schedule`."""
    rows = [("step", "label", "kernel", "writes", "bytes", "runs", "meet")]
    for number, (step, symbol) in enumerate(zip(plan.steps, symbols, strict=True)):
        written = ", ".join(str(s.type) for s in _written(step))
        size = _bytes(step.args)
        meet = "yes" if schedule.meets[number] else ""
        rows.append((str(number), step.label, symbol, written, size, schedule.runs[number], meet))
    title = f"{plan.name}: {len(plan.steps)} steps, {len(set(symbols))} kernels, {threads} threads"
    return "\n".join([title, *aligned_rows(rows)])


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


def aligned_rows(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table as lines of text."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
