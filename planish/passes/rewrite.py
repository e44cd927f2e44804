"""What passes share: walking and placing the nodes that a rule has just made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from planish.ir.graph import Graph
from planish.ir.node import OPS, Loc, Node
from planish.ir.ops.base import const


def walk(roots: Iterable[Node], stop: Collection[Node] = ()) -> Iterator[Node]:
    """Nodes above `roots`, operands before users, not entering `stop`."""
    seen: set[Node] = set()
    for root in roots:
        stack = [] if root in seen or root in stop else [(root, iter(root.inputs))]
        while stack:
            node, rest = stack[-1]
            child = next((x for x in rest if x not in seen and x not in stop), None)
            if child is not None:
                stack.append((child, iter(child.inputs)))
                continue
            stack.pop()
            seen.add(node)
            yield node


def placed(roots: tuple[Node, ...], known: Collection[Node], loc: Loc | None) -> tuple[Node, ...]:
    """`roots` again, their new nodes (those not in `known`) said to come from `loc`."""
    if loc is None:
        return roots
    new: dict[Node, Node] = {}
    for node in walk(roots, known):
        inputs = tuple(new.get(x, x) for x in node.inputs)
        # not `with_inputs`: the types are the same, and inferring them again takes time
        new[node] = Node(node.op, inputs, node.attrs, node.type, node.loc or loc)
    return tuple(new.get(x, x) for x in roots)


def rewritten(graph: Graph, step: Callable[[Node], Node]) -> Graph:
    """`graph.map(step)`, the nodes that `step` makes taking the place of the node they replace."""
    known: set[Node] = set(graph.inputs)

    def placing(node: Node) -> Node:
        found = step(node)
        if found is node:
            known.add(node)
            return node
        (found,) = placed((found,), known, node.loc)
        known.update(walk([found], known))
        return found

    return graph.map(placing)


def full(value: float, like: Node) -> Node:
    """An array of `value` with the type of `like`."""
    scalar = const(value, like.dtype)
    return OPS["broadcast"](scalar, shape=like.shape) if like.shape else scalar


def scalar_of(node: Node) -> bool | int | float | None:
    """The value all elements of `node` are known to have, else None."""
    while node.op.name in ("broadcast", "reshape"):
        node = node.inputs[0]
    return node.attrs["value"] if node.op.name == "const" else None


def readers(graph: Graph) -> dict[Node, int]:
    """How often each node is read; being an output counts as being read."""
    count = dict.fromkeys(graph.nodes, 0)
    for node in graph.nodes:
        for x in dict.fromkeys(node.inputs):
            count[x] += 1
    for x in graph.outputs:
        count[x] += 1
    return count
