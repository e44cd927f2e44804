"""Structured pruning of TinyGPT: heads, channels of MLPs and whole layers go, and shapes shrink.

The result is a smaller model like any other: it can be trained, saved, compiled for any target.
Every layer keeps as many heads and channels as the others. What goes is decided by a score of each
number of the weights, of which a head, a channel or a layer has the sum of squares:

    magnitude  the weight
    wanda      the weight times the norm of what it multiplies over some text (Sun et al. 2023)
    taylor     the weight times its gradient over some text: to first order what the loss changes by
               when it goes (Molchanov et al. 2019)

Heads that share keys and values go together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.frontend.nn.layers import BLANK
from planish.frontend.step import loss_graph
from planish.frontend.trace import spec, trace
from planish.ir.dims import Dim
from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.passes.autodiff import Grad
from planish.passes.finite import check_finite
from planish.passes.norms import input_norms
from planish.passes.prune import check_ratio

METHODS = ("magnitude", "wanda", "taylor")
ROWS = 8  # pieces of text that the interpreter reads at once

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Shares:
    """How much goes: shares of the heads and channels of each layer, and of the layers."""

    heads: float = 0.0
    channels: float = 0.0
    layers: float = 0.0

    def __post_init__(self) -> None:
        for name in ("heads", "channels", "layers"):
            check_ratio(f"prune: {name}", getattr(self, name))

    def __bool__(self) -> bool:
        return any((self.heads, self.channels, self.layers))


def shrunk(model: Any, shares: Shares, method: str, tokens: np.ndarray | None) -> Any:
    """A smaller model with the heads, channels and layers that matter most."""
    config, state = model.config, model.state_dict()
    groups = config["num_kv_heads"] or config["num_heads"]
    each = config["num_heads"] // groups
    hidden = state["h.0.mlp.c_fc.weight"].shape[0]
    kept = {
        "heads": left("heads", shares.heads, groups),
        "channels": left("channels", shares.channels, hidden),
        "layers": left("layers", shares.layers, config["num_layers"]),
    }
    scores = squares(model, method, tokens)
    layers = best(layer_scores(scores, config["num_layers"]), kept["layers"])
    width = config["head_dim"] or config["embed_dim"] // config["num_heads"]
    new = {n: x for n, x in state.items() if not n.startswith("h.")}
    for number, i in enumerate(layers):
        block = {n.removeprefix(f"h.{i}."): x for n, x in state.items() if n.startswith(f"h.{i}.")}
        own = {n: scores[f"h.{i}.{n}"] for n in block if f"h.{i}.{n}" in scores}
        block |= fewer_channels(block, own, kept["channels"])
        block |= fewer_heads(block, own, Heads(groups, each, width), kept["heads"])
        new.update({f"h.{number}.{n}": x for n, x in block.items()})
    sizes = {
        "num_layers": kept["layers"],
        "num_heads": kept["heads"] * each,
        "num_kv_heads": config["num_kv_heads"] and kept["heads"],
        "head_dim": width if shares.heads else config["head_dim"],
        "hidden_dim": kept["channels"] if shares.channels else config["hidden_dim"],
    }
    return with_state(model, new, **sizes)


def with_state(model: Any, state: Arrays, **sizes: Any) -> Any:
    """A model like this one but for some sizes, with these weights."""
    made = type(model)(**{**model.config, **sizes, "seed": BLANK})
    made.load_state_dict(state)
    made.config["seed"] = model.config["seed"]
    return made


def left(what: str, ratio: float, count: int) -> int:
    """How many of `count` stay; at least one must."""
    found = count - round(ratio * count)
    if found < 1:
        raise DataError(f"prune: {what}={ratio} leaves none of {count}; at least one must stay")
    return found


def best(scores: np.ndarray, count: int) -> list[int]:
    """The places of the `count` largest, in order; the last of equal ones."""
    return sorted(np.argsort(scores, kind="stable")[len(scores) - count :].tolist())


def squares(model: Any, method: str, tokens: np.ndarray | None) -> dict[str, np.ndarray]:
    """The squared score of each number of each matrix of the layers."""
    if method not in METHODS:
        raise DataError(f"prune: method is one of {', '.join(METHODS)}, got {method!r}")
    state = model.state_dict()
    weights = {n: x for n, x in state.items() if n.startswith("h.") and x.ndim == 2}
    for name, x in weights.items():
        check_finite("prune", name, x)
    factors: dict[str, Any] = dict.fromkeys(weights, 1)
    if method != "magnitude" and tokens is None:
        raise DataError(f"prune: method={method!r} needs tokens: ids of some text")
    if method == "wanda":
        length = Dim("T", max=model.config["max_seq_len"])
        graph = trace(model, spec(("B", length), "i32"))
        factors = input_norms(graph, pieces(model, tokens))
    elif method == "taylor":
        factors = gradients(model, list(weights), tokens)
    return {n: np.square(x * factors[n], dtype=np.float64) for n, x in weights.items()}


def gradients(model: Any, names: Sequence[str], tokens: Any) -> dict[str, np.ndarray]:
    """The gradients of the loss over a text with respect to these weights."""
    sizes = Dim("B", max=ROWS), Dim("T", max=model.config["max_seq_len"])
    graph = Grad(tuple(names))(loss_graph(model, *sizes))
    found: dict[str, np.ndarray] = {}
    for (rows,) in pieces(model, tokens):
        if rows.shape[1] < 2:
            raise DataError("prune: method='taylor' needs at least two tokens of text")
        results = evaluate(graph, rows[:, :-1], rows[:, 1:])[-len(names) :]
        for name, x in zip(names, results, strict=True):
            found[name] = found[name] + x if name in found else x
    return found


def pieces(model: Any, ids: Any) -> Iterator[tuple[np.ndarray]]:
    """Text in pieces of the context; a shorter one is one piece."""
    if not len(ids):
        raise DataError("prune: tokens are ids of some text, got none")
    length = min(len(ids), model.config["max_seq_len"])
    whole = ids[: len(ids) // length * length].reshape(-1, length).astype(np.int32)
    for i in range(0, len(whole), ROWS):
        yield (whole[i : i + ROWS],)


def layer_scores(scores: Arrays, layers: int) -> np.ndarray:
    """The score of each layer."""
    found = np.zeros(layers)
    for name, x in scores.items():
        found[int(name.split(".")[1])] += x.sum()
    return found


def fewer_channels(block: Arrays, scores: Arrays, count: int) -> dict[str, np.ndarray]:
    """An MLP with the best of its channels: rows of its first layers, columns of the last."""
    into = [n for n in ("mlp.c_fc", "mlp.c_gate") if f"{n}.weight" in block]
    total = scores["mlp.c_proj.weight"].sum(0) + sum(scores[f"{n}.weight"].sum(1) for n in into)
    kept = best(total, count)
    found = {n: block[n][kept] for x in into for n in (f"{x}.weight", f"{x}.bias") if n in block}
    return {**found, "mlp.c_proj.weight": block["mlp.c_proj.weight"][:, kept]}


@dataclass(frozen=True)
class Heads:
    """`groups` of heads that share keys and values, `each` of so many, of `width`."""

    groups: int
    each: int
    width: int

    def rows(self, kept: Sequence[int]) -> np.ndarray:
        """The rows of q, k and v in `c_attn` that belong to some groups."""
        queries, keys = self.groups * self.each, self.groups
        ends = np.cumsum([0, queries, keys])
        parts = zip(ends, (self.each, 1, 1), strict=True)
        heads = [s + g * n + i for s, n in parts for g in kept for i in range(n)]
        return self.numbers(heads)

    def columns(self, kept: Sequence[int]) -> np.ndarray:
        """The columns of `c_proj` that belong to some groups."""
        return self.numbers([g * self.each + i for g in kept for i in range(self.each)])

    def numbers(self, heads: Sequence[int]) -> np.ndarray:
        """The rows of some heads."""
        return (np.asarray(heads)[:, None] * self.width + np.arange(self.width)).ravel()


def fewer_heads(block: Arrays, scores: Arrays, heads: Heads, count: int) -> dict[str, np.ndarray]:
    """Attention with the best of its heads."""
    into, out = scores["attn.c_attn.weight"].sum(1), scores["attn.c_proj.weight"].sum(0)
    groups = range(heads.groups)
    total = [into[heads.rows([g])].sum() + out[heads.columns([g])].sum() for g in groups]
    kept = best(np.array(total), count)
    rows, columns = heads.rows(kept), heads.columns(kept)
    names = [n for n in ("attn.c_attn.weight", "attn.c_attn.bias") if n in block]
    found = {n: block[n][rows] for n in names}
    return {**found, "attn.c_proj.weight": block["attn.c_proj.weight"][:, columns]}
