"""A step of training as one artifact: forward pass, gradients, clipping and update, in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from planish.runtime.host import kept, saving, sha256, texts, training
from planish.runtime.program import Program
from planish.runtime.ship.checkpoint import Checkpoint, kept_text
from planish.runtime.ship.shipped import STATE, Modules, Shipped, placed, slot_bytes, up
from planish.runtime.ship.tables import Constants

# What is in the state beside inputs; no input has a name with a space. The first two are what the
# last program returns before what it updates.
TOLD, LOSSES = ("the loss", "the norm"), "the losses"
SUM = "sum."  # how the names of inputs begin that micro-batches add to


@dataclass(frozen=True, kw_only=True)
class ShippedStep(Shipped):
    """A step: one program, or one that adds up gradients and one that updates.

    `arrays` are weights and the optimiser's state, as they are now; programs read and write them by
    these names. A step reads `parts` batches; where they count alike, it is `uniform`. `losses` are
    those of the steps before, f64. `checkpoint` is what a file of the training says.
    """

    kind = "step"
    sources: ClassVar[Modules] = (texts, sha256, kept, training, saving)
    arrays: Mapping[str, np.ndarray]
    losses: np.ndarray
    batch: int
    parts: int
    uniform: bool
    checkpoint: Checkpoint

    @property
    def own_facts(self) -> dict[str, Any]:
        """Sizes, steps done, and the shapes of the arrays."""
        return {
            "rows": self.batch * self.parts,
            "batch": self.batch,
            "steps": len(self.losses),
            "arrays": {name: list(x.shape) for name, x in self.arrays.items()},
        }

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Bytes of what is in the state, by name: inputs, in order, and what else there is."""
        inputs = (x for program in self.first.values() for x in program.image.inputs)
        last = list(self.first.values())[-1].image
        told = {name: slot_bytes(last.outputs[n]) for n, name in enumerate(TOLD)}
        return {**{x.name: slot_bytes(x) for x in inputs}, **told, LOSSES: self.losses.nbytes}

    @cached_property
    def _state(self) -> tuple[dict[str, int], int]:
        """Where each of them is, and the size of all."""
        places, size = placed(list(self._sizes.values()))
        return dict(zip(self._sizes, places, strict=True)), size

    @property
    def state_bytes(self) -> int:
        """Bytes of a batch, weights, gradients that are summed, and the optimiser's state."""
        return self._state[1]

    @cached_property
    def begun(self) -> Mapping[int, np.ndarray]:
        """The arrays that are not zero, and the losses."""
        places = self._state[0]
        first = {**self.arrays, LOSSES: self.losses}
        return {places[name]: x for name, x in first.items() if x.any()}

    def slots(self, program: Program) -> Iterator[tuple[int, int]]:
        """By name, and outputs where the inputs are that they replace."""
        image, places = program.image, self._state[0]
        homes = {j: image.inputs[i].name for i, j in image.aliases}
        yield from ((STATE, places[x.name]) for x in image.inputs)
        yield from (
            (STATE, places[homes[n] if n in homes else TOLD[n]]) for n in range(len(image.outputs))
        )

    def places_text(self) -> str:
        """Where what is set and told is, sizes, and the list of arrays."""
        places, made = self._state[0], Constants()
        sums = [name for name in self._sizes if name.startswith(SUM)]
        stored = [
            {"name": made.text(f"array.{n}", name), "at": places[name], "size": x.size}
            for n, (name, x) in enumerate(self.arrays.items())
        ]
        values = {
            **{x: places[x] for x in ("tokens", "targets", "step", "lr")},
            **{x.removeprefix("the "): places[x] for x in (*TOLD, LOSSES)},
            **{x: places.get(x, -1) for x in ("key", "share")},
            "sums": places[sums[0]] if sums else 0,
            "sums_size": sum(up(self._sizes[x]) for x in sums),
            "done": len(self.losses),
            "batch": self.batch, "parts": self.parts, "uniform": int(self.uniform),
            "arrays": made.records("arrays", training.Stored, stored), "array_count": len(stored),
            "kept": kept_text(made, self.checkpoint, self.arrays, places),
        }  # fmt: skip
        made.told("planish_places", training.Places, values)
        return str(made)
