"""Pipelines side by side on one graph: the table of the README, of the command line and of tests.

    table = compare(graph, ["O0", "O2"], arrays, compile=program_of)
    print(table); table.rows[1].kernels; table.plot("pipelines.svg")

This part of planish cannot compile, so the compiler is an argument.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from planish.ir.evaluate import bind_sizes, evaluate
from planish.ir.graph import Graph
from planish.ir.plots import need_plot
from planish.passes.measure import bytes_moved, flops, kernels, live_bytes, weight_bytes
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES, pipeline
from planish.passes.table import table_text

Program = Callable[..., Any]
ROUNDS = 50  # at most; pipelines take turns, so that a busy machine slows all of them


@dataclass(frozen=True)
class Row:
    """One pipeline. Times are seconds, memory is the estimated peak of intermediate values,
    `weights` are bytes of weights as they are stored.

    `error` is the largest difference of an output from the f64 interpreter, relative to the largest
    magnitude in that output. Times are None where nothing was compiled.
    """

    pipeline: str
    nodes: int
    kernels: int
    bytes_moved: int
    flops: int
    memory: int
    weights: int
    compile_seconds: float | None
    run_seconds: float | None
    error: float
    perplexity: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of a comparison; prints aligned."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        shown = [(title, show, name) for title, show, name in COLUMNS if self.has(name)]
        lines = [[title for title, _, _ in shown]]
        lines += [[cell(show, getattr(row, name)) for _, show, name in shown] for row in self.rows]
        return table_text(lines)

    def has(self, name: str) -> bool:
        """Whether any row knows this."""
        return any(getattr(row, name) is not None for row in self.rows)

    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries, for JSON."""
        return [asdict(row) for row in self.rows]

    def plot(self, path: str | Path) -> None:
        """Write bars of what differs most: run time, kernels, bytes moved, memory."""
        need_plot(path)
        from matplotlib.figure import Figure

        wanted = [c for c in COLUMNS if c[2] in PLOTTED and self.has(c[2])]
        figure = Figure(figsize=(3 * len(wanted), 0.5 * len(self.rows) + 1), layout="constrained")
        for axes, (title, show, name) in zip(
            np.atleast_1d(figure.subplots(1, len(wanted), sharey=True)), wanted, strict=True
        ):
            values = [getattr(row, name) or 0 for row in self.rows]
            bars = axes.barh([row.pipeline for row in self.rows], values)
            axes.bar_label(bars, [show(v) for v in values], padding=2)
            axes.set(title=title, xticks=[], xlim=(0, 1.4 * max([*values, 1e-12])))
        figure.axes[0].invert_yaxis()
        figure.savefig(path)


def compare(
    graph: Graph,
    pipelines: Iterable[str | Pipeline],
    arrays: Sequence[Any],
    compile: Callable[[Graph], Program] | None = None,
    perplexity: Callable[[Program], float] | None = None,
    seconds: float = 1.0,
) -> Table:
    """A row for each pipeline, the programs timed in turns for about `seconds` in all.

    `compile` turns an optimised graph into a function of the arrays; without it the interpreter
    judges the numbers and nothing is timed.
    """
    sizes = bind_sizes(graph, [np.shape(x) for x in arrays])
    expected = evaluate(graph, *arrays, dtype="f64")
    entries = []
    for named in pipelines:
        passes = pipeline(named)
        started = time.perf_counter()
        after = passes.run(graph)
        program = compile(after) if compile else None
        spent = time.perf_counter() - started if compile else None
        entries.append((title_of(named, passes), after, program, spent))
    programs = [program for _, _, program, _ in entries]
    times = timed([p for p in programs if p], arrays, seconds, copies=bool(graph.aliases))
    rows = []
    for name, after, program, spent in entries:
        found = (program or interpreted(after))(*fresh(arrays))
        rows.append(
            Row(
                pipeline=name,
                nodes=len(after.nodes),
                kernels=kernels(after),
                bytes_moved=bytes_moved(after, sizes),
                flops=flops(after, sizes),
                memory=live_bytes(after, sizes),
                weights=weight_bytes(after),
                compile_seconds=spent,
                run_seconds=times.pop(0) if program else None,
                error=largest_error(expected, outputs(found)),
                perplexity=perplexity(program) if program and perplexity else None,
            )
        )
    return Table(tuple(rows))


def interpreted(graph: Graph) -> Program:
    """The interpreter as a program."""
    return lambda *arrays: evaluate(graph, *arrays)


def title_of(named: str | Pipeline, passes: Pipeline) -> str:
    """The name of a pipeline, else its text."""
    if isinstance(named, str):
        return named
    return next((name for name, known in PIPELINES.items() if known == passes), str(passes))


def outputs(found: Any) -> tuple:
    """What a program returned, as a tuple."""
    if isinstance(found, dict):
        return tuple(found.values())
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def fresh(arrays: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """Copies: a program may write into donated arguments."""
    return tuple(np.array(x) for x in arrays)


def timed(
    programs: Sequence[Program], arrays: Sequence[Any], seconds: float, copies: bool
) -> list[float]:
    """The median time of each program; they take turns, after one call each to warm up."""
    found: list[list[float]] = [[] for _ in programs]
    for program in programs:
        program(*fresh(arrays))
    end = time.perf_counter() + seconds
    for _ in range(ROUNDS):
        for program, times in zip(programs, found, strict=True):
            given = fresh(arrays) if copies else arrays
            started = time.perf_counter()
            program(*given)
            times.append(time.perf_counter() - started)
        if time.perf_counter() > end:
            break
    return list(map(median, found))


def largest_error(expected: Sequence[np.ndarray], found: Sequence[Any]) -> float:
    """The largest difference of two lists of outputs, relative to each output's magnitude."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b).astype(np.float64)
        both = ~((a == b) | (np.isnan(a) & np.isnan(b)))
        if both.any():
            scale = np.max(np.abs(a), initial=0.0, where=np.isfinite(a)) or 1.0
            differences = np.abs(a[both] - b[both])
            differences[np.isnan(differences)] = np.inf  # a number where NaN is right, or reversed
            worst = max(worst, float(differences.max() / scale))
    return worst


def cell(show: Callable[[Any], str], value: Any) -> str:
    """A value as it prints in the table."""
    return "-" if value is None else show(value)


def show_bytes(n: float) -> str:
    """1536 as 1.5 KiB."""
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"


def show_count(n: float) -> str:
    """1536000 as 1.5 M."""
    for unit in ("", " k", " M"):
        if n < 1000:
            return f"{n:.0f}" if not unit else f"{n:.1f}{unit}"
        n /= 1000
    return f"{n:.1f} G"


def show_seconds(s: float) -> str:
    """0.0015 as 1.50 ms."""
    if s < 1e-3:
        return f"{s * 1e6:.0f} us"
    return f"{s * 1e3:.2f} ms" if s < 1 else f"{s:.2f} s"


COLUMNS: tuple[tuple[str, Callable[[Any], str], str], ...] = (
    ("pipeline", str, "pipeline"),
    ("nodes", str, "nodes"),
    ("kernels", str, "kernels"),
    ("moved", show_bytes, "bytes_moved"),
    ("flops", show_count, "flops"),
    ("memory", show_bytes, "memory"),
    ("weights", show_bytes, "weights"),
    ("compile", show_seconds, "compile_seconds"),
    ("run", show_seconds, "run_seconds"),
    ("error", "{:.1e}".format, "error"),
    ("perplexity", "{:.3f}".format, "perplexity"),
)
PLOTTED = ("run_seconds", "kernels", "bytes_moved", "memory", "weights")
