"""Text: reading it, and turning it into tokens, one for each character.

tokenizer = CharTokenizer.from_text(text)
ids = tokenizer.encode("To be")          # i32 [5]
tokenizer.decode(ids) == "To be"
"""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.tokenizers.base import Tokenizer, checked_ids, surrogate
from planish.ir.errors import ArtifactError, DataError, DTypeError

BOM = "\ufeff"


@dataclass(frozen=True, repr=False)
class CharTokenizer(Tokenizer):
    """Every character is a token; `characters[id]` is the character of a token."""

    characters: str

    def __post_init__(self) -> None:
        codes = _codes(self.characters)
        if len(np.unique(codes)) != len(codes):
            raise DataError("a character stands twice in the vocabulary")

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The tokenizer whose vocabulary is the characters of `text`, sorted by code point."""
        if not text:
            raise DataError("a vocabulary needs text with at least 1 character, got none")
        return cls("".join(map(chr, np.unique(_codes(text)).tolist())))

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return len(self.characters)

    def __repr__(self) -> str:
        return f"CharTokenizer({self.vocab_size} characters)"

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Code points in order, and the token of each."""
        codes = _codes(self.characters)
        order = np.argsort(codes)
        return codes[order], order.astype(np.int32)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text` as i32; DataError, naming the character, where one is unknown."""
        if not isinstance(text, str):
            raise DTypeError(f"encode takes a str, got {type(text).__name__}")
        codes = _codes(text)
        known, tokens = self._sorted
        places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        wrong = np.flatnonzero(known[places] != codes) if len(known) else np.arange(len(codes))
        if len(wrong):
            character, at = text[wrong[0]], int(wrong[0])
            raise DataError(
                f"character {character!r} (U+{ord(character):04X}) at position {at} is not in the "
                f"vocabulary of {self.vocab_size} characters"
            )
        return tokens[places] if len(codes) else np.empty(0, np.int32)

    def decode(self, ids: Any) -> str:
        """The text of one sequence of tokens (or of a single one)."""
        flat = checked_ids(ids, self.vocab_size)
        return "".join(map(self.characters.__getitem__, flat.tolist()))

    def piece(self, token: int) -> bytes:
        """The bytes of a token's character."""
        return self.characters[token].encode()

    def to_json(self) -> str:
        """The tokenizer as text."""
        return json.dumps({"type": "char", "characters": self.characters})

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> CharTokenizer:
        """The tokenizer that `to_json` wrote."""
        if not isinstance(facts["characters"], str):
            raise ArtifactError("the characters are no text")
        return cls(facts["characters"])


def _codes(text: str) -> np.ndarray:
    """Code points as u32; lone surrogates are no characters."""
    try:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError as error:
        raise surrogate(text, error.start) from error


def read_text(
    path: str | os.PathLike[str], errors: str = "strict", newline: str | None = None
) -> str:
    """The text of a UTF-8 file, every character as it is.

    What is not UTF-8, and a byte order mark, is refused with its byte offset, unless `errors` says
    "replace" or "ignore". Line ends stay as they are, unless `newline` says what each becomes.
    """
    if errors not in ("strict", "replace", "ignore"):
        raise DataError(f"errors is strict, replace or ignore, got {errors!r}")
    source = Path(path)
    data = source.read_bytes()
    try:
        text = data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        wide = "; it begins like UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise DataError(
            f"{source}: not UTF-8 at byte {error.start} (0x{data[error.start]:02x}: {error.reason})"
            f"{wide}; convert it, or pass errors='replace' or 'ignore'"
        ) from error
    if text.startswith(BOM):
        if errors == "strict":
            raise DataError(
                f"{source}: a byte order mark at byte 0, which would become a character; "
                "remove it, or pass errors='ignore'"
            )
        text = text[1:]
    if not text:
        raise DataError(f"{source}: empty; at least 2 characters are needed to train")
    return text if newline is None else newline.join(_lines(text))


def _lines(text: str) -> list[str]:
    """The lines of a text, whichever of CRLF, CR and LF ends them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def default_corpus() -> str:
    """English text that every CPython carries: the language reference in `pydoc_data.topics`."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise DataError(
            "this Python came without pydoc_data, the default corpus; name a text file instead"
        ) from error
    return "\n\n".join(topics[name] for name in sorted(topics))
