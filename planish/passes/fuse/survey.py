"""What fusion knows of a graph before it groups anything: which nodes are free, who reads what.

Free nodes (views, iota, casts of those, short functions of one input) are never stored if every
reader can compute them itself: each kernel that reads one gets a copy. What is left are the *core*
nodes; they are what is grouped, and `reads` are the edges between them. Nodes are named by their
place in `graph.nodes`.
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir.graph import Graph
from planish.ir.groups import COPIED_LEAVES, OF_CACHES, ON_THE_WAY, UPDATES, has_kernel, is_pull
from planish.ir.node import Node, viewed_of
from planish.ir.types import TensorType
from planish.passes.fuse.cost import FUNCTIONS, bytes_of

# Masks, index expressions and functions of one leaf longer than this are stored, not recomputed.
LONGEST_FREE = 8

NOTHING, VIEWS, SCALES, CASTS, ALL = range(5)  # what a reader can compute on the way to an operand


@dataclass(frozen=True)
class Survey:
    """Facts on a graph.

    For a core node: `inner` are the free nodes that it absorbs, `reads` the values it needs stored
    or in its own kernel, `users` the core nodes that read it. `absorbs` says what a node can
    compute on the way to its operands. `updates` are new values of donated inputs, `overwrites`
    has the input of those that are results, `size` the bytes of each value.
    """

    graph: Graph
    nodes: tuple[Node, ...]
    outputs: frozenset[int]
    core: tuple[int, ...]
    inner: dict[int, tuple[int, ...]]
    reads: dict[int, tuple[int, ...]]
    users: dict[int, tuple[int, ...]]
    absorbs: tuple[int, ...]
    updates: frozenset[int]
    overwrites: dict[int, int]
    size: tuple[int, ...]


def survey(graph: Graph) -> Survey:
    """Look at `graph`, consumers before producers: a free node is core if a reader needs it."""
    nodes = graph.nodes
    at = {node: i for i, node in enumerate(nodes)}
    outputs = frozenset(at[x] for x in graph.outputs)
    donated = {graph.inputs[i] for i, _ in graph.aliases}
    free = _free(nodes, at, donated)
    absorbs = _absorbs(graph)
    core = {i for i in outputs if nodes[i].op.kind != "leaf"}
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
        _updates(nodes, at, donated),
        {at[y]: at[x] for x, y in _aliased(graph) if y.op.kind != "leaf"},
        tuple(bytes_of(n) if isinstance(n.type, TensorType) else 0 for n in nodes),
    )


def _free(nodes: tuple[Node, ...], at: dict[Node, int], donated: set[Node]) -> list[bool]:
    """Which nodes may be computed by every reader: views, and short elementwise functions of at
    most one leaf. Donated leaves must be read before they are overwritten, so not by any reader.

    `made` holds, for such a function, its number of ops and its leaf.
    """
    free: list[bool] = []
    made: list[tuple[int, Node | None] | None] = []
    for node in nodes:
        inputs = [at[x] for x in node.inputs]
        found = _function(node, [made[i] for i in inputs])
        if node.op.kind == "leaf":
            own = None if node.op.name in COPIED_LEAVES else node
            found = None if node in donated else (0, own)
        made.append(found)
        always = node.op.kind == "view" or node.op.name in ("one_hot", "expand_bitmap")
        always |= node.op.name in OF_CACHES and _is_of_cache(node)
        cast = node.op.name == "cast" and free[inputs[0]]
        free.append(node.op.kind != "leaf" and (always or cast or found is not None))
    return free


def _is_of_cache(node: Node) -> bool:
    """Whether a dequantize is of what a slice has been written into."""
    return all(x.op.name in UPDATES for x in node.inputs)


def _function(
    node: Node, operands: list[tuple[int, Node | None] | None]
) -> tuple[int, Node | None] | None:
    """The size and leaf of a cheap function of one leaf; None where it is none."""
    name, kind = node.op.name, node.op.kind
    index = name in ("iota", "tril", "triu")
    if name in FUNCTIONS or not (index or kind in ("elementwise", "view")) or None in operands:
        return None
    count = 1 + sum(size for size, _ in operands)  # type: ignore[misc]
    leaves = {leaf for _, leaf in operands if leaf is not None}  # type: ignore[misc]
    if count > LONGEST_FREE or len(leaves) > 1:
        return None
    return count, next(iter(leaves), None)


def _updates(nodes: tuple[Node, ...], at: dict[Node, int], donated: set[Node]) -> frozenset[int]:
    """Nodes that follow from a donated input element by element."""
    found: set[int] = set()
    for i, node in enumerate(nodes):
        if node.op.kind == "elementwise" and any(
            (x in donated or at[x] in found) and x.shape == node.shape for x in node.inputs
        ):
            found.add(i)
    return frozenset(found)


def _aliased(graph: Graph) -> list[tuple[Node, Node]]:
    """Donated inputs, and the outputs that take their places."""
    return [(graph.inputs[i], graph.outputs[j]) for i, j in graph.aliases]


def _absorbs(graph: Graph) -> tuple[int, ...]:
    """What each node can compute on the way to its operands."""
    donated = {graph.inputs[i] for i, _ in graph.aliases}
    found = []
    for node in graph.nodes:
        if node.op.name in UPDATES and node.inputs[0] in donated:
            # what is read from the array itself must be read before it is written
            found.append(VIEWS if viewed_of(node.inputs[1]) not in donated else NOTHING)
            donated.add(node)  # written in place, and so is what updates the result again
        elif not isinstance(node.type, TensorType):
            found.append(NOTHING)
        elif has_kernel(node.op):
            found.append(SCALES if node.op.name == "attention" else VIEWS)
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
    if (absorbs == CASTS and x.op.name in ON_THE_WAY) or (
        absorbs == SCALES and x.op.name in OF_CACHES
    ):
        return True
    return absorbs == ALL or (absorbs != NOTHING and x.op.kind == "view")
