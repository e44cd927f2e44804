"""What a machine can do at most: the roof under which every kernel runs.

A kernel of `flops` operations that moves `bytes` takes at least max(flops / peak, bytes /
bandwidth). The bandwidth is that of the level of memory that the bytes come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

LEVELS = ("L1", "L2", "L3", "middle", "DRAM")  # middle: a size between those of its neighbours
_SANE = (1e6, 1e16)  # operations or bytes a second that a machine may have


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes a second when a working set of `size` bytes is read again and again."""

    level: str
    size: int
    speed: float


@dataclass(frozen=True, slots=True)
class Roof:
    """Measured limits of `threads` threads: operations a second, bytes a second, seconds.

    `bf16` is that of dot products of bf16 with sums of f32, None where the target has no
    instruction for them; `int8` that of dot products of bytes with sums of i32, by whatever
    instructions the target has; `barrier` is a meeting of all threads, None for one thread.
    """

    threads: int
    fma: float
    bf16: float | None
    int8: float
    readings: tuple[Reading, ...]
    barrier: float | None

    def __str__(self) -> str:
        peaks = [f"FMA {self.fma / 1e9:.0f} GFLOP/s"]
        if self.bf16:
            peaks.append(f"bf16 {self.bf16 / 1e9:.0f} GFLOP/s")
        peaks.append(f"int8 {self.int8 / 1e9:.0f} GOP/s")
        if self.barrier:
            peaks.append(f"barrier {1e6 * self.barrier:.2f} us")
        levels = ", ".join(f"{x.level} {x.speed / 1e9:.0f} GB/s" for x in self.readings)
        return f"roof of {self.threads} threads: {', '.join(peaks)}\nreading {levels}"

    def bandwidth(self, size: float) -> float:
        """Bytes a second where data comes back after `size` bytes of others."""
        first, last = self.readings[0], self.readings[-1]
        if size <= first.size:
            return first.speed
        for small, large in zip(self.readings, self.readings[1:], strict=False):
            if size <= large.size:
                part = math.log(size / small.size) / math.log(large.size / small.size)
                return small.speed * (large.speed / small.speed) ** part
        return last.speed

    def seconds(
        self, flops: float, dots: float, byte_dots: float, moved: Iterable[tuple[int, float]]
    ) -> float:
        """The least time; among `flops` are dot products of bf16 and bytes, `moved` has
        (bytes, size)."""
        bytewise = min(byte_dots, flops)
        narrow = min(dots, flops - bytewise) if self.bf16 else 0.0
        compute = (flops - narrow - bytewise) / self.fma + bytewise / self.int8
        compute += narrow / (self.bf16 or 1.0)
        return max(compute, sum(number / self.bandwidth(size) for number, size in moved))

    def best(self, other: Roof) -> Roof:
        """The better of two measurements in each: what was reached once can be reached."""
        pairs = zip(self.readings, other.readings, strict=True)
        narrow = [x for x in (self.bf16, other.bf16) if x is not None]
        meetings = [x for x in (self.barrier, other.barrier) if x is not None]
        return Roof(
            self.threads,
            max(self.fma, other.fma),
            max(narrow, default=None),
            max(self.int8, other.int8),
            tuple(Reading(a.level, a.size, max(a.speed, b.speed)) for a, b in pairs),
            min(meetings, default=None),
        )

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def roof_of(record: Any) -> Roof | None:
    """The roof in a record, None unless all of it makes sense."""
    match record:
        case {"threads": int(threads), "fma": fma, "bf16": bf16, "int8": int8,
              "readings": list(readings), "barrier": barrier} if len(record) == 6:  # fmt: skip
            found = [_reading(x) for x in readings]
            sizes = [x.size for x in found if x]
            good = (
                _speed(fma)
                and _speed(int8)
                and (bf16 is None or _speed(bf16))
                and None not in found
            )
            good = good and tuple(x.level for x in found if x) == LEVELS
            good = good and sizes == sorted(set(sizes)) and threads >= 1
            good = good and (barrier is None if threads == 1 else _between(barrier, 1e-9, 1.0))
            if good:
                return Roof(threads, fma, bf16, int8, tuple(x for x in found if x), barrier)
    return None


def _reading(record: Any) -> Reading | None:
    match record:
        case {"level": str(level), "size": int(size), "speed": speed} if _speed(speed) and size > 0:
            return Reading(level, size, speed)
    return None


def _speed(value: Any) -> bool:
    return _between(value, *_SANE)


def _between(value: Any, low: float, high: float) -> bool:
    return isinstance(value, float) and low <= value <= high  # NaN is not
