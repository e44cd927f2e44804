"""What benchmarks of smaller models share: judging by caches, timing in turns, progress."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from statistics import median

import numpy as np

import planish as pl
from planish.frontend.api import compiled
from planish.frontend.judge import Judgement
from planish.frontend.perplexity import log_softmax
from planish.frontend.workloads import Workload
from planish.passes.pipeline import Pipeline

TURNS, SECONDS = 8, 0.15  # of timing, for each program


def note(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


class CacheJudge:
    """Judges recipes by what a model says after each token of pieces [B, T] of a text.

    Every token is the next one of the text, whatever the model prefers, and all keys come from the
    caches. `size` is the bytes of a text's caches with the recipe judged last.
    """

    def __init__(self, model: pl.TinyGPT, pieces: np.ndarray, threads: int | None = None):
        self.model, self.pieces, self.threads, self.size = model, pieces, threads, 0
        self._exact = self._log_probabilities(pl.PIPELINES["O2"])

    def __call__(self, recipe: Pipeline) -> Judgement:
        """As `planish.frontend.judge.Judge` does."""
        exact, found = self._exact, self._log_probabilities(recipe)
        loss = -np.take_along_axis(found[:, :-1], self.pieces[:, 1:, None], -1).mean()
        kl = (np.exp(exact) * (exact - found)).sum(-1).mean()
        same = (exact.argmax(-1) == found.argmax(-1)).mean()
        return Judgement(math.exp(loss), float(kl), float(same))

    def _log_probabilities(self, recipe: Pipeline) -> np.ndarray:
        rows, length = self.pieces.shape
        specs = pl.spec((rows,), "i32"), pl.spec((rows,), "i32"), self.model.cache_specs(rows)

        def step(tokens: object, pos: object, caches: object) -> object:
            logits, caches = self.model.decode_step(tokens, caches, pos)
            return caches, logits

        program = compiled(pl.trace(step, *specs, donate={2: 0}), recipe, threads=self.threads)
        state = [np.zeros(x.type.shape, x.type.dtype.numpy) for x in program.image.inputs]
        bound = program.bind(*state)
        self.size = sum(c.nbytes for c in state[2:]) // rows
        found = []
        for place in range(length):
            state[0][...], state[1][...] = self.pieces[:, place], place
            bound.run()
            found.append(log_softmax(bound.outputs[-1]))
        return np.stack(found, 1)


def in_turns(loads: Sequence[Workload]) -> list[float]:
    """The median time of a run of each, in ms. A turn is many runs, as caches are warm in use."""
    found: list[list[float]] = [[] for _ in loads]
    for _ in range(TURNS):
        for job, times in zip(loads, found, strict=True):
            end = time.perf_counter() + SECONDS
            mine: list[float] = []
            while len(mine) < 3 or time.perf_counter() < end:
                if job.reset is not None:
                    job.reset()
                started = time.perf_counter()
                job.bound.run()
                mine.append(1e3 * (time.perf_counter() - started))
            times += mine[1:]
    return [median(times) for times in found]
