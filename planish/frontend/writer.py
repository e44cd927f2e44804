"""Writing with programs that were compiled for it: prompt, cached decoding and sampling.

Two programs do the work, both traced in `next_token`. One reads prompts (a piece of at most
`Writer.piece` tokens at a time, of one or more of them) into the key-value caches of their rows and
draws the first token of each; the other takes the token at `pos` of each row and draws the one at
`pos + 1`: rows have positions of their own. All that changes (tokens, positions, caches) is
donated, so `Bound.run(repeat=n)` writes n tokens of all rows in one native call with no Python in
between. n is chosen so that a call is short enough for Ctrl-C and for streaming. Rows whose context
is full are read anew, by themselves.

Nothing here needs a model, a graph or a compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from planish.frontend.compiled import Compiled
from planish.frontend.rows import Rows, checked, first_of, set_in
from planish.frontend.sampling import (
    Sampling,
    check_room,
    naming,
    need_whole,
    prompts_of,
    row_keys,
    stop_ids,
)  # fmt: skip
from planish.frontend.session import Session
from planish.ir.errors import DataError, DTypeError

PAUSE = 0.08  # seconds between two looks for Ctrl-C
FLOW = 0.02  # the same where somebody reads along

Stream = Callable[[Any], object]


class Writer:
    """The programs of generation, for `batch` prompts at a time, and what they can do.

    Calls from several threads are independent of each other.
    """

    batch: int
    options: tuple[str, ...]
    greedy: bool
    context: int
    vocab_size: int
    piece: int
    prefill: Compiled
    decode: Compiled
    recompute: Compiled

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
        given, ends = prompts_of(ids, self.vocab_size), stop_ids(stop, self.vocab_size)
        prompts = given.rows
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
                with naming(row if given.in_list else None):
                    check_room(len(prompt), count, self.context)
        rows = Rows(self.context, keys, prompts)
        if "repetition_penalty" in self.options:
            rows.seen = (np.zeros((self.batch, self.vocab_size), bool),)
        walk = partial(self._cached, pause=pause) if use_cache else self._recomputed
        return checked(walk(rows, count, operands) if count else iter(()), ends, rows.live)

    def _cached(
        self, rows: Rows, count: int, operands: tuple, pause: float
    ) -> Iterator[np.ndarray]:
        session = self._session((rows.keys, *operands, *rows.seen))
        session.wake()
        rows.keys, rows.seen = session.settings[0], session.settings[1 + len(operands) :]
        try:
            yield from self._walk(session, rows, count, pause)
        finally:
            if session.is_small and not self._idle:
                self._idle.append(session)

    def _walk(self, session: Session, rows: Rows, count: int, pause: float) -> Iterator[np.ndarray]:
        bound = session.decoding if count > 1 else None  # before: threads are awake after
        self.read(session, range(self.batch), rows.prompts)
        tokens, pos = session.state[:2]
        drawn = 1
        while True:
            places = pos.tolist()
            yield last_of(tokens, places, drawn)
            count -= drawn
            if not bound or not count:
                return
            if max(places) == self.context - 1:
                full = pos == self.context - 1
                fresh = set_in(full & rows.live)
                prompts = [rows.renewed(r, tokens[r]) for r in fresh]
                pos[full] = 0  # one that has ended goes round and round
                if not full.all():
                    bound.run()
                if fresh:
                    self.read(session, fresh, prompts)
                drawn = 1
                continue
            drawn = min(bound.within(pause), count, self.context - 1 - max(places))
            bound.run(repeat=drawn)

    @cached_property
    def _idle(self) -> list[Session]:
        """What the text before has left, if no other has taken it."""
        return []

    def _session(self, settings: tuple) -> Session:
        """Memory for texts with these settings of the draw, which are copied into it."""
        try:
            session = self._idle.pop()
        except IndexError:
            session = Session(self.prefill, self.decode, self.piece, len(settings))
        session.set(settings)
        return session

    def begin(
        self, prompts: Sequence[np.ndarray] | np.ndarray, operands: tuple
    ) -> tuple[np.ndarray, ...]:
        """The arguments of `decode` after prompts, which are the caller's."""
        session = Session(self.prefill, self.decode, self.piece, len(operands))
        session.set(operands)
        self.read(session, range(self.batch), list(prompts))
        return session.state

    def read(self, session: Session, rows: Sequence[int], prompts: Sequence[np.ndarray]) -> None:
        """Read prompts into rows, whose tokens then have the first new one after them."""
        if "repetition_penalty" in self.options:
            for row, prompt in zip(rows, prompts, strict=True):
                session.state[-1][row, prompt] = True
        session.read(rows, prompts)

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


def last_of(tokens: np.ndarray, places: list[int], count: int) -> np.ndarray:
    """The last tokens of each row [B, count], up to its place.

    Python's own numbers where they do: what is called first after native code, which had the caches
    for itself, takes many times its time, and functions of NumPy most.
    """
    first = places[0] + 1
    if places.count(places[0]) == len(places):
        return tokens[:, first - count : first].copy()
    return np.stack([x[at + 1 - count : at + 1] for x, at in zip(tokens, places, strict=True)])


def written(
    maker: Writer, ids: Any, max_new_tokens: int, settings: Sampling, seed: Any,
    use_cache: bool, stream: Stream | None, stop: Any, sliding_window: bool,
) -> Any:  # fmt: skip
    """What a generator writes after prompts, in the form that `generate` describes."""
    prompts, ends = prompts_of(ids, maker.vocab_size), stop_ids(stop, maker.vocab_size)
    if stream is not None and not callable(stream):
        raise DTypeError(f"stream is a function of a token, got {type(stream).__name__}")
    pause = PAUSE if stream is None else FLOW
    pieces = [np.empty((len(prompts.rows), 0), np.int32)]
    for piece in maker.stream(
        prompts, max_new_tokens, settings, seed, use_cache, sliding_window, pause, stop
    ):
        pieces.append(piece)
        for column in piece.T if stream is not None else ():
            stream(int(column[0]) if prompts.alone else column)  # type: ignore[misc]
    found = np.concatenate(pieces, axis=1)
    if prompts.in_list:
        return [row[: first_of(np.isin(row, ends)[None])[0] + 1] for row in found]
    return found[0] if prompts.alone else found
