"""The heart of byte-pair encoding: neighbours become one token, the best pair first.

merged([t, h, e], {(t, h): (0, th), (th, e): (1, the)})  ==  [the]
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

Merges = Mapping[tuple[int, int], tuple[float, int]]  # pair -> (its rank, lower first; new token)


def merged(tokens: Sequence[int], merges: Merges) -> list[int]:
    """Merge until no pair is known; of equal ranks the leftmost pair goes first.

    A heap of pairs over a doubly linked list: n tokens take O(n log n). Entries whose tokens have
    meanwhile become part of others are passed over.
    """
    token = list(tokens)
    size = len(token)
    after, before = list(range(1, size + 1)), list(range(-1, size - 1))
    heap: list[tuple[float, int, int, int, int]] = []  # rank, place, both tokens, new token

    def offer(left: int, right: int) -> None:
        if left >= 0 and right < size:
            pair = (token[left], token[right])
            found = merges.get(pair)
            if found is not None:
                heapq.heappush(heap, (found[0], left, *pair, found[1]))

    for place in range(size - 1):
        offer(place, place + 1)
    while heap:
        _, left, first, second, new = heapq.heappop(heap)
        right = after[left]
        if token[left] != first or right >= size or token[right] != second:
            continue
        token[left], token[right] = new, -1
        after[left] = after[right]
        if after[left] < size:
            before[after[left]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [x for x in token if x >= 0]
