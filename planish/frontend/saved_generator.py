"""Generators that were saved: the programs in a library, run from Python without LLVM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from planish.frontend.compiled import Compiled, Origin
from planish.frontend.generate import Generator, Stream, written
from planish.frontend.sampling import Sampling
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.stored import tokenizer_from_json
from planish.ir.errors import ArtifactError
from planish.runtime.artifact import Artifact, Shared
from planish.runtime.target import thread_count


class SavedGenerator(Generator):
    """A generator in a library. `tokenizer` is the one that was saved with it, or None."""

    def __init__(self, found: Artifact, threads: int | None = None) -> None:
        facts = found.facts
        self.path, self.threads = found.path, thread_count(threads)
        self.batch, self.options, self.greedy = 1, (), False
        self.context, self.vocab_size = facts["context"], facts["vocabulary"]
        self.piece = facts["piece"]
        self.pipeline, self.target = facts["pipeline"], found.images["decode"].target
        text = facts["tokenizer"]
        self.tokenizer: Tokenizer | None = None if text is None else tokenizer_from_json(text)
        library = Shared(found)
        for name, image in found.images.items():
            code = _Named(library, facts["prefix"], name)
            program = Compiled.of(image, found.params(name), self._plan, threads, code)
            program.origin = Origin.of(facts)
            vars(self)[name] = program  # instead of compiling it

    @property
    def recompute(self) -> Compiled:  # type: ignore[override]
        """A saved generator has no program without caches: ArtifactError."""
        raise ArtifactError(f"{self.path} has no program without caches; use_cache=True")

    def is_current(self) -> bool:
        """Its weights are its own."""
        return True

    def _plan(self) -> NoReturn:
        raise ArtifactError(f"{self.path} holds code, not the graph that it was compiled from")

    def generate(
        self, ids: Any, max_new_tokens: int = 50, temperature: float = 1.0,
        top_k: int | None = None, top_p: float | None = None,
        seed: int | Sequence[int] | None = None, stream: Stream | None = None,
        stop: int | Sequence[int] | None = None, sliding_window: bool = False,
    ) -> Any:  # fmt: skip
        """The new tokens after a prompt [T]: i32 [n]; as `TinyGPT.generate` writes them."""
        settings = Sampling(temperature, top_k, top_p)
        return written(
            self, ids, max_new_tokens, settings, seed, True, stream, stop, sliding_window
        )


class _Named:
    """The functions of one program of several in a library."""

    def __init__(self, library: Shared, prefix: str, name: str) -> None:
        self._library, self._prefix, self._name = library, prefix, name

    def address(self, name: str) -> int:
        """Where the function is that a program by itself calls so."""
        plain = name.removeprefix("planish_")
        own = f"{self._name}_main" if plain == "main" else plain
        return self._library.address(self._prefix + own)
