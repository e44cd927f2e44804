"""networkx views of a graph, for questions whose answer is an algorithm with a name.

A view is a throw-away `DiGraph` over integers, the positions in `graph.nodes`, so that answers are
the same in every run. It is asked one question and dropped; graphs are never stored in it. Where
a line of reasoning suffices (a group with one output whose inner users are all inside is convex by
construction), no view is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from planish.ir.errors import IRError
from planish.ir.graph import Graph
from planish.ir.later import later
from planish.ir.node import Node

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = later("networkx")

Name = TypeVar("Name", bound=Hashable)

ENTRY = -1  # a node before all leaves


def positions(graph: Graph) -> dict[Node, int]:
    """Node -> its place in `graph.nodes`."""
    return {node: i for i, node in enumerate(graph.nodes)}


def digraph(graph: Graph) -> nx.DiGraph:
    """The graph over positions; edges go from operands to users."""
    place = positions(graph)
    view = nx.DiGraph()
    view.add_nodes_from(range(len(place)))
    view.add_edges_from((place[x], i) for node, i in place.items() for x in node.inputs)
    return view


def longest_path(graph: Graph, cost: Callable[[Node], float] = lambda node: 1) -> tuple[Node, ...]:
    """The chain of dependent nodes with the largest total cost: the critical path."""
    view = digraph(graph)
    view.add_edges_from((ENTRY, i) for i in range(len(graph.nodes)) if not view.in_degree(i))
    for _, user, edge in view.edges(data=True):
        edge["cost"] = cost(graph.nodes[user])
    order = range(ENTRY, len(graph.nodes))
    found = nx.dag_longest_path(view, weight="cost", topo_order=order)
    return tuple(graph.nodes[i] for i in found if i != ENTRY)


def is_convex(graph: Graph, nodes: Collection[Node]) -> bool:
    """Whether no path leaves `nodes` and comes back, so that they can run as one step."""
    return quotient_is_acyclic(graph, [nodes])


def quotient_is_acyclic(graph: Graph, groups: Iterable[Collection[Node]]) -> bool:
    """Whether the graph stays acyclic when each of these disjoint groups becomes one node."""
    place = positions(graph)
    block = list(range(len(place)))
    for group in groups:
        members = [place[node] for node in group]
        for member in members:
            if block[member] != member:
                raise IRError(f"{graph.nodes[member]!r} is in two groups")
            block[member] = members[0]
    view = nx.DiGraph()
    view.add_edges_from(
        (block[place[x]], block[i])
        for node, i in place.items()
        for x in node.inputs
        if block[place[x]] != block[i]
    )
    return nx.is_directed_acyclic_graph(view)


def min_cut(
    edges: Iterable[tuple[Name, Name]],
    capacity: Mapping[Name, int | None],
    sources: Iterable[Name],
    sinks: Iterable[Name],
) -> tuple[int, tuple[Name, ...]]:
    """The cheapest set of nodes that every path from a source to a sink goes through, and its cost.

    `capacity` is the cost of cutting at a node; None means that it cannot be cut. Integers keep the
    answer exact. Among equally cheap cuts the one nearest to the sinks is taken. IRError where a
    path has no node to cut.
    """
    # Each node is an edge from its way in to its way out, so that cutting an edge cuts a node.
    view = nx.DiGraph()
    number = {name: i for i, name in enumerate(capacity)}
    start, end = -1, -2
    view.add_nodes_from((start, end))
    for name, i in number.items():
        cost = capacity[name]
        view.add_edge(2 * i, 2 * i + 1, **({} if cost is None else {"capacity": cost}))
    view.add_edges_from((2 * number[a] + 1, 2 * number[b]) for a, b in edges)
    view.add_edges_from((start, 2 * number[name]) for name in sources)
    view.add_edges_from((2 * number[name] + 1, end) for name in sinks)
    try:
        cost, (near, _) = nx.minimum_cut(
            view, start, end, flow_func=nx.algorithms.flow.shortest_augmenting_path
        )
    except nx.NetworkXUnbounded:
        raise IRError("min_cut: a path from a source to a sink has no node to cut") from None
    return cost, tuple(n for n, i in number.items() if 2 * i in near and 2 * i + 1 not in near)


def interference_colouring(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """A colour for each live range (first and last step), such that ranges that meet differ.

    Taking ranges in the order of their first steps uses the least possible number of colours.
    """
    view = nx.Graph()
    order = sorted(range(len(ranges)), key=lambda i: ranges[i])
    view.add_nodes_from(order)
    alive: list[int] = []
    for i in order:
        alive = [j for j in alive if ranges[j][1] >= ranges[i][0]]
        view.add_edges_from((j, i) for j in alive)
        alive.append(i)
    colours = nx.greedy_color(view, strategy=lambda graph, colors: iter(order))
    return [colours[i] for i in range(len(ranges))]


def dominators(graph: Graph) -> dict[Node, Node | None]:
    """Node -> the nearest node that every path from a leaf to it goes through; None if no such."""
    view = digraph(graph)
    leaves = [i for i in view if not view.in_degree(i)]
    view.add_edges_from((ENTRY, i) for i in leaves)
    found = nx.immediate_dominators(view, ENTRY)
    return {
        node: None if found[i] == ENTRY else graph.nodes[found[i]]
        for i, node in enumerate(graph.nodes)
    }
