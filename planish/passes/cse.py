"""Merge nodes that compute the same value.

    %0 = tanh(%x) : f32[4]
    %1 = tanh(%x) : f32[4]
    %2 = add(%0, %1) : f32[4]
becomes
    %0 = tanh(%x) : f32[4]
    %1 = add(%0, %0) : f32[4]
"""

from __future__ import annotations

from planish.ir.graph import Graph
from planish.ir.node import Node


def cse(graph: Graph) -> Graph:
    """Keep the first of all nodes with equal op, inputs and attributes."""
    known: dict[tuple, Node] = {}
    return graph.map(lambda node: known.setdefault(node.key, node))
