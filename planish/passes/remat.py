"""Save or recompute: which values of the forward pass the backward pass keeps in memory.

    %0 = matmul(%x, %w) : f32[512, 256]
    %1 = square(%0) : f32[512, 256]
    %2 = matmul(%1, %v) : f32[512, 8]
    ...
    %9 = transpose(%1, perm=(1, 0)) : f32[256, 512]
becomes
    ...
    %9 = again(%0) : f32[512, 256]
    %10 = square(%9) : f32[512, 256]
    %11 = transpose(%10, perm=(1, 0)) : f32[256, 512]

where `%0` is needed later anyway, so that keeping `%1` too would cost memory and saves little: the
step that packs an operand of a product computes it, too. So outputs of norms are not kept, nor, of
models that no cache holds, those of GELU and its like. What is read otherwise is kept, unless
memory is short. Then, as in AOTAutograd's partitioner (torch/_functorch/partitioners.py), the
values to keep are a minimum cut: between what cannot be recomputed (contractions, kernels of their
own) and what the backward pass reads, weighted by bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from planish.ir.graph import Graph
from planish.ir.node import OPS, Node, viewed_of
from planish.ir.ops.arithmetic import Pow
from planish.ir.ops.functions import FloatUnary
from planish.ir.views import min_cut
from planish.passes.fuse import fuse
from planish.passes.measure import live_bytes, nbytes, stored_bytes
from planish.passes.rewrite import walk

BUDGET = 1 << 30  # bytes; where training fits in 1 GiB, nothing else is recomputed
# bytes; functions such as exp take longer than to store so little, and read it from a cache
LITTLE = 1 << 24


@dataclass(frozen=True)
class Remat:
    """Recompute operands of products, and as little more as brings the estimated peak of memory to
    at most `budget` bytes.

    Operands made by functions such as exp are, where all of them have `little` bytes at least. The
    forward pass is what output number `loss` depends on. What counts is the peak after fusion,
    which itself avoids storing much.
    """

    budget: int = BUDGET
    loss: int = 0
    little: int = LITTLE

    def __call__(self, graph: Graph) -> Graph:
        graph = without_operands(graph, self.loss, self.little)
        if self._fits(graph):
            return graph
        best, least = graph, live_bytes(fuse(graph))
        for cheap in LEVELS:
            if least <= self.budget:
                break
            found = recomputed(graph, self.loss, cheap)
            if (peak := live_bytes(fuse(found))) < least:
                best, least = found, peak
        return best

    def _fits(self, graph: Graph) -> bool:
        """Whether memory is enough before fusion, in any order: the quickest is asked first."""
        if stored_bytes(graph) <= self.budget:
            return True
        return any(live_bytes(graph, nodes=x) <= self.budget for x in (graph.nodes, ()))


Cheap: TypeAlias = Callable[[Node], bool]


def arithmetic(node: Node) -> bool:
    """Views, casts, additions, products: done while loading."""
    costly = isinstance(node.op, (FloatUnary, Pow))
    return node.op.kind in ("view", "indexing", "elementwise") and not costly


def pointwise(node: Node) -> bool:
    """Any function of single elements: exp, tanh, random bits."""
    return node.op.kind in ("view", "indexing", "elementwise", "random")


def all_but_contractions(node: Node) -> bool:
    """Reductions too."""
    return pointwise(node) or node.op.kind == "reduction"


LEVELS: tuple[Cheap, ...] = (arithmetic, pointwise, all_but_contractions)


def without_operands(graph: Graph, loss: int, little: int) -> Graph:
    """`graph` that keeps no operand of products which it can make of what it keeps besides.

    Those that take functions such as exp stay where they are `little`. All else that is made of
    just the same is made again, too: it would be kept instead.
    """
    forward = dict.fromkeys(walk([graph.outputs[loss]]))
    made = followers(graph, forward)
    saved = {x for x in forward if x.op.kind == "leaf"}.union(*made.values())
    operands = [x for x in made if feeds_products(graph, x, forward)]
    costly = [x for x in operands if not all(map(arithmetic, walk([x], saved)))]
    if sum(map(nbytes, costly)) < little:
        operands = [x for x in operands if x not in costly]
    if not operands:
        return graph
    sources = frozenset().union(*(made[x] for x in operands))
    others = [x for x in made if x not in operands and made[x] <= sources]
    again: dict[Node, Node] = {}
    for group in (*([x] for x in operands), others):  # what packs an operand makes it by itself
        copies = copied(group, saved)
        again.update((x, copies[x]) for x in group)
    return rereading(graph, forward, again, sources)


def followers(graph: Graph, forward: dict[Node, None]) -> dict[Node, frozenset[Node]]:
    """Values that the backward pass reads and can make, element by element, of others that it
    reads; and those others."""
    sources: dict[Node, frozenset[Node] | None] = {}
    found: dict[Node, frozenset[Node]] = {}
    results = set(graph.outputs)
    for x in forward:
        parts = [sources[y] for y in x.inputs]
        known = [y for y in parts if y is not None]
        pulled = x.op.kind in ("leaf", "view", "elementwise") and len(known) == len(parts)
        of = sources[x] = frozenset().union(*known) if pulled else None
        if x.op.kind == "leaf" or all(user in forward for user in graph.users[x]):
            continue
        value = viewed_of(x)
        computed = value.op.kind == "elementwise" and sources[value] != {value}
        if of and computed and x not in results:
            found[x] = of
        else:
            sources[x] = frozenset((x,))
    return found


def feeds_products(graph: Graph, x: Node, forward: dict[Node, None]) -> bool:
    """Whether the backward pass reads a value, or views and casts of it, as operands of products
    alone."""
    for user in graph.users[x]:
        if user not in forward and user.op.kind != "contraction":
            near = user.op.kind == "view" or user.op.name == "cast"
            if not (near and feeds_products(graph, user, forward)):
                return False
    return True


def recomputed(graph: Graph, loss: int, cheap: Cheap) -> Graph:
    """`graph` with the fewest bytes kept from forward to backward by recomputing `cheap` nodes."""
    forward = dict.fromkeys(walk([graph.outputs[loss]]))
    needed = [x for x in forward if any(user not in forward for user in graph.users[x])]
    return rereading(graph, forward, copied(needed, kept(forward, needed, cheap)))


def copied(needed: list[Node], saved: set[Node]) -> dict[Node, Node]:
    """Nodes that make `needed` of what is saved."""
    again: dict[Node, Node] = {}
    for node in walk(needed, saved):
        inputs = tuple(reread(x) if x in saved else again[x] for x in node.inputs)
        again[node] = Node(node.op, inputs, node.attrs, node.type, node.loc)
    return again


def rereading(
    graph: Graph, forward: dict[Node, None], again: Mapping[Node, Node], late: Collection[Node] = ()
) -> Graph:
    """`graph` whose backward pass reads what is made `again`; what it computes element by element
    of those that are `late` stays there."""
    new = dict(again)
    for node in graph.nodes:
        if node not in forward:
            first = late if node.op.kind == "elementwise" else ()
            read = (reread(x) if x in first else new.get(x, x) for x in node.inputs)
            new[node] = node.with_inputs(tuple(read))
    return graph.with_outputs(tuple(x if x in forward else new.get(x, x) for x in graph.outputs))


def reread(x: Node) -> Node:
    """A saved value, to compute from; fusion leaves this read where it is."""
    return x if x.op.kind == "leaf" else OPS["again"](x).at(x.loc)


def kept(forward: dict[Node, None], needed: list[Node], cheap: Cheap) -> set[Node]:
    """The values to save: leaves, and the cheapest cut between what is not `cheap` and `needed`."""
    fixed = [x for x in forward if x.op.kind == "leaf" or not cheap(x)]
    held = set(fixed)
    edges = [(x, node) for node in forward if node not in held for x in node.inputs]
    capacity = {x: 0 if x.op.kind == "leaf" else nbytes(x) for x in forward}
    _, cut = min_cut(edges, capacity, fixed, needed)
    return {*cut, *(x for x in forward if x.op.kind == "leaf")}
