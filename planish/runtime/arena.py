"""Places in one arena for pieces of memory that live for a while: several orders, the best kept.

Nothing is as small as the largest sum of what is alive at once. Placing the largest pieces first,
each where it fits lowest, often reaches that; where it does not, other orders are tried, and then
pieces that stick out at the end are moved to the front of the best order.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence

Span = tuple[int, int]  # the first and the last step of a life

TRIES = 40  # of pieces that stick out
WORK = 2_000_000  # about how many pairs of pieces all tries together may look at


def peak(sizes: Sequence[int], spans: Sequence[Span]) -> int:
    """The most that is alive at once: no arena is smaller."""
    return max(_alive(sizes, spans), default=0)


def offsets(sizes: Sequence[int], spans: Sequence[Span], spare: int = 0) -> list[int]:
    """A place for each piece; those that live at the same time do not overlap.

    An arena that is larger than it must be by `spare` bytes, or by a sixteenth, will do.
    """
    least, work = peak(sizes, spans), len(sizes) ** 2
    least += min(spare, least // 16)
    best: list[int] = []
    smallest = -1
    for found in _tries(sizes, spans):
        total = _end(found, sizes)
        if smallest < 0 or total < smallest:
            best, smallest = found, total
        work += len(sizes) ** 2
        if smallest <= least or work > WORK:
            break
    return best


def _tries(sizes: Sequence[int], spans: Sequence[Span]) -> Iterator[list[int]]:
    """Places by several orders, then by the best of them changed."""
    count = range(len(sizes))
    alive = _alive(sizes, spans)
    length = [last - first + 1 for first, last in spans]
    crowd = [max(alive[first : last + 1]) for first, last in spans]
    keys: tuple[Callable[[int], tuple], ...] = (
        lambda i: (-sizes[i], spans[i], i),
        lambda i: (-crowd[i], -sizes[i], spans[i], i),
        lambda i: (-sizes[i] * length[i], spans[i], i),
        lambda i: (-length[i], -sizes[i], spans[i], i),
        lambda i: (spans[i], -sizes[i], i),
    )
    best: tuple[int, list[int], list[int]] | None = None
    for key in keys:
        order = sorted(count, key=key)
        found = _place(order, sizes, spans)
        yield found
        if best is None or _end(found, sizes) < best[0]:
            best = _end(found, sizes), order, found
    if best is None:
        return
    total, order, found = best
    for _ in range(TRIES):
        out = [i for i in order if found[i] + sizes[i] == total]
        order = [*out, *(i for i in order if i not in out)]
        found = _place(order, sizes, spans)
        total = _end(found, sizes)
        yield found


def _place(order: Sequence[int], sizes: Sequence[int], spans: Sequence[Span]) -> list[int]:
    """Pieces one after the other, each at the lowest place that is free as long as it lives."""
    found = [0] * len(sizes)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last, by offset
    for i in order:
        first, last = spans[i]
        at = 0
        for offset, end, begins, ends in placed:
            if begins > last or ends < first:
                continue
            if offset - at >= sizes[i]:
                break
            at = max(at, end)
        found[i] = at
        insort(placed, (at, at + sizes[i], first, last))
    return found


def _end(found: Sequence[int], sizes: Sequence[int]) -> int:
    return max((at + size for at, size in zip(found, sizes, strict=True)), default=0)


def _alive(sizes: Sequence[int], spans: Sequence[Span]) -> list[int]:
    """The bytes that are alive in each step."""
    steps = max((last for _, last in spans), default=-1) + 1
    change = [0] * (steps + 1)
    for size, (first, last) in zip(sizes, spans, strict=True):
        change[first] += size
        change[last + 1] -= size
    found, now = [], 0
    for delta in change[:steps]:
        now += delta
        found.append(now)
    return found
