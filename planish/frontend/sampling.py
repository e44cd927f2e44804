"""How the next token is chosen: temperature, top-k and the like, and seeds, checked beforehand.

A seed decides: row r of a batch draws its token at place p with the key
fold_in(fold_in(key(seed), r), p), so a row never depends on the others. With one seed for each row
(`seed=[3, 8]`), each row counts as row 0: alone, it gives the same tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from planish.frontend.data import check_ids
from planish.ir.draws import GREEDY_BELOW, folded, key
from planish.ir.errors import DataError, DTypeError, PlanishError, ShapeError

EVERYTHING = 2.0  # a top-p above any sum of probabilities
LARGEST, SMALLEST = float.fromhex("0x1.fffffep127"), float.fromhex("0x1p-126")  # normal, of f32
OPTIONS = {"min_p": 0.0, "repetition_penalty": 1.0}  # and the values that change nothing


@dataclass(frozen=True)
class Sampling:
    """Settings of the draw; a temperature of 0 (below 1e-6) always takes the likeliest token.

    `top_k` keeps the k likeliest tokens, `top_p` the likeliest ones that together have that
    probability, `min_p` those at least that many times as likely as the likeliest; None keeps all.
    `repetition_penalty` r makes tokens that the text already has less likely, where it is above 1:
    their logits are divided by r if positive, else multiplied (Keskar et al., 2019).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        need_number("temperature", self.temperature)
        if not 0 <= self.temperature <= LARGEST:
            raise DataError(
                f"temperature is a finite number of at least 0, got {self.temperature!r}"
            )
        if self.top_k is not None and need_whole("top_k", self.top_k) < 1:
            raise DataError(f"top_k is at least 1, or None for all tokens, got {self.top_k}")
        if self.top_p is not None:
            need_number("top_p", self.top_p)
            if not 0 < self.top_p <= 1:
                raise DataError(f"top_p is a number of 0 < top_p <= 1, got {self.top_p!r}")
        if self.min_p is not None:
            need_number("min_p", self.min_p)
            if not 0 <= self.min_p <= 1:
                raise DataError(f"min_p is a number of 0 <= min_p <= 1, got {self.min_p!r}")
        if self.repetition_penalty is not None:
            need_number("repetition_penalty", self.repetition_penalty)
            if not SMALLEST <= self.repetition_penalty <= LARGEST:
                raise DataError(
                    "repetition_penalty is a finite number above 0, where 1 changes nothing, got "
                    f"{self.repetition_penalty!r}"
                )

    @property
    def options(self) -> tuple[str, ...]:
        """What is on of `OPTIONS`, which a program only has where it was compiled for them."""
        return tuple(
            name for name, off in OPTIONS.items() if getattr(self, name) not in (None, off)
        )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, whatever the key."""
        return self.temperature < GREEDY_BELOW

    def operands(
        self, vocab_size: int, options: Sequence[str] = (), greedy: bool = False
    ) -> tuple[np.generic, ...]:
        """Temperature, top-k and top-p as the op `sample` takes them, and these options.

        A greedy program has only the options.
        """
        k = vocab_size if self.top_k is None else min(int(self.top_k), vocab_size)
        p = EVERYTHING if self.top_p is None else self.top_p
        given = ((getattr(self, name), OPTIONS[name]) for name in options)
        more = (np.float32(off if x is None else x) for x, off in given)
        draw = () if greedy else (np.float32(self.temperature), np.int32(k), np.float32(p))
        return *draw, *more


def need_number(name: str, x: object) -> None:
    """Refuse what is not a number."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, float, np.number)):
        raise DTypeError(f"{name} is a number, got {type(x).__name__} {x!r}")


def need_whole(name: str, x: Any) -> int:
    """A whole number as an int; DTypeError for anything else."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, np.integer)):
        raise DTypeError(f"{name} is a whole number, got {type(x).__name__} {x!r}")
    return int(x)


class Prompts(NamedTuple):
    """Prompts that were checked, each i32 [T], and whether they came in a list, or alone."""

    rows: list[np.ndarray]
    in_list: bool = False
    alone: bool = False


def _is_list(ids: object) -> bool:
    """Whether these are prompts in a list, not tokens."""
    return isinstance(ids, (list, tuple)) and any(
        isinstance(x, (list, tuple, str)) or getattr(x, "ndim", 0) for x in ids
    )


def prompts_of(ids: Any, vocab_size: int) -> Prompts:
    """Those in a list of prompts, in [B, T], or the one in [T]; no others. They are read once."""
    if isinstance(ids, Prompts):
        return ids
    if not _is_list(ids):
        found = _tokens(ids, vocab_size, (1, 2))
        return Prompts(list(np.atleast_2d(found)), alone=found.ndim == 1)
    rows = []
    for row, one in enumerate(ids):
        with naming(row):
            rows.append(_tokens(one, vocab_size, (1,)))
    return Prompts(rows, in_list=True)


def _tokens(ids: Any, vocab_size: int, ranks: tuple[int, ...]) -> np.ndarray:
    """Tokens of one of these ranks as i32; refused where they are none."""
    try:
        found = np.asarray(ids)
    except ValueError as error:
        raise ShapeError(f"no array of tokens: {error}") from error
    if found.size == 0:
        raise DataError("the prompt is empty; give at least 1 token to begin with")
    check_ids(found, vocab_size)
    if found.ndim not in ranks:
        known = "[time] or [batch, time]" if 2 in ranks else "[time]"
        raise ShapeError(f"a prompt is {known}, got {list(found.shape)}")
    return np.ascontiguousarray(found, np.int32)


@contextmanager
def naming(row: int | None) -> Iterator[None]:
    """Errors inside say which of several prompts they are about."""
    try:
        yield
    except PlanishError as error:
        if row is None:
            raise
        raise type(error)(f"prompt {row}: {error}") from error


def check_room(length: int, count: int, context: int) -> None:
    """Refuse a prompt that does not fit, or more new tokens than fit after it."""
    if length > context:
        raise DataError(
            f"the prompt has {length} tokens, the model's context is {context}; cut it, or pass "
            "sliding_window=True to keep its end"
        )
    if length + count > context:
        room = f"at most {context - length} fit" if length < context else "it is full"
        raise DataError(
            f"{length} tokens of prompt and {count} new ones exceed the context of {context}: "
            f"{room}; pass sliding_window=True to go on with the last half of it"
        )


def row_keys(seed: int | Sequence[int] | None, batch: int) -> np.ndarray:
    """The random key of each row, u32[batch, 2]; without a seed, a fresh one."""
    if seed is None:
        seed = int.from_bytes(os.urandom(8), "little")
    if isinstance(seed, (Sequence, np.ndarray)) and not isinstance(seed, (str, bytes)):
        if len(seed) != batch:
            raise DataError(f"{len(seed)} seeds for {batch} rows; give one seed, or one for each")
        return np.stack([folded(key(s), 0) for s in seed])
    return np.stack([folded(key(seed), r) for r in range(batch)])  # type: ignore[arg-type]


def stop_ids(stop: int | Sequence[int] | None, vocab_size: int) -> np.ndarray:
    """The tokens that end a row."""
    listed = [] if stop is None else stop if isinstance(stop, (Sequence, np.ndarray)) else [stop]
    found = np.array([need_whole("a stop token", x) for x in listed], np.int64)
    check_ids(found, vocab_size)
    return found
