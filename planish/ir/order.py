"""In which order the nodes of a graph run.

`graph.nodes` is the order in which a graph reads best. This one keeps fewer values alive: results
that are ready first are finished first, and of a node's operands the one with the longest chain
behind it goes first, since the others would wait for it (as Sethi and Ullman order the operands of
an expression). So a value that the backward pass computes again is computed where it is needed.

Then nodes that others kept waiting move up to their operands, where that keeps fewer bytes alive or
finds them in the cache: the gradient of a weight is computed beside that of the activation, not
when the backward pass is over and the norm of all gradients is due.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from planish.ir.dims import upper
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.ir.types import TensorType

FREE = ("leaf", "get", "view")  # kinds that take neither time nor memory of their own
SMALLER = 64  # a result this many times smaller than its operands is made while they are near
NOMINAL = 128  # stands for a symbolic size without a maximum
ROUNDS = 2  # what moved makes room for what reads it

Place = tuple[int, int]  # a step of the first order, and a count of what moved behind it


def run_order(graph: Graph) -> tuple[Node, ...]:
    """Every node, operands before users."""
    return _with_operands(graph, _Steps(graph, depth_first(graph, graph.outputs)).early())


def depth_first(graph: Graph, roots: tuple[Node, ...]) -> tuple[Node, ...]:
    """Every node; of outputs the shallowest, of operands the deepest goes first."""
    depth: dict[Node, int] = {}
    for node in graph.nodes:
        depth[node] = 1 + max((depth[x] for x in node.inputs), default=0)
    order: dict[Node, None] = dict.fromkeys(graph.inputs)
    stack = sorted(roots, key=depth.__getitem__, reverse=True)
    while stack:
        node = stack[-1]
        waiting = [x for x in dict.fromkeys(node.inputs) if x not in order]
        if waiting and node not in order:
            stack += sorted(waiting, key=depth.__getitem__)  # the deepest on top
        else:
            order[stack.pop()] = None
    return tuple(order)


def _with_operands(graph: Graph, steps: list[Node]) -> tuple[Node, ...]:
    """Steps in this order, and what is free before the first that needs it."""
    order: dict[Node, None] = dict.fromkeys(graph.inputs)
    for root in (*steps, *graph.outputs):
        stack = [root]
        while stack:
            waiting = [x for x in stack[-1].inputs if x not in order]
            if waiting and stack[-1] not in order:
                stack += reversed(waiting)
            else:
                order[stack.pop()] = None
    return tuple(order)


@dataclass
class _Steps:
    """Nodes that run, at their places; for each the values that it reads, for those the readers."""

    graph: Graph
    order: tuple[Node, ...]
    place: dict[Node, Place] = field(default_factory=dict)
    results: dict[Node, list[Node]] = field(default_factory=dict)
    reads: dict[Node, list[Node]] = field(default_factory=dict)
    readers: dict[Node, list[Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        home: dict[Node, Node] = {}  # view -> the value that it is of
        for x in self.order:
            home[x] = home[x.inputs[0]] if x.op.kind == "view" else x
            if x.op.kind not in FREE:
                self.place[x] = (len(self.place), 0)
                self.results[x] = []
                values = dict.fromkeys(home[y] for y in x.inputs)
                self.reads[x] = [y for y in values if y.op.kind != "leaf"]
                for y in self.reads[x]:
                    self.readers.setdefault(y, []).append(x)
            if x.op.kind not in ("leaf", "view") and isinstance(x.type, TensorType):
                self.results[_step(x)].append(x)
        self.kept = {home[x] for x in self.graph.outputs}
        self.size = {x: _bytes(x) for x in home.values()}

    def early(self) -> list[Node]:
        """The steps, those that should have moved up."""
        moved = 0
        for _ in range(ROUNDS):
            for x in reversed(list(self.place)):
                first = max((self._made(y) for y in self.reads[x]), default=self.place[x])
                if first[0] < self.place[x][0] and self._better(x, first):
                    moved += 1
                    self.place[x] = (first[0], moved)
        return sorted(self.place, key=self.place.__getitem__)

    def _made(self, value: Node) -> Place:
        """Where a value is computed."""
        return self.place[_step(value)]

    def _better(self, x: Node, first: Place) -> bool:
        """Whether `x` keeps fewer bytes alive, times steps, after `first` than where it is."""
        here = self.place[x][0]
        made = sum(self.size[y] for y in self.results[x] if y not in self.kept)
        read = [y for y in self.reads[x] if y not in self.kept]
        if made * SMALLER <= sum(self.size[y] for y in read):
            return True
        freed = 0
        for y in read:
            others = [self.place[r][0] for r in self.readers[y] if r is not x]
            freed += self.size[y] * max(0, here - max(first[0], *others, 0))
        return freed > made * (here - first[0])


def _step(value: Node) -> Node:
    """The node that computes a value."""
    return value.inputs[0] if value.op.kind == "get" else value


def _bytes(x: Node) -> int:
    """The size of a value; the results of a fused node count one by one."""
    if not isinstance(x.type, TensorType):
        return 0
    total = x.dtype.itemsize
    for size in x.shape:
        total *= upper(size) or NOMINAL
    return total
