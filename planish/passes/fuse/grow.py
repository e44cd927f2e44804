"""Which parts are merged, and in which order: the strategy of fusion.

The order decides who gets a value that could go to several kernels. What saves the most comes
first: epilogues of contractions (the value is still in registers), then rows, then reductions over
other axes, then whatever elementwise work is left.
"""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.dims import product
from planish.passes.fuse.partition import Part, Partition
from planish.passes.fuse.sink import sink

# Arrays below this size cost a barrier rather than bandwidth: independent ones share a kernel.
SMALL = 4096


def grow(partition: Partition) -> None:
    """Merge all that should be merged."""
    epilogues(partition)
    updates(partition)
    rows(partition)
    reduces(partition)
    maps(partition)
    prologues(partition)
    sink(partition)
    siblings(partition)


def epilogues(p: Partition) -> None:
    """Elementwise work on a matmul's result joins it: bias, activation, residual, scale, mask.

    An in-place update stays apart, so that others can read the old value first.
    """
    s = p.survey
    for i in s.core:
        if s.nodes[i].op.kind == "elementwise" and i not in s.updates:
            part = p.home[i]
            for q in p.producers(part, "contraction"):
                if q.shape == part.shape and p.merge(q, part):
                    break


def updates(p: Partition) -> None:
    """A matmul writes its result into donated arrays, such as keys and values into their caches."""
    for part in p.parts:
        if part.kind == "update":
            for q in p.producers(part, "contraction"):
                if p.merge(q, part):
                    break


def rows(p: Partition) -> None:
    """Last-axis reductions join with what runs into them, with each other, and what follows."""
    for i in p.survey.core:
        part = p.home[i]
        if part.kind not in ("row", "map"):
            continue
        for q in p.producers(part, "row"):
            part = p.merge(q, part) or part
        if part.kind == "row":
            absorb(p, part)


def reduces(p: Partition) -> None:
    """What only a leading-axes reduction reads joins it, and what is computed of its result."""
    s = p.survey
    for i in s.core:
        part = p.home[i]
        if part.kind == "reduce":
            absorb(p, part)
        elif part.kind == "map":
            for q in p.producers(part, "reduce"):
                part = p.merge(q, part) or part


def maps(p: Partition) -> None:
    """Elementwise work joins elementwise work, and else the one kernel that reads it."""
    for i in p.survey.core:
        part = p.home[i]
        if part.kind == "map":
            for q in p.producers(part, "map"):
                part = p.merge(q, part) or part
    for part in p.parts:
        if part.kind in ("contraction", "row", "reduce"):
            absorb(p, part)


def prologues(p: Partition) -> None:
    """A product of several rows makes them, where it alone reads them; words have a step."""
    for part in p.parts:
        rows = product(part.shape[:-1]) if part.kind == "contraction" else 1
        if isinstance(rows, int) and rows > 1:
            for q in p.producers(part, "row"):
                wide = all(p.survey.nodes[v].dtype == t.f32 for v in q.outs)
                if wide and _only_for(p, q, part):
                    p.merge(q, part)


def absorb(p: Partition, part: Part) -> None:
    """Merge the map producers of `part` into it, theirs too."""
    refused: set[Part] = set()
    while True:
        found = [q for q in p.producers(part, "map") if q not in refused and _fits(p, q, part)]
        if not found:
            return
        merged = p.merge(found[0], part)
        if merged is None:
            refused.add(found[0])
        else:
            part = merged


def _fits(p: Partition, q: Part, part: Part) -> bool:
    """A row may store what it takes in, a contraction if of its shape; others must not need to."""
    if part.kind == "row" or (part.kind == "contraction" and q.shape == part.shape):
        return True
    return _only_for(p, q, part)


def _only_for(p: Partition, q: Part, part: Part) -> bool:
    """Whether nobody else reads what `q` makes."""
    return all(p.readers[v] == {part} and v not in p.survey.outputs for v in q.outs)


def siblings(p: Partition) -> None:
    """Reductions and maps that read the same arrays share a kernel; so do small maps of a shape."""
    last: dict[tuple, Part] = {}
    for part in p.parts:
        key = _kin(p, part)
        if key is not None:
            shared = last.get(key)
            if shared is not None and _related(p, shared, part):
                part = p.merge(shared, part) or part
            last[key] = part


def _kin(p: Partition, part: Part) -> tuple | None:
    """What parts that may share a kernel have in common."""
    if part.kind == "reduce":
        group, _ = p.check(part.nodes, part.outs)
        first = group.reductions[0]
        return ("reduce", first.attrs["axes"], first.inputs[0].shape, first.shape)
    if part.kind != "map" or not p.again.isdisjoint(part.nodes):
        return None
    return ("map", part.shape)


def _related(p: Partition, a: Part, b: Part) -> bool:
    """Whether one kernel saves a read as large as a result, or little but a barrier is at stake.

    Reductions of large arrays that share none stay apart: together they would wait for the last of
    them, and read the others when those have left the cache.
    """
    sizes = p.survey.size
    size = max(sizes[v] for v in a.outs | b.outs)
    work = max(sizes[v] for v in a.outs | b.outs | a.reads | b.reads)
    return work <= SMALL or any(sizes[r] >= size for r in a.reads & b.reads)
