"""Structured pruning of TinyGPT: heads, channels of MLPs and whole layers go, and shapes shrink.

The result is a smaller model like any other: it can be trained, saved, compiled for any target.
Every layer keeps as many heads and channels as the others. What goes is what the pass `shrink`
takes from the model's graph; the layers that are left are counted anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.frontend.nn.layers import BLANK
from planish.frontend.nn.transformer import head_width
from planish.frontend.trace import spec, trace
from planish.ir.dims import Dim
from planish.ir.errors import DataError
from planish.passes.calibrate import Samples
from planish.passes.prune import check_ratio
from planish.passes.shrink import Shrink, left

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
    config, step = model.config, Shrink(shares.heads, shares.channels, shares.layers, method)
    graph = trace(model, spec(("B", Dim("T", max=config["max_seq_len"])), "i32"))
    if not step.is_bound:
        if tokens is None:
            raise DataError(f"prune: method={method!r} needs tokens: ids of some text")
        step = step.calibrate(graph, Samples(tuple(pieces(model, tokens))))
    after = step(graph).params
    new = {n: x for n, x in {**model.state_dict(), **after}.items() if not n.startswith("h.")}
    layers = sorted({int(n.split(".")[1]) for n in after if n.startswith("h.")})
    for number, i in enumerate(layers):
        own = {n: x for n, x in after.items() if n.startswith(f"h.{i}.")}
        new.update({f"h.{number}.{n.removeprefix(f'h.{i}.')}": x for n, x in own.items()})
    groups = config["num_kv_heads"] or config["num_heads"]
    kept = left("heads", shares.heads, groups)
    width = head_width(config)
    hidden = len(new["h.0.mlp.c_fc.weight"])
    sizes = {
        "num_layers": len(layers),
        "num_heads": kept * (config["num_heads"] // groups),
        "num_kv_heads": config["num_kv_heads"] and kept,
        "head_dim": width if shares.heads else config["head_dim"],
        "hidden_dim": hidden if shares.channels else config["hidden_dim"],
    }
    return with_state(model, new, **sizes)


def with_state(model: Any, state: Arrays, **sizes: Any) -> Any:
    """A model like this one but for some sizes, with these weights."""
    made = type(model)(**{**model.config, **sizes, "seed": BLANK})
    made.load_state_dict(state)
    made.config["seed"] = model.config["seed"]
    return made


def pieces(model: Any, ids: Any) -> Iterator[tuple[np.ndarray]]:
    """Text in pieces of the context; a shorter one is one piece."""
    if not len(ids):
        raise DataError("prune: tokens are ids of some text, got none")
    length = min(len(ids), model.config["max_seq_len"])
    whole = ids[: len(ids) // length * length].reshape(-1, length).astype(np.int32)
    for i in range(0, len(whole), ROWS):
        yield (whole[i : i + ROWS],)
