"""Writing with a language model: prompt, cached decoding and sampling, all in native code.

    model.generate(tokenizer.encode("To be"), max_new_tokens=50, temperature=0.8, seed=1)
    model.generate([[1, 2, 3], [4, 5]], max_new_tokens=50)   # prompts of different lengths

Two programs do the work, both traced in `next_token`. One reads a prompt (a piece of at most
`PIECE` operations at a time) into the key-value caches of one row and draws its first token; the
other takes the token at `pos` of each row and draws the one at `pos + 1`: rows have positions of
their own. All that changes (tokens, positions, caches) is donated, so `Bound.run(repeat=n)` writes
n tokens of all rows in one native call with no Python in between. n is chosen so that a call is
short enough for Ctrl-C and for streaming. A row whose context is full is read anew, by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend import ship
from planish.frontend.api import Compiled, compiled
from planish.frontend.next_token import graphs
from planish.frontend.rows import Rows, checked, first_of, set_in
from planish.frontend.sampling import (
    OPTIONS,
    Sampling,
    check_room,
    is_list,
    naming,
    need_whole,
    prompts_of,
    row_keys,
    stop_ids,
)  # fmt: skip
from planish.frontend.tokenizers.base import Tokenizer
from planish.ir.errors import DataError, DTypeError
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import pipeline as pipeline_named
from planish.runtime.packing import Panels
from planish.runtime.target import Target, thread_count

PIECE = 32e9  # operations of one native call on a prompt, some tenths of a second
PAUSE = 0.08  # seconds between two looks for Ctrl-C
FLOW = 0.02  # the same where somebody reads along
KEPT = 4  # generators that a model keeps

Stream = Callable[[Any], object]


class Generator:
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
        self.piece = max(1, min(self.context, int(PIECE / (2 * model.count_parameters()))))
        self._weights = weights(model)
        self._panels = Panels()
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
        return compiled(graph, self.pipeline, machine, self.threads, panels=self._panels)

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

        `weights` are inside ("embed") or in NAME.weights beside it ("file"), which is mapped.
        Functions of C begin with `prefix`: a program that has two models needs two. `pl.load` runs
        a library without LLVM. The same generator makes the same bytes.

        `target` names other processors than that of the generator: "x86-64-v2,x86-64-v4", say, of
        which later ones are preferred, or "multi", see `planish.frontend.ship.LEVELS`. The code for
        each is inside, with weights packed for it, and whoever runs the file takes the best that
        the processor can; PLANISH_LEVEL names another. Returns the names of these levels.
        """
        return ship.save_generator(self, Path(path), tokenizer, weights, prefix, target)

    def stream(
        self, ids: Any, max_new_tokens: int, settings: Sampling, seed: Any = None,
        use_cache: bool = True, sliding_window: bool = False, pause: float = PAUSE,
        stop: Any = None,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """New tokens, [batch, some] at a time, after prompts [batch, T], or in a list, each [T].

        A row that has ended, with a token of `stop`, repeats it until the last row ends. All is
        checked first; DataError where the logits become NaN, after the tokens before that.
        """
        count = need_whole("max_new_tokens", max_new_tokens)
        if count < 0:
            raise DataError(f"max_new_tokens is at least 0, got {count}")
        prompts, ends = prompts_of(ids, self.vocab_size), stop_ids(stop, self.vocab_size)
        if len(prompts) != self.batch:
            raise DataError(f"{len(prompts)} prompts for a generator of batch {self.batch}")
        if missing := [x for x in settings.options if x not in self.options]:
            raise DataError(f"{missing[0]} needs a Generator made with options=({missing[0]!r},)")
        if self.greedy and not settings.greedy:
            raise DataError(f"a greedy Generator has temperature 0, not {settings.temperature}")
        keys = row_keys(seed, self.batch)
        operands = settings.operands(self.vocab_size, self.options, self.greedy)
        if sliding_window and self.context < 2:
            raise DataError("a context of 1 has no room for a new token")
        for row, prompt in enumerate(prompts):
            if not sliding_window:
                with naming(row if is_list(ids) else None):
                    check_room(len(prompt), count, self.context)
        rows = Rows(self.context, keys, prompts)
        if "repetition_penalty" in self.options:
            rows.seen = (np.zeros((self.batch, self.vocab_size), bool),)
        walk = partial(self._cached, pause=pause) if use_cache else self._recomputed
        return checked(walk(rows, count, operands) if count else iter(()), ends, rows.live)

    def _cached(
        self, rows: Rows, count: int, operands: tuple, pause: float
    ) -> Iterator[np.ndarray]:
        state = self.state((rows.keys, *operands, *rows.seen))
        bound = self.decode.bind(*state) if count > 1 else None  # before: threads are awake after
        for row, prompt in enumerate(rows.prompts):
            self.read(state, row, prompt)
        tokens, pos = state[:2]
        drawn = 1
        while True:
            starts = pos + 1 - drawn
            yield np.stack([x[at : at + drawn] for x, at in zip(tokens, starts, strict=True)])
            count -= drawn
            if not bound or not count:
                return
            full = pos == self.context - 1
            if full.any():
                fresh = {r: rows.renewed(r, tokens[r]) for r in set_in(full & rows.live)}
                pos[full] = 0  # one that has ended goes round and round
                if not full.all():
                    bound.run()
                for row, prompt in fresh.items():
                    self.read(state, row, prompt)
                drawn = 1
                continue
            drawn = min(bound.within(pause), count, int(self.context - 1 - pos.max()))
            bound.run(repeat=drawn)

    def begin(
        self, prompts: Sequence[np.ndarray] | np.ndarray, operands: tuple
    ) -> tuple[np.ndarray, ...]:
        """The arguments of `decode` after prompts."""
        state = self.state(operands)
        for row, prompt in enumerate(prompts):
            self.read(state, row, prompt)
        return state

    def state(self, operands: tuple) -> tuple[np.ndarray, ...]:
        """The arguments of `decode`, before anything was read: tokens, positions, caches ..."""
        slots = self.decode.image.inputs
        types: list[Any] = [x.type for x in slots[: len(slots) - len(operands)]]
        return (*(np.zeros(x.shape, x.dtype.numpy) for x in types), *operands)

    def read(self, state: tuple[np.ndarray, ...], row: int, prompt: np.ndarray) -> None:
        """Read a prompt into a row, whose tokens then have the first new one after it."""
        mine = [x[row : row + 1] if x.ndim else x for x in state]
        tokens, pos = mine[:2]
        pos[...] = 0
        if "repetition_penalty" in self.options:
            mine[-1][0, prompt] = True
        for start in range(0, len(prompt), self.piece):
            self.prefill.bind(*mine, prompt[None, start : start + self.piece]).run()
        tokens[0, : len(prompt)] = prompt

    def _recomputed(self, rows: Rows, count: int, operands: tuple) -> Iterator[np.ndarray]:
        texts = list(rows.prompts)
        for _ in range(count):
            drawn = np.zeros((self.batch, 1), np.int32)
            for row in set_in(rows.live):
                text, key = texts[row], rows.keys[row : row + 1]
                text = text if len(text) < self.context else rows.renewed(row, text)
                seen = [x[row : row + 1] for x in rows.seen]
                for mask in seen:
                    mask[0, text] = True
                drawn[row] = self.recompute(text[None], key, *operands, *seen)
                texts[row] = np.append(text, drawn[row])
            yield drawn


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
    key = (str(pipeline_named(pipeline)), thread_count(threads), tuple(options), greedy, batch)
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
    many = len(prompts_of(ids, model.config["vocab_size"]))
    maker = generator_for(model, pipeline, threads, many, settings.options, settings.greedy)
    return written(
        maker, ids, max_new_tokens, settings, seed, use_cache, stream, stop, sliding_window
    )


def written(
    maker: Generator, ids: Any, max_new_tokens: int, settings: Sampling, seed: Any,
    use_cache: bool, stream: Stream | None, stop: Any, sliding_window: bool,
) -> Any:  # fmt: skip
    """What a generator writes after prompts, in the form that `generate` describes."""
    prompts, ends = prompts_of(ids, maker.vocab_size), stop_ids(stop, maker.vocab_size)
    if stream is not None and not callable(stream):
        raise DTypeError(f"stream is a function of a token, got {type(stream).__name__}")
    alone = not is_list(ids) and np.ndim(ids) == 1
    pause = PAUSE if stream is None else FLOW
    pieces = [np.empty((len(prompts), 0), np.int32)]
    for piece in maker.stream(
        ids, max_new_tokens, settings, seed, use_cache, sliding_window, pause, stop
    ):
        pieces.append(piece)
        for column in piece.T if stream is not None else ():
            stream(int(column[0]) if alone else column)  # type: ignore[misc]
    found = np.concatenate(pieces, axis=1)
    if is_list(ids):
        return [row[: first_of(np.isin(row, ends)[None])[0] + 1] for row in found]
    return found[0] if alone else found
