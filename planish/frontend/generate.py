"""Writing with a language model: prompt, cached decoding and sampling, all in native code.

    model.generate(tokenizer.encode("To be"), max_new_tokens=50, temperature=0.8, seed=1)
    generate_text(model, tokenizer, "To be", 200, stop=["\\n\\n"])

Two programs do the work, both traced from `advance`. One reads a prompt (a piece of at most
`PIECE` operations at a time) into the key-value caches and draws the first token; the other takes
the token at `pos` and draws the one at `pos + 1`. All that changes (tokens, position, caches) is
donated, so `Bound.run(repeat=n)` writes n tokens in one native call with no Python in between. n
is chosen so that a call is short enough for Ctrl-C and for streaming.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any

import numpy as np

from planish.frontend import random
from planish.frontend.api import Compiled, compile
from planish.frontend.array.manipulation import update_slice
from planish.frontend.sampling import (
    Sampling,
    check_room,
    folded,
    need_whole,
    prompt_of,
    row_keys,
    stop_ids,
)  # fmt: skip
from planish.frontend.tensor import apply
from planish.frontend.trace import spec, trace
from planish.ir.dims import Dim
from planish.ir.errors import DataError, DTypeError
from planish.ir.graph import Graph
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import pipeline as pipeline_named
from planish.runtime.target import thread_count

PIECE = 32e9  # operations of one native call on a prompt, some tenths of a second
PAUSE = 0.08  # seconds between two looks for Ctrl-C
FLOW = 0.02  # the same where somebody reads along
FASTER = 8  # times as many tokens in the next native call, at most
KEPT = 4  # generators that a model keeps

Stream = Callable[[Any], object]


class Generator:
    """A model compiled for generation, for prompts in batches of `batch`.

    It has the weights of the moment when it was made, see `is_current`. Calls from several threads
    are independent of each other.
    """

    def __init__(
        self,
        model: Any,
        pipeline: str | Pipeline = "O2",
        threads: int | None = None,
        batch: int = 1,
    ):
        self.model, self.pipeline = model, pipeline_named(pipeline)
        self.threads, self.batch = thread_count(threads), need_whole("batch", batch)
        if self.batch < 1:
            raise DataError(f"batch is at least 1, got {batch}")
        self.context: int = model.config["max_seq_len"]
        self.vocab_size: int = model.config["vocab_size"]
        self.piece = max(1, min(self.context, int(PIECE / (2 * model.count_parameters()))))
        self._weights = weights(model)
        self._graphs = graphs(model, self.batch, self.piece)  # now: weights may change later

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

    def _compiled(self, name: str) -> Compiled:
        return compile(self._graphs[name], pipeline=self.pipeline, threads=self.threads)

    def stream(
        self, ids: Any, max_new_tokens: int, settings: Sampling, seed: Any = None,
        use_cache: bool = True, sliding_window: bool = False, pause: float = PAUSE,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """New tokens, [batch, some] at a time, after `ids` [batch, T]; all of it checked first.

        DataError where the logits become NaN, after the tokens before that.
        """
        count = need_whole("max_new_tokens", max_new_tokens)
        if count < 0:
            raise DataError(f"max_new_tokens is at least 0, got {count}")
        prompt = np.atleast_2d(prompt_of(ids, self.vocab_size))
        if len(prompt) != self.batch:
            raise DataError(f"{len(prompt)} prompts for a generator of batch {self.batch}")
        keys, operands = row_keys(seed, self.batch), settings.operands(self.vocab_size)
        if not sliding_window:
            check_room(prompt.shape[1], count, self.context)
        elif self.context < 2:
            raise DataError("a context of 1 has no room for a new token")
        walk = partial(self._cached, pause=pause) if use_cache else self._recomputed
        return checked(self._windows(walk, prompt, count, keys, operands))

    def _windows(
        self, walk: Callable, prompt: np.ndarray, count: int, keys: np.ndarray, operands: tuple
    ) -> Iterator[np.ndarray]:
        """Windows that follow each other: what is kept of a full context is the next prompt."""
        window = 0
        while count:
            if prompt.shape[1] >= self.context:
                prompt = prompt[:, -(self.context // 2) :]
            # places fold in small numbers, windows those from 2^32 down
            fresh = folded(keys, -window) if window else keys
            room = min(count, self.context - prompt.shape[1])
            for piece in walk(prompt, room, (fresh, *operands)):
                prompt = np.concatenate([prompt, piece], axis=1)
                yield piece
            count, window = count - room, window + 1

    def _cached(
        self, prompt: np.ndarray, count: int, operands: tuple, pause: float
    ) -> Iterator[np.ndarray]:
        state = self.state(operands)
        bound = self.decode.bind(*state) if count > 1 else None  # before: threads are awake after
        self.read(prompt, state)
        tokens, length = state[0], prompt.shape[1]
        yield tokens[:, length : length + 1].copy()
        done = repeat = 1
        while bound and done < count:
            started = time.perf_counter()
            bound.run(repeat=repeat)
            spent = time.perf_counter() - started
            yield tokens[:, length + done : length + done + repeat].copy()
            done += repeat
            quick = int(repeat * pause / max(spent, 1e-9))
            repeat = min(max(1, min(FASTER * repeat, quick)), count - done)

    def begin(self, prompt: np.ndarray, operands: tuple) -> tuple[np.ndarray, ...]:
        """The arguments of `decode` after a prompt."""
        state = self.state(operands)
        self.read(prompt, state)
        return state

    def state(self, operands: tuple) -> tuple[np.ndarray, ...]:
        """The arguments of `decode`, before anything was read; those of `prefill` begin so, too."""
        specs = chain(*self.model.cache_specs(self.batch))
        caches = [np.zeros(x.shape, x.dtype.numpy) for x in specs]
        tokens = np.zeros((self.batch, self.context), np.int32)
        return (tokens, np.zeros((), np.int32), *caches, *operands)

    def read(self, prompt: np.ndarray, state: tuple[np.ndarray, ...]) -> None:
        """Read a prompt into `state`, whose tokens then have the first new one."""
        for start in range(0, prompt.shape[1], self.piece):
            self.prefill.bind(*state, prompt[:, start : start + self.piece]).run()

    def _recomputed(self, prompt: np.ndarray, count: int, operands: tuple) -> Iterator[np.ndarray]:
        for _ in range(count):
            found = self.recompute(prompt, *operands)[:, None]
            yield found
            prompt = np.concatenate([prompt, found], axis=1)


def checked(walk: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The tokens up to the first -1, which says that a row had no usable logits; then DataError."""
    done = 0
    for piece in walk:
        bad = np.flatnonzero((piece < 0).any(0))
        if not len(bad):
            done += piece.shape[1]
            yield piece
            continue
        if bad[0]:
            yield piece[:, : bad[0]]
        raise DataError(
            f"NaN logits at step {done + bad[0] + 1}: no token can be drawn from them; the model "
            "has diverged, or its weights are broken"
        )


