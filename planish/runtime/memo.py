"""What pure functions gave in this process, so that what they are asked again costs nothing.

Programs of one model have most kernels in common: of the pipelines that a sensitivity report tries,
19 of 20. A memo is bounded, and asked from any thread; nothing but time depends on what it holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from planish.runtime.gate import ProcessLock

T = TypeVar("T")


class Memo(Generic[T]):
    """Values by keys that say all that a value depends on: the last ones, of `limit` units."""

    def __init__(self, limit: int, size: Callable[[T], int] = lambda value: 1) -> None:
        self.limit, self.size = limit, size
        self._used = 0
        self._found: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = ProcessLock()

    def get(self, key: Hashable) -> T | None:
        """The value there is."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Hashable, value: T) -> T:
        """Keep a value; the oldest go."""
        with self._lock:
            if key not in self._found:
                self._found[key] = value
                self._used += self.size(value)
            while self._used > self.limit:
                self._used -= self.size(self._found.popitem(last=False)[1])
        return value
