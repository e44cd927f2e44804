"""Observers of a pipeline: called with each `Step`, they time, write down, compare or check.

    times = Times()
    pipeline.run(graph, observe=(times, Dump("stages"), SameValues()))
    print(times)

They are how passes are looked into; there is no logging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from planish.ir.errors import IRError, PlanishError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.ir.text import graph_text, labels, line_of
from planish.passes.example import example_arrays
from planish.passes.pipeline import Step


@dataclass
class Times:
    """How long each pass took and what it left; prints as a table."""

    steps: list[Step] = field(default_factory=list)

    def __call__(self, step: Step) -> None:
        self.steps.append(step)

    def __str__(self) -> str:
        rows = [
            f"{s.name:<24} {s.seconds * 1e3:8.1f} ms {len(s.before.nodes):6} -> "
            f"{len(s.after.nodes)} nodes"
            for s in self.steps
        ]
        return "\n".join(rows)


@dataclass
class Dump:
    """Write the graph before the first pass and after each to `folder`, numbered in order."""

    folder: str | Path

    def __call__(self, step: Step) -> None:
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        if step.position == 1:
            (folder / "00-traced.ir").write_text(graph_text(step.before) + "\n")
        name = "".join(c if c.isalnum() or c in "_-" else "_" for c in step.name)[:40]
        path = folder / f"{step.position:02}-{name}.ir"
        path.write_text(graph_text(step.after) + "\n")


@dataclass
class Differences:
    """The lines that each pass removed and added, by the nodes that the two graphs share."""

    texts: list[str] = field(default_factory=list)

    def __call__(self, step: Step) -> None:
        self.texts.append(f"{step}\n{difference(step.before, step.after)}")

    def __str__(self) -> str:
        return "\n\n".join(self.texts)


def difference(before: Graph, after: Graph) -> str:
    """Removed lines with `-`, added ones with `+`, each named as in its own graph."""
    gone = [(x, before) for x in before.nodes if x not in set(after.nodes)]
    new = [(x, after) for x in after.nodes if x not in set(before.nodes)]
    names = {before: labels(before), after: labels(after)}
    lines = [f"{mark} {described(x, names[graph])}" for mark, group in (("-", gone), ("+", new))
             for x, graph in group]  # fmt: skip
    return "\n".join(lines) or "  no change"


def described(node: Node, names: dict[Node, str]) -> str:
    """One line of a node, without its attributes."""
    operands = ", ".join(names[x] for x in node.inputs)
    return f"{names[node]} = {node.op.name}({operands}) : {node.type}"


@dataclass
class FiniteValues:
    """Evaluate after each pass and name the first node that is NaN or infinite."""

    arrays: Sequence[Any] | None = None

    def __call__(self, step: Step) -> None:
        arrays = example_arrays(step.after) if self.arrays is None else self.arrays

        def check(node: Node, value: Any) -> None:
            values = value if isinstance(value, tuple) else (value,)
            if node.op.kind != "leaf" and any(bad(x) for x in values):
                shown = f"\n{line_of(step.after, node)}" if node in names else ""
                raise IRError(f"after pass {step}: {node.op.name} is not finite{shown}")

        names = set(step.after.nodes)
        evaluate(step.after, *arrays, observe=check)


def bad(x: Any) -> bool:
    """Whether a float array holds a NaN or an infinity."""
    array = np.asarray(x)
    return array.dtype.kind not in "iub" and not np.isfinite(array.astype(np.float64)).all()


@dataclass
class SameValues:
    """Evaluate before and after each pass, in f64, and refuse a pass that changes an output."""

    arrays: Sequence[Any] | None = None
    rtol: float = 1e-6
    atol: float = 1e-9

    def __call__(self, step: Step) -> None:
        if [x.type for x in step.before.inputs] != [x.type for x in step.after.inputs]:
            return  # the pass changed the signature: nothing to compare
        arrays = example_arrays(step.before) if self.arrays is None else self.arrays
        expected = evaluate(step.before, *arrays, dtype="f64")
        try:
            found = evaluate(step.after, *arrays, dtype="f64")
        except PlanishError as error:
            error.add_note(f"  after pass {step}")
            raise
        for i, (a, b) in enumerate(zip(expected, found, strict=False)):
            if not np.allclose(b, a, self.rtol, self.atol, equal_nan=True):
                raise IRError(
                    f"after pass {step}: output {i} differs by {np.nanmax(np.abs(a - b)):.3g}, "
                    f"allowed is {self.rtol:.3g} relative"
                )
