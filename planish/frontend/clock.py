"""How long a layer alone takes, before and after a pass: programs of one array, timed in turns.

Between two runs as many bytes are read as the model has weights (after the pass: so many of them as
are left), as the other layers of a model would read between two uses of one: a weight comes from
where it comes from in the model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from planish.frontend.api import compiled
from planish.ir.graph import Graph
from planish.passes.measure import weight_bytes
from planish.passes.pipelines import CLEAN, FAST
from planish.passes.speed import Clock, Pair

PROMPT = 256  # rows, where the model is a graph and nobody knows its context
MOST = 1 << 26  # bytes that are read between two runs: more than caches have
TURNS = (9, 60)  # at least, at most
SECONDS = 0.3  # for a pair, after its least number of turns


def layer_clock(model: Any, threads: int | None = None) -> Clock:
    """Times layers as they would run in a model, or in a graph."""
    whole = isinstance(model, Graph)
    rows = PROMPT if whole else model.config["max_seq_len"]
    size = weight_bytes(model) if whole else 4 * model.count_parameters()

    def seconds(before: Graph, after: Graph) -> Pair:
        a, b = run_of(before, size, threads), run_of(after, size, threads)
        return in_turns(a, b)

    return Clock(seconds, rows)


def run_of(graph: Graph, size: int, threads: int | None) -> Callable[[], float]:
    """Runs a layer and says how long that took; `size` are the bytes of all weights in f32."""
    (x,) = graph.inputs
    array = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    program = compiled(graph, CLEAN + FAST, threads=threads, cache=False)
    bound = program.bind(array)
    own = sum(4 * n.type.size for n in graph.param_nodes.values())
    stored = program.memory.params
    others = np.ones(min(MOST, math.ceil(size * stored / own)) // 4, np.float32)

    def run() -> float:
        others.sum()
        array.sum()  # which in a model has just been made
        started = time.perf_counter()
        bound.run()
        return time.perf_counter() - started

    return run


def in_turns(a: Callable[[], float], b: Callable[[], float]) -> Pair:
    """The medians of two, the first turn left out."""
    found: list[tuple[float, float]] = []
    end = time.perf_counter() + SECONDS
    for turn in range(TURNS[1] + 1):
        found.append((a(), b()))
        if turn >= TURNS[0] and time.perf_counter() > end:
            break
    before, after = zip(*found[1:], strict=True)
    return median(before), median(after)
