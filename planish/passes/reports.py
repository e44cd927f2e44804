"""All that is reported of weights by one run of a recipe: shapes, bits, zeros, how they are stored.

found = reports(graph, recipe, clock)
print(found); found.records()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from planish.ir.graph import Graph
from planish.passes.bitmap import Bitmap
from planish.passes.layers import FEWER_BITS, Layers, until
from planish.passes.pipeline import Pipeline
from planish.passes.prune import Prune
from planish.passes.shrink import Shrink
from planish.passes.sparsity import Shapes, Stored, Zeros
from planish.passes.speed import Clock

KINDS = ("shapes", "layers", "zeros", "stored")


@dataclass(frozen=True)
class Reports:
    """What `shrink`, passes of fewer bits, `prune` and `bitmap` did; prints as the tables that have
    lines."""

    layers: Layers
    zeros: Zeros
    stored: Stored
    shapes: Shapes

    def records(self) -> dict[str, list[dict[str, Any]]]:
        """For JSON; of what no pass did there are no lines."""
        return {name: getattr(self, name).records() for name in KINDS}

    def __str__(self) -> str:
        tables = [str(x) for x in (getattr(self, name) for name in KINDS) if x.found]
        return "\n\n".join(tables) or "no pass of it changes weights"


def reports(graph: Graph, recipe: Pipeline, clock: Clock | None = None) -> Reports:
    """What a recipe does to the weights of a graph, with times by a clock if there is one."""
    found = Reports(Layers(clock=clock), Zeros(), Stored(), Shapes())
    passes = until(recipe, (*FEWER_BITS, Prune, Bitmap, Shrink))
    passes.run(graph, tuple(getattr(found, x) for x in KINDS))
    return found
