"""Looking at what a graph computes on real inputs, for passes that want to know.

A pass that has a method `calibrate(graph, samples)` is bound to what it sees before it runs:

    samples = Samples(((tokens,), (more,)))
    bound = Pipeline.parse("expand,quantize{mode=static}").calibrated(graph, samples)
    bound.run(graph)

Each is shown the graph as the passes before it leave it. What it sees goes by the names of weights,
so that a bound pipeline runs on other graphs of the same model, too (those of generation).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.passes.speed import Clock

BINS = 2048  # of a histogram of magnitudes
LEVELS = 127  # magnitudes that i8 tells apart
CANDIDATES = 64  # ranges among which the best is sought
PERCENTILE = 99.99
CLIPPED = 3.0  # times the least error that the range of least divergence may make
METHODS = ("minmax", "percentile", "mse", "entropy")

Run = Callable[..., Sequence[np.ndarray]]


def interpreted(graph: Graph) -> Run:
    """The interpreter as a program."""
    return partial(evaluate, graph)


@dataclass(frozen=True)
class Samples:
    """Arguments of a graph, some for each run; `program` makes a function of a graph, and `clock`
    times it, for passes that want to know."""

    batches: tuple[tuple[np.ndarray, ...], ...]
    program: Callable[[Graph], Run] = field(default=interpreted, compare=False)
    clock: Clock | None = field(default=None, compare=False)

    def values(self, graph: Graph, nodes: Sequence[Node]) -> Iterator[list[np.ndarray]]:
        """The values of nodes of a graph, for each batch."""
        if not self.batches:
            raise DataError("calibration needs at least one batch of inputs, got none")
        if not nodes:
            return
        run = self.program(Graph(graph.name, graph.inputs, tuple(nodes), graph.params))
        for arrays in self.batches:
            yield list(run(*arrays))


def digest(found: Mapping[str, Any]) -> str:
    """A short name for what was found: bound pipelines of one text are not the same."""
    total = hashlib.sha256()
    for name in sorted(found):
        total.update(name.encode())
        for x in found[name] if isinstance(found[name], tuple) else (found[name],):
            total.update(np.ascontiguousarray(x).tobytes())
    return total.hexdigest()[:16]


class Histogram:
    """How often magnitudes occur. The range doubles where it is too small."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0  # of a bin
        self.largest = 0.0

    def add(self, x: np.ndarray) -> None:
        """Count the elements of an array."""
        sizes = np.abs(np.asarray(x, np.float32)).reshape(-1)
        if not sizes.size:
            return
        most = float(sizes.max())
        if not np.isfinite(most):
            raise DataError("calibration met NaN or infinity in an activation")
        self.largest = max(self.largest, most)
        if self.width == 0.0:
            if most == 0.0:
                return
            self.width = most / BINS
        while most > self.width * BINS:
            halves = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([halves, np.zeros(BINS // 2, np.int64)])
            self.width *= 2
        places = np.minimum(sizes / self.width, BINS - 1).astype(np.int64)
        self.counts += np.bincount(places, minlength=BINS)

    @property
    def centres(self) -> np.ndarray:
        """The magnitude that each bin stands for."""
        return (np.arange(BINS) + 0.5) * self.width


class Sides:
    """How often magnitudes occur above 0 and below."""

    def __init__(self) -> None:
        self.above, self.below = Histogram(), Histogram()

    def add(self, x: np.ndarray) -> None:
        """Count the elements of an array."""
        flat = np.asarray(x, np.float32).reshape(-1)
        self.above.add(flat[~(flat <= 0)])  # and NaN, which is refused
        self.below.add(flat[flat < 0])


def scale_by(method: str, seen: Histogram) -> float:
    """The scale of i8 for magnitudes that were seen; 1 where all were 0."""
    if seen.largest == 0.0:
        return 1.0
    return float(np.float32(THRESHOLDS[method](seen, LEVELS) / LEVELS))


def range_by(method: str, seen: Sides) -> tuple[float, float]:
    """The scale and the zero of i8 for what was seen; see `range_of` in the op's file.

    Each side has levels by its share of what was seen, and its end is chosen as if for these.
    """
    sides = sides_of(seen)
    if not any(side.largest for side, _ in sides):
        return 1.0, -float(LEVELS)
    ends = [THRESHOLDS[method](x, levels) if x.largest else 0.0 for x, levels in sides]
    scale = np.float32(sum(ends) / (2 * LEVELS))
    return float(scale), float(np.rint(np.float32(ends[0]) / scale) - LEVELS)


def sides_of(seen: Histogram | Sides) -> list[tuple[Histogram, int]]:
    """What was seen below 0 and above, or both as one; each with its share of the levels."""
    if isinstance(seen, Histogram):
        return [(seen, LEVELS)]
    span = max(seen.below.largest + seen.above.largest, 1e-38)
    both = seen.below, seen.above
    return [(x, max(1, round(2 * LEVELS * x.largest / span))) for x in both]


def fallen(method: str, seen: Histogram | Sides) -> str:
    """That another method chose a range, and why; "" where it did not."""
    there = [(x, levels) for x, levels in sides_of(seen) if x.largest]
    if method != "entropy" or not any(clips(x, levels) for x, levels in there):
        return ""
    return "scale by mse: entropy would clip outliers"


def largest(seen: Histogram, levels: int) -> float:
    """All that was seen."""
    return seen.largest


def percentile(seen: Histogram, levels: int) -> float:
    """All but one in ten thousand."""
    below = np.cumsum(seen.counts)
    at = int(np.searchsorted(below, below[-1] * PERCENTILE / 100))
    return min(seen.largest, (at + 1) * seen.width)


def least_squares(seen: Histogram, levels: int) -> float:
    """The range with the least mean square error: rounding inside, clipping outside."""
    tops = np.linspace(0, seen.largest, CANDIDATES + 1)[1:]
    return float(tops[costs(seen, tops, levels).argmin()])


def costs(seen: Histogram, tops: np.ndarray, levels: int) -> np.ndarray:
    """The sum of squares of the errors that ranges make."""
    x, steps = seen.centres, tops[:, None] / levels
    errors = np.minimum(np.rint(x / steps), levels) * steps - x
    # within a bin, magnitudes are spread: that part of rounding no choice of steps avoids
    return (np.square(errors) * seen.counts).sum(1)


def least_entropy(seen: Histogram, levels: int) -> float:
    """The range of least divergence; of least squares where that one clips what is large."""
    return (least_squares if clips(seen, levels) else least_divergent)(seen, levels)


def clips(seen: Histogram, levels: int) -> bool:
    """Whether the range of least divergence makes far larger errors than the best: with outliers
    all else is in few bins, and whatever is clipped diverges little."""
    tops = np.array([f(seen, levels) for f in (least_divergent, least_squares)])
    own, least = costs(seen, tops, levels)
    return bool(own > CLIPPED * least)


def least_divergent(seen: Histogram, levels: int) -> float:
    """The range whose levels tell most of the distribution (Migacz, "8-bit inference", 2017)."""
    found = [(divergence(seen.counts, n, levels), n) for n in range(levels + 1, BINS + 1, 16)]
    return min(seen.largest, min(found)[1] * seen.width)


def divergence(counts: np.ndarray, kept: int, levels: int) -> float:
    """KL divergence of what is clipped at `kept` bins from the same in so many levels, and 0."""
    p = counts[:kept].astype(np.float64)
    level = np.arange(kept) * (levels + 1) // kept
    there = p > 0
    sums = np.bincount(level, weights=p, minlength=levels + 1)
    shares = np.bincount(level, weights=there, minlength=levels + 1)
    q = np.where(there, (sums / np.maximum(shares, 1))[level], 0.0)
    p[-1] += counts[kept:].sum()
    q[-1] += p[-1] > 0 and q[-1] == 0  # what is clipped falls where nothing was
    both = p > 0
    p, q = p / p.sum(), q / max(q.sum(), 1e-30)
    return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-30))).sum())


THRESHOLDS: Mapping[str, Callable[[Histogram, int], float]] = {
    "minmax": largest,
    "percentile": percentile,
    "mse": least_squares,
    "entropy": least_entropy,
}
