"""How well a model knows a text: the mean loss of its tokens, and the perplexity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from planish.frontend.data import as_tokens, check_length, whole_number, windows
from planish.frontend.step import Interpreted, Native, loss_graph
from planish.frontend.tokenizers.base import Tokenizer
from planish.passes.pipeline import Pipeline

Engine = Native | Interpreted


def mean_loss(engine: Engine, x: np.ndarray, y: np.ndarray, tokens: np.ndarray) -> float:
    """The mean loss over all tokens but the first, by an engine that reads x and y."""
    total = 0.0
    for tokens_in, targets, count in windows(tokens, *x.shape):
        x[...], y[...] = tokens_in, targets
        total += float(engine.run()[0]) * count
    return total / (len(tokens) - 1)


def perplexity(
    model: Any, text: Any, *, tokenizer: Tokenizer | None = None, batch: int = 8,
    context: int | None = None, pipeline: str | Pipeline = "O2", threads: int | None = None,
) -> float:  # fmt: skip
    """exp of the mean loss of `model` over all of `text` (tokens; a str with a tokenizer)."""
    config = getattr(model, "config", {})
    context = whole_number("context", context or config.get("max_seq_len"), 1)
    tokens = as_tokens(tokenizer.encode(text) if tokenizer else text, config.get("vocab_size"))
    check_length(tokens, 1)
    x, y = np.zeros((2, whole_number("batch", batch, 1), context), np.int32)
    engine = Native(loss_graph(model, *x.shape), [x, y], pipeline, threads)
    return math.exp(mean_loss(engine, x, y, tokens))
