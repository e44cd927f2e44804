"""A generator as one artifact: `prefill` reads a prompt, `decode` draws a token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from planish.ir.errors import ArtifactError
from planish.runtime.host import (
    arguments,
    generator,
    keys,
    letters,
    merging,
    shell,
    texts,
    tokenizer,
    vocab,
    words,
)
from planish.runtime.program import Program
from planish.runtime.ship.shipped import STATE, Modules, Shipped, placed, slot_bytes
from planish.runtime.ship.tables import Constants

SET = ("keys", "temperature", "top_k", "top_p")  # what host code sets of the state, by name
SET_MAYBE = ("min_p", "repetition_penalty", "seen")  # of options, which not all programs have


@dataclass(frozen=True, kw_only=True)
class ShippedGenerator(Shipped):
    """A generator: its programs, and what is known of the model.

    `piece` is how many tokens one run of prefill reads, `words` the tokenizer.
    """

    kind = "generator"
    sources: ClassVar[Modules] = (texts, keys, generator, letters, merging, vocab, tokenizer, words)
    piece: int
    words: bytes = b""

    @property
    def own_facts(self) -> dict[str, Any]:
        """How much is read at once."""
        return {"piece": self.piece}

    @property
    def most(self) -> dict[str, int]:
        """A whole piece."""
        return {"T": self.piece}

    @cached_property
    def _state(self) -> tuple[list[int], int]:
        """Where each input of decode is in the state, and its bytes."""
        return placed([slot_bytes(x) for x in self.first["decode"].image.inputs])

    @property
    def state_bytes(self) -> int:
        """Bytes of tokens, caches and settings."""
        return self._state[1]

    def slots(self, program: Program) -> Iterator[tuple[int, int]]:
        """Those of both programs are the same; the prompt's pointer is set for each run."""
        image, places = program.image, self._state[0]
        ours = self.first["decode"].image.inputs
        extra = image.inputs[len(ours) :]
        same = [x.type == y.type for x, y in zip(image.inputs, ours, strict=False)]
        if not all(same) or [x.name for x in extra] not in ([], ["prompt"]):
            raise ArtifactError(f"{image.name} and decode have different states")
        homes = {j: i for i, j in image.aliases}
        if len(homes) != len(image.outputs):
            raise ArtifactError(f"{image.name} returns what is no part of the state")
        taken = [*places, *[0] * len(extra)]
        yield from ((STATE, at) for at in taken)
        yield from ((STATE, taken[homes[n]]) for n in range(len(image.outputs)))

    def places_text(self) -> str:
        """Where what is set is, sizes, and the tokenizer."""
        places, made = self._state[0], Constants()
        inputs = self.first["decode"].image.inputs
        named = {slot.name: at for slot, at in zip(inputs, places, strict=True)}
        values = {
            "tokens": places[0], "pos": places[1], **{x: named[x] for x in SET},
            **{x: named.get(x, -1) for x in SET_MAYBE},
            "prompt": len(self.first["prefill"].image.inputs) - 1, "piece": self.piece,
            "words": made.data("words", self.words), "words_size": len(self.words),
        }  # fmt: skip
        made.told("planish_places", generator.Places, values)
        return str(made)


class ShippedProgram(ShippedGenerator):
    """A generator as a program for the shell."""

    sources: ClassVar[Modules] = (*ShippedGenerator.sources, arguments, shell)
