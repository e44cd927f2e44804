"""What passes share: walking and placing the nodes that a rule has just made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from planish.ir.graph import Graph
from planish.ir.node import OPS, Loc, Node
from planish.ir.ops.base import const


def walk(roots: Iterable[Node], stop: Collection[Node] = ()) -> Iterator[Node]:
    """Nodes above `roots`, operands before users, not entering `stop`."""
    seen: set[Node] = set()
    stack = [root for root in roots if root not in stop][::-1]
    while stack:
        node = stack[-1]
        before = [x for x in node.inputs if x not in seen and x not in stop]
        if before:
            stack += before[::-1]
        elif stack.pop() not in seen:
            seen.add(node)
            yield node


def placed(roots: tuple[Node, ...], known: set[Node], loc: Loc | None) -> tuple[Node, ...]:
    """`roots` again, their new nodes said to come from `loc`: those not in `known`, which they join
    thereby."""
    new: dict[Node, Node] = {}
    for node in walk(roots, known):
        inputs = tuple([new.get(x, x) for x in node.inputs])
        # not `with_inputs`: the types are the same, and inferring them again takes time
        new[node] = Node(node.op, inputs, node.attrs, node.type, node.loc or loc) if loc else node
    known.update(new.values())
    return tuple([new.get(x, x) for x in roots])


def rewritten(graph: Graph, step: Callable[[Node], Node]) -> Graph:
    """`graph.map(step)`, the nodes that `step` makes taking the place of the node they replace."""
    known: set[Node] = set(graph.inputs)

    def placing(node: Node) -> Node:
        found = step(node)
        if found is not node:
            return placed((found,), known, node.loc)[0]
        known.add(node)
        return node

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
