"""What fusion knows of a graph before it groups anything: which nodes are free, who reads what.

Free nodes (views, iota, casts of those, masks made of indices) are never stored if every reader can
compute them itself: each kernel that reads one gets a copy. What is left are the *core* nodes; they
are what is grouped, and `reads` are the edges between them. Nodes are named by their place in
`graph.nodes`.
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir.graph import Graph
from planish.ir.groups import COPIED_LEAVES, has_kernel, is_pull
from planish.ir.node import Node
from planish.ir.types import TensorType
from planish.passes.fuse.cost import FUNCTIONS

# A mask or index expression longer than this is stored rather than computed by every reader.
LONGEST_FREE = 8

NOTHING, VIEWS, CASTS, ALL = range(4)  # what a reader can compute on the way to an operand


@dataclass(frozen=True)
class Survey:
    """Facts on a graph. For a core node: `inner` are the free nodes that it absorbs, `reads` the
    values it needs stored (or in its own kernel), `users` the core nodes that read it."""

    graph: Graph
    nodes: tuple[Node, ...]
    outputs: frozenset[int]
    core: tuple[int, ...]
    inner: dict[int, tuple[int, ...]]
    reads: dict[int, tuple[int, ...]]
    users: dict[int, tuple[int, ...]]
    absorbs: tuple[int, ...]
    donated: frozenset[int]


def survey(graph: Graph) -> Survey:
    """Look at `graph`, consumers before producers: a free node is core if a reader needs it."""
    nodes = graph.nodes
    at = {node: i for i, node in enumerate(nodes)}
    outputs = frozenset(at[x] for x in graph.outputs)
    free = _free(nodes, at)
    absorbs = _absorbs(graph)
    core = {i for i in outputs if nodes[i].op.kind != "leaf" or nodes[i].op.name in COPIED_LEAVES}
    inner: dict[int, tuple[int, ...]] = {}
    reads: dict[int, tuple[int, ...]] = {}
    for i in reversed(range(len(nodes))):
        if not free[i] and nodes[i].op.kind != "leaf":
            core.add(i)
        if i not in core:
            continue
        inner[i], reads[i] = _operands(nodes, at, free, i, absorbs[i])
        core.update(r for r in reads[i] if nodes[r].op.kind != "leaf")
    order = tuple(sorted(core))
    users: dict[int, list[int]] = {i: [] for i in range(len(nodes))}
    for i in order:
        for r in reads[i]:
            users[r].append(i)
    return Survey(
        graph,
        nodes,
        outputs,
        order,
        inner,
        reads,
        {i: tuple(found) for i, found in users.items()},
        absorbs,
        frozenset(at[graph.inputs[i]] for i, _ in graph.aliases),
    )


def _free(nodes: tuple[Node, ...], at: dict[Node, int]) -> list[bool]:
    """Which nodes may be computed by every reader. `made` counts the ops of index expressions."""
    free: list[bool] = []
    made: list[int | None] = []
    for node in nodes:
        inputs = [at[x] for x in node.inputs]
        parts = [made[i] for i in inputs]
        count = None if None in parts else 1 + sum(parts)  # type: ignore[arg-type]
        name, kind = node.op.name, node.op.kind
        cheap = is_pull(node.op) and kind != "random" and name not in FUNCTIONS
        if kind == "leaf":
            count = 0 if name in COPIED_LEAVES else None
        elif not cheap or (count is not None and count > LONGEST_FREE):
            count = None
        made.append(count)
        cast = name == "cast" and (free[inputs[0]] or nodes[inputs[0]].op.kind == "leaf")
        free.append(
            kind != "leaf" and (kind == "view" or cast or name == "one_hot" or count is not None)
        )
    return free


def _absorbs(graph: Graph) -> tuple[int, ...]:
    """What each node can compute on the way to its operands."""
    donated = {graph.inputs[i] for i, _ in graph.aliases}
    found = []
    for node in graph.nodes:
        if node.op.name == "update_slice" and node.inputs[0] in donated:
            donated.add(node)  # written in place, and so is what updates the result again
            found.append(NOTHING)
        elif not isinstance(node.type, TensorType):
            found.append(NOTHING)
        elif has_kernel(node.op):
            found.append(VIEWS)
        elif node.op.kind == "contraction":
            found.append(CASTS)
        else:
            found.append(ALL if is_pull(node.op) or node.op.kind == "reduction" else NOTHING)
    return tuple(found)


def _operands(
    nodes: tuple[Node, ...], at: dict[Node, int], free: list[bool], i: int, absorbs: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The free nodes between core node `i` and what it reads, and what it reads."""
    inner: dict[int, None] = {}
    reads: dict[int, None] = {}
    stack = list(reversed(nodes[i].inputs))
    while stack:
        x = stack.pop()
        k = at[x]
        if x.op.name in COPIED_LEAVES or k in inner:
            continue
        if free[k] and _can(absorbs, x):
            inner[k] = None
            stack.extend(reversed(x.inputs))
        else:
            reads[k] = None
    return tuple(inner), tuple(reads)


def _can(absorbs: int, x: Node) -> bool:
    if absorbs == CASTS and x.op.name == "cast":
        return True
    return absorbs == ALL or (absorbs != NOTHING and x.op.kind == "view")