def graphs(model: Any, batch: int, piece: int) -> dict[str, Graph]:
    """The graphs of generation, for prompts in pieces of at most `piece` tokens."""
    context = model.config["max_seq_len"]
    state = spec((batch, context), "i32"), spec((), "i32"), model.cache_specs(batch)
    settings = (
        spec((batch, 2), "u32", "keys"), spec((), "f32", "temperature"), spec((), "i32", "top_k"),
        spec((), "f32", "top_p"),
    )  # fmt: skip
    prompt = spec((batch, Dim("T", max=piece)), "i32", "prompt")
    seen = spec((batch, Dim("T", max=context)), "i32", "seen")

    def decode(tokens: Any, pos: Any, caches: Any, keys: Any, *settings: Any) -> Any:
        return advance(model, tokens, pos, caches, keys, settings)

    def prefill(tokens: Any, pos: Any, caches: Any, keys: Any, *settings: Any) -> Any:
        return advance(model, tokens, pos, caches, keys, settings[:-1], settings[-1])

    def recompute(seen: Any, keys: Any, *settings: Any) -> Any:
        key = random.fold_in(keys, seen.shape[1])
        return apply("sample", model.last_logits(seen), key, *settings)

    donate = {0: 0, 1: 1, 2: 2}
    return {
        "decode": trace(decode, *state, *settings, donate=donate),
        "prefill": trace(prefill, *state, *settings, prompt, donate=donate),
        "recompute": trace(recompute, seen, *settings),
    }


def advance(
    model: Any, tokens: Any, pos: Any, caches: Any, keys: Any, settings: Any, prompt: Any = None
) -> tuple[Any, Any, Any]:
    """One step: the model on the token at `pos`, or on a prompt that begins there.

    Returns tokens [B, S] with the one that follows, its place, and the caches. An id of -1 says
    that the logits were NaN; it stays in `tokens` for Python to see, and later steps read it as 0.
    """
    batch = tokens.shape[0]
    if prompt is None:
        prompt = apply("maximum", apply("dynamic_slice", tokens, 0, pos, sizes=(batch, 1)), 0)
    logits, caches = model.decode_step(prompt, caches, pos)
    pos = pos + prompt.shape[1]
    drawn = apply("sample", logits, random.fold_in(keys, pos), *settings)
    return update_slice(tokens, drawn.reshape(batch, 1), 0, pos), pos, caches


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
    model: Any, pipeline: str | Pipeline = "O2", threads: int | None = None, batch: int = 1
) -> Generator:
    """The model's generator; compiled when first needed, and again where weights have changed."""
    kept = model.__dict__.setdefault("_generators", Kept())
    key = (str(pipeline_named(pipeline)), thread_count(threads), batch)
    found = kept.pop(key, None)
    if found is None or not found.is_current():
        found = Generator(model, pipeline, threads, batch)
    kept[key] = found  # the latest stands last
    for old in list(kept)[:-KEPT]:
        kept.pop(old, None)
    return found


