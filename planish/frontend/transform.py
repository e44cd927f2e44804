"""Derivatives of functions: `grad`, `value_and_grad`, `vjp`.

A transformed function is again a function of tensors: it may be traced, compiled, or transformed
again; on NumPy arrays it computes at once with the reference interpreter.

    step = value_and_grad(loss_fn, wrt=model)     # gradients of all parameters, by name
    graph = trace(step, tokens, targets)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from planish.frontend.context import Trace, as_array, current
from planish.frontend.tensor import Parameter, Tensor
from planish.frontend.trace import argument_names, name_of, trace
from planish.frontend.tree import flatten, map_leaves, restore, treedef_of
from planish.ir.errors import GradientError, TraceError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.passes import autodiff

Wrt = Any  # an argument's number, a tuple of them, or a model


def grad(fn: Callable[..., Any], wrt: Wrt = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The function that gives the gradient of scalar `fn` with respect to argument(s) `wrt`.

    >>> import numpy as np, planish as pl
    >>> pl.grad(lambda x: (x * x).sum())(np.float32([1, 2, 3]))
    array([2., 4., 6.], dtype=float32)

    Compile it to have it in native code: `pl.compile(pl.grad(fn), *specs)`.

    `wrt` is an argument's number, a tuple of numbers (a tuple of gradients), or a model (a dict
    of gradients by parameter name). A gradient has shape and dtype of its argument, and the form of
    a tuple or dict of arrays. With `has_aux`, `fn` returns (loss, more) and the result is
    (gradient, more). GradientError where `fn` returns no floating-point scalar, and where an op
    between it and `wrt` has no gradient.
    """
    both = value_and_grad(fn, wrt, has_aux)

    @functools.wraps(fn, updated=())
    def gradient(*args: Any) -> Any:
        value, found = both(*args)
        return (found, value[1]) if has_aux else found

    return _renamed(gradient, fn, "grad")


