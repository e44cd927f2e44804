"""Find the pass that breaks something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planish.ir.errors import PlanishError
from planish.ir.graph import Graph
from planish.passes.pipeline import Pipeline


@dataclass(frozen=True)
class Culprit:
    """The first pass after which a check fails: its text, its place from 1, both graphs."""

    name: str
    position: int
    before: Graph
    after: Graph | None  # None where the pass itself failed
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.position})" + (f": {self.reason}" if self.reason else "")


def bisect(graph: Graph, pipeline: Pipeline, check: Callable[[Graph], object]) -> Culprit | None:
    """The first pass of `pipeline` after which `check` is false or raises; None if there is none.

    Passes are pure, so this needs no bisection in truth: every graph on the way is there to check.
    Position 0 means that `check` fails on `graph` itself.
    """
    failed, reason = fails(check, graph)
    if failed:
        return Culprit("the graph itself", 0, graph, graph, reason)
    before, stages = graph, pipeline.trace(graph)
    for position, text in enumerate(str(Pipeline(step)) for step in pipeline.passes):
        try:
            _, after = next(stages)
        except PlanishError as error:
            return Culprit(text, position + 1, before, None, str(error))
        failed, reason = fails(check, after)
        if failed:
            return Culprit(text, position + 1, before, after, reason)
        before = after
    return None


def fails(check: Callable[[Graph], object], graph: Graph) -> tuple[bool, str]:
    """Whether a check is false or raises, and what it says."""
    try:
        found = check(graph)
        return found is not None and not found, ""  # NumPy's False is not `False`
    except Exception as error:  # whatever a user's check raises is the answer
        return True, f"{type(error).__name__}: {error}"
