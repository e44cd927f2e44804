"""Pruning for users: of a model, which stays one, or of a graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from planish.frontend.data import as_tokens
from planish.frontend.structured import Shares, pieces, shrunk, with_state
from planish.frontend.trace import spec, trace
from planish.ir.dims import Dim
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.passes.calibrate import Samples
from planish.passes.pipeline import check_known, option_names
from planish.passes.prune import Prune, norms_seen


def prune(
    model: Any, ratio: float | None = None, *, method: str = "magnitude", scope: str = "tensor",
    pattern: str = "", skip: str = "", tokens: Any = None, heads: float = 0.0,
    channels: float = 0.0, layers: float = 0.0, **unknown: Any,
) -> Any:  # fmt: skip
    """A model, or a graph, with the weights set to zero that matter least.

    >>> import planish as pl
    >>> model = pl.TinyGPT(65, embed_dim=32, num_layers=2, num_heads=2, max_seq_len=16)
    >>> small = pl.prune(model, 0.7, skip="wte")
    >>> float((small.h[0].mlp.c_fc.weight.array == 0).mean().round(2))
    0.7
    >>> pl.prune(model, heads=0.5, channels=0.5).h[0].mlp.c_fc.weight.array.shape
    (64, 32)

    The given one stays as it is. `ratio`, `scope`, `pattern` and `skip` are those of the pass
    `prune`. `heads`, `channels` and `layers` are shares of a TinyGPT's heads, MLP channels and
    layers that go as a whole, so that a smaller model is left; without them `ratio` must be given.

    `method` is "magnitude" or "wanda"; for heads, channels and layers "magnitude", "activation" or
    "taylor". With "activation" weights that go singly, too, go by "wanda", which is the same score.
    All but the first read `tokens`: ids of some text for a model, the arguments of one run for a
    graph.
    """
    check_known("prune", unknown, (*option_names(Prune), "tokens", *option_names(Shares)))
    shares = Shares(heads, channels, layers)
    own = "wanda" if shares and method == "activation" else method
    options = Prune(ratio, own, scope, pattern, skip) if not shares or ratio or pattern else None
    if isinstance(model, Graph):
        if shares or options is None:
            raise DataError("prune: heads, channels and layers are those of a model")
        return options.run(model, _norms(options, model, None if tokens is None else [tokens]))
    ids = None if tokens is None else as_tokens(tokens, model.config["vocab_size"])
    if shares:
        model = shrunk(model, shares, method, ids)
    return model if options is None else _zeroed(model, options, ids)


def _zeroed(model: Any, options: Prune, ids: np.ndarray | None) -> Any:
    graph = trace(model, spec(("B", Dim("T", max=model.config["max_seq_len"])), "i32"))
    runs = None if ids is None else pieces(model, ids)
    weights = options.run(graph, _norms(options, graph, runs)).params
    return with_state(model, {**model.state_dict(), **weights})


def _norms(options: Prune, graph: Graph, runs: Iterable[Any] | None) -> dict[str, np.ndarray]:
    if options.method == "magnitude":
        return {}
    if runs is None:
        raise DataError(f"prune: method={options.method!r} needs tokens: ids of some text")
    return norms_seen(graph, Samples(tuple(runs)))
