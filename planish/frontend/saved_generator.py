"""Generators that were saved: the programs in a library, run from Python without LLVM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from planish.frontend.compiled import Compiled, Named, Origin
from planish.frontend.sampling import Sampling
from planish.frontend.writer import Stream, Writer, written
from planish.ir.errors import ArtifactError
from planish.ir.later import later
from planish.runtime.artifact import Artifact, Shared
from planish.runtime.target import thread_count

if TYPE_CHECKING:
    from planish.frontend.tokenizers.base import Tokenizer

stored = later("planish.frontend.tokenizers.stored")


class SavedGenerator(Writer):
    """A generator in a library."""

    def __init__(self, found: Artifact, threads: int | None = None) -> None:
        facts = found.facts
        self.path, self.threads = found.path, thread_count(threads)
        self.batch, self.options, self.greedy = 1, tuple(facts.get("options", ())), False
        self.context, self.vocab_size = facts["context"], facts["vocabulary"]
        self.piece = facts["piece"]
        self.level = found.level()
        self.pipeline, self.target = facts["pipeline"], self.level.images["decode"].target
        self._tokenizer_text: str | None = facts["tokenizer"]
        library = Shared(found, self.level)
        for name, image in self.level.images.items():
            code = Named(library, found, name)
            params = found.params(self.level, name)
            program = Compiled.of(image, params, self._plan, threads, code)
            program.origin = Origin.of(facts)
            vars(self)[name] = program

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that was saved with it; ArtifactError if that is damaged."""
        text = self._tokenizer_text
        return None if text is None else stored.tokenizer_from_json(text)

    @property
    def recompute(self) -> Compiled:  # type: ignore[override]
        """A saved generator has no program without caches: ArtifactError."""
        raise ArtifactError(f"{self.path} has no program without caches; use_cache=True")

    def _plan(self) -> NoReturn:
        raise ArtifactError(f"{self.path} holds code, not the graph that it was compiled from")

    def save(self, path: str | os.PathLike[str], *_: Any, **__: Any) -> NoReturn:
        """ArtifactError: what was saved is a file already, which can be copied."""
        raise ArtifactError(f"{self.path} is a library already: copy that file instead")

    def generate(
        self, ids: Any, max_new_tokens: int = 50, temperature: float = 1.0,
        top_k: int | None = None, top_p: float | None = None,
        seed: int | Sequence[int] | None = None, stream: Stream | None = None,
        stop: int | Sequence[int] | None = None, sliding_window: bool = False,
        min_p: float | None = None, repetition_penalty: float | None = None,
    ) -> Any:  # fmt: skip
        """The new tokens after a prompt [T]: i32 [n]; as `TinyGPT.generate` writes them."""
        settings = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        return written(
            self, ids, max_new_tokens, settings, seed, True, stream, stop, sliding_window
        )
