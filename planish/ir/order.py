"""In which order the nodes of a graph run.

`graph.nodes` is the order in which a graph reads best. This one keeps fewer values alive: results
that are ready first are finished first, and of a node's operands the one with the longest chain
behind it goes first, since the others would wait for it (as Sethi and Ullman order the operands of
an expression). So a value that the backward pass computes again is computed where it is needed.
"""

from __future__ import annotations

from planish.ir.graph import Graph
from planish.ir.node import Node


def run_order(graph: Graph) -> tuple[Node, ...]:
    """Every node, operands before users."""
    depth: dict[Node, int] = {}
    for node in graph.nodes:
        depth[node] = 1 + max((depth[x] for x in node.inputs), default=0)
    order: dict[Node, None] = dict.fromkeys(graph.inputs)
    stack = sorted(graph.outputs, key=depth.__getitem__, reverse=True)
    while stack:
        node = stack[-1]
        waiting = [x for x in dict.fromkeys(node.inputs) if x not in order]
        if waiting and node not in order:
            stack += sorted(waiting, key=depth.__getitem__)  # the deepest on top
        else:
            order[stack.pop()] = None
    return tuple(order)
