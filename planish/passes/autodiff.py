"""Reverse-mode differentiation, from graph to graph.

    graph f(%x: f32[3]) {
      %0 = mul(%x, %x) : f32[3]
      %1 = sum(%0, axes=(0,), keep=False) : f32[]
      return %1
    }
becomes a graph that returns `%1` and the gradient of `%1` with respect to `%x`. The rules are the
ops' `vjp`, ordinary expressions over nodes, so gradients can be differentiated, simplified, fused
and planned like anything else. As in HIPS autograd, the algorithm is separate from the rules and
broadcasting is undone in one place.

Gradients through integers and booleans are zero (a mask is locally constant). Where a `wrt` reaches
the output through such values alone, the result would be zero by accident: that is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from planish.ir import types as t
from planish.ir.errors import GradientError, IRError
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.ops.base import broadcast_shapes, const
from planish.ir.ops.reduction import sum_to
from planish.ir.text import labels, line_of
from planish.ir.types import TensorType
from planish.passes.expand import expand_where
from planish.passes.rewrite import full, placed, walk


@dataclass(frozen=True)
class Grad:
    """`grad` as a pass: appends the gradient of output number `output` for each name in `wrt`."""

    wrt: tuple[str, ...]
    output: int = 0

    def __call__(self, graph: Graph) -> Graph:
        return grad(graph, self.wrt, self.output)


def grad(graph: Graph, wrt: Sequence[str], output: int = 0) -> Graph:
    """The outputs of `graph`, then the gradient of scalar `output` for each name in `wrt`."""
    graph = differentiable(graph)
    y = output_of(graph, output)
    if y.shape:
        raise GradientError(
            f"gradient of a non-scalar {y.type}; reduce it with sum or mean, or use vjp"
        )
    found = backward(graph, y, const(1.0, y.dtype), [leaf(graph, name) for name in wrt])
    return extended(graph, f"{graph.name}_grad", found, wrt)


def vjp(graph: Graph, wrt: Sequence[str], output: int = 0) -> Graph:
    """Like `grad` for an output of any shape; its cotangent is one more input, `cotangent`."""
    graph = differentiable(graph)
    y = output_of(graph, output)
    taken = {x.attrs["name"] for x in graph.inputs}
    name = "cotangent"
    while name in taken:
        name += "_"
    dy = OPS["input"](name=name, type=y.type)
    found = backward(graph, y, dy, [leaf(graph, name) for name in wrt])
    graph = replace(graph, inputs=(*graph.inputs, dy))
    return extended(graph, f"{graph.name}_vjp", found, wrt)


def differentiable(graph: Graph) -> Graph:
    """Expand the composites that have no rule, so that forward and backward share nodes."""
    return expand_where(graph, lambda node: not node.op.own_vjp)  # type: ignore[attr-defined]


def output_of(graph: Graph, output: int) -> Node:
    """The output to differentiate."""
    if not 0 <= output < len(graph.outputs):
        raise GradientError(f"graph {graph.name} has {len(graph.outputs)} outputs, no {output}")
    y = graph.outputs[output]
    if not y.dtype.is_float:
        raise GradientError(f"gradient of {y.type}: only floating-point results have gradients")
    return y


def leaf(graph: Graph, name: str) -> Node:
    """The input or param called `name`; a param that nobody reads gets a node of its own."""
    leaves = {x.attrs["name"]: x for x in graph.inputs} | graph.param_nodes
    if name in leaves:
        x = leaves[name]
    elif name in graph.params:
        array = graph.params[name]
        x = OPS["param"](name=name, type=TensorType(t.dtype(array.dtype), array.shape))
    else:
        known = [*leaves, *(n for n in graph.params if n not in leaves)]
        near = get_close_matches(name, known, 1) or known[:8]
        raise GradientError(f"no input or param {name!r} in {graph.name}; try {', '.join(near)}")
    if not x.dtype.is_float:
        raise GradientError(
            f"gradient with respect to {name}, which is {x.type}: only floats have gradients"
        )
    return x


def extended(graph: Graph, name: str, found: Sequence[Node], wrt: Sequence[str]) -> Graph:
    """`graph` with gradients after its outputs."""
    keys = graph.treedef or tuple(map(str, range(len(graph.outputs))))
    return replace(
        graph,
        name=name,
        outputs=(*graph.outputs, *found),
        treedef=(*keys, *(f"grad.{n}" for n in wrt)),
    )


def backward(graph: Graph, y: Node, dy: Node, wrt: Sequence[Node]) -> list[Node]:
    """Gradients of `y` for each of `wrt`, given the cotangent `dy` of `y`."""
    above = tuple(walk([y]))
    between = depending(above, wrt, is_float)
    known = {*above, dy}
    cotangents = {y: dy}
    for node in reversed(above):
        if node not in cotangents or node not in between or between.isdisjoint(node.inputs):
            continue
        for x, dx in zip(node.inputs, rule(graph, node, cotangents[node]), strict=True):
            if dx is None or x not in between:
                continue
            dx = unbroadcast(dx, x.type)
            if x in cotangents:
                dx = cotangents[x] + dx
            (cotangents[x],) = placed((dx,), known, node.loc)
    for x in wrt:
        if x not in cotangents:
            refuse_blocked(graph, above, x)
    return [cotangents[x] if x in cotangents else full(0.0, x) for x in wrt]


def is_float(x: Node) -> bool:
    """Whether gradients flow through `x` (a fused node is left to its `no_vjp`)."""
    return not isinstance(x.type, TensorType) or x.dtype.is_float


def depending(
    nodes: Iterable[Node], wrt: Iterable[Node], through: Callable[[Node], bool]
) -> set[Node]:
    """Those of `nodes`, operands before users, that depend on `wrt` by a path of such nodes."""
    found = set(wrt)
    for node in nodes:
        if through(node) and not found.isdisjoint(node.inputs):
            found.add(node)
    return found


def rule(graph: Graph, node: Node, dy: Node) -> tuple[Node | None, ...]:
    """The node's `vjp`."""
    if node.op.no_vjp is not None:
        raise GradientError(blocked(graph, node, node.op.no_vjp))
    found = node.op.vjp(node, dy, *node.inputs, **node.attrs)
    if len(found) != len(node.inputs):
        raise IRError(f"vjp of {node.op.name} gives {len(found)} for {len(node.inputs)} operands")
    return found


