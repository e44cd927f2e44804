"""Where everything is: one arena for all temporaries, planned ahead.

A temporary lives from the step that writes it first to the step that reads it last. Two that are
never alive together may have the same bytes, see `arena`. Those of a small one are free some steps
later only: who writes there at once would have to wait for threads that still read it.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import numpy as np

from planish.ir.dims import symbols, upper, value
from planish.runtime import arena
from planish.runtime.slots import Slot

ALIGN = 64  # a cache line, and a whole vector register
HUGE_PAGE = 1 << 21
LINGERING, LINGER = 1 << 13, 8  # bytes of a small one; steps, about those of half a layer
# 48 tokens of nano take 0.80 ms with it, in 17 KB, and 0.83 to 0.88 without, in 5: on Zen 5,
# 2026-11-28, `benchmarks/compare.py --configs nano --workloads decode`, two trees in turns.
# Bytes of a store's first chunk and of its largest: only what is used of one becomes resident, but
# that by whole huge pages.
CHUNK, CHUNKS = 8 << 20, 64 << 20


class Life(NamedTuple):
    """A temporary: its bytes, the first and the last step that touch it, and its place."""

    name: str
    bytes: int
    first: int
    last: int
    offset: int


class Memory(NamedTuple):
    """The memory plan of a program. `peak` is the most that is alive at once: a lower bound.

    `fixed` says that the offsets hold for every binding of the symbolic dimensions; where a
    dimension has no maximum they hold for `binding` only. Without one, the temporaries that grow
    with the dimensions `open` count as nothing.
    """

    lives: tuple[Life, ...]
    arena: int
    peak: int
    params: int
    fixed: bool
    open: tuple[str, ...] = ()

    def __str__(self) -> str:
        needed = f"arena {self.arena:,} bytes, at least {self.peak:,} needed"
        if self.open:
            needed += f", and what grows with {', '.join(self.open)}, which has no maximum"
        rows = [f"{needed}; weights {self.params:,} bytes"]
        for x in sorted(self.lives, key=lambda x: (x.first, x.offset)):
            rows.append(f"  {x.offset:>12,} +{x.bytes:<12,} steps {x.first}-{x.last}  {x.name}")
        return "\n".join(rows)


class Planned(Protocol):
    """What has temporaries: a plan, or its image."""

    @property
    def temps(self) -> tuple[Slot, ...]:
        """The temporaries."""

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The first and the last step that touch each."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all params."""


def plan_memory(
    plan: Planned, binding: Mapping[str, int] | None = None, linger: int = LINGER
) -> Memory:
    """Places for all temporaries, at their largest; `binding` sizes those without a maximum.

    `linger` is for how many steps a small one keeps its place.
    """
    sizes, fixed = [], True
    for slot in plan.temps:
        count = upper(slot.type.size)
        if count is None:
            fixed = False
            count = value(slot.type.size, binding) if binding is not None else 0
        sizes.append(_aligned(count * slot.type.dtype.itemsize))
    spans = plan.spans
    last = max((end for _, end in spans), default=0)
    kept = [
        (first, min(end + linger, last) if size <= LINGERING else end)
        for size, (first, end) in zip(sizes, spans, strict=True)
    ]
    offsets = arena.offsets(sizes, kept, spare=linger * LINGERING)
    lives = tuple(
        Life(slot.name, size, *span, offset)
        for slot, size, span, offset in zip(plan.temps, sizes, spans, offsets, strict=True)
    )
    total = max((x.offset + x.bytes for x in lives), default=0)
    free = symbols(*(slot.type.size for slot in plan.temps)) if binding is None else ()
    open_ = tuple(s.name for s in free if s.max is None)
    return Memory(lives, total, arena.peak(sizes, spans), plan.weight_bytes, fixed, open_)


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def aligned(size: int) -> np.ndarray:
    """Zeroed bytes that begin on a cache line; large ones on huge pages, where the system has them.

    A huge page is one TLB entry and is contiguous in physical memory: strided reads do not wait for
    page walks, and weights of the size of the L2 cache do not evict each other.
    """
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory would have small pages
        try:
            room = mmap.mmap(-1, size + HUGE_PAGE, flags)
        except OSError as error:
            raise MemoryError(f"no room for {size:,} bytes: {error.strerror}") from None
        with suppress(OSError):  # a kernel without transparent huge pages
            room.madvise(mmap.MADV_HUGEPAGE)
        raw, unit = np.frombuffer(room, np.uint8), HUGE_PAGE
    else:
        raw, unit = np.zeros(size + ALIGN, np.uint8), ALIGN
    start = -raw.__array_interface__["data"][0] % unit
    return raw[start : start + size]


class Room:
    """Memory for many arrays side by side, in chunks on huge pages; it only grows."""

    def __init__(self) -> None:
        self._chunk = aligned(0)
        self._used, self._next = 0, CHUNK

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """A new array that begins on a cache line, so that no vector load crosses one."""
        size = math.prod(shape) * dtype.itemsize
        if size > CHUNKS:
            return aligned(size).view(dtype).reshape(shape)
        if self._used + size > self._chunk.size:
            self._chunk, self._used = aligned(max(self._next, size)), 0
            self._next = min(2 * self._next, CHUNKS)
        array = self._chunk[self._used : self._used + size].view(dtype).reshape(shape)
        self._used += _aligned(size)
        return array

    def copy(self, array: np.ndarray) -> np.ndarray:
        """A contiguous copy of `array`."""
        new = self.empty(array.shape, array.dtype)
        new[...] = array
        return new
