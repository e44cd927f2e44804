"""Heads, channels and layers that matter least go as a whole, so that shapes shrink.

    graph f(%x: f32[2, 4]) {
      %w = param : f32[4, 8]
      %0 = matmul(%x, %w) : f32[2, 8]
      %1 = gelu(%0, approximate="tanh") : f32[2, 8]
      %v = param : f32[8, 4]
      %2 = matmul(%1, %v) : f32[2, 4]
      return %2
    }
becomes, by shrink{channels=0.5}, the same graph with

      %w = param : f32[4, 4]
      %v = param : f32[4, 4]

What heads and channels are, and of which weights they have rows or columns, says `units`. All
attentions lose the same share of their heads, all MLPs that of their channels; heads that share
keys and values go together, and caches have no room for those that went. With layers (see `blocks`)
go all of their weights, and their caches.

What goes is decided by a score of each number of the weights, of which a head, a channel or a layer
has the sum of squares:

    magnitude  the weight
    activation the weight times the norm of what it multiplies over some text, as wanda of `prune`
    taylor     the weight times its gradient over some text: to first order what the loss changes by
               when it goes (Molchanov et al. 2019)

The last two read text, see `pl.calibrate`; the graph then takes tokens and makes logits. It runs
before `expand` takes ops apart, and before anything makes weights smaller.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.passes.autodiff import Grad
from planish.passes.blocks import blocks, layer_of, without_layers
from planish.passes.calibrate import Samples, digest
from planish.passes.finite import check_all_finite
from planish.passes.prune import check_ratio, is_turned, norms_seen
from planish.passes.units import NONE, Units, units, without

METHODS = ("magnitude", "activation", "taylor")


@dataclass(frozen=True)
class Shrink:
    """Take shares of the heads and channels of all layers away, and of layers; see the module."""

    heads: float = 0.0
    channels: float = 0.0
    layers: float = 0.0
    method: str = "magnitude"
    calibration: str = ""  # names what it was bound to
    factors: Mapping[str, np.ndarray] | None = field(
        default=None, compare=False, repr=False, metadata={"bound": True}
    )

    def __post_init__(self) -> None:
        for name in ("heads", "channels", "layers"):
            check_ratio(f"shrink: {name}", getattr(self, name))
        if self.method not in METHODS:
            raise DataError(f"shrink: method is one of {', '.join(METHODS)}, got {self.method!r}")

    def __call__(self, graph: Graph) -> Graph:
        found = self.chosen(graph)
        names = self.scored(graph, found)
        missing = [x for x in names if x not in (self.factors or {})]
        if missing and self.method != "magnitude":
            raise DataError(
                f"shrink: {self.method} needs text to see what {missing[0]} does: "
                "pl.calibrate takes it"
            )
        squares = squared(graph, names, self.factors or {})
        after = without(graph, [(one, self.gone(one, scores(one, squares))) for one in found])
        if late := self.late(graph, squares):
            after = without_layers(after, late)
        if after is graph:
            return graph
        # which go depends on numbers of weights: other weights are another program
        return replace(after, made={**after.made, "": Graph("made", (), ())})

    @property
    def is_bound(self) -> bool:
        """Whether it has seen what it needs to see."""
        return self.method == "magnitude" or self.factors is not None

    def calibrate(self, graph: Graph, samples: Samples) -> Shrink:
        """Bound to norms or gradients, where it wants them; else itself."""
        if self.is_bound:
            return self
        names = self.scored(graph, self.chosen(graph))
        factors = factors_of(graph, self.method, samples, names)
        return replace(self, factors=factors, calibration=digest(factors))

    def chosen(self, graph: Graph) -> list[Units]:
        """The heads and channels of which some go; DataError where none are found."""
        found = [x for x in units(graph) if not x.why and getattr(self, x.kind)]
        for kind in ("heads", "channels"):
            if (share := getattr(self, kind)) and kind not in {x.kind for x in found}:
                raise DataError(
                    f"shrink: {kind}={share} finds none between products by float weights; it "
                    "stands before expand, quantize and fuse, as in "
                    f"shrink{{{kind}={share}}},int8"
                )
        if self.layers and not blocks(graph):
            raise DataError(
                f"shrink: layers={self.layers} finds none: no additions of products by weights "
                "that are named after numbers, as h.0; it stands before expand, quantize and fuse"
            )
        return found

    def scored(self, graph: Graph, found: Sequence[Units]) -> list[str]:
        """The matrices that have a score: those of heads and channels, or of all layers."""
        names = dict.fromkeys(n for one in found for n in matrices(one))
        if self.layers:
            names |= dict.fromkeys(n for x in of_layers(graph).values() for n in x)
        check_all_finite("shrink", graph, {*names})
        return list(names)

    def late(self, graph: Graph, squares: Mapping[str, np.ndarray]) -> list[str]:
        """The layers that go."""
        if not self.layers:
            return []
        own = of_layers(graph)
        total = np.array([sum(squares[n].sum() for n in names) for names in own.values()])
        kept = best(total, left("layers", self.layers, len(own)))
        return [name for i, name in enumerate(own) if i not in kept]

    def gone(self, one: Units, found: np.ndarray) -> np.ndarray:
        """Which units go, by their scores."""
        mask = np.ones(one.count, bool)
        mask[best(found, left(one.kind, getattr(self, one.kind), one.count))] = False
        return mask


def left(what: str, ratio: float, count: int) -> int:
    """How many of `count` stay; at least one must."""
    found = count - round(ratio * count)
    if found < 1:
        raise DataError(f"{what}={ratio} leaves none of {count}; at least one must stay")
    return found


def best(found: np.ndarray, count: int) -> list[int]:
    """The places of the `count` largest, in order; the last of equal ones."""
    return sorted(np.argsort(found, kind="stable")[len(found) - count :].tolist())


def of_layers(graph: Graph) -> dict[str, list[str]]:
    """The matrices of each layer."""
    names = [n for n, x in graph.param_nodes.items() if x.type.rank == 2]
    return {layer: [n for n in names if layer_of(n) == layer] for layer in blocks(graph)}


def matrices(one: Units) -> list[str]:
    """The matrices that have rows or columns of units."""
    return [name for name, (x, _) in one.weights().items() if x.type.rank == 2]


def squared(
    graph: Graph, names: Collection[str], factors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The squared score of each number of these matrices."""
    return {
        n: np.square(graph.params[n] * factors.get(n, np.float32(1)), dtype=np.float64)
        for n in names
    }


