"""A recording: when each thread did each step of one run, and when it waited for others.

Nothing is added to the run but a look at the clock before and after a step, so unlike in a profile
the threads meet only where they would meet anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.runtime.codegen.sync import RECORDING

SEEN = 5e-8  # seconds; shorter ones are threads that had no share of a step


@dataclass(frozen=True, slots=True)
class Span:
    """A thread doing a step: numbers of both, and seconds from the beginning of the run."""

    thread: int
    step: int
    begin: float
    end: float


def blank(steps: int, threads: int) -> np.ndarray:
    """What a run fills in: ends of `steps`, after the beginning, then begins of those that met."""
    length = 2 * steps + 1
    words = np.zeros(2 + threads * length, np.int64)
    words[:2] = RECORDING, length
    return words


def spans(words: np.ndarray, steps: int, threads: int, tick: float) -> tuple[Span, ...]:
    """Who did what when, by step; `tick` is how many seconds a count of the clock takes."""
    times = words[2:].reshape(threads, 2 * steps + 1)
    ends, met = times[:, 1 : steps + 1], times[:, steps + 1 :]
    before = times[:, :steps]  # where a step did not wait, it begins when the one before it ends
    begins = np.where(met != 0, met, before)
    first = int(times[:, 0].min())
    found = []
    for step in range(steps):
        took = ends[:, step] - begins[:, step]
        least = min(SEEN, float(took.max()) * tick)
        for thread in range(threads):
            if took[thread] * tick >= least:
                begin, end = (int(x[thread, step]) - first for x in (begins, ends))
                found.append(Span(thread, step, begin * tick, end * tick))
    return tuple(found)


def trace_events(
    name: str, labels: Sequence[str], layers: Sequence[str], facts: Sequence[dict[str, Any]],
    recorded: Sequence[Span],
) -> dict[str, Any]:  # fmt: skip
    """Chrome's trace format: a track for each thread, microseconds, categories by layer."""
    process = {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": name}}
    tracks = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": n, "args": {"name": f"thread {n}"}}
        for n in sorted({x.thread for x in recorded})
    ]
    events = [
        {
            "name": labels[x.step], "cat": layers[x.step] or "model", "ph": "X", "pid": 0,
            "tid": x.thread, "ts": 1e6 * x.begin, "dur": 1e6 * (x.end - x.begin),
            "args": facts[x.step],
        }
        for x in recorded
    ]  # fmt: skip
    return {"traceEvents": [process, *tracks, *events], "displayTimeUnit": "ns"}
