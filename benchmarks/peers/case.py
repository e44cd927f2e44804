"""What a contestant is asked to do, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from workloads import Config, tokens, weights

Run = Callable[[], object]
"""One run: returns what is compared; or (seconds, that) where only a part of it counts.

prefill: logits of the last position. first: the token after it, by what goes on from there, with
its caches. decode: the new tokens. train: the loss before the update.
"""

Prepare = Callable[[], Run]
"""Compiles, as far as that is done ahead of the first call."""


class Unsupported(Exception):
    """The contestant has nothing for this workload or dtype."""


@dataclass(frozen=True)
class Case:
    """A workload and a dtype of `workloads`, on a model."""

    workload: str
    dtype: str
    c: Config
    threads: int

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """The model's weights, by name."""
        return weights(self.c)

    @property
    def ids(self) -> np.ndarray:
        """The prompt: i32 [1, T]."""
        lengths = {"prefill": self.c.prefill, "first": self.c.asked}
        return tokens(self.c, 1, lengths.get(self.workload, self.c.prompt))

    @property
    def new(self) -> int:
        """Tokens that are made."""
        return 1 if self.workload == "first" else self.c.new

    @property
    def steps(self) -> int:
        """Tokens of a decode that are timed: all new ones but the prompt's own."""
        return self.new - 1

    def need(self, *workloads: str, dtypes: tuple[str, ...] = ("f32", "bf16")) -> None:
        """Unsupported unless the case is one of these."""
        if self.workload not in workloads:
            raise Unsupported(f"no {self.workload}")
        if self.dtype not in dtypes:
            raise Unsupported(f"no {self.dtype}")