def value_and_grad(
    fn: Callable[..., Any], wrt: Wrt = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The function that gives (value of scalar `fn`, its gradient); see `grad`.

    >>> import numpy as np, planish as pl
    >>> value, gradient = pl.value_and_grad(lambda x, y: (x * y).sum(), wrt=1)(
    ...     np.float32([1, 2]), np.float32([3, 4])
    ... )
    >>> float(value), gradient
    (11.0, array([1., 2.], dtype=float32))

    With `has_aux` the value is (loss, more).
    """
    model = wrt if hasattr(wrt, "named_parameters") else None
    numbers = () if model is not None else wrt if isinstance(wrt, tuple) else (wrt,)
    if any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise GradientError(
            f"wrt is an argument's number, a tuple of them, or a model, got {wrt!r}"
        )

    @functools.wraps(fn, updated=())
    def both(*args: Any) -> Any:
        if current() is None:
            return _at_once(both, args)
        for n in numbers:
            if not -len(args) <= n < len(args):
                raise GradientError(f"wrt={n}: {name_of(fn)} was called with {len(args)} arguments")
        places = tuple(n % len(args) for n in numbers)
        value, found = _differentiated(fn, args, places, model, has_aux)
        single = model is None and not isinstance(wrt, tuple)
        return value, found[0] if single else found

    return _renamed(both, fn, "value_and_grad")


def vjp(fn: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of `fn` at `primals`, and the function that pulls a cotangent back.

    The cotangent has the form of the value; the result is a tuple with one gradient per primal.

    >>> import numpy as np, planish as pl
    >>> value, pull = pl.vjp(lambda x: x * x, np.float32([1, 2]))
    >>> pull(np.float32([1, 10]))
    (array([ 2., 40.], dtype=float32),)
    """
    outer = current()
    body, treedef, given = _body(fn, primals)
    names = [x.attrs["name"] for x in body.inputs]

    def run(graph: Graph, arguments: Sequence[Any]) -> list[Any]:
        if outer is None:
            return list(evaluate(graph, *arguments))
        return [Tensor(x, outer) for x in inlined(graph, [_node(outer, x) for x in arguments])]

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        total: list[Any] = []
        for i, (_, dy) in enumerate(flatten(cotangent)):
            graph = autodiff.vjp(body, names, i)
            graph = graph.with_outputs(graph.outputs[len(body.outputs) :])
            part = run(graph, [*given, dy if isinstance(dy, Tensor) else as_array(dy)])
            total = [a + b for a, b in zip(total, part, strict=True)] if total else part
        leaves = iter(total)
        return tuple(map_leaves(lambda _: next(leaves), list(primals)))

    return restore(treedef, run(body, given)), pullback


def _renamed(function: Any, fn: Any, how: str) -> Any:
    function.__name__ = f"{how}_{name_of(fn)}"
    if not hasattr(function, "__wrapped__"):
        function.__wrapped__ = fn
    return function


def _at_once(fn: Callable[..., Any], args: tuple) -> Any:
    """A transformed function on arrays: traced and interpreted."""
    arrays = map_leaves(lambda x: x if isinstance(x, Parameter) else as_array(x), list(args))
    graph = trace(fn, *arrays)
    leaves = [x.array if isinstance(x, Parameter) else x for _, x in flatten(arrays)]
    return restore(graph.treedef, evaluate(graph, *leaves))


def _node(outer: Trace, x: Any) -> Node:
    """A tensor, a parameter or an array as a node of the outer trace."""
    if isinstance(x, Tensor):
        return x.node
    return (
        outer.closure.weight(x) if isinstance(x, Parameter) else outer.closure.constant(as_array(x))
    )


def _stand_ins(fn: Any, args: Sequence[Any], places: Sequence[int], inner: Trace) -> list[Any]:
    """The arguments, those at `places` replaced by fresh inputs of the inner trace."""
    names = argument_names(fn, len(args))
    found = list(args)
    for i in places:
        count = itertools.count()

        def fresh(x: Any, name: str = names[i], count: Any = count) -> Tensor:
            number = next(count)
            label = f"argument {name}" + (f" {number}" if number else "")
            return Tensor(OPS["input"](name=label, type=_node(inner, x).type), inner)

        found[i] = map_leaves(fresh, args[i])
    return found


def _differentiated(
    fn: Callable[..., Any], args: tuple, places: tuple[int, ...], model: Any, has_aux: bool
) -> tuple[Any, Any]:
    """Value and gradients inside the current trace."""
    outer = running()
    inner = Trace(name_of(fn), outer)
    inputs = _stand_ins(fn, args, places, inner)
    weights = {} if model is None else dict(model.named_parameters())
    for name, p in weights.items():
        inner.closure.names.setdefault(id(p), name)
    with inner.running():
        result = fn(*inputs)
    loss, aux = result if has_aux else (result, ())
    outputs = [_scalar(fn, loss), *(_node(inner, x) for _, x in flatten(aux))]
    chosen = [x.node for i in places for _, x in flatten(inputs[i])]
    read = [inner.closure.weight(p) for p in weights.values()]
    body = Graph(inner.name, tuple(chosen), tuple(outputs), inner.closure.arrays)
    graph = autodiff.grad(body, [x.attrs["name"] for x in (*chosen, *read)])
    given = [_node(outer, x) for i in places for _, x in flatten(args[i])]
    found = [Tensor(x, outer) for x in inlined(graph, given)]
    value, gradients = found[: len(outputs)], found[len(outputs) :]
    shown = (value[0], restore(treedef_of(aux), value[1:])) if has_aux else value[0]
    if model is not None:
        return shown, dict(zip(weights, gradients, strict=True))
    leaves = iter(gradients)
    return shown, tuple(map_leaves(lambda _: next(leaves), args[i]) for i in places)


def running() -> Trace:
    """The current trace; there must be one."""
    trace = current()
    if trace is None:
        raise TraceError("this needs a running trace")
    return trace


def _scalar(fn: Callable[..., Any], loss: Any) -> Node:
    """The loss as a node, if it is a scalar tensor."""
    if not isinstance(loss, Tensor):
        raise GradientError(
            f"{name_of(fn)} must return a scalar tensor to be differentiated, got "
            f"{type(loss).__name__}; with more results, return (loss, more) and set has_aux=True"
        )
    if loss.type.shape or not loss.type.dtype.is_float:
        raise GradientError(
            f"gradient of {name_of(fn)}, which returns {loss.type}; only floating-point scalars "
            "have gradients: reduce it with .sum() or .mean(), or use pl.vjp"
        )
    return loss.node


def _body(fn: Callable[..., Any], primals: tuple) -> tuple[Graph, Any, list[Any]]:
    """The graph of `fn` over its primals, the form of its result, and the primals' leaves."""
    outer = current()
    if outer is None:
        arrays = map_leaves(lambda x: x if isinstance(x, Parameter) else as_array(x), list(primals))
        graph = trace(fn, *arrays)
        leaves = [x.array if isinstance(x, Parameter) else x for _, x in flatten(arrays)]
        return graph, graph.treedef, leaves
    inner = Trace(name_of(fn), outer)
    inputs = _stand_ins(fn, primals, range(len(primals)), inner)
    with inner.running():
        result = fn(*inputs)
    outputs = tuple(_node(inner, x) for _, x in flatten(result))
    chosen = tuple(x.node for _, x in flatten(inputs))
    graph = Graph(inner.name, chosen, outputs, inner.closure.arrays)
    return graph, treedef_of(result), [x for _, x in flatten(list(primals))]


def inlined(graph: Graph, given: Sequence[Node]) -> list[Node]:
    """The outputs of `graph` as nodes over other nodes: `given` take the place of its inputs."""
    new: dict[Node, Node] = dict(zip(graph.inputs, given, strict=True))
    for node in graph.nodes:
        if node not in new:
            new[node] = node.with_inputs(tuple(new[x] for x in node.inputs))
    return [new[x] for x in graph.outputs]
