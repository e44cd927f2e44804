"""A training step as one graph, and the two ways to run it: native code and the interpreter.

    tokens, targets, step, lr, [key], optimiser state, weights
        -> loss, gradient norm, new weights, new optimiser state

Forward pass, gradients, clipping and update are one graph, hence one native call. Weights and
optimiser state are donated: they are updated where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from planish.frontend.api import compile
from planish.frontend.nn import functional as F
from planish.frontend.optim import Optimizer, clipping
from planish.frontend.outlined import Outlined
from planish.frontend.random import fold_in
from planish.frontend.trace import spec, trace
from planish.ir import types as t
from planish.ir.errors import GradientError
from planish.ir.evaluate import evaluate
from planish.ir.garbage import uncollected
from planish.ir.graph import Graph
from planish.ir.node import OPS, Loc, Node
from planish.ir.types import TensorType
from planish.passes.autodiff import grad
from planish.passes.lift import LiftParams
from planish.passes.pipeline import Pipeline
from planish.passes.rewrite import placed

Loss = Callable[..., Any]  # (logits, targets) -> a scalar
LR = TensorType(t.f32, ())
AS_IT_IS = Pipeline()
TOLD = ("loss", "grad_norm")  # the first outputs of a step


class Objective:
    """A model's loss as a function to trace: by `loss(logits, targets)`, or the model's own."""

    def __init__(self, model: Any, loss: Loss | None = None):
        self.model, self.loss = model, loss
        self.__name__ = f"{type(model).__name__}_loss"

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """The model's."""
        return self.model.named_parameters()

    def forward(self, tokens: Any, targets: Any, step: Any = None, key: Any = None) -> Any:
        """The loss; with a key, dropout differs from step to step."""
        options = {} if key is None else {"key": fold_in(key, step)}
        if self.loss is None and hasattr(self.model, "loss"):
            return self.model.loss(tokens, targets, **options)
        return (self.loss or F.cross_entropy)(self.model(tokens, **options), targets)

    __call__ = forward


