"""A step of training in several micro-batches: as one batch of all of them, in less memory.

    tokens, targets, step, [key], share, sums, weights -> sums + share * (loss, gradients)
    sums, step, lr, optimiser state, weights -> loss, gradient norm, new weights, new state

The first program runs for each micro-batch, one native call each, and adds to sums that it is
given in place; the second clips and updates. `share` is the part that a micro-batch has in the
mean: its targets that count, of those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from planish.frontend.data import IGNORED
from planish.frontend.optim import Optimizer
from planish.frontend.step import (
    AS_IT_IS,
    LR,
    TOLD,
    Interpreted,
    Loss,
    Native,
    gradients,
    in_place,
    updated,
)
from planish.ir import types as t
from planish.ir.garbage import uncollected
from planish.ir.graph import Graph
from planish.ir.node import OPS, Loc, Node
from planish.ir.ops.base import as_node
from planish.ir.types import TensorType
from planish.passes.pipeline import Pipeline
from planish.passes.rewrite import placed


@uncollected()
def accumulating_graphs(
    model: Any, optimizer: Optimizer, batch: int, context: int, clip: float | None = 1.0,
    loss: Loss | None = None, forward: Pipeline = AS_IT_IS,
) -> tuple[Graph, Graph]:  # fmt: skip
    """The graph that adds up losses and gradients, and the one that updates by their sums.

    The `step` of the first decides what drops out, so it counts micro-batches; that of the second
    counts updates. Both count from 1.
    """
    graph, names = gradients(model, batch, context, loss, forward)
    data, params = graph.inputs[: -len(names)], graph.inputs[-len(names) :]
    sums = [_sum(name, x) for name, x in zip(("loss", *names), graph.outputs, strict=True)]
    share = OPS["input"](name="share", type=LR)
    added = tuple(s + x * share for s, x in zip(sums, graph.outputs, strict=True))
    added = placed(added, {*graph.nodes, *sums, share}, Loc(__file__, 0, scope="accumulate"))
    name = type(model).__name__
    adding = Graph(f"{name}_gradients", (*data, share, *sums, *params), added, graph.params)

    step, lr = (OPS["input"](name=n, type=x) for n, x in (("step", data[2].type), ("lr", LR)))
    total, *grads = (as_node(s, x.dtype) for s, x in zip(sums, graph.outputs, strict=True))
    weights = dict(zip(names, params, strict=True))
    outputs, state = updated(
        total, dict(zip(names, grads, strict=True)), weights, optimizer, step, lr, clip,
        (*sums, total, *grads, step),
    )  # fmt: skip
    update = Graph(f"{name}_update", (step, lr, *sums, *state, *params), outputs)
    return in_place(adding, sums), in_place(update, (*params, *state), TOLD)


def _sum(name: str, x: Node) -> Node:
    """Where values of `x` are added up, at least in f32."""
    return OPS["input"](name=f"sum.{name}", type=TensorType(t.promote(x.dtype, t.f32), x.shape))


class Accumulator:
    """Adds up what the micro-batches of a step give, in the arrays of the graph's inputs.

    With `uniform`, each counts the same, whatever its targets are.
    """

    def __init__(
        self, engine: Native | Interpreted, arrays: Mapping[str, np.ndarray], uniform: bool
    ):
        self.engine, self.arrays, self.uniform = engine, arrays, uniform

    def run(self, x: np.ndarray, y: np.ndarray, steps: int) -> None:
        """Sums for tokens x and targets y, i32 [micro-batches * batch, context].

        Who stops it in the middle loses nothing: the next run begins anew.
        """
        for name, array in self.arrays.items():
            if name.startswith("sum."):
                array.fill(0)
        for place, share in enumerate(self.shares(y)):
            batch = slice(place * self.batch, (place + 1) * self.batch)
            self.arrays["tokens"][...], self.arrays["targets"][...] = x[batch], y[batch]
            self.arrays["share"][...] = share
            self.arrays["step"][...] = steps * (len(y) // self.batch) + place + 1
            self.engine.run()

    @property
    def batch(self) -> int:
        """The rows of a micro-batch."""
        return len(self.arrays["tokens"])

    def shares(self, y: np.ndarray) -> Iterator[float]:
        """What each micro-batch of `y` has of the mean over all of them."""
        parts = y.reshape(-1, self.batch, y.shape[1])
        counts = np.count_nonzero(parts != IGNORED, (1, 2))
        total = counts.sum()
        even = self.uniform or not total
        yield from np.full(len(parts), 1 / len(parts)) if even else counts / total
