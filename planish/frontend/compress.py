"""Recipes side by side on a trained model: how small, how fast, and what they cost in accuracy.

    table = compress(model, ["O2", "int8", "int4"], tokens)
    print(table); table.plot("frontier.png")

A recipe is a pipeline. Those that want to see text are calibrated on the first half of it, and all
are judged on the second, beside the model as it is. "auto" is the recipe that `auto_recipe` finds
on the first half. Of those that are slower than float32 a line says by how much, and what helps.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from planish.frontend.auto import BUDGET, auto_recipe
from planish.frontend.judge import Judge, halves
from planish.frontend.quantize import calibrate, stored, with_faster
from planish.frontend.slower import LOAD, Slower, slower
from planish.frontend.workloads import Workload, workload
from planish.ir.graph import Graph
from planish.ir.plots import need_plot
from planish.ir.store import save_graph
from planish.passes.compare import show_bytes, title_of
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES
from planish.passes.pipelines import pipeline as pipeline_named
from planish.passes.table import table_text
from planish.runtime.target import Target

PIECES = 64  # of the text, each as long as the context, by which recipes are judged
ROUNDS = 50  # turns of timing, at most
FLOAT = PIPELINES["O2"]  # what recipes are slower than, or faster


@dataclass(frozen=True)
class Row:
    """A recipe. `disk` are bytes of its graph as a file, `memory` those of the weights of decoding.

    `kl` is the mean divergence from the model as it is, in nats; `top1` how often the likeliest
    token is the same.
    """

    recipe: str
    disk: int
    memory: int
    prefill_ms: float
    decode_tokens_per_second: float
    perplexity: float
    kl: float
    top1: float

    def cells(self) -> tuple[str, ...]:
        """As they print."""
        return (
            self.recipe,
            show_bytes(self.disk),
            show_bytes(self.memory),
            f"{self.prefill_ms:.3f}",
            f"{self.decode_tokens_per_second:,.0f}",
            f"{self.perplexity:.4f}",
            f"{self.kl:.5f}",
            f"{self.top1:.2%}",
        )


HEAD = ("recipe", "disk", "memory", "prefill ms", "tokens/s", "perplexity", "KL", "same top")


@dataclass(frozen=True)
class Frontier:
    """Rows of recipes; prints as a table, and a line for each that is slower than float32.

    `pipelines` are the recipes, bound to what they saw.
    """

    rows: tuple[Row, ...]
    pipelines: tuple[Pipeline, ...]
    slower: tuple[Slower, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [asdict(row) for row in self.rows]

    def __str__(self) -> str:
        table = table_text([HEAD, *(row.cells() for row in self.rows)])
        return "\n".join([table, *map(str, self.slower)])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw perplexity against size and against speed."""
        need_plot(path)
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        sides = (
            ("disk", 1 << 20, "MiB on disk"),
            ("decode_tokens_per_second", 1, "tokens/s, decoding"),
        )
        both = figure.subplots(1, 2, sharey=True)
        for axes, (name, unit, label) in zip(both, sides, strict=True):
            for row in self.rows:
                axes.plot(getattr(row, name) / unit, row.perplexity, "o", label=row.recipe)
            axes.set(xlabel=label, xlim=(0, None))
        figure.axes[0].set_ylabel("perplexity")
        figure.axes[1].legend(fontsize="small")
        figure.savefig(path)


def compress(
    model: Any, recipes: str | Pipeline | Iterable[str | Pipeline], tokens: Any, *,
    threads: int | None = None, seconds: float = 1.0, budget: float = BUDGET, faster: str = "",
) -> Frontier:  # fmt: skip
    """A row for each recipe: bytes, times, perplexity, and how far it is from the model as it is.

    `tokens` is a text of at least twice the context. Times are medians of about `seconds` in all,
    programs taking turns: of reading a prompt, and of adding a token, see `workload`.
    `budget` is that of "auto". `faster` ("decode", "prefill", "both") keeps weights as they are
    that fewer bits would make slower; of "auto" it makes the fastest mix.
    """
    recipes = [recipes] if isinstance(recipes, (str, Pipeline)) else recipes
    seen, kept = halves(model, tokens)
    named = [named_recipe(model, x, seen, budget, faster, threads) for x in recipes]
    judge = Judge(model, kept, PIECES, threads)
    judged = [judge(p) for _, p in named]
    passes = [p for _, p in named]
    measured = passes if FLOAT in passes else [*passes, FLOAT]
    loads = [[workload(x, model, pipeline=p, threads=threads) for x in LOAD] for p in measured]
    turns = timed([x for pair in loads for x in pair], seconds)
    times = list(zip(turns[::2], turns[1::2], strict=True))  # of prefill, of decode
    rows, late, before = [], [], times[measured.index(FLOAT)]
    for (name, p), judgement, (_, decode), after in zip(named, judged, loads, times, strict=False):
        memory, disk = decode.bound.program.memory.params, disk_bytes(stored(model, p))
        prefill_ms, each = 1e3 * median(after[0]), 1 / median(after[1])
        rows.append(Row(name, disk, memory, prefill_ms, each, **asdict(judgement)))
        late.append(slower(name, p, before, after, faster, Target.parse()))
    return Frontier(tuple(rows), tuple(passes), tuple(x for x in late if x))


def named_recipe(
    model: Any, recipe: str | Pipeline, seen: Any, budget: float, faster: str, threads: int | None
) -> tuple[str, Pipeline]:
    """A recipe by its title, bound to a text."""
    if recipe == "auto":
        found = auto_recipe(model, seen, budget, faster=faster, threads=threads)
        return recipe, calibrate(model, found.pipeline, seen, threads=threads)
    passes = pipeline_named(recipe)
    name = title_of(recipe, passes)
    return name, calibrate(model, with_faster(passes, faster), seen, threads=threads)


def disk_bytes(graph: Graph) -> int:
    """The size of a graph as a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "graph.safetensors")
        save_graph(graph, path)
        return path.stat().st_size


def timed(loads: Sequence[Workload], seconds: float) -> list[list[float]]:
    """The times of runs of each, in seconds; they take turns."""
    found: list[list[float]] = [[] for _ in loads]
    end = time.perf_counter() + seconds
    for turn in range(ROUNDS + 1):
        for load, times in zip(loads, found, strict=True):
            if load.reset is not None:
                load.reset()
            started = time.perf_counter()
            load.bound.run()
            times.append(time.perf_counter() - started)
        if turn and time.perf_counter() > end:
            break
    return [times[1:] for times in found]