@contextmanager
def mode(model: Any, training: bool) -> Iterator[None]:
    """Trace in training or evaluation mode; every module gets its own mode back."""
    before = [(module, module.training) for _, module in model.named_modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:  # from the outside in: `train` sets all that is inside
            module.train(was)


def loss_graph(
    model: Any, batch: Any, context: Any, loss: Loss | None = None, forward: Pipeline = AS_IT_IS
) -> Graph:
    """The loss of tokens and targets i32 [batch, context], without dropout, after `forward`."""
    ids = spec((batch, context), "i32")
    with mode(model, training=False):
        return forward.run(trace(Objective(model, loss), ids, ids))


def drops(model: Any) -> bool:
    """Whether anything in the model is dropped at random."""
    return any(getattr(module, "rate", 0) for _, module in model.named_modules())


@uncollected()
def training_graph(
    model: Any, optimizer: Optimizer, batch: int, context: int, clip: float | None = 1.0,
    loss: Loss | None = None, forward: Pipeline = AS_IT_IS,
) -> Graph:  # fmt: skip
    """One step of training on tokens and targets i32 [batch, context]; see the module docstring.

    The gradients are those of the graph that `forward` makes of the model.

    The input `step` (i64) counts from 1. Where loss or gradients are not finite, weights and state
    stay as they are. The loss is output 0, the norm of all gradients before clipping output 1.
    """
    graph, names = gradients(model, batch, context, loss, forward)
    found, *grads = graph.outputs
    data, params = graph.inputs[: -len(names)], graph.inputs[-len(names) :]
    lr = OPS["input"](name="lr", type=LR)
    outputs, state = updated(
        found, dict(zip(names, grads, strict=True)), dict(zip(names, params, strict=True)),
        optimizer, data[2], lr, clip, graph.nodes,
    )  # fmt: skip
    inputs = (*data[:3], lr, *data[3:], *state, *params)
    step = Graph(f"{type(model).__name__}_step", inputs, outputs, graph.params)
    return in_place(step, (*params, *state), TOLD)


def in_place(graph: Graph, donated: Sequence[Node], told: tuple[str, ...] = ()) -> Graph:
    """The graph whose last outputs take the places of these inputs; the first are called `told`."""
    places = {x: i for i, x in enumerate(graph.inputs)}
    aliases = tuple((places[x], len(told) + i) for i, x in enumerate(donated))
    names = (*told, *(f"new/{x.attrs['name']}" for x in donated))
    return replace(graph, aliases=aliases, treedef=names)


def gradients(
    model: Any, batch: int, context: int, loss: Loss | None = None, forward: Pipeline = AS_IT_IS
) -> tuple[Graph, tuple[str, ...]]:
    """Loss and gradients from tokens, targets, step, [key] and weights; the weights' names."""
    ids = spec((batch, context), "i32")
    key = [spec((2,), "u32")] if drops(model) else []
    with mode(model, training=True):
        traced = trace(Objective(model, loss), ids, ids, spec((), "i64"), *key)
    weights = dict(model.named_parameters())
    names = tuple(
        name
        for name, array in traced.params.items()
        if name in weights and t.dtype(array.dtype).is_float
    )
    if not names:
        raise GradientError(f"{traced.name} reads no parameter of {type(model).__name__}")
    graph = forward.run(traced)
    if lost := [name for name in names if name not in graph.params]:
        raise GradientError(_refused(forward, f"it replaces {lost[0]}, which is trained"))
    try:
        return grad(LiftParams(names)(graph), names), names
    except GradientError as error:
        if forward == AS_IT_IS:
            raise
        raise GradientError(_refused(forward, str(error))) from None


def _refused(forward: Pipeline, why: str) -> str:
    return (
        f'forward="{_short(forward)}" makes a graph without gradients of its weights: {why}\n'
        '  forward takes passes that let gradients through, such as "fake_quantize{bits=8}"; other '
        'pipelines are for the trained model, but for pipeline="train_bf16"'
    )


def _short(passes: Pipeline) -> str:
    """Passes by name, without their options, and not too many."""
    names = [str(Pipeline(x)).partition("{")[0] for x in passes.passes]
    return ",".join(names[:8]) + (",..." if len(names) > 8 else "")


def updated(
    loss: Node, grads: dict[str, Node], params: dict[str, Node], optimizer: Optimizer, step: Node,
    lr: Node, clip: float | None, known: Sequence[Node],
) -> tuple[tuple[Node, ...], list[Node]]:  # fmt: skip
    """Loss, norm, new weights and new state, and the inputs of the state.

    New nodes, which are not among those `known`, belong to the optimiser.
    """
    grads = {name: optimizer.masked(g, params[name]) for name, g in grads.items()}
    scale, norm = clipping(grads, clip)
    state = {
        name: OPS["input"](name=f"{type(optimizer).__name__}.{name}", type=TensorType(x, shape))
        for name, x, shape in _state_types(optimizer, params)
    }
    healthy = OPS["logical_and"](OPS["isfinite"](loss), OPS["isfinite"](norm))
    common = optimizer.common(step, lr)
    shared = healthy, *([] if scale is None else [scale]), *common.values()
    update = _update(optimizer, tuple(common), scale is not None)
    new: list[Node] = []
    kept: list[Node] = []
    for name, p in params.items():
        own = (state[f"{slot}.{name}"] for slot in optimizer.slots)
        changed = update(p, grads[name], *own, *shared)
        new.append(changed[0])
        kept += changed[1:]
    here = Loc(__file__, 0, scope=type(optimizer).__name__)
    old = {*known, *params.values(), *state.values(), lr}
    return placed((loss, norm, *new, *kept), old, here), list(state.values())


def _update(optimizer: Optimizer, common: Sequence[str], clipped: bool) -> Outlined:
    """The new values of a parameter and its state, from these, its gradient, whether all is finite,
    what clips, and what all parameters have in `common`; the old ones where not all is finite."""
    slots = optimizer.slots

    def update(p: Node, g: Node, *rest: Node) -> tuple[Node, ...]:
        own = dict(zip(slots, rest, strict=False))
        healthy, *scalars = rest[len(slots) :]
        g = g * scalars.pop(0) if clipped else g
        new, state = optimizer.changed(p, g, own, dict(zip(common, scalars, strict=True)))
        found = [(new, p), *((state[slot], own[slot]) for slot in slots)]
        return tuple(OPS["select"](healthy, x, old) for x, old in found)

    return Outlined("update", update)


def _state_types(optimizer: Optimizer, params: Mapping[str, Node]) -> Iterator[tuple]:
    for name, x in params.items():
        for slot in optimizer.slots:
            yield f"{slot}.{name}", x.dtype, x.shape


class Native:
    """A graph as native code, bound to arrays once."""

    def __init__(
        self, graph: Graph, arrays: Sequence[np.ndarray], pipeline: str | Pipeline,
        threads: int | None,
    ):  # fmt: skip
        self.program = compile(graph, pipeline=pipeline, threads=threads)
        self.bound = self.program.bind(*arrays)

    def run(self) -> tuple[np.ndarray, ...]:
        """The outputs; one native call. Donated arrays are updated in place."""
        self.bound.run()
        return self.bound.outputs


class Interpreted:
    """A graph on the reference interpreter, at the float width of the arrays."""

    def __init__(self, graph: Graph, arrays: Sequence[np.ndarray], dtype: t.DType):
        self._graph, self._arrays, self._dtype = graph, arrays, dtype

    def run(self) -> tuple[np.ndarray, ...]:
        """The outputs; donated arrays are updated in place."""
        found = evaluate(self._graph, *self._arrays, dtype=self._dtype)
        for i, j in self._graph.aliases:
            self._arrays[i][...] = found[j]
        return found
