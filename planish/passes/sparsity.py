"""What pruning does to each weight, and how it is stored then: one line each, none left out.

shapes, found, stored = Shapes(), Zeros(), Stored()
pipeline.run(graph, observe=(shapes, found, stored))
print(shapes)
print(found)
print(stored)

Which kernels read what is stored without its zeros, depends on the target: the labels of
`program.explain()` say it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.ir.ops.sparse import bitmap_bytes
from planish.passes.bitmap import Bitmap
from planish.passes.pipeline import Step
from planish.passes.prune import Prune
from planish.passes.shrink import Shrink
from planish.passes.table import table_text
from planish.passes.units import units

SHAPES = ("layer", "shape", "after", "kept", "why")
HEAD = ("layer", "shape", "zeros", "kept", "why")
KEPT = ("layer", "shape", "dtype", "zeros", "bytes", "of dense", "why")


@dataclass(frozen=True)
class Shape:
    """A weight before and after heads or channels went, and the share of its squares left; one of a
    layer that went has no shape after."""

    name: str
    shape: tuple[int, ...]
    after: tuple[int, ...]
    kept: float
    reason: str

    def cells(self) -> tuple[str, ...]:
        """As they print."""
        sizes = ("x".join(map(str, x)) for x in (self.shape, self.after))
        return self.name, *sizes, f"{self.kept:.3f}", self.reason


def shapes(before: Graph, after: Graph, options: Shrink) -> tuple[Shape, ...]:
    """The matrices of products in a graph before and after a pass with these options."""
    lost: dict[str, list[str]] = {}
    told: dict[str, str] = {}
    for one in units(before):
        share = getattr(options, one.kind)
        told[one.name] = one.why or f"{one.kind}=0"
        if share and not one.why:
            text = f"{round(share * one.count)} of {one.count} {one.kind}"
            for name in one.weights():
                lost.setdefault(name, []).append(text)
    return tuple(
        _shape(before, after, name, " and ".join(lost.get(name, ())) or f"stays: {why}")
        for name, why in told.items()
        if name in before.params
    )


def _shape(before: Graph, after: Graph, name: str, reason: str) -> Shape:
    old, new = before.params[name], after.params.get(name)
    if new is None:
        return Shape(name, old.shape, (), 0.0, "its layer goes")
    power, left = (float(np.square(x.astype(np.float64)).sum()) for x in (old, new))
    return Shape(name, old.shape, new.shape, left / power if power else 1.0, reason)


@dataclass
class Shapes:
    """An observer of pipelines that collects `shapes` of each pass that shrinks; prints as a
    table."""

    found: list[Shape] = field(default_factory=list)

    def __call__(self, step: Step) -> None:
        if isinstance(step.ran, Shrink):
            self.found.extend(shapes(step.before, step.after, step.ran))

    def records(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [asdict(x) for x in self.found]

    def __str__(self) -> str:
        return table_text([SHAPES, *(x.cells() for x in self.found)], (0, len(SHAPES) - 1))


@dataclass(frozen=True)
class Zeroed:
    """A weight after pruning: the share of it that is 0, and of its squares that is left."""

    name: str
    shape: tuple[int, ...]
    zeros: float
    kept: float
    reason: str

    def cells(self) -> tuple[str, ...]:
        """As they print."""
        size = "x".join(map(str, self.shape))
        return self.name, size, f"{self.zeros:.3f}", f"{self.kept:.3f}", self.reason


def zeroed(before: Graph, after: Graph, options: Prune) -> tuple[Zeroed, ...]:
    """The weights of a graph before and after a pass with these options."""
    reasons, nodes = options.reasons(before), before.param_nodes
    return tuple(
        _line(nodes[name], before.params[name], after.params[name], why, options)
        for name, why in reasons.items()
        if name in before.params
    )


def _line(node: Node, old: np.ndarray, new: np.ndarray, why: str, options: Prune) -> Zeroed:
    size = max(1, math.prod(node.shape))
    power, left = (float(np.square(x.astype(np.float64)).sum()) for x in (old, new))
    reason = f"stays: {why}" if why else f"{options.method}, by {options.pattern or options.scope}"
    zeros = 1 - np.count_nonzero(new) / size
    return Zeroed(node.attrs["name"], node.shape, zeros, left / power if power else 1.0, reason)


@dataclass
class Zeros:
    """An observer of pipelines that collects `zeroed` of each pruning; prints as a table."""

    found: list[Zeroed] = field(default_factory=list)

    def __call__(self, step: Step) -> None:
        if isinstance(step.ran, Prune):
            self.found.extend(zeroed(step.before, step.after, step.ran))

    def records(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [asdict(x) for x in self.found]

    def __str__(self) -> str:
        return table_text([HEAD, *(x.cells() for x in self.found)], (0, len(HEAD) - 1))


@dataclass(frozen=True)
class Kept:
    """A weight as the pass `bitmap` stores it: its zeros, its bytes, and why so."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    zeros: float
    bytes: int
    bytes_before: int
    reason: str

    def cells(self) -> tuple[str, ...]:
        """As they print."""
        size, share = "x".join(map(str, self.shape)), self.bytes / max(1, self.bytes_before)
        texts = (f"{self.zeros:.3f}", f"{self.bytes:,}", f"{share:.3f}", self.reason)
        return self.name, size, self.dtype, *texts


def kept(graph: Graph, options: Bitmap) -> tuple[Kept, ...]:
    """The weights of a graph, as a pass with these options will store them."""
    found = []
    for name, why in options.reasons(graph).items():
        array, node = graph.params[name], graph.param_nodes[name]
        zeros = 1 - np.count_nonzero(array) / max(1, array.size)
        size, reason = (array.nbytes, f"stays: {why}") if why else (bitmap_bytes(array), "bitmap")
        found.append(Kept(name, node.shape, str(node.dtype), zeros, size, array.nbytes, reason))
    return tuple(found)


@dataclass
class Stored:
    """An observer of pipelines that collects `kept` of each pass `bitmap`; prints as a table."""

    found: list[Kept] = field(default_factory=list)

    def __call__(self, step: Step) -> None:
        if isinstance(step.ran, Bitmap):
            self.found.extend(kept(step.before, step.ran))

    def records(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [asdict(x) for x in self.found]

    def __str__(self) -> str:
        before, after = (sum(getattr(x, n) for x in self.found) for n in ("bytes_before", "bytes"))
        total = ("all", "", "", "", f"{after:,}", f"{after / max(1, before):.3f}", "")
        return table_text([KEPT, *(x.cells() for x in self.found), total], (0, len(KEPT) - 1))
