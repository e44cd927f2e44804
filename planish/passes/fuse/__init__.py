"""Merge nodes into kernels: graph to graph with `fused` nodes.

    graph f(%x: f32[4], %y: f32[4]) {
      %0 = add(%x, %y) : f32[4]
      %1 = tanh(%0) : f32[4]
      return %1
    }
becomes
    graph add_tanh(%p0: f32[4], %p1: f32[4]) {
      %0 = add(%p0, %p1) : f32[4]
      %1 = tanh(%0) : f32[4]
      return %1
    }

    graph f(%x: f32[4], %y: f32[4]) {
      %0 = fused @add_tanh(%x, %y) : f32[4]
      return %0
    }

The pass reads in this order: `survey` (which nodes are free, who reads what), `partition` (when two
kernels may become one), `grow` (which do), `sink` (values that readers better compute), `rebuild`.
What a kernel may hold is said by `planish.ir.groups`.
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir.errors import IRError
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.passes.fuse.grow import grow
from planish.passes.fuse.partition import Part, Partition
from planish.passes.fuse.rebuild import rebuild
from planish.passes.fuse.survey import survey


@dataclass(frozen=True)
class Fuse:
    """Group all nodes into kernels, greedily and deterministically."""

    def __call__(self, graph: Graph) -> Graph:
        return rebuild(partitioned(graph))


fuse = Fuse()


def partitioned(graph: Graph) -> Partition:
    """The kernels of `graph`."""
    partition = Partition(survey(graph))
    grow(partition)
    return partition


def kernels(graph: Graph) -> int:
    """How many kernels `graph` runs: its nodes but for leaves, parts of results, and reshapes."""
    free = ("leaf", "get")  # a reshape of stored data is the same memory
    return sum(n.op.kind not in free and n.op.name != "reshape" for n in graph.nodes)


def explain(graph: Graph, a: Node, b: Node) -> str:
    """Why `Fuse` does not compute two nodes of `graph` in one kernel."""
    partition = partitioned(graph)
    s, at = partition.survey, {node: i for i, node in enumerate(graph.nodes)}
    for node in (a, b):
        if node not in at:
            raise IRError(f"{node!r} is not in graph {graph.name}")
        if node.op.kind == "leaf":
            return f"{partition.names[at[node]]} is not computed, it is {node.op.name}"
    for i in (at[a], at[b]):
        if i not in s.inner:
            return f"{partition.names[i]} is computed by every kernel that reads it"
    i, j = at[a], at[b]
    first, second = (_parts_with(partition, k) for k in (i, j))
    if any(part in second for part in first):
        return f"{partition.names[i]} and {partition.names[j]} are in one kernel"
    return _reason(partition, first[0], second[0])


def _parts_with(partition: Partition, i: int) -> list[Part]:
    return [part for part in partition.parts if i in part.nodes]


def _reason(partition: Partition, a: Part, b: Part) -> str:
    """The refusal, with the reader outside that makes an extra result necessary."""
    reason = partition.refusal(a, b)
    if reason is None:
        return "they share no value, so nothing is saved"
    p, c = (a, b) if a.rank < b.rank else (b, a)
    for v in sorted(p.outs):
        readers = partition.readers[v]
        others = sorted(min(q.nodes) for q in readers - {c})
        if c in readers and others:
            outside = partition.names[others[0]]
            reason += f"; {partition.names[v]} is also read by {outside} outside the group"
            break
    return reason
