"""The order of steps: who reads a donated input must run before who writes its storage anew.

And what is too little work to share runs late, just before what needs it: threads meet once for all
totals that the optimiser reads, not twice for each.
"""

from __future__ import annotations

import heapq

from planish.ir.errors import IRError
from planish.runtime.nests import Nests
from planish.runtime.plan import Step
from planish.runtime.slots import Slot


def order_writes(
    steps: tuple[Step, ...], aliases: tuple[tuple[int, int], ...], nests: Nests
) -> tuple[Step, ...]:
    """`steps` in an order in which each donated input is read before its storage is written.

    The order given is kept where it may be, but by small steps. IRError, naming both readers, where
    no order works.
    """
    before: list[set[int]] = [set() for _ in steps]
    first: dict[tuple[str, int], int] = {}  # slot -> the step that writes it first
    last: dict[tuple[str, int], int] = {}  # and the latest one so far
    readers: dict[tuple[str, int], list[int]] = {}
    for k, step in enumerate(steps):
        for place in ((s.kind, s.index) for s in read(step)):
            readers.setdefault(place, []).append(k)
            before[k].update({last[place]} if place in last else ())
        for place in ((s.kind, s.index) for s in written(step)):
            if place in last:  # a sum that lies where what it was added to lay
                before[k].update((last[place], *readers.get(place, ())))
            first.setdefault(place, k)
            last[place] = k
        before[k].discard(k)
    for i, j in aliases:
        if ("output", j) in first:
            write = first["output", j]
            before[write].update(k for k in readers.get(("input", i), ()) if k != write)
    late = {k for k, step in enumerate(steps) if nests.of(step.kernel, step.sizes).small}
    return tuple(steps[k] for k in _late(_topological(steps, before), before, late))


def written(step: Step) -> tuple[Slot, ...]:
    """The slots that a step writes."""
    return tuple(
        s
        for s, b in zip(step.args, step.kernel.params, strict=True)
        if b.name in step.kernel.writes
    )


def read(step: Step) -> tuple[Slot, ...]:
    """The slots that a step reads."""
    return tuple(
        s
        for s, b in zip(step.args, step.kernel.params, strict=True)
        if b.name not in step.kernel.writes
    )


def _topological(steps: tuple[Step, ...], before: list[set[int]]) -> list[int]:
    after: list[list[int]] = [[] for _ in steps]
    waits = [len(b) for b in before]
    for k, earlier in enumerate(before):
        for e in earlier:
            after[e].append(k)
    ready = [k for k, n in enumerate(waits) if n == 0]
    order = []
    while ready:
        k = heapq.heappop(ready)
        order.append(k)
        for later in after[k]:
            waits[later] -= 1
            if waits[later] == 0:
                heapq.heappush(ready, later)
    if len(order) < len(steps):
        stuck = [steps[k].label for k, n in enumerate(waits) if n][:2]
        raise IRError(
            f"a donated input is read by {' and '.join(stuck)} after its storage was written; "
            "do not donate it, or read it before its update"
        )
    return order


def _late(order: list[int], before: list[set[int]], late: set[int]) -> list[int]:
    """The same order, but each of the `late` just before the first that must run after it."""
    found: list[int] = []  # the last one first
    for k in reversed(order):
        at = len(found)
        if k in late:
            at = max((i + 1 for i, later in enumerate(found) if k in before[later]), default=0)
        found.insert(at, k)
    return found[::-1]
