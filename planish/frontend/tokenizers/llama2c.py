"""The tokenizers of llama2.c: SentencePiece vocabularies whose scores say what is merged first.

    i32 longest piece, then for each token: f32 score, i32 length, that many bytes

Tokens 0 to 2 are unknown, start and end; 3 to 258 are bytes, for what the vocabulary lacks.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.tokenizers.base import Reader, Tokenizer, as_ids, utf8
from planish.frontend.tokenizers.merging import Merges, merged
from planish.ir.errors import ArtifactError

UNKNOWN, START, END, BYTES = 0, 1, 2, 3
FIRST = BYTES + 256  # the first token that stands for text
_BYTE = re.compile(rb"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, repr=False)
class ScoreTokenizer(Tokenizer):
    """Byte-pair encoding by scores; a space goes before the text, as SentencePiece has it.

    `pieces[id]` are a token's bytes, `scores[id]` says how early it is merged, higher first.
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]

    end = (START, END)  # llama2.c, too, ends where the next text would start

    def __post_init__(self) -> None:
        if len(self.pieces) != len(self.scores) or len(self.pieces) < FIRST:
            raise ArtifactError(
                f"a llama2.c tokenizer has {FIRST} tokens or more, each with a score; "
                f"got {len(self.pieces)} and {len(self.scores)}"
            )
        bytes_there = [_BYTE.fullmatch(x) for x in self.pieces[BYTES:FIRST]]
        if [x and int(x[1], 16) for x in bytes_there] != list(range(256)):
            raise ArtifactError(
                f"tokens {BYTES} to {FIRST - 1} are not <0x00> to <0xFF>, the bytes of llama2.c"
            )
        if not np.isfinite(np.array(self.scores)).all():
            raise ArtifactError("a score is not a finite number")

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return len(self.pieces)

    @cached_property
    def index(self) -> dict[bytes, int]:
        """The token of each text; the lowest where one stands twice."""
        listed = range(self.vocab_size - 1, FIRST - 1, -1)
        return {self.pieces[i]: i for i in listed if self.pieces[i]}

    @cached_property
    def ranked(self) -> Merges:
        """Merges by score: both halves of every piece, wherever they are pieces themselves."""
        index = self.index
        return {
            (index[piece[:at]], index[piece[at:]]): (-self.scores[token], token)
            for piece, token in index.items()
            for at in range(1, len(piece))
            if piece[:at] in index and piece[at:] in index
        }

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text` as i32, with the space before it and without a start token."""
        utf8(text)
        tokens: list[int] = []
        for character in " " + text if text else "":
            data = character.encode()
            known = self.index.get(data)
            tokens += [BYTES + x for x in data] if known is None else [known]
        return as_ids(merged(tokens, self.ranked))

    def prompt(self, text: str) -> np.ndarray:
        """The start token, then the text."""
        return np.concatenate([as_ids([START]), self.encode(text)])

    def piece(self, token: int) -> bytes:
        """The bytes of one token; start and end have none."""
        if BYTES <= token < FIRST:
            return bytes([token - BYTES])
        return b"" if token in self.end else self.pieces[token]

    def reader(self, before: Any = ()) -> Reader:
        """Turns tokens into text; the space at the very beginning is not part of it."""
        listed = np.atleast_1d(before)
        begins = listed.size == 0 or listed[-1] == START
        return Reader(_without_space(self.piece) if begins else self.piece, self.vocab_size)

    def to_json(self) -> str:
        """The tokenizer as text; bytes as Latin-1."""
        pieces = [x.decode("latin-1") for x in self.pieces]
        return json.dumps({"type": "llama2.c", "pieces": pieces, "scores": self.scores})

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> ScoreTokenizer:
        """The tokenizer that `to_json` wrote."""
        pieces = tuple(x.encode("latin-1") for x in facts["pieces"])
        return cls(pieces, tuple(map(float, facts["scores"])))


def _without_space(piece: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """`piece`, but for one space at the very beginning."""
    begun = False

    def found(token: int) -> bytes:
        nonlocal begun
        data = piece(token)
        data = data if begun else data.removeprefix(b" ")
        begun = begun or token != START
        return data

    return found


def read_llama2c(path: Path, data: bytes) -> ScoreTokenizer:
    """The tokenizer in the bytes of a llama2.c tokenizer file."""
    pieces: list[bytes] = []
    scores: list[float] = []
    at = 4
    while at < len(data):
        head = data[at : at + 8]
        if len(head) < 8:
            raise ArtifactError(f"{path}: cut inside of token {len(pieces)}")
        score, length = struct.unpack("<fi", head)
        at += 8 + length
        if length < 0 or at > len(data):
            raise ArtifactError(
                f"{path}: not a tokenizer of llama2.c, or cut: token {len(pieces)} has {length} "
                f"bytes, but {len(data) - at + length} are left"
            )
        pieces.append(data[at - length : at])
        scores.append(score)
    try:
        return ScoreTokenizer(tuple(pieces), tuple(scores))
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
