"""What every tokenizer offers, and text that arrives token by token.

ids = tokenizer.encode("naïve")      # i32 [T]
tokenizer.decode(ids) == "naïve"

read = tokenizer.reader()            # tokens may end in the middle of a character
"".join([*map(read, ids), read.rest()]) == "naïve"
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from planish.ir.errors import DataError, DTypeError, TokenError


class Tokenizer:
    """Turns text into tokens and back. `end` are the tokens that end a text."""

    end: tuple[int, ...] = ()

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        raise NotImplementedError(f"{type(self).__name__} defines no vocab_size")

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vocab_size} tokens)"

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text` as i32."""
        raise NotImplementedError(f"{type(self).__name__} defines no encode")

    def prompt(self, text: str) -> np.ndarray:
        """The tokens that a model reads to continue `text`: with a start token, where it wants one.

        An empty text has tokens here only where there is such a token.
        """
        return self.encode(text)

    def piece(self, token: int) -> bytes:
        """The bytes of UTF-8 that one token stands for; they may end inside of a character."""
        raise NotImplementedError(f"{type(self).__name__} defines no piece")

    def reader(self, before: Any = ()) -> Reader:
        """Turns the tokens that follow `before` into text as they come."""
        return Reader(self.piece, self.vocab_size)

    def decode(self, ids: Any) -> str:
        """The text of one sequence of tokens (or of a single one)."""
        read = self.reader()
        return read(ids) + read.rest()

    def to_json(self) -> str:
        """The tokenizer as text, for `tokenizer_from_json`."""
        raise NotImplementedError(f"{type(self).__name__} defines no to_json")


class Reader:
    """Text of tokens as they come: a character is there when its last byte is.

    Bytes that are not UTF-8 become U+FFFD, as they do in `decode`.
    """

    def __init__(self, piece: Callable[[int], bytes], vocab_size: int):
        self._piece, self._vocab_size = piece, vocab_size
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, ids: Any) -> str:
        """The text that these tokens complete."""
        listed = checked_ids(ids, self._vocab_size).tolist()
        return self._decoder.decode(b"".join(map(self._piece, listed)))

    def rest(self) -> str:
        """What is left when no token follows: a character that was cut, as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def checked_ids(ids: Any, vocab_size: int) -> np.ndarray:
    """Tokens as an array [T]; refused where they are none of this vocabulary."""
    listed = ids if isinstance(ids, np.ndarray) else np.asarray(list(np.atleast_1d(ids)))
    if listed.size == 0:
        return np.empty(0, np.int32)
    if listed.dtype.kind not in "iu":
        raise DTypeError(f"token ids are integers, got {listed.dtype}")
    if listed.ndim > 1:
        raise DataError(
            f"decode takes one sequence of tokens, got {list(listed.shape)}; decode each row, "
            "as in decode(ids[0])"
        )
    flat = np.atleast_1d(listed)
    wrong = np.flatnonzero((flat < 0) | (flat >= vocab_size))
    if len(wrong):
        raise TokenError(
            f"token id {flat[wrong[0]]} at position {wrong[0]} is outside "
            f"0 <= id < {vocab_size}, the size of the vocabulary"
        )
    return flat


def utf8(text: str) -> bytes:
    """The bytes of a text; lone surrogates are no characters."""
    if not isinstance(text, str):
        raise DTypeError(f"encode takes a str, got {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise surrogate(text, error.start) from error


def surrogate(text: str, at: int) -> DataError:
    """The error that a lone surrogate gets."""
    return DataError(
        f"position {at} of the text is a lone surrogate (U+{ord(text[at]):04X}), "
        "which is no character"
    )


def as_ids(tokens: Iterable[int]) -> np.ndarray:
    """Tokens as i32."""
    return np.fromiter(tokens, np.int32)
