"""Byte pairs: neighbours become one token, the best pair first, as `merged` does in Python.

A heap of pairs over a doubly linked list, see `planish.frontend.tokenizers.merging`.
"""

from __future__ import annotations

from planish.runtime.host.language import Ptr, Record, i32, i64, u8, u32, u64

EACH = 60  # bytes of memory for each token: 3 of i32, and 3 offers, since each merge makes two


class Pair(Record):
    """Two tokens that become a new one; pairs of low rank go first. A table has them sorted."""

    first: u32
    second: u32
    rank: u32
    new: u32


class Offer(Record):
    """A pair in the heap: its rank and, in the low half, where it stands."""

    order: u64
    pair: i64


class Chain(Record):
    """Tokens to be merged, those beside each, and what could be merged."""

    token: Ptr[i32]
    after: Ptr[i32]
    before: Ptr[i32]
    size: i64
    heap: Ptr[Offer]
    waiting: i64
    pairs: Ptr[Pair]
    pair_count: i64


def set_chain(chain: Chain, memory: Ptr[u8], most: i64) -> None:
    """Share out memory of EACH * most bytes."""
    chain.heap = Ptr[Offer](memory)
    chain.token = Ptr[i32](memory + 48 * most)
    chain.after = chain.token + most
    chain.before = chain.after + most
    chain.size = 0


def merge(chain: Chain) -> None:
    """Merge until no pair is known; of equal ranks the leftmost pair goes first."""
    size = chain.size
    token = chain.token
    chain.waiting = 0
    for n in range(size):
        chain.after[n] = i32(n + 1)
        chain.before[n] = i32(n - 1)
    for n in range(size - 1):
        offer(chain, n, n + 1)
    while chain.waiting > 0:
        left = i64(chain.heap[0].order & 0xFFFFFFFF)
        pair = chain.pairs[chain.heap[0].pair]
        pop(chain)
        right = i64(chain.after[left])
        if token[left] != i32(pair.first) or right >= size or token[right] != i32(pair.second):
            continue  # one of them has become part of another
        token[left] = i32(pair.new)
        token[right] = -1
        next = i64(chain.after[right])
        chain.after[left] = i32(next)
        if next < size:
            chain.before[next] = i32(left)
        offer(chain, i64(chain.before[left]), left)
        offer(chain, left, next)
    kept = 0
    for n in range(size):
        if token[n] >= 0:
            token[kept] = token[n]
            kept += 1
    chain.size = kept


def offer(chain: Chain, left: i64, right: i64) -> None:
    """Put two neighbours into the heap, if they are a pair."""
    if left < 0 or right >= chain.size:
        return
    pair = pair_of(chain, i64(chain.token[left]) << 32 | i64(chain.token[right]))
    if pair >= 0:
        push(chain, u64(chain.pairs[pair].rank) << 32 | u64(left), pair)


def pair_of(chain: Chain, key: i64) -> i64:
    """The number of the pair with these tokens, or -1."""
    low = 0
    high = chain.pair_count
    while low < high:
        middle = (low + high) >> 1
        pair = chain.pairs[middle]
        here = i64(pair.first) << 32 | i64(pair.second)
        if here == key:
            return middle
        if here < key:
            low = middle + 1
        else:
            high = middle
    return -1


def push(chain: Chain, order: u64, pair: i64) -> None:
    """Put an offer into the heap."""
    heap = chain.heap
    at = chain.waiting
    chain.waiting += 1
    while at > 0 and heap[(at - 1) >> 1].order > order:
        above = heap[(at - 1) >> 1]
        heap[at].order = above.order
        heap[at].pair = above.pair
        at = (at - 1) >> 1
    heap[at].order = order
    heap[at].pair = pair


def pop(chain: Chain) -> None:
    """Take the first offer out of the heap."""
    heap = chain.heap
    chain.waiting -= 1
    size = chain.waiting
    order = heap[size].order
    pair = heap[size].pair
    at = 0
    while 2 * at + 1 < size:
        below = 2 * at + 1
        if below + 1 < size and heap[below + 1].order < heap[below].order:
            below += 1
        if heap[below].order >= order:
            break
        heap[at].order = heap[below].order
        heap[at].pair = heap[below].pair
        at = below
    heap[at].order = order
    heap[at].pair = pair
