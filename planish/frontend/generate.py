"""Writing with a language model: prompt, cached decoding and sampling, all in native code.

model.generate(tokenizer.encode("To be"), max_new_tokens=50, temperature=0.8, seed=1)
model.generate([[1, 2, 3], [4, 5]], max_new_tokens=50)   # prompts of different lengths
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend import ship
from planish.frontend.api import Compiled, compiled
from planish.frontend.next_token import graphs
from planish.frontend.recipes import Followed
from planish.frontend.sampling import OPTIONS, Sampling, need_whole, prompts_of
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.writer import Stream, Writer, written
from planish.ir.errors import DataError
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import pipeline as pipeline_named
from planish.runtime.packing import Panels
from planish.runtime.target import Target, thread_count

PIECE = 32e9  # operations of one native call on a prompt, some tenths of a second
TOGETHER = 512  # tokens of short prompts in a call: more are no faster, and take memory
KEPT = 4  # generators that a model keeps


class Generator(Writer):
    """A model compiled for generation, for `batch` prompts at a time.

    `options` are those of `min_p` and `repetition_penalty` that may be used; others cost nothing.
    A `greedy` one always takes the likeliest token, and spends no time on what a draw needs.
    It has the weights of the moment when it was made, see `is_current`. Calls from several threads
    are independent of each other.
    """

    def __init__(
        self,
        model: Any,
        pipeline: str | Pipeline = "O2",
        threads: int | None = None,
        batch: int = 1,
        options: Sequence[str] = (),
        greedy: bool = False,
        target: str | Target | None = None,
    ):
        self.target = Target.parse(target)
        self.greedy = greedy
        self.model, self.pipeline = model, pipeline_named(pipeline)
        self.threads, self.batch = thread_count(threads), need_whole("batch", batch)
        if self.batch < 1:
            raise DataError(f"batch is at least 1, got {batch}")
        if unknown := [x for x in options if x not in OPTIONS]:
            raise DataError(f"options are some of {', '.join(OPTIONS)}, got {unknown[0]!r}")
        self.options = tuple(x for x in OPTIONS if x in options)
        self.context: int = model.config["max_seq_len"]
        self.vocab_size: int = model.config["vocab_size"]
        most = min(self.batch * self.context, max(self.context, TOGETHER))
        self.piece = max(1, min(most, int(PIECE / (2 * model.count_parameters()))))
        self._weights = weights(model)
        self._panels = Panels()
        self._followed: Followed = {}  # until both programs of a text are there
        # now: weights may change later
        self._graphs = graphs(model, self.batch, self.piece, self.options, greedy)

    def is_current(self) -> bool:
        """Whether the model's weights are still those that were compiled."""
        now = weights(self.model)
        return len(now) == len(self._weights) and all(map(_is, now, self._weights))

    @cached_property
    def prefill(self) -> Compiled:
        """The program that reads a prompt and adds a token."""
        return self._compiled("prefill")

    @cached_property
    def decode(self) -> Compiled:
        """The program that adds a token."""
        return self._compiled("decode")

    @cached_property
    def recompute(self) -> Compiled:
        """The program without caches: the token that follows all before it."""
        return self._compiled("recompute")

    def _compiled(self, name: str, target: Target | None = None) -> Compiled:
        graph, machine = self._graphs[name], target or self.target
        known = self._followed if target is None and name != "recompute" else None
        made = compiled(graph, self.pipeline, machine, self.threads, self._panels, known=known)
        if {"prefill", "decode"} <= {*vars(self), name}:
            self._followed.clear()
        return made

    def programs(self, target: Target) -> dict[str, Compiled]:
        """The programs of a text, prefill and decode, for a processor."""
        if target == self.target:
            return {"prefill": self.prefill, "decode": self.decode}
        return {name: self._compiled(name, target) for name in ("prefill", "decode")}

    def save(
        self, path: str | os.PathLike[str], tokenizer: Tokenizer | None = None,
        weights: str = "embed", prefix: str = "planish_", target: str | None = None,
    ) -> tuple[str, ...]:  # fmt: skip
        """Write a library (.so) or an object file (.o) with a C header beside it, or that (.h).

        A name without a suffix is a program for the shell, which needs the tokenizer:
        `./tinygpt "ROMEO:" -n 200`.

        Its `options` are those that C and the shell have, beside temperature, top-k and top-p.
        `weights` are inside ("embed") or in NAME.weights beside it ("file"), which is mapped.
        Functions of C begin with `prefix`: a program that has two models needs two. `pl.load` runs
        a library without LLVM. The same generator makes the same bytes.

        `target` names other processors than that of the generator: "x86-64-v2,x86-64-v4", say, of
        which later ones are preferred, or "multi", see `planish.frontend.ship.LEVELS`. The code for
        each is inside, with weights packed for it, and whoever runs the file takes the best that
        the processor can; PLANISH_LEVEL names another. Returns the names of these levels.
        """
        return ship.save_generator(self, Path(path), tokenizer, weights, prefix, target)


def weights(model: Any) -> list[np.ndarray]:
    """The arrays of a model's parameters: training replaces them by others."""
    return [x.array for x in model.parameters()]


def _is(a: object, b: object) -> bool:
    return a is b


class Kept(dict):
    """The generators of a model, which copies of it do not share."""

    def __deepcopy__(self, memo: dict) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple:
        return Kept, ()


def generator_for(
    model: Any, pipeline: str | Pipeline = "O2", threads: int | None = None, batch: int = 1,
    options: Sequence[str] = (), greedy: bool = False,
) -> Generator:  # fmt: skip
    """The model's generator; compiled when first needed, and again where weights have changed."""
    kept = model.__dict__.setdefault("_generators", Kept())
    passes = pipeline_named(pipeline)
    own = str(passes), passes.is_bound  # the text of a bound one, written down, is not bound
    key = (*own, thread_count(threads), tuple(options), greedy, batch)
    found = kept.pop(key, None)
    if found is None or not found.is_current():
        found = Generator(model, pipeline, threads, batch, options, greedy)
    kept[key] = found  # the latest stands last
    for old in list(kept)[:-KEPT]:
        kept.pop(old, None)
    return found


def generate(
    model: Any, ids: Any, max_new_tokens: int = 50, temperature: float = 1.0,
    top_k: int | None = None, top_p: float | None = None, seed: int | Sequence[int] | None = None,
    use_cache: bool = True, stream: Stream | None = None, stop: int | Sequence[int] | None = None,
    sliding_window: bool = False, pipeline: str | Pipeline = "O2", threads: int | None = None,
    min_p: float | None = None, repetition_penalty: float | None = None,
) -> Any:  # fmt: skip
    """The new tokens after a prompt [T]: i32 [n]; after prompts [B, T] of one length: [B, n].

    After prompts in a list, of any lengths, a list of i32 arrays. A row ends after a token of
    `stop`; in [B, n] it is filled up with that token until the last row ends. Every row has the
    tokens that it has alone: row r with `seed=s` those of `fold_in(key(s), r)`, with a list of
    seeds those of its own seed. `stream` is called with each new token in order, an int (for
    several prompts an array [B], in which rows that have ended repeat their last token), soon
    after it is there. `use_cache=False` computes everything anew for each token. What the settings
    of the draw mean stands in `Sampling`.
    """
    settings = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    prompts = prompts_of(ids, model.config["vocab_size"])
    many = len(prompts.rows)
    maker = generator_for(model, pipeline, threads, many, settings.options, settings.greedy)
    return written(
        maker, prompts, max_new_tokens, settings, seed, use_cache, stream, stop, sliding_window
    )
