"""`planish bench`: what this machine can do, and how much of it our own models use."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import click

from planish import __version__
from planish.frontend.cli.common import examples, json_text, note, threads_option
from planish.frontend.cli.table import show_table
from planish.frontend.presets import PRESETS
from planish.frontend.workloads import Workload, workload
from planish.runtime.roof import Roof
from planish.runtime.roofs import fresh_roof
from planish.runtime.target import cpu_name, thread_count

VOCABULARY = 65
# (preset, workload, pipeline, arguments); decode starts after a short prompt and adds `new` tokens
QUICK: tuple[tuple[str, str, str, dict[str, int]], ...] = (
    ("nano", "prefill", "O2", {}),
    ("nano", "decode", "O2", {"length": 16, "new": 47}),
    ("nano", "train", "train", {"batch": 12}),
)
ALL = (
    *QUICK,
    ("baby", "prefill", "O2", {}),
    ("baby", "prefill", "bf16", {}),
    ("baby", "decode", "O2", {"length": 64, "new": 127}),
    ("baby", "decode", "bf16", {"length": 64, "new": 127}),
    ("baby", "train", "train", {"batch": 8}),
)
SECONDS = 1.0  # to spend on the runs of each
RUNS = 3  # at least
COLUMNS = ("workload", "batch", "tokens", "compile s", "ms a run", "least ms", "tokens/s",
           "% of roof")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A workload, timed; times are seconds of a run, of decode those of one token.

    `ideal` is the least time that the machine's roof allows.
    """

    model: str
    workload: str
    pipeline: str
    batch: int
    length: int
    compile_seconds: float
    seconds: float
    least_seconds: float
    tokens_per_second: float
    ideal: float


@click.command(epilog=examples("planish bench", "planish bench --quick", "planish bench --json"))
@click.option("--quick", is_flag=True, help="The small model only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@threads_option
def command(quick: bool, as_json: bool, threads: int | None) -> None:
    """Measure the machine's roofs, then reading, writing and training with random weights.

    nano is 4 layers of width 128, baby 6 layers of width 384. Do it on a quiet machine: times are
    medians, roofs are the best that was seen.
    """
    count = thread_count(threads)
    roofs = [fresh_roof(n) for n in sorted({1, count})]
    if not as_json:
        show_roofs(roofs)
    results = []
    for preset, what, pipeline, options in QUICK if quick else ALL:
        note(f"{preset} {what} {pipeline}")
        results.append(timed(preset, what, pipeline, options, roofs[-1]))
    if as_json:
        print(json_text(facts(roofs, results)))
    else:
        rows = [cells(result) for result in results]
        show_table(f"{count} threads; random weights", COLUMNS, rows)


def timed(preset: str, what: str, pipeline: str, options: dict[str, int], roof: Roof) -> Result:
    """Compile and run one workload."""
    arguments = {name: number for name, number in options.items() if name != "new"}
    model = PRESETS[preset].model(VOCABULARY)
    task = workload(what, model, pipeline=pipeline, threads=roof.threads, **arguments)
    repeat = options.get("new", 1)
    work = task.bound.work()
    times = [x / repeat for x in durations(task, repeat)]
    spent = median(times)
    return Result(
        preset, what, pipeline, task.batch, task.length, task.seconds, spent, min(times),
        task.tokens / spent, sum(x.ideal(roof) for x in work),
    )  # fmt: skip


def durations(task: Workload, repeat: int) -> list[float]:
    """Seconds of each of some runs, after one to warm up; each repeats natively."""
    found: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(found) < RUNS + 1 or time.perf_counter() < end:
        if task.reset is not None:
            task.reset()
        started = time.perf_counter()
        task.bound.run(repeat)
        found.append(time.perf_counter() - started)
    return found[1:]


def facts(roofs: list[Roof], results: list[Result]) -> dict[str, Any]:
    """What --json prints."""
    return {
        "planish": __version__,
        "cpu": cpu_name(),
        "threads": roofs[-1].threads,
        "roofs": [roof.record() for roof in roofs],
        "workloads": [asdict(result) for result in results],
    }


def show_roofs(roofs: list[Roof]) -> None:
    """Print what was measured, a column for each number of threads."""

    def rate(number: float | None, unit: str) -> str:
        return "-" if number is None else f"{number / 1e9:.0f} {unit}"

    rows = [["f32 multiply-add", *(rate(x.fma, "GFLOP/s") for x in roofs)]]
    rows.append(["bf16 dot product", *(rate(x.bf16, "GFLOP/s") for x in roofs)])
    rows.append(["int8 dot product", *(rate(x.int8, "GOP/s") for x in roofs)])
    for level in zip(*(x.readings for x in roofs), strict=True):
        sizes = " / ".join(dict.fromkeys(size(x.size) for x in level))
        rows.append([f"read {level[0].level}, {sizes}", *(rate(x.speed, "GB/s") for x in level)])
    meetings = ["-" if x.barrier is None else f"{1e6 * x.barrier:.2f} us" for x in roofs]
    show_table(
        cpu_name(),
        ("roof", *(f"{x.threads} thread{'s' * (x.threads > 1)}" for x in roofs)),
        [*rows, ["barrier", *meetings]],
    )


def size(number: int) -> str:
    """Bytes for people."""
    return f"{number >> 20} MB" if number >= 1 << 20 else f"{number >> 10} KB"


def cells(x: Result) -> tuple[str, ...]:
    """A row of the table."""
    name = f"{x.model} {x.workload} {'bf16' if x.pipeline == 'bf16' else 'f32'}"
    return (
        name, str(x.batch), str(x.length), f"{x.compile_seconds:.2f}", f"{1e3 * x.seconds:.3g}",
        f"{1e3 * x.least_seconds:.3g}", f"{x.tokens_per_second:,.0f}",
        f"{100 * x.ideal / x.seconds:.0f}",
    )  # fmt: skip