def generate(
    model: Any, ids: Any, max_new_tokens: int = 50, temperature: float = 1.0,
    top_k: int | None = None, top_p: float | None = None, seed: int | Sequence[int] | None = None,
    use_cache: bool = True, stream: Stream | None = None, stop: int | Sequence[int] | None = None,
    sliding_window: bool = False, pipeline: str | Pipeline = "O2", threads: int | None = None,
) -> np.ndarray:  # fmt: skip
    """The new tokens after a prompt [T], or after prompts [B, T] of one length: i32 [n] or [B, n].

    `stream` is called with each new token in order, an int (for a batch an array [B]), soon after
    it is there. A row ends after a token of `stop`; in a batch it is filled up with that token
    until the last row ends. `use_cache=False` computes everything anew for each token.
    """
    settings = Sampling(temperature, top_k, top_p)
    prompt = prompt_of(ids, model.config["vocab_size"])
    ends = stop_ids(stop, model.config["vocab_size"])
    if stream is not None and not callable(stream):
        raise DTypeError(f"stream is a function of a token, got {type(stream).__name__}")
    rows = np.atleast_2d(prompt)
    maker = generator_for(model, pipeline, threads, len(rows))
    pause = PAUSE if stream is None else FLOW
    walk = maker.stream(rows, max_new_tokens, settings, seed, use_cache, sliding_window, pause)
    pieces = [np.empty((len(rows), 0), np.int32), *until(walk, ends, stream, prompt.ndim)]
    found = np.concatenate(pieces, axis=1)
    return found[0] if prompt.ndim == 1 else found


def until(
    walk: Iterator[np.ndarray], ends: np.ndarray, stream: Stream | None, rank: int
) -> Iterator[np.ndarray]:
    """Columns of tokens until every row has ended, handed to `stream` on the way."""
    ended: np.ndarray | None = None  # the token with which each row ended, or -1
    for piece in walk:
        if stream is None and not len(ends):
            yield piece
            continue
        for column in piece.T:
            ended = np.full(len(column), -1, np.int32) if ended is None else ended
            tokens = np.where(ended < 0, column, ended)
            ended = np.where(np.isin(tokens, ends), tokens, ended)
            if stream is not None:
                stream(int(tokens[0]) if rank == 1 else tokens)
            yield tokens[:, None]
            if (ended >= 0).all():
                return


def generate_text(
    model: Any, tokenizer: Any, prompt: str, max_new_tokens: int = 50, *,
    stop: str | Sequence[str] = (), stream: Callable[[str], object] | None = None,
    seed: int | None = None, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, sliding_window: bool = False, pipeline: str | Pipeline = "O2",
    threads: int | None = None,
) -> str:  # fmt: skip
    """The text after `prompt`, up to the first of the strings `stop`.

    `stream` is called with pieces of it; what may be the beginning of a stop string is held back
    until it is none.
    """
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(isinstance(x, str) and x for x in stops):
        raise DataError(f"stop strings are texts of at least 1 character, got {stops!r}")
    settings = Sampling(temperature, top_k, top_p)
    ids = np.atleast_2d(prompt_of(tokenizer.encode(prompt), model.config["vocab_size"]))
    maker = generator_for(model, pipeline, threads)
    pause = PAUSE if stream is None else FLOW
    walk = maker.stream(ids, max_new_tokens, settings, seed, True, sliding_window, pause)
    text, told, done = "", 0, False
    for piece in walk:
        text += tokenizer.decode(piece[0])
        places = [at for at in (text.find(x) for x in stops) if at >= 0]
        done = bool(places)
        text = text[: min(places)] if done else text
        safe = len(text) if done else len(text) - held_back(text, stops)
        if stream is not None and safe > told:
            stream(text[told:safe])
            told = safe
        if done:
            break
    if stream is not None and told < len(text):
        stream(text[told:])
    return text


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    sizes = (n for x in stops for n in range(1, len(x)) if text.endswith(x[:n]))
    return max(sizes, default=0)
