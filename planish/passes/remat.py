"""Save or recompute: which values of the forward pass the backward pass keeps in memory.

    %0 = matmul(%x, %w) : f32[512, 256]
    %1 = sin(%0) : f32[512, 256]
    %2 = matmul(%1, %v) : f32[512, 8]
    ...
    %9 = transpose(%1, perm=(1, 0)) : f32[256, 512]
becomes
    ...
    %9 = again(%0) : f32[512, 256]
    %10 = sin(%9) : f32[512, 256]
    %11 = transpose(%10, perm=(1, 0)) : f32[256, 512]

where `%0` is needed later anyway, so that keeping `%1` too would cost memory and saves one cheap
loop. As in AOTAutograd's partitioner (torch/_functorch/partitioners.py), the values to keep are a
minimum cut: between what cannot be recomputed (contractions, kernels of their own) and what the
backward pass reads, weighted by bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.ops.arithmetic import Pow
from planish.ir.ops.functions import FloatUnary
from planish.ir.views import min_cut
from planish.passes.fuse import fuse
from planish.passes.measure import live_bytes, nbytes, stored_bytes
from planish.passes.rewrite import walk

BUDGET = 1 << 30  # bytes; models whose training fits in 1 GiB recompute nothing


@dataclass(frozen=True)
class Remat:
    """Recompute as little as brings the estimated peak of memory to at most `budget` bytes.

    The forward pass is what output number `loss` depends on. What counts is the peak after fusion,
    which itself avoids storing much.
    """

    budget: int = BUDGET
    loss: int = 0

    def __call__(self, graph: Graph) -> Graph:
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


def recomputed(graph: Graph, loss: int, cheap: Cheap) -> Graph:
    """`graph` with the fewest bytes kept from forward to backward by recomputing `cheap` nodes."""
    forward = dict.fromkeys(walk([graph.outputs[loss]]))
    later = [x for x in graph.nodes if x not in forward]
    needed = [x for x in forward if any(user not in forward for user in graph.users[x])]
    saved = kept(forward, needed, cheap)
    again: dict[Node, Node] = {}
    for node in walk(needed, saved):
        inputs = tuple(reread(x) if x in saved else again[x] for x in node.inputs)
        again[node] = Node(node.op, inputs, node.attrs, node.type, node.loc)
    for node in later:
        again[node] = node.with_inputs(tuple(again.get(x, x) for x in node.inputs))
    return graph.with_outputs(tuple(x if x in forward else again.get(x, x) for x in graph.outputs))


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
