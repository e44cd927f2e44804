"""`tokenizer.json`, read by the `tokenizers` library (extra `planish[bpe]`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from planish.frontend.tokenizers.base import Reader, Tokenizer, as_ids, checked_ids, utf8
from planish.ir.errors import ArtifactError, DataError

STARTS = ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>")
ENDS = ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>")
CUT = "\ufffd"  # what the library makes of bytes that are no character yet


@dataclass(frozen=True, repr=False)
class LibraryTokenizer(Tokenizer):
    """Whatever a `tokenizer.json` describes; `source` is its text."""

    source: str

    @cached_property
    def _library(self) -> Any:
        try:
            import tokenizers
        except ImportError as error:
            raise DataError(
                "a tokenizer.json is read by the package tokenizers: pip install 'planish[bpe]'"
            ) from error
        try:
            return tokenizers.Tokenizer.from_str(self.source)
        except Exception as error:  # the library raises nothing more precise
            raise ArtifactError(f"not a tokenizer: {error!s:.200}") from error

    @property
    def vocab_size(self) -> int:
        """The number of tokens, added ones included."""
        return self._library.get_vocab_size()

    @property
    def end(self) -> tuple[int, ...]:  # type: ignore[override]
        """The tokens with the usual names of ends."""
        found = (self._library.token_to_id(x) for x in ENDS)
        return tuple(x for x in found if x is not None)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text` as i32, without those that mark its ends."""
        utf8(text)
        return as_ids(self._library.encode(text, add_special_tokens=False).ids)

    def prompt(self, text: str) -> np.ndarray:
        """The tokens as the file wants a text to begin; a start token for an empty one."""
        utf8(text)
        ids = self._library.encode(text).ids
        while len(ids) > 1 and ids[-1] in self.end:
            ids = ids[:-1]  # a text that is to be continued has no end
        starts = (self._library.token_to_id(x) for x in STARTS)
        return as_ids(ids or [x for x in starts if x is not None][:1])

    def reader(self, before: Any = ()) -> Reader:
        """Turns the tokens that follow `before` into text as they come."""
        return _LibraryReader(self, np.atleast_1d(np.asarray(before, np.int32)).tolist())

    def text_of(self, ids: list[int]) -> str:
        """The library's text of tokens."""
        return self._library.decode(ids, skip_special_tokens=True)

    def to_json(self) -> str:
        """The tokenizer as text."""
        return json.dumps({"type": "tokenizers", "json": self.source})

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> LibraryTokenizer:
        """The tokenizer that `to_json` wrote."""
        if not isinstance(facts["json"], str):
            raise ArtifactError("the tokenizer.json is no text")
        return cls(facts["json"])


class _LibraryReader(Reader):
    """Text by comparing: what the library makes of the tokens with and without the new ones.

    Some decoders treat the first token of a text by itself, so a few tokens stand before.
    """

    def __init__(self, tokenizer: LibraryTokenizer, before: list[int]):
        self._tokenizer, self._vocab_size = tokenizer, tokenizer.vocab_size
        self._ids, self._told = before[-8:], tokenizer.text_of(before[-8:])

    def __call__(self, ids: Any) -> str:
        self._ids += checked_ids(ids, self._vocab_size).tolist()
        text = self._tokenizer.text_of(self._ids)
        if text.endswith(CUT):
            return ""
        new = text[len(self._told) :]
        self._ids = self._ids[-8:]
        self._told = self._tokenizer.text_of(self._ids)
        return new

    def rest(self) -> str:
        return self._tokenizer.text_of(self._ids)[len(self._told) :]
