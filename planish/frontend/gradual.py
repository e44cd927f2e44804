"""Pruning while training: more and more weights become zero, and stay it.

optimizer = AdamW(lr=1e-3, keep_zeros=True)
trainer = Trainer(model, optimizer)
trainer.fit(tokens, 2000, on_step=Gradual(0.7, begin=200, end=1500, every=100))
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from planish.frontend.prune import prune
from planish.ir.errors import DataError
from planish.passes.prune import Prune


@dataclass(frozen=True)
class Gradual:
    """Prune after some steps of a training, to a ratio that grows to the last one at `end`.

    After step t it is ratio (1 - (1 - (t - begin) / (end - begin))^3): fast while many weights
    matter little, slow at the end (Zhu and Gupta, 2017). From `begin` on, each `every` steps and at
    `end`, weights are ranked anew. Other options are those of the pass `prune`. With a pattern N:M
    the ratio may be left out: more and more groups are as it says, those first that lose least.

    What is pruned depends on the step and on the weights alone, so that a training that is resumed
    goes on as one that was never stopped.
    """

    ratio: float | None = None
    begin: int = 0
    end: int = 1000
    every: int = 100
    scope: str = "tensor"
    pattern: str = ""
    skip: str = ""

    def __post_init__(self) -> None:
        _ = self.options
        numbers = (self.begin, self.end, self.every)
        whole = all(isinstance(x, int) and not isinstance(x, bool) for x in numbers)
        if not whole or self.begin < 0 or self.end <= self.begin or self.every < 1:
            raise DataError(
                "gradual pruning has 0 <= begin < end and every >= 1, whole numbers of steps, got "
                f"begin={self.begin!r}, end={self.end!r}, every={self.every!r}"
            )

    @property
    def options(self) -> Prune:
        """The pass at the end."""
        return Prune(self.ratio, scope=self.scope, pattern=self.pattern, skip=self.skip)

    def at(self, step: int) -> float:
        """The ratio after so many steps."""
        done = min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))
        return self.options.share * (1 - (1 - done) ** 3)

    def is_due(self, step: int) -> bool:
        """Whether weights are ranked after so many steps."""
        inside = self.begin <= step < self.end and (step - self.begin) % self.every == 0
        return inside or step == self.end

    def __call__(self, trainer: Any) -> None:
        """For `Trainer.fit(..., on_step=...)`."""
        if not trainer.optimizer.keep_zeros:
            raise DataError(
                "gradual pruning needs an optimiser that leaves zeros alone, as in "
                "AdamW(lr=1e-3, keep_zeros=True)"
            )
        if self.is_due(trainer.steps):
            now = replace(self, ratio=self.at(trainer.steps)).options
            options = {n: getattr(now, n) for n in ("ratio", "scope", "pattern", "skip")}
            trainer.model.load_state_dict(prune(trainer.model, **options).state_dict())
