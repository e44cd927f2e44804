"""A partition of the core nodes into kernels, and when two of them may become one.

Parts are kept in a topological order of the quotient graph (`rank`). Merging p and c is legal
unless a path leads from p to c through another part: that part would have to run both after and
before the merged one. Paths also lead from who reads a donated input to who overwrites it. Where
nothing but c comes after p there is no such path, by construction. Else
the parts after p and before c in the order are searched, and after the merge they alone are
reordered (Pearce and Kelly, A dynamic topological sort algorithm for directed acyclic graphs,
2006), so that the cost of a merge does not depend on the size of the graph. Where c needs nothing
that runs after p, it moves to where p is, however far that may be: what the backward pass makes of
values of the forward pass alone is made, and stored, where those are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from functools import cached_property

from planish.ir.groups import Group, classify_nodes, is_pull
from planish.ir.node import Node
from planish.ir.text import labels
from planish.passes.fuse.cost import repeats
from planish.passes.fuse.survey import NOTHING, SCALES, VIEWS, Survey

MOST_BUFFERS = 24  # operands and outputs: pointers of one kernel, and streams of the prefetcher
MOST_NODES = 200  # keeps compile time linear; a longer body gains nothing, it is bound by compute
FARTHEST = 128  # parts searched for a path: values that live this long are better stored

# Kinds that have a chance together; what is legal then is for `classify` to say.
_PAIRS = {
    frozenset(pair)
    for pair in (
        ("map",), ("row",), ("reduce",), ("map", "row"), ("map", "reduce"), ("map", "contraction"),
        ("contraction", "update"), ("row", "contraction"),
    )
}  # fmt: skip


class Part:
    """One kernel to be. `reads` are values from outside, `outs` those that others read.

    `plain`: elementwise of one shape, so that two of them need no closer look.
    """

    __slots__ = ("kind", "nodes", "outs", "plain", "rank", "reads", "shape")

    def __init__(self, nodes: set[int], kind: str | None, rank: int):
        self.nodes, self.kind, self.rank = nodes, kind, rank
        self.reads: set[int] = set()
        self.outs: set[int] = set()
        self.plain = False
        self.shape: tuple = ()


class Partition:
    """The parts of a graph; at first one for each core node."""

    def __init__(self, survey: Survey):
        self.survey = survey
        self.home: dict[int, Part] = {}  # value -> the part that stores it
        self.readers: dict[int, set[Part]] = {i: set() for i in survey.users}
        self.overwrites = survey.overwrites
        order = _ordered(survey)
        if order is None:  # no order reads all before it is overwritten: lowering refuses
            self.overwrites, order = {}, list(survey.core)
        self.overwritten = {x: i for i, x in self.overwrites.items()}
        self._old, self._new = frozenset(self.overwritten), frozenset(self.overwrites)
        self.again = {i for i in survey.core if survey.nodes[i].op.name == "again"}
        for rank, i in enumerate(order):
            part = Part({i}, self._kind(i), rank)
            part.reads = set(survey.reads[i])
            part.plain = self._plain(i)
            part.shape = self._shape(i)
            self.home[i] = part
            for r in part.reads:
                self.readers[r].add(part)
        for i, part in self.home.items():
            if self.readers[i] or i in survey.outputs:
                part.outs.add(i)

    def _kind(self, i: int) -> str | None:
        node = self.survey.nodes[i]
        if self.survey.absorbs[i] == NOTHING:
            return None
        if node.op.kind == "reduction":
            return "row" if node.attrs["axes"] == (node.inputs[0].type.rank - 1,) else "reduce"
        if self.survey.absorbs[i] in (VIEWS, SCALES):  # attention and its like, updates in place
            return "update" if node.op.name == "update_slice" else "special"
        return "map" if is_pull(node.op) else node.op.kind

    def _plain(self, i: int) -> bool:
        node, s = self.survey.nodes[i], self.survey
        through = {x for k in s.inner[i] for x in s.nodes[k].inputs}
        stored = (s.nodes[r] for r in s.reads[i] if s.nodes[r].op.kind != "leaf")
        return node.op.kind == "elementwise" and through.isdisjoint(stored)

    def _shape(self, i: int) -> tuple:
        """What must agree: rows of a row part, else the shape of the outputs."""
        node = self.survey.nodes[i]
        if self.survey.absorbs[i] == NOTHING:
            return ()
        return node.inputs[0].shape[:-1] if self._kind(i) == "row" else node.shape

    @property
    def parts(self) -> list[Part]:
        """The parts in topological order."""
        return sorted(dict.fromkeys(self.home.values()), key=lambda part: part.rank)

    def producers(self, part: Part, *kinds: str) -> list[Part]:
        """Parts of these kinds that `part` reads, the latest first."""
        found = {self.home[r] for r in part.reads if r in self.home}
        return sorted((q for q in found if q.kind in kinds), key=lambda q: -q.rank)

    def merge(self, a: Part, b: Part) -> Part | None:
        """Make one part of two, or None where `refusal` would say why not."""
        if a is b or self._early(a, b):
            return None
        p, c = (a, b) if a.rank < b.rank else (b, a)
        after = self._between(p, c)
        before = self._before(p, c) if after else set()
        if isinstance(after, str) or before is None:
            return None
        group, reason = self._together(p, c)
        return self._join(p, c, before, after, group) if reason is None else None

    def refusal(self, a: Part, b: Part) -> str | None:
        """Why two parts do not become one kernel; None where they could."""
        p, c = (a, b) if a.rank < b.rank else (b, a)
        between = self._between(p, c)
        if isinstance(between, str):
            return between
        return self._early(p, c) or self._together(p, c)[1]

    @cached_property
    def names(self) -> list[str]:
        """How nodes print."""
        known = labels(self.survey.graph)
        return [known[node] for node in self.survey.nodes]

    def _early(self, a: Part, b: Part) -> str | None:
        """Cheap reasons: kinds, shapes, sizes."""
        for part in (a, b):
            if part.kind in (None, "special"):
                return f"{self.names[min(part.nodes)]} is a kernel of its own"
        if frozenset((a.kind, b.kind)) not in _PAIRS:
            return f"a kernel of kind {a.kind} takes in none of kind {b.kind}"
        if a.kind == b.kind and a.kind != "map" and a.shape != b.shape:
            return f"they run over different shapes, {list(a.shape)} and {list(b.shape)}"
        if len(a.nodes) + len(b.nodes) > MOST_NODES:
            return f"together they have more than {MOST_NODES} nodes"
        for p, c in ((a, b), (b, a)):
            for v in sorted(self.again & c.nodes) if self.again else ():
                if not p.nodes.isdisjoint(self.survey.reads[v]):
                    return f"{self.names[v]} begins what is computed again to keep less"
        reads = (a.reads | b.reads) - a.nodes - b.nodes
        count = len(reads) + len(self.outs_of(a, b))
        if count > MOST_BUFFERS:
            return f"together they have {count} operands and results, more than {MOST_BUFFERS}"
        return None

    def outs_of(self, a: Part, b: Part) -> set[int]:
        """What others read of two parts."""
        both = {a, b}
        return {
            v
            for v in a.outs | b.outs
            if v in self.survey.outputs or not self.readers[v] <= both
        }  # fmt: skip

    def _together(self, p: Part, c: Part) -> tuple[Group, str | None]:
        """The kind of the two together, and why they are no kernel, or a wasteful one."""
        if p.plain and c.plain and p.shape == c.shape:
            return Group("map"), None
        return self.check(p.nodes | c.nodes, self.outs_of(p, c))

    def check(self, places: Iterable[int], outs: Iterable[int]) -> tuple[Group, str | None]:
        """The kind of a body, and why it may not be a kernel."""
        nodes = self.survey.nodes
        outputs = [nodes[i] for i in sorted(outs)]
        body = self.body(places)
        group = classify_nodes(body, outputs)
        return group, (repeats(body, outputs) if group.kind else group.reason)

    def body(self, places: Iterable[int]) -> list[Node]:
        """The nodes at `places` with the free ones they absorb, in topological order."""
        inner = self.survey.inner
        found = {k for i in places for k in (i, *inner[i])}
        return [self.survey.nodes[i] for i in sorted(found)]

    def _between(self, p: Part, c: Part) -> str | set[Part]:
        """Parts that run after `p` and before `c` must; a sentence where a path joins them."""
        if all(q is c or q is p for q in self._next(p)) or self._needs_no_other(p, c):
            return set()
        found = self._search(p, c, self._next)
        if isinstance(found, Part):
            through = self.names[max(found.nodes)]
            return (
                f"{self.names[min(c.nodes)]} also depends on {self.names[min(p.nodes)]} "
                f"through {through}, which is outside the kernel"
            )
        return found if found is not None else "they are too far apart"

    def _needs_no_other(self, p: Part, c: Part) -> bool:
        """Whether `c` can run where `p` does: it needs nothing that comes after `p`."""
        return all(q is c or q.rank <= p.rank for q in self._previous(c))

    def _search(
        self, start: Part, goal: Part, step: Callable[[Part], list[Part]]
    ) -> set[Part] | Part | None:
        """Parts reached from `start` before `goal`, or one leading to it; None: too many."""
        low, high = sorted((start.rank, goal.rank))
        seen = {q for q in step(start) if q is not goal and low < q.rank < high}
        stack = sorted(seen, key=_rank)
        while stack:
            q = stack.pop()
            near = step(q)
            if goal in near:
                return q
            new = {r for r in near if r not in seen and low < r.rank < high}
            seen |= new
            stack += sorted(new, key=_rank)  # sets of parts have no order
            if len(seen) > FARTHEST:
                return None
        return seen

    def _before(self, p: Part, c: Part) -> set[Part] | None:
        """Parts that run before `c` must, though after `p`, from which no path leads to them."""
        found = self._search(c, p, self._previous)
        return found if isinstance(found, set) else None

    def _next(self, q: Part) -> list[Part]:
        """Parts that must run after `q`."""
        found = [r for v in q.outs for r in self.readers[v]]
        if q.reads.isdisjoint(self._old):
            return found
        return found + [self.home[self.overwritten[x]] for x in sorted(q.reads & self._old)]

    def _previous(self, q: Part) -> list[Part]:
        """Parts that must run before `q`."""
        found = [self.home[r] for r in q.reads if r in self.home]
        if q.nodes.isdisjoint(self._new):
            return found
        return found + [r for v in q.nodes & self._new for r in self.readers[self.overwrites[v]]]

    def in_time(self, q: Part, reads: set[int]) -> bool:
        """Whether `q` runs before any of these is overwritten."""
        old = reads & self.overwritten.keys()
        return all(q.rank <= self.home[self.overwritten[x]].rank for x in old)

    def _join(self, p: Part, c: Part, before: set[Part], after: set[Part], group: Group) -> Part:
        """Merge `p` and the later `c`: the ranks of all concerned are handed out anew."""
        ranks = sorted(q.rank for q in (*before, p, *after, c))
        order = [*sorted(before, key=_rank), None, *sorted(after, key=_rank)]
        rank = c.rank if not after else ranks[len(before)]
        rank = p.rank if self._needs_no_other(p, c) else rank
        for q, free in zip(order, ranks, strict=False):  # one rank is left over
            if q is not None:
                q.rank = free
        outs = self.outs_of(p, c)
        merged, other = (p, c) if len(p.nodes) >= len(c.nodes) else (c, p)
        merged.plain = p.plain and c.plain and p.shape == c.shape
        merged.kind, merged.outs, merged.rank = group.kind, outs, rank
        first = group.anchor or self.survey.nodes[min(outs)]
        merged.shape = group.rows if group.kind == "row" else first.shape
        self._move(merged, other)
        return merged

    def _move(self, merged: Part, other: Part) -> None:
        """Hand nodes and reads of `other` over."""
        for v in other.nodes:
            if self.home.get(v) is other:
                self.home[v] = merged
        merged.reads -= other.nodes
        for v in other.nodes:
            self.readers[v].discard(merged)
        for r in other.reads:
            self.readers[r].discard(other)
            if r not in merged.nodes:
                merged.reads.add(r)
                self.readers[r].add(merged)
        merged.nodes |= other.nodes


def _ordered(survey: Survey) -> list[int] | None:
    """The core nodes, such that who reads a donated input comes before who overwrites it."""
    core = set(survey.core)
    before = {i: {r for r in survey.reads[i] if r in core} for i in survey.core}
    for i, x in survey.overwrites.items():
        before[i].update(set(survey.users[x]) - {i})
    after: dict[int, list[int]] = {i: [] for i in survey.core}
    for i, earlier in before.items():
        for r in earlier:
            after[r].append(i)
    ready = [i for i in survey.core if not before[i]]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for i in after[order[-1]]:
            before[i].discard(order[-1])
            if not before[i]:
                heapq.heappush(ready, i)
    return order if len(order) == len(survey.core) else None


def _rank(part: Part) -> int:
    return part.rank
