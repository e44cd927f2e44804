"""Byte-pair encoding in GPT-2's way, over the bytes of UTF-8, so that every text has tokens.

    tokenizer = BytePairTokenizer.train(text, 1000)
    tokenizer = read_tokenizer("vocab.json")     # merges.txt beside it; encoder.json, vocab.bpe

Vocabularies and merges are written with one printable character for each byte, as in GPT-2's
files: a space is Ġ, a line end Ċ.

An implementation of our own, because the whole of it is short, needs no package, and gives
tokens as bytes, which streaming wants. `tokenizer.json`, whose variety is the `tokenizers`
library's, is read by that library (`library.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from planish.frontend.tokenizers.base import Tokenizer, as_ids, utf8
from planish.frontend.tokenizers.learning import learnt_merges
from planish.frontend.tokenizers.merging import Merges, merged
from planish.frontend.tokenizers.words import words
from planish.ir.errors import ArtifactError, DataError, DTypeError

END_OF_TEXT = "<|endoftext|>"
WORDS_KEPT = 65536  # words whose tokens are remembered
LONGEST_KEPT = 64  # characters of such a word


def _alphabet() -> str:
    """The printable character of each byte, by byte: its own where it has one, else 256 onward."""
    own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return "".join(chr(x if x in own else next(others)) for x in range(256))


ALPHABET = _alphabet()
BYTE = {character: byte for byte, character in enumerate(ALPHABET)}
# GPT-2's order of the bytes: those that are printable first
ORDER = sorted(range(256), key=lambda x: (ord(ALPHABET[x]) != x, x))


@dataclass(frozen=True, repr=False)
class BytePairTokenizer(Tokenizer):
    """Tokens by rank of merges; `vocab` and `merges` are written in `ALPHABET`.

    `vocab[id]` is a token's text, `merges` are pairs of such texts, the first to be merged first.
    """

    vocab: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if len(self._index) != len(self.vocab):
            raise ArtifactError("a token stands twice in the vocabulary")
        absent = [
            word for pair in self.merges for word in (*pair, "".join(pair))
            if word not in self._index
        ]  # fmt: skip
        if absent:
            raise ArtifactError(
                f"merges need {len(absent)} tokens that the vocabulary lacks, such as {absent[0]!r}"
            )

    @classmethod
    def train(cls, text: str, vocab_size: int) -> BytePairTokenizer:
        """The tokenizer that merges what stands together most often in `text`.

        256 tokens are bytes; fewer than `vocab_size` come out where no pair stands there twice.
        """
        if isinstance(vocab_size, bool) or not isinstance(vocab_size, int):
            raise DTypeError(f"vocab_size is an integer, got {vocab_size!r}")
        if vocab_size < 256:
            raise DataError(f"vocab_size is at least 256, the number of bytes, got {vocab_size}")
        utf8(text)
        vocab = [ALPHABET[x] for x in ORDER]
        place = {byte: token for token, byte in enumerate(ORDER)}
        merges = []
        for a, b in learnt_merges(map(_bytes_of(place), words(text)), 256, vocab_size):
            merges.append((vocab[a], vocab[b]))
            vocab.append(vocab[a] + vocab[b])
        return cls(tuple(vocab), tuple(merges))

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return len(self.vocab)

    @property
    def end(self) -> tuple[int, ...]:  # type: ignore[override]
        """GPT-2's <|endoftext|>, where the vocabulary has it."""
        found = self._index.get(END_OF_TEXT)
        return () if found is None else (found,)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {text: token for token, text in enumerate(self.vocab)}

    @cached_property
    def ranked(self) -> Merges:
        """The merges, by pairs of tokens."""
        index = self._index
        ranked = reversed([*enumerate(self.merges)])  # of a pair that stands twice the first counts
        return {(index[a], index[b]): (rank, index[a + b]) for rank, (a, b) in ranked}

    @cached_property
    def byte_tokens(self) -> dict[int, int]:
        """The token of each byte that has one."""
        return {byte: self._index[x] for x, byte in BYTE.items() if x in self._index}

    @cached_property
    def _pieces(self) -> tuple[bytes, ...]:
        return tuple(map(_piece, self.vocab))

    def _word(self, word: str) -> Sequence[int]:
        data = word.encode()
        try:
            return merged([self.byte_tokens[x] for x in data], self.ranked)
        except KeyError as error:
            raise DataError(
                f"the vocabulary of {self.vocab_size} tokens lacks byte 0x{error.args[0]:02X}, "
                f"which {word!r:.40} needs"
            ) from error

    @cached_property
    def _remembered(self) -> Callable[[str], Sequence[int]]:
        return lru_cache(WORDS_KEPT)(self._word)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text` as i32."""
        utf8(text)
        known, afresh = self._remembered, self._word
        return as_ids(
            token
            for word in words(text)
            for token in (known if len(word) <= LONGEST_KEPT else afresh)(word)
        )

    def prompt(self, text: str) -> np.ndarray:
        """The tokens of `text`; of an empty one the end of the text before, if there is such."""
        return self.encode(text) if text or not self.end else as_ids(self.end)

    def piece(self, token: int) -> bytes:
        """The bytes of one token."""
        return self._pieces[token]

    def to_json(self) -> str:
        """The tokenizer as text."""
        merges = [" ".join(pair) for pair in self.merges]
        return json.dumps({"type": "bpe", "vocab": self.vocab, "merges": merges})

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> BytePairTokenizer:
        """The tokenizer that `to_json` wrote."""
        vocab = facts["vocab"]
        if not isinstance(vocab, list) or not all(isinstance(x, str) for x in vocab):
            raise ArtifactError("the vocabulary is no list of texts")
        return cls(tuple(vocab), parsed_merges(facts["merges"]))


def vocabulary(table: Mapping[str, int]) -> tuple[str, ...]:
    """Tokens in the order of their ids; ArtifactError unless those are 0, 1, 2 ..."""
    for text, token in table.items():
        if isinstance(token, bool) or not isinstance(token, int):
            raise ArtifactError(f"token {text!r:.60} has the id {token!r:.60}, no integer")
    ordered = sorted(table.items(), key=lambda item: item[1])
    for wanted, (text, token) in enumerate(ordered):
        if token != wanted:
            raise ArtifactError(
                f"ids are 0 to {len(table) - 1}, each once; {text!r:.60} has {token} "
                f"where {wanted} is next"
            )
    return tuple(text for text, _ in ordered)


def parsed_merges(lines: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of texts that are separated by a space."""
    found = []
    for number, line in enumerate(lines, 1):
        first, _, second = line.partition(" ")
        if not first or not second or " " in second:
            raise ArtifactError(
                f"merge {number} is two texts with a space between, got {line!r:.60}"
            )
        found.append((first, second))
    return tuple(found)


def _piece(text: str) -> bytes:
    """The bytes of a token's text; one that is not written in the alphabet means itself."""
    try:
        return bytes([BYTE[x] for x in text])
    except KeyError:
        return text.encode("utf-8", "replace")


def _bytes_of(place: Mapping[int, int]) -> Callable[[str], tuple[int, ...]]:
    return lambda word: tuple(place[x] for x in word.encode())