def scores(one: Units, squares: Mapping[str, np.ndarray]) -> np.ndarray:
    """The score of each unit."""
    total = np.zeros(one.count)
    for name, (node, cut) in one.weights().items():
        if node.type.rank == 2:
            each, known = squares[name].sum(1 - cut.axis), cut.units != NONE
            total += np.bincount(cut.units[known], each[known], one.count)
    return total


def factors_of(
    graph: Graph, method: str, samples: Samples, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """What scores multiply these matrices by: norms, or gradients, over some text."""
    if method == "taylor":
        return gradients(graph, samples, names)
    seen, nodes = norms_seen(graph, samples), graph.param_nodes
    return {n: seen[n][:, None] if is_turned(graph, nodes[n]) else seen[n] for n in names}


def gradients(graph: Graph, samples: Samples, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The gradients of the loss of the next token with respect to these weights, over a text."""
    made = Grad(tuple(names))(next_token_loss(graph))
    found: dict[str, np.ndarray] = {}
    for arrays in samples.batches:
        if arrays[0].shape[1] < 2:
            raise DataError("shrink: method=taylor needs at least two tokens of text")
        for name, x in zip(names, evaluate(made, *arrays)[-len(names) :], strict=True):
            found[name] = found[name] + x if name in found else x
    return found


def next_token_loss(graph: Graph) -> Graph:
    """From the tokens that a graph makes logits of to the loss of each that follows another."""
    (tokens, *more), (logits, *_) = graph.inputs, graph.outputs
    if more or tokens.type.rank != 2 or logits.type.rank != 3 or tokens.shape != logits.shape[:2]:
        raise DataError(
            "shrink: method=taylor takes a graph from tokens [B, T] to logits [B, T, V]"
        )
    (b, length), classes = tokens.shape, logits.shape[2]
    cut = OPS["slice"]
    read = cut(logits, starts=(0, 0, 0), stops=(b, length - 1, classes), steps=(1, 1, 1))
    wanted = cut(tokens, starts=(0, 1), stops=(b, length), steps=(1, 1))
    loss = OPS["cross_entropy"](read, wanted)
    return Graph("loss", graph.inputs, (loss,), graph.params)
