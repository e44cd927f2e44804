"""Panels of a weight without its zeros: what `kernels.sparse` and `kernels.blocks` read.

A panel is [K, NR] words of four bytes, or floats. Each 64 of their bytes, or of the floats, have a
mask; what is kept of a panel lies in one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BITS = 64  # of a mask


@dataclass(frozen=True, eq=False)
class BitPanels:
    """masks i64[P, K, C], starts i64[P + 1], values [kept], and for words the sums that go before,
    u32[P, NR] (see `gemm`), or none."""

    masks: np.ndarray
    starts: np.ndarray
    values: np.ndarray
    first: np.ndarray | None

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that a kernel takes."""
        rest = () if self.first is None else (self.first,)
        return (self.masks, self.starts, self.values, *rest)


def bit_panels(b: np.ndarray, nr: int, room: int, first: np.ndarray | None) -> BitPanels:
    """The panels of a matrix [K, N] of words or floats, NR columns in each; `room` for values."""
    panels = panels_of(b, nr)
    count, k, _ = panels.shape
    units = panels.view(np.uint8 if b.dtype == np.uint32 else b.dtype)
    kept = bits(units)
    masks = np.packbits(kept.reshape(count, k, -1, BITS), axis=-1, bitorder="little")
    each = kept.reshape(count, -1).sum(1, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(each)]).astype(np.int64)
    values = np.zeros(room, units.dtype)
    values[: starts[-1]] = units[kept]
    sums = None if first is None else panels_of(first[None], nr)[:, 0]
    return BitPanels(masks.view("<i8")[..., 0].astype(np.int64), starts, values, sums)


@dataclass(frozen=True, eq=False)
class BlockPanels:
    """The rows of panels that are not all 0, [R, NR], the step of k of each, i32[R], where those of
    each panel begin, i64[P + 1], and the sums that go before. Layers of one size mostly have equal
    R: it is rounded up to a 64th of all rows."""

    places: np.ndarray
    starts: np.ndarray
    values: np.ndarray
    first: np.ndarray | None

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that a kernel takes."""
        rest = () if self.first is None else (self.first,)
        return (self.places, self.starts, self.values, *rest)


def block_panels(b: np.ndarray, nr: int, first: np.ndarray | None) -> BlockPanels:
    """The panels of a matrix [K, N], NR columns in each, without rows of zeros."""
    panels = panels_of(b, nr)
    kept = bits(panels).any(-1)
    starts = np.concatenate([[0], np.cumsum(kept.sum(1, dtype=np.int64))]).astype(np.int64)
    rows = int(starts[-1])
    step = max(1, kept.size // 64)
    values = np.zeros((max(1, -(-rows // step)) * step, nr), b.dtype)
    values[:rows] = panels[kept]
    places = np.zeros(len(values), np.int32)
    places[:rows] = np.nonzero(kept)[1]
    sums = None if first is None else panels_of(first[None], nr)[:, 0]
    return BlockPanels(places, starts, values, sums)


def kept_rows(b: np.ndarray, nr: int) -> float:
    """The share of rows of panels that are not all 0."""
    k, n = b.shape
    if not k or not n:
        return 0.0
    columns = np.logical_or.reduceat(bits(b), np.arange(0, n, nr), axis=1)
    return float(columns.mean())


def panels_of(b: np.ndarray, nr: int) -> np.ndarray:
    """A matrix [K, N] as panels [P, K, NR], zeros beyond N."""
    k, n = b.shape
    count = -(-n // nr)
    wide = np.zeros((k, count * nr), b.dtype)
    wide[:, :n] = b
    return np.ascontiguousarray(wide.reshape(k, count, nr).swapaxes(0, 1))


def bits(array: np.ndarray) -> np.ndarray:
    """Which elements have any bit: -0.0 is kept."""
    return array.view(f"u{array.dtype.itemsize}") != 0
