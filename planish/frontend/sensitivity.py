"""Which layers suffer from a recipe: each is changed alone, the others stay as they are.

report = pl.sensitivity(model, tokens, "int4")
print(report)                   the most sensitive layers first
report.rows[0].layer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from planish.frontend.judge import Judge, halves
from planish.frontend.progress import progress_bar
from planish.frontend.quantize import calibrate, stored
from planish.ir.errors import DataError
from planish.passes.choices import Choices
from planish.passes.compare import show_bytes, title_of
from planish.passes.measure import weight_bytes
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import pipeline as pipeline_named
from planish.passes.table import table_text

PIECES = 32  # of the text, each as long as the context, by which layers are judged
HEAD = ("layer", "saves", "perplexity", "ratio", "KL", "same top")


@dataclass(frozen=True)
class Row:
    """A weight that the recipe changes, alone. `saved` are bytes, `ratio` is that of perplexities.

    `kl` is the mean divergence from the model as it is, in nats; `top1` how often the likeliest
    token is the same.
    """

    layer: str
    saved: int
    perplexity: float
    ratio: float
    kl: float
    top1: float

    def cells(self) -> tuple[str, ...]:
        """As they print."""
        return (
            self.layer,
            show_bytes(self.saved),
            f"{self.perplexity:.4f}",
            f"{self.ratio:.5f}",
            f"{self.kl:.6f}",
            f"{self.top1:.2%}",
        )


@dataclass(frozen=True)
class Sensitivity:
    """Rows of weights, the most sensitive first, and all of them together; prints as a table."""

    recipe: str
    exact: float
    rows: tuple[Row, ...]
    together: Row

    def records(self) -> list[dict[str, Any]]:
        """For JSON; the last is all of them together."""
        return [asdict(row) for row in (*self.rows, self.together)]

    def __str__(self) -> str:
        table = table_text([HEAD, *(row.cells() for row in (*self.rows, self.together))])
        return f"{self.recipe}: perplexity {self.exact:.4f} without\n{table}"


def sensitivity(
    model: Any, tokens: Any, recipe: str | Pipeline = "int8", *, pieces: int = PIECES,
    threads: int | None = None, progress: bool | None = None,
) -> Sensitivity:  # fmt: skip
    """What each weight costs that `recipe` changes, where it is the only one.

    `tokens` is a text of at least twice the context: the recipe is calibrated on its first half,
    and judged by at most `pieces` contexts of its second. A bar shows progress, if standard error
    is a terminal.
    """
    seen, kept = halves(model, tokens)
    passes = calibrate(model, recipe, seen, threads=threads)
    name = title_of(recipe, pipeline_named(recipe))
    judge = Judge(model, kept, pieces, threads)
    choices = Choices.of(passes, judge.graph)
    if not choices.changed:
        raise DataError(f"sensitivity: {name} changes no weight")
    rows = alone(model, judge, choices, choices.changed, progress)
    together = row_of(model, judge, "all of them", passes)
    return Sensitivity(name, judge.exact.perplexity, tuple(rows), together)


def alone(
    model: Any, judge: Judge, choices: Choices, names: Sequence[str], progress: bool | None
) -> list[Row]:
    """A row for each of these weights, changed alone; the most sensitive first."""
    rows = []
    with progress_bar("layers", len(names), progress) as report:
        for done, name in enumerate(names):
            report(done, name)
            rows.append(row_of(model, judge, name, choices.only([name])))
        report(len(rows), "")
    return sorted(rows, key=lambda row: -row.kl)


def row_of(model: Any, judge: Judge, name: str, passes: Pipeline) -> Row:
    """What a recipe saves and costs."""
    found, size = judge(passes), weight_bytes(stored(model, passes))
    saved, ratio = weight_bytes(judge.graph) - size, found.perplexity / judge.exact.perplexity
    return Row(name, saved, found.perplexity, ratio, found.kl, found.top1)
