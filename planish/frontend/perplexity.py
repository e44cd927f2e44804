"""Perplexity: of a model, of a graph or a compiled program, and of one in a file."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.api import compiled
from planish.frontend.compiled import KINDS
from planish.frontend.data import as_tokens, check_length, whole_number, windows
from planish.frontend.saved import load
from planish.frontend.step import Interpreted, Native, loss_graph
from planish.frontend.tokenizers.base import Tokenizer
from planish.ir.dims import upper
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.ir.store import load_graph
from planish.passes.pipeline import Pipeline
from planish.runtime.program import Program

Engine = Native | Interpreted


def perplexity(
    model: Any, text: Any, *, tokenizer: Tokenizer | None = None, batch: int | None = None,
    context: int | None = None, pipeline: str | Pipeline | None = None, threads: int | None = None,
) -> float:  # fmt: skip
    """exp of the mean loss of `model` over all of `text` (tokens; a str with a tokenizer).

    In place of a model stands a graph or a program from tokens [B, T] to logits [B, T, V], or the
    path of one that was saved. The text is read in pieces of `context` tokens, by default as many
    as the model takes, `batch` of them at once (8). `pipeline` (O2) is for what is not compiled.
    """
    words = tokenizer.encode(text) if tokenizer else text
    if isinstance(model, (str, os.PathLike)):
        path, is_code = model, Path(model).suffix in KINDS
        model = load(path, threads) if is_code else load_graph(path)
        if is_code and not isinstance(model, Program):
            raise DataError(f"perplexity: {path} writes text; save the program that has logits")
    if isinstance(model, Graph):
        model, pipeline = compiled(model, pipeline or "O2", threads=threads), None
    if isinstance(model, Program):
        if pipeline is not None:
            raise DataError(f"perplexity: a program is compiled; pipeline={pipeline!r} is too late")
        return _of_program(model, words, batch, context)
    config = getattr(model, "config", {})
    context = whole_number("context", context or config.get("max_seq_len"), 1)
    tokens = as_tokens(words, config.get("vocab_size"))
    check_length(tokens, 1)
    x, y = np.zeros((2, whole_number("batch", batch or 8, 1), context), np.int32)
    engine = Native(loss_graph(model, *x.shape), [x, y], pipeline or "O2", threads)
    return math.exp(mean_loss(engine, x, y, tokens))


def mean_loss(engine: Engine, x: np.ndarray, y: np.ndarray, tokens: np.ndarray) -> float:
    """The mean loss over all tokens but the first, by an engine that reads x and y."""
    total = 0.0
    for tokens_in, targets, count in windows(tokens, *x.shape):
        x[...], y[...] = tokens_in, targets
        total += float(engine.run()[0]) * count
    return total / (len(tokens) - 1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The logarithms of the probabilities of tokens, in f64."""
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _of_program(program: Program, words: Any, batch: int | None, context: int | None) -> float:
    """By the logits of a program."""
    given, made = program.image.inputs, program.image.outputs
    ranks = [[x.type.rank for x in slots] for slots in (given, made)]
    if ranks != [[2], [3]] or not given[0].type.dtype.is_int:
        types = ", ".join(str(x.type) for x in given), ", ".join(str(x.type) for x in made)
        raise DataError(
            f"perplexity takes a program from tokens [B, T] to logits [B, T, V], got one from "
            f"{types[0]} to {types[1]}"
        )
    sizes = []
    for name, value, size in zip(
        ("batch", "context"), (batch, context), given[0].type.shape, strict=True
    ):
        known = size if isinstance(size, int) else None
        chosen = value or known or (8 if name == "batch" else upper(size))
        sizes.append(whole_number(name, chosen, 1))
        if known is not None and sizes[-1] != known:
            raise DataError(f"{name} is {known} in this program, got {name}={value}")
    tokens = as_tokens(words, upper(made[0].type.shape[2]))
    check_length(tokens, 1)
    total = 0.0
    for x, y, count in windows(tokens, *sizes):
        found = log_softmax(np.asarray(program(x)).reshape(x.size, -1)[:count])
        total -= float(np.take_along_axis(found, y.reshape(-1, 1)[:count], 1).sum())
    return math.exp(total / (len(tokens) - 1))
