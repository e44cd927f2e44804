"""Smaller models: calibration on text, and a model as a graph of integers.

graph = pl.quantize(model, mode="static", method="mse", tokens=tokens)
pl.compile(graph)(tokens)

pipeline = pl.calibrate(model, recipe, tokens)      # for generate, perplexity, compile ...
model.generate(prompt, pipeline=pipeline)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from planish.frontend.api import compiled
from planish.frontend.clock import layer_clock
from planish.frontend.data import as_tokens
from planish.frontend.trace import spec, trace
from planish.ir.dims import Dim
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.passes.calibrate import Run, Samples
from planish.passes.layers import Layers
from planish.passes.pipeline import Pipeline, check_known, option_names, pass_name
from planish.passes.pipelines import CLEAN, FAST, SMALL
from planish.passes.pipelines import pipeline as pipeline_named
from planish.passes.quantize import Quantize
from planish.passes.reports import Reports, reports
from planish.passes.skip import check_some

PIECES = 32  # of a text, each as long as the context, that are looked at
TOGETHER = 8  # of them in one run
RUNNING = ("pushup", "chunk", "fuse")  # passes from which on a graph is made for running


def samples_of(model: Any, tokens: Any, threads: int | None = None) -> Samples:
    """Pieces of a text, spread evenly over it, as arguments of a model's graph."""
    context, vocab = model.config["max_seq_len"], model.config["vocab_size"]
    text = as_tokens(tokens, vocab)
    count = min(PIECES, len(text) // context)
    if not count:
        raise DataError(
            f"the calibration text has {len(text)} tokens; a context of {context} needs as many"
        )
    starts = np.linspace(0, len(text) - context, count).astype(int)
    pieces = np.stack([text[at : at + context] for at in starts])

    def program(graph: Graph) -> Run:
        form = tuple(map(str, range(len(graph.outputs))))
        return compiled(replace(graph, treedef=form), CLEAN + FAST, threads=threads)

    batches = tuple((pieces[at : at + TOGETHER],) for at in range(0, count, TOGETHER))
    return Samples(batches, program, layer_clock(model, threads))


def calibrate(
    model: Any, pipeline: str | Pipeline, tokens: Any, *, threads: int | None = None
) -> Pipeline:
    """A pipeline whose passes know what the model computes on `tokens`, a text of the context or
    longer. What it knows goes by the names of weights, so it fits all graphs of the model."""
    samples = samples_of(model, tokens, threads)
    return pipeline_named(pipeline).calibrated(forward(model), samples)


def quantize(
    model: Any, *, tokens: Any = None, threads: int | None = None, **options: Any
) -> Graph:
    """The graph of a model, or another graph, with integers for weights and for what they multiply.

    `options` are those of the pass `quantize`: bits, mode, activations, group, per_channel, skip,
    method, faster. With bits=4, tables get 8. mode="static" wants `tokens`: ids of some text for a
    model, `Samples` for a graph. With `faster` ("decode", "prefill", "both") each product by a
    weight is timed, and weights stay that would be slower. DataError refuses an unknown option, a
    weight that is NaN, a pattern that matches nothing, static scales without calibration, and a
    graph that has nothing to quantize, or no more, and says why.
    """
    check_known("quantize", options, (*option_names(Quantize), "tokens", "threads"))
    graph = model if isinstance(model, Graph) else forward(model)
    first = Quantize(**options)
    check_left(CLEAN.run(graph))
    small = SMALL if first.bits == 4 else Pipeline(*SMALL.passes[1:])
    passes = CLEAN + Pipeline(first) + small
    if tokens is not None or first.faster:
        samples = tokens
        if tokens is None:
            samples = Samples(())
        elif not isinstance(tokens, Samples):
            samples = samples_of(model, tokens, threads)
        clock = samples.clock or layer_clock(model, threads)
        passes = passes.calibrated(graph, replace(samples, clock=clock))
    return passes.run(graph)


def check_left(graph: Graph) -> None:
    """Refuse a graph of which no weight can become integers, for one that all are already."""
    nodes = graph.param_nodes.items()
    done = {name: f"it is {x.dtype} already" for name, x in nodes if not x.dtype.is_float}
    check_some("quantize", {**done, **Quantize().reasons(graph)})


def layer_report(
    model: Any, recipe: str | Pipeline, tokens: Any, *, threads: int | None = None
) -> Layers:
    """What a recipe does to each weight of a model and why, how long its products take before and
    after: a line for each, none left out. `tokens`, of the context or longer, are for a recipe that
    is to be calibrated; what it is bound to already stays."""
    return weight_reports(model, recipe, tokens, threads=threads).layers


def weight_reports(
    model: Any, recipe: str | Pipeline, tokens: Any, *, threads: int | None = None
) -> Reports:
    """`layer_report`, with what pruning did, and how weights without zeros are stored."""
    passes = calibrate(model, recipe, tokens, threads=threads)
    return reports(forward(model), passes, layer_clock(model, threads))


def with_faster(recipe: Pipeline, rule: str) -> Pipeline:
    """A recipe whose passes that quantize keep what would be slower by this rule, if any."""
    return Pipeline(
        *(replace(x, faster=rule) if rule and isinstance(x, Quantize) else x for x in recipe.passes)
    )


def forward(model: Any) -> Graph:
    """The graph of a model, for any number of texts of any length."""
    return trace(model, spec(("B", Dim("T", max=model.config["max_seq_len"])), "i32"))


def stored(model: Any, recipe: Pipeline) -> Graph:
    """The graph of a model after a recipe, before it is made for running: what a file holds."""
    names = list(map(pass_name, recipe.passes))
    first = min((names.index(x) for x in RUNNING if x in names), default=len(names))
    return Pipeline(*recipe.passes[:first]).run(forward(model))
