"""Learning which pairs to merge: the most frequent one, again and again."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

Pair = tuple[int, int]


def learnt_merges(texts: Iterable[tuple[int, ...]], first: int, vocab_size: int) -> Iterator[Pair]:
    """Pairs to merge into the tokens `first`, `first + 1` ... below `vocab_size`.

    Of equally frequent pairs the one with the lower tokens is taken. A pair that stands there once
    only is no pair to learn. Counts are kept up to date: a merge looks at the words that have it.
    """
    counted = Counter(texts)
    words, often = [list(x) for x in counted], list(counted.values())
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for place, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += often[place]
            where[pair].add(place)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    new = first
    while heap and new < vocab_size:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair]:
            continue  # an old count
        if -count < 2:
            return
        yield pair
        changed: Counter[Pair] = Counter()
        for place in where.pop(pair):
            word = words[place]
            for old in pairwise(word):
                changed[old] -= often[place]
            words[place] = word = replaced(word, pair, new)
            for now in pairwise(word):
                changed[now] += often[place]
                where[now].add(place)
        for other, by in changed.items():
            if by:
                counts[other] += by
                heapq.heappush(heap, (-counts[other], other))
        new += 1


def replaced(word: list[int], pair: Pair, new: int) -> list[int]:
    """The word with every `pair`, from the left, as the token `new`."""
    found, at = [], 0
    while at < len(word):
        if tuple(word[at : at + 2]) == pair:
            found.append(new)
            at += 2
        else:
            found.append(word[at])
            at += 1
    return found
