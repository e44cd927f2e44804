"""Move values from the kernel that stores them into those that read them, where that saves traffic.

    kernel 1:  h = x @ w, t = h * p   ->  stores h and t
    kernel 2:  sum(t), h - sum(t)     ->  reads h and t
becomes
    kernel 1:  h = x @ w              ->  stores h
    kernel 2:  t = h * p, sum(t), h - sum(t)  ->  reads h and p

A stored value is computed by its readers instead, together with the cheap nodes it is made of, if
the bytes that are then stored and read are fewer. Nodes may so be computed in several kernels;
expensive ones only move, to a single reader. No cycle can arise: what a reader reads anew comes
from the storing kernel or its producers, all of which already ran before that reader; what is
overwritten in between stays where it is.
"""

from __future__ import annotations

from planish.passes.fuse.cost import FUNCTIONS
from planish.passes.fuse.partition import MOST_BUFFERS, MOST_NODES, Part, Partition

MOST_ROUNDS = 4  # two in practice
LARGEST_CONE = 12  # nodes that readers compute again
SMALLER = 8  # a value this many times smaller than the one it is made into stays stored


def sink(p: Partition) -> None:
    """Move until nothing moves; what one value needed stored may have kept another where it was."""
    for _ in range(MOST_ROUNDS):
        if not _round(p):
            return


def _round(p: Partition) -> bool:
    """Try every stored value, the last ones first, so that chains move whole."""
    moved = False
    for v in reversed(p.survey.core):
        part = p.home.get(v)
        if part is None or v not in part.outs or v in p.survey.outputs:
            continue
        readers = sorted(p.readers[v], key=lambda q: q.rank)
        cones = _cones(p, part, v, readers)
        if cones:
            changes = [_change(p, part, v, cone, readers) for cone in cones]
            best = min(changes)
            cone = cones[changes.index(best)]
            wanted = best < 0 or (best == 0 and _leads(p, part, v, cone))
            if wanted and _legal(p, part, v, cone, readers):
                _move(p, part, v, cone, readers)
                moved = True
    return moved


def _cones(p: Partition, part: Part, v: int, readers: list[Part]) -> list[set[int]]:
    """`v` with more and more of the nodes it is made of, back to stored, small or costly ones."""
    s = p.survey
    found: list[set[int]] = []
    if any(q.kind in (None, "special", "update") for q in readers):
        return found
    cone: set[int] = set()
    pending = {v}
    while pending and len(cone) < LARGEST_CONE:
        i = max(pending)  # readers first
        pending.remove(i)
        again = len(readers) > 1 or any(u in part.nodes and u not in cone for u in s.users[i])
        if s.nodes[i].op.kind != "elementwise" or (again and s.nodes[i].op.name in FUNCTIONS):
            continue
        cone.add(i)
        found.append(set(cone))
        for r in s.reads[i]:
            small = s.size[r] * SMALLER <= s.size[v]
            if r in part.nodes and r not in part.outs and r not in cone and not small:
                pending.add(r)
    return found


def _frontier(p: Partition, cone: set[int]) -> set[int]:
    """What the nodes of a cone read from outside it."""
    return {r for i in cone for r in p.survey.reads[i]} - cone


def _left(p: Partition, part: Part, v: int, cone: set[int]) -> tuple[set[int], set[int], set[int]]:
    """Nodes, results and operands of `part` without `v`."""
    s = p.survey
    outs = (part.outs - {v}) | (_frontier(p, cone) & part.nodes)
    nodes: set[int] = set()
    reads: set[int] = set()
    stack = list(outs)
    while stack:
        i = stack.pop()
        if i not in part.nodes:
            reads.add(i)
        elif i not in nodes:
            nodes.add(i)
            stack.extend(s.reads[i])
    return nodes, outs, reads


def _change(p: Partition, part: Part, v: int, cone: set[int], readers: list[Part]) -> int:
    """How many more bytes are stored and read."""

    def size(values: set[int]) -> int:
        return sum(map(p.survey.size.__getitem__, values))

    _, outs, reads = _left(p, part, v, cone)
    change = size(outs - part.outs) - size(part.outs - outs) - size(part.reads - reads)
    frontier = _frontier(p, cone)
    for q in readers:
        change += size(frontier - q.reads - q.nodes) - size({v})
    return change


def _leads(p: Partition, part: Part, v: int, cone: set[int]) -> bool:
    """Whether another stored value, made of the same ones, can follow at a gain."""
    needed = _frontier(p, cone) & part.nodes - part.outs
    return bool(needed) and any(
        _frontier(p, other) & part.nodes - part.outs == needed
        for w in part.outs - {v} - p.survey.outputs
        for other in _cones(p, part, w, list(p.readers[w]))
    )


def _legal(p: Partition, part: Part, v: int, cone: set[int], readers: list[Part]) -> bool:
    """Whether all concerned remain kernels of their kinds."""
    nodes, outs, _ = _left(p, part, v, cone)
    if nodes:
        group, reason = p.check(nodes, outs)
        if reason or group.kind != part.kind:
            return False
    for q in readers:
        group, reason = p.check(q.nodes | cone, q.outs)
        reads = (q.reads | _frontier(p, cone)) - q.nodes
        if reason or group.kind != q.kind or len(reads) + len(q.outs) > MOST_BUFFERS:
            return False
        if not p.in_time(q, reads):
            return False
        if len(q.nodes | cone) > MOST_NODES:
            return False
    return True


def _move(p: Partition, part: Part, v: int, cone: set[int], readers: list[Part]) -> None:
    """Give `cone` to the readers, and drop from `part` what nobody there needs any more."""
    nodes, outs, reads = _left(p, part, v, cone)
    for r in part.reads - reads:
        p.readers[r].discard(part)
    for q in readers:
        q.nodes |= cone
        for r in q.reads & cone:
            p.readers[r].discard(q)
        q.reads -= cone
        for r in _frontier(p, cone) - q.nodes:
            q.reads.add(r)
            p.readers[r].add(q)
        q.plain = False
    for i in part.nodes - nodes:
        if p.home.get(i) is part:
            del p.home[i]
    part.nodes, part.outs, part.reads, part.plain = nodes, outs, reads, False
