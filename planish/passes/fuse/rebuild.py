"""From a partition to a graph: each part of several nodes becomes a `fused` node with a body."""

from __future__ import annotations

from planish.ir.graph import Graph
from planish.ir.groups import body_of, content_of
from planish.ir.node import OPS, Loc, Node
from planish.passes.fuse.partition import Part, Partition

LONGEST_NAME = 40

# Ops that give a row kernel a name people know; the first whose ops are all there counts.
_KNOWN = (
    ({"max", "exp", "sum", "log"}, "logsumexp"),
    ({"max", "exp", "sum"}, "softmax"),
    ({"sum", "rsqrt"}, "norm"),
    ({"sum", "sqrt"}, "norm"),
)
_SILENT = frozenset({"cast", "stop_gradient", "again"})
# What goes without saying in a kernel that has such a name.
_USUAL = frozenset(
    {
        "add",
        "sub",
        "mul",
        "div",
        "square",
        "reciprocal",
        "maximum",
        "eq",
        "ne",
        "isfinite",
        "select",
    }
)


def rebuild(partition: Partition) -> Graph:
    """The graph in which every part is one node; those of equal bodies share it."""
    graph, nodes = partition.survey.graph, partition.survey.nodes
    new: dict[Node, Node] = {}
    bodies: dict[tuple, Graph] = {}
    for part in partition.parts:
        body = partition.body(part.nodes)
        if len(body) == 1:
            new[body[0]] = _moved(body[0], new)
            continue
        outputs = [nodes[v] for v in sorted(part.outs)]
        made, operands = body_of(body, outputs, _name(partition, part))
        made = bodies.setdefault((made.name, content_of(made)), made)
        read = tuple(_value(x, new) for x in operands)
        kernel = OPS["fused"](*read, body=made).at(_loc(partition, part))
        if len(outputs) == 1:
            new[outputs[0]] = kernel
        else:
            for index, x in enumerate(outputs):
                new[x] = OPS["get"](kernel, index=index).at(kernel.loc)
    return graph.with_outputs(tuple(_value(x, new) for x in graph.outputs))


def _value(x: Node, new: dict[Node, Node]) -> Node:
    """What stands for `x`; parts come in topological order, so that it is known."""
    return x if x.op.kind == "leaf" else new[x]


def _moved(node: Node, new: dict[Node, Node]) -> Node:
    """`node` on the new operands; types are unchanged."""
    inputs = tuple(_value(x, new) for x in node.inputs)
    if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
        return node
    return Node(node.op, inputs, node.attrs, node.type, node.loc)


def _anchors(partition: Partition, part: Part) -> list[Node]:
    """The nodes that are not pull shaped, else all."""
    nodes = [partition.survey.nodes[v] for v in sorted(part.nodes)]
    return [n for n in nodes if n.op.kind in ("contraction", "special", "composite")] or nodes


def _loc(partition: Partition, part: Part) -> Loc | None:
    """Where a kernel comes from: its matmul or special node, else its last node with a place."""
    found = [n.loc for n in _anchors(partition, part) if n.loc is not None]
    return found[-1] if found else None


def _name(partition: Partition, part: Part) -> str:
    """The ops of a kernel, each once, in order; a known name for those of a norm or softmax."""
    nodes = [partition.survey.nodes[v] for v in sorted(part.nodes)]
    anchors = [n.op.name for n in _anchors(partition, part)]
    names = anchors if len(anchors) < len(nodes) and part.kind != "map" else []
    ops = dict.fromkeys(names + [n.op.name for n in nodes])
    words = [name for name in ops if name not in _SILENT] or list(ops)
    if part.kind in ("row", "contraction"):
        for known, word in _KNOWN:
            if known <= set(ops):
                rest = [n for n in words if n not in known and n not in _USUAL]
                words = [word, *rest]
                break
    text = words[0]
    for word in words[1:]:
        if len(text) + 1 + len(word) <= LONGEST_NAME:
            text += f"_{word}"
    return text