def refuse_blocked(graph: Graph, above: Sequence[Node], x: Node) -> None:
    """Refuse where `x` reaches the output, but only through values that are not floats."""
    y = above[-1]
    reached = depending(above, [x], lambda node: True)
    if y not in reached or y in depending(above, [x], is_float):
        return
    node = next(n for n in above if n in reached and not is_float(n))
    why = node.op.no_vjp or f"its result is {node.dtype}"
    raise GradientError(blocked(graph, node, why, x))


def blocked(graph: Graph, node: Node, why: str, x: Node | None = None) -> str:
    """Which op has no gradient, why, where it lies, and what to do."""
    names = labels(graph)
    wanted = "what is differentiated" if x is None else names[x]
    return (
        f"no gradient for {node.op.name} ({names[node]}), which lies between the loss and "
        f"{wanted}: {why}; give {node.op.name} a vjp or stop the gradient there\n"
        + line_of(graph, node)
    )


def unbroadcast(dx: Node, wanted: TensorType) -> Node:
    """`dx` summed over the axes along which an operand of type `wanted` was broadcast."""
    if dx.dtype != wanted.dtype:
        raise IRError(f"a vjp gives {dx.type} as the gradient of {wanted}")
    joined = broadcast_shapes("gradient", dx.shape, wanted.shape)
    if dx.shape != joined:  # a rule may leave a constant gradient small
        dx = OPS["broadcast"](dx, shape=joined)
    return dx if joined == wanted.shape else sum_to(dx, wanted.shape)
