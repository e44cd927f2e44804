"""Panels of a weight without its zeros: what `kernels.sparse` and `kernels.blocks` read.

A panel is [K, NR] words of four bytes, or floats. It becomes three arrays: two that say where what
is kept belongs, and what is kept. Words of bytes have a fourth, u32[P, NR]: the sums that go
before, see `kernels.gemm`.
"""

from __future__ import annotations

import numpy as np

from planish.ir.loop_expand import SPARE
from planish.ir.ops.sparse import WORD, is_kept, mask_of

Parts = tuple[np.ndarray, ...]


def bit_panels(b: np.ndarray, nr: int, room: int, first: np.ndarray | None) -> Parts:
    """Masks i64[P, K, C], starts i64[P + 1] and values of a matrix [K, N], NR columns a panel:
    `room`, and `SPARE` bytes. A mask is of 64 bytes of words, or of as many floats; `starts` are
    those of panels."""
    panels = panels_of(b, nr)
    count, k, _ = panels.shape
    units = panels.view(np.uint8 if b.dtype == np.uint32 else b.dtype)
    kept = is_kept(units)
    starts = starts_of(kept.reshape(count, -1).sum(1, dtype=np.int64))
    values = np.zeros(room + SPARE // units.itemsize, units.dtype)
    values[: starts[-1]] = units[kept]
    return (mask_of(kept).reshape(count, k, -1), starts, values, *sums_before(first, nr))


def block_panels(b: np.ndarray, nr: int, first: np.ndarray | None) -> Parts:
    """The rows of panels that are not all 0, as values [R, NR]: the step of k of each, i32[R], and
    where those of each panel begin, i64[P + 1], go before them. Layers of one size mostly have
    equal R: it is rounded up to a 64th of all rows."""
    panels = panels_of(b, nr)
    kept = is_kept(panels).any(-1)
    starts = starts_of(kept.sum(1, dtype=np.int64))
    rows, step = int(starts[-1]), max(1, kept.size // WORD)
    values = np.zeros((max(1, -(-rows // step)) * step, nr), b.dtype)
    values[:rows] = panels[kept]
    places = np.zeros(len(values), np.int32)
    places[:rows] = np.nonzero(kept)[1]
    return (places, starts, values, *sums_before(first, nr))


def starts_of(counts: np.ndarray) -> np.ndarray:
    """Where what is kept of each panel begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def sums_before(first: np.ndarray | None, nr: int) -> Parts:
    """The sums [N] of the columns as panels, if there are any."""
    return () if first is None else (panels_of(first[None], nr)[:, 0],)


def kept_rows(b: np.ndarray, nr: int) -> float:
    """The share of rows of panels that are not all 0."""
    k, n = b.shape
    if not k or not n:
        return 0.0
    columns = np.logical_or.reduceat(is_kept(b), np.arange(0, n, nr), axis=1)
    return float(columns.mean())


def panels_of(b: np.ndarray, nr: int) -> np.ndarray:
    """A matrix [K, N] as panels [P, K, NR], zeros beyond N."""
    k, n = b.shape
    count = -(-n // nr)
    wide = np.zeros((k, count * nr), b.dtype)
    wide[:, :n] = b
    return np.ascontiguousarray(wide.reshape(k, count, nr).swapaxes(0, 1))
