"""What contestants must give: float64, by planish's reference interpreter."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from peers.case import Case
from peers.ours import model_of, trainer_of
from workloads import CHECKED_STEPS, batch

import planish as pl

# Errors relative to the largest magnitude. For inference in bf16 and int8, weights and activations
# of 12 layers are rounded, in int8 to 1/127 of the largest in a row or (PyTorch, ONNX Runtime) in a
# tensor; a wrong token or a missing position is far above.
# Random weights of 4 bits are off by a tenth each, which is so much at some places that the mean of
# all is judged.
TOLERANCE = {"f32": 1e-3, "bf16": 0.1, "int8": 0.3, "int8_static": 0.3, "int4": 0.3}


class Judge:
    """The float64 model of a case."""

    def __init__(self, case: Case):
        self.case = case
        self.model = model_of(case.c, case.weights)

    @cached_property
    def wanted(self) -> np.ndarray:
        """Logits of the last position, or the losses of some training steps."""
        if self.case.workload == "prefill":
            return pl.interpret(self.model.last_logits, self.case.ids, dtype="f64").ravel()
        trainer = trainer_of(self.case, self.model, backend="interpret", dtype="f64")
        x, y = batch(self.case.c)
        return np.array([trainer.step(x, y) for _ in range(CHECKED_STEPS)])

    def error(self, output: list[float]) -> float:
        """How far an output is from float64, relative to the largest magnitude there."""
        got = np.asarray(output)
        if self.case.workload in ("first", "decode"):
            return self.regret(got.astype(np.int32))
        if got.shape != self.wanted.shape:
            return float("inf")
        return float(np.abs(got - self.wanted).max() / np.abs(self.wanted).max())

    def regret(self, made: np.ndarray) -> float:
        """By how much float64 prefers another token to one that was taken, at the worst place.

        All tokens are judged after the contestant's own, so that what follows a tie counts too.
        """
        if made.shape != (self.case.new,):
            return float("inf")
        ids = np.concatenate([self.case.ids[0], made[:-1]])[None]
        logits = self._logits(ids)[0, self.case.ids.shape[1] - 1 :]
        taken = np.take_along_axis(logits, made[:, None], 1)[:, 0]
        found = (logits.max(1) - taken) / np.abs(logits).max(1)
        return float(found.mean() if self.case.dtype == "int4" else found.max())

    def _logits(self, ids: np.ndarray) -> np.ndarray:
        key = ids.tobytes()
        if key not in self._known:
            self._known[key] = pl.interpret(self.model, ids, dtype="f64")
        return self._known[key]

    @cached_property
    def _known(self) -> dict[bytes, np.ndarray]:
        """Logits of sequences that contestants have in common."""
        return {}
