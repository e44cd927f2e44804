"""How near a recipe leaves a model to what it is: perplexity, divergence, the likeliest tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.frontend.api import compiled
from planish.frontend.data import as_tokens, whole_number
from planish.frontend.perplexity import log_softmax
from planish.frontend.quantize import forward
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES
from planish.runtime.packing import Panels

MEMORY = 2**30  # bytes of probabilities that are kept, at most: those of some pieces


@dataclass(frozen=True)
class Judgement:
    """Of a recipe on some text; `kl` in nats, `top1` how often the likeliest token is the same."""

    perplexity: float
    kl: float
    top1: float


class Judge:
    """Judges recipes by `count` pieces of a text, beside the model as it is, which is `exact`.

    `tokens` are at least a context. Pieces are fewer where their probabilities take much memory.
    """

    def __init__(self, model: Any, tokens: np.ndarray, count: int, threads: int | None = None):
        context, vocab = model.config["max_seq_len"], model.config["vocab_size"]
        count = whole_number("pieces", count, 1)
        count = min(count, len(tokens) // context, max(1, MEMORY // (4 * context * vocab)))
        self.graph: Graph = forward(model)
        self._kernels: dict[tuple, Any] = {}  # of recipes, which have most in common
        self.pieces, self.threads = tokens[: count * context].reshape(count, context), threads
        found = self._log_probabilities(PIPELINES["O2"])
        self._exact = [x.astype(np.float32) for x in found]
        self.exact = self(PIPELINES["O2"])

    def __call__(self, recipe: Pipeline) -> Judgement:
        """Perplexity, KL divergence, and how often the likeliest token is the same."""
        loss = kl = same = 0.0
        for exact, found, piece in zip(
            self._exact, self._log_probabilities(recipe), self.pieces, strict=True
        ):
            loss -= float(np.take_along_axis(found[:-1], piece[1:, None], -1).mean())
            near = found.astype(np.float32)  # as what is exact was kept
            kl += float((np.exp(exact, dtype=np.float64) * (exact - near)).sum(-1).mean())
            same += float((exact.argmax(-1) == near.argmax(-1)).mean())
        count = len(self.pieces)
        return Judgement(math.exp(loss / count), kl / count, same / count)

    def _log_probabilities(self, recipe: Pipeline) -> Iterator[np.ndarray]:
        """Of every token at every place of each piece."""
        panels = Panels(self._kernels)
        program = compiled(self.graph, recipe, None, self.threads, panels, cache=False)
        return (log_softmax(program(piece[None])[0]) for piece in self.pieces)


def halves(model: Any, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
    """A text to look at, and another to judge by, each of at least a context."""
    context = model.config["max_seq_len"]
    text = as_tokens(tokens, model.config["vocab_size"])
    if context < 2:
        raise DataError("a model with a context of 1 predicts no token of a text to be judged by")
    if len(text) < 2 * context:
        raise DataError(
            f"the text has {len(text)} tokens; to calibrate and to judge at a context of {context} "
            f"takes at least {2 * context}"
        )
    return text[: len(text) // 2], text[len(text) // 2 :]
