"""What a contestant is asked to do, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from workloads import Config, tokens, weights

Run = Callable[[], object]
"""One run: returns what is compared; or (seconds, that) where only a part of it counts.

prefill: logits of the last position. decode: the new tokens. train: the loss before the update.
"""

Prepare = Callable[[], Run]
"""Compiles, as far as that is done ahead of the first call."""


class Unsupported(Exception):
    """The contestant has nothing for this workload or dtype."""


@dataclass(frozen=True)
class Case:
    """A workload ("prefill", "decode", "train") in a dtype of `workloads.DTYPES` on a model."""

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
        return tokens(self.c, 1, self.c.prefill if self.workload == "prefill" else self.c.prompt)

    @property
    def steps(self) -> int:
        """Tokens of a decode that are timed: all new ones but the prompt's own."""
        return self.c.new - 1

    def need(self, *workloads: str, dtypes: tuple[str, ...] = ("f32", "bf16")) -> None:
        """Unsupported unless the case is one of these."""
        if self.workload not in workloads:
            raise Unsupported(f"no {self.workload}")
        if self.dtype not in dtypes:
            raise Unsupported(f"no {self.dtype}")
