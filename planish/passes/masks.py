"""Which weights go: the smallest scores, singly or in patterns.

A weight is seen as [out, in], as `Linear` has it: a row makes one output. Patterns are written

    "2:4"     of each 4 inputs in a row of an output, 2 stay (any N:M); if less is to go than that
              makes, in the groups that lose least
    "16x1"    blocks of 16 outputs by 1 input go or stay as a whole (any RxC)

Of equal scores the first go. Edges that fill no group or no block are one of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from planish.ir.errors import DataError

LONGEST = 1 << 16  # of a side of a pattern


@dataclass(frozen=True)
class Pattern:
    """What goes as one: a block of `rows` by `columns`, or all but `keep` of `group` inputs."""

    rows: int = 1
    columns: int = 1
    keep: int = 0
    group: int = 0

    @staticmethod
    def parse(text: str) -> Pattern:
        """The pattern that a text names; "" are single weights."""
        found = re.fullmatch(r"(\d{1,6})([:x])(\d{1,6})", text) if text else None
        if not text:
            return Pattern()
        a, b = (int(found[1]), int(found[3])) if found else (0, 0)
        grouped = found is not None and found[2] == ":"
        if found is None or not 1 <= a <= LONGEST or not 1 <= b <= LONGEST or (grouped and a >= b):
            raise DataError(
                f"prune: pattern is N:M with N < M, as in 2:4, or RxC, as in 16x1, got {text!r}"
            )
        return Pattern(keep=a, group=b) if grouped else Pattern(rows=a, columns=b)

    @property
    def own(self) -> float:
        """The share that goes where groups are what they are to be; 0 of single ones and blocks."""
        return 1 - self.keep / self.group if self.group else 0.0

    def lowest(self, scores: np.ndarray, ratio: float, by_row: bool) -> np.ndarray:
        """Where scores [out, in] are the lowest: `ratio` of them."""
        if self.group:
            return self._of_groups(scores, ratio / self.own)
        units = self.units(scores)
        flat = units if by_row else units.reshape(1, -1)
        chosen = smallest(flat, share(ratio, flat.shape[1])).reshape(units.shape)
        return self.spread(chosen, scores.shape)

    def units(self, scores: np.ndarray) -> np.ndarray:
        """The mean score of each block."""
        if (self.rows, self.columns) == (1, 1):
            return scores
        sums, counts = scores.astype(np.float64), np.ones(scores.shape)
        for axis, step in enumerate((self.rows, self.columns)):
            starts = np.arange(0, scores.shape[axis], step)
            sums = np.add.reduceat(sums, starts, axis)
            counts = np.add.reduceat(counts, starts, axis)
        return sums / counts

    def spread(self, chosen: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """What is said of blocks, said of weights."""
        if (self.rows, self.columns) == (1, 1):
            return chosen
        wide = chosen.repeat(self.rows, 0).repeat(self.columns, 1)
        return wide[: shape[0], : shape[1]]

    def _of_groups(self, scores: np.ndarray, part: float) -> np.ndarray:
        rows, columns = scores.shape
        rest = -columns % self.group
        # what is not there goes first, so that the last group keeps as many
        padded = np.pad(scores, ((0, 0), (0, rest)), constant_values=-1)
        each = padded.reshape(-1, self.group)
        groups = smallest(each, self.group - self.keep)
        if part < 1:  # a group that lost its share before loses nothing more, and stays among these
            lost = np.where(groups, np.maximum(each, 0), 0).sum(1)
            groups &= smallest(lost[None], share(part, len(lost)))[0][:, None]
        return groups.reshape(rows, columns + rest)[:, :columns]


def share(ratio: float, count: int) -> int:
    """How many of `count` are `ratio` of them."""
    return round(ratio * count)


def smallest(scores: np.ndarray, count: int) -> np.ndarray:
    """Where each row has its `count` smallest, the first of equal ones."""
    if count <= 0 or not scores.size:
        return np.zeros(scores.shape, bool)
    bound = np.partition(scores, count - 1, 1)[:, count - 1 : count]
    below, ties = scores < bound, scores == bound
    missing = count - below.sum(1, keepdims=True)
    return below | (ties & (np.cumsum(ties, 1, dtype=np.int32) <= missing))


def lowest_of_all(
    scores: Mapping[str, np.ndarray], pattern: Pattern, ratio: float
) -> dict[str, np.ndarray]:
    """Where the scores of several weights are the lowest of all: `ratio` of all weights.

    Blocks of an edge count as whole ones.
    """
    units = {name: pattern.units(x) for name, x in scores.items()}
    line = np.concatenate([x.ravel() for x in units.values()])[None]
    chosen = np.split(
        smallest(line, share(ratio, line.size))[0], np.cumsum([x.size for x in units.values()])[:-1]
    )
    return {
        name: pattern.spread(part.reshape(units[name].shape), scores[name].shape)
        for name, part in zip(units, chosen, strict=True)
    }
