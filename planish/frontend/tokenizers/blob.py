"""Tokenizers as bytes that native code reads in place, for artifacts that need no Python.

data = tokenizer_blob(tokenizer)     # the layout is that of planish.runtime.host.vocab.Vocab

The same tokenizer gives the same bytes, where Python knows the same version of Unicode.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planish.frontend.text import CharTokenizer
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.bpe import BytePairTokenizer
from planish.frontend.tokenizers.library import LibraryTokenizer
from planish.frontend.tokenizers.llama2c import START, ScoreTokenizer
from planish.frontend.tokenizers.merging import Merges
from planish.frontend.tokenizers.pairs import byte_pairs
from planish.frontend.tokenizers.words import kind_ranges
from planish.ir.errors import ArtifactError
from planish.runtime.host import letters
from planish.runtime.host.vocab import (
    BYTE_PAIRS,
    CHARACTERS,
    FORMAT,
    MAGIC,
    NONE,
    SCORES,
)

HEAD = 92  # bytes
LARGEST = 1 << 30
KINDS = {"O": letters.OTHER, "L": letters.LETTER, "N": letters.DIGIT, "\n": letters.SPACE}


@dataclass(frozen=True)
class _Parts:
    """What differs between kinds: tables, tokens before a prompt, and those without a text."""

    kind: int
    letters: Sequence[int]
    letter_count: int
    piece: Callable[[int], bytes]
    merges: Merges = field(default_factory=dict)
    kinds: Sequence[int] = ()
    start: int = NONE
    alone: int = NONE
    silent: frozenset[int] = frozenset()
    digits: int = 0
    wholes: Sequence[int] = ()


def tokenizer_blob(tokenizer: Tokenizer) -> bytes:
    """The bytes of a tokenizer; ArtifactError where native code has no such kind."""
    parts = _parts(tokenizer)
    count = tokenizer.vocab_size
    pieces = [b"" if x in parts.silent else parts.piece(x) for x in range(count)]
    sizes = [*map(len, pieces)]
    pool = b"".join(pieces)
    tables = [
        _words(np.cumsum([0, *sizes])), pool + bytes(-len(pool) % 4), _words(parts.letters),
        _pairs(parts.merges), _words(parts.kinds), _words(parts.wholes),
    ]  # fmt: skip
    places = np.cumsum([HEAD, *map(len, tables)]).tolist()
    if places[-1] > LARGEST:
        raise ArtifactError(
            f"{tokenizer!r} takes {places[-1]} bytes, artifacts hold tokenizers up to {LARGEST}"
        )
    starts, pool_at, letters_at, pairs_at, kinds_at, wholes_at, size = places
    ends = [*tokenizer.end, NONE, NONE][:2]
    head = _words([
        FORMAT, parts.kind, size, count, max(sizes, default=0), starts, pool_at, len(pool),
        letters_at, parts.letter_count, pairs_at, len(parts.merges), kinds_at, len(parts.kinds),
        parts.start, parts.alone, *ends, parts.digits, wholes_at, len(parts.wholes),
    ])  # fmt: skip
    rest = b"".join([head, *tables])
    return _words([MAGIC, zlib.adler32(rest)]) + rest


def _parts(tokenizer: Tokenizer) -> _Parts:
    match tokenizer:
        case CharTokenizer():
            codes = {ord(x): token for token, x in enumerate(tokenizer.characters)}
            return _Parts(CHARACTERS, *_letters(codes), tokenizer.piece)
        case BytePairTokenizer():
            tokens = [tokenizer.byte_tokens.get(x, NONE) for x in range(256)]
            kinds = [4 * code + KINDS[kind] for code, kind in kind_ranges()]
            alone = tokenizer.end[0] if tokenizer.end else NONE
            return _Parts(
                BYTE_PAIRS, tokens, 256, tokenizer.piece, tokenizer.ranked, kinds, alone=alone
            )
        case LibraryTokenizer():
            return _library_parts(tokenizer)
        case ScoreTokenizer():
            codes = {ord(x): token for piece, token in tokenizer.index.items()
                     if (x := _character(piece)) is not None}  # fmt: skip
            return _Parts(
                SCORES, *_letters(codes), tokenizer.piece, tokenizer.ranked, start=START,
                alone=START,
            )  # fmt: skip
    raise _refused(f"a {type(tokenizer).__name__}")


def _library_parts(tokenizer: LibraryTokenizer) -> _Parts:
    """Those of the byte pairs that a tokenizer.json describes, if it does."""
    try:
        found = byte_pairs(tokenizer.source)
        start, alone = _start(tokenizer, "a"), _start(tokenizer, "")
    except ArtifactError as error:
        raise _refused(f"this tokenizer.json ({error})") from error
    pairs = found.tokenizer
    wholes = sorted(found.wholes, key=pairs.piece)
    return replace(
        _parts(pairs), start=start, alone=alone, silent=found.special, digits=found.digits,
        wholes=wholes,
    )  # fmt: skip


def _start(tokenizer: LibraryTokenizer, text: str) -> int:
    """The token that stands before a text, or NONE; ArtifactError where it is not only that."""
    prompt, plain = tokenizer.prompt(text).tolist(), tokenizer.encode(text).tolist()
    if len(prompt) > len(plain) + 1 or prompt[len(prompt) - len(plain) :] != plain:
        raise ArtifactError("its post_processor adds more than a token before a text")
    return prompt[0] if len(prompt) > len(plain) else NONE


def _refused(what: str) -> ArtifactError:
    return ArtifactError(
        f"{what} cannot be part of an artifact, which has characters, byte pairs of texts cut as "
        "GPT-2, GPT-4 or Llama 3 do, and llama2.c's tokenizers; leave it out of a library "
        "(--tokenizer none) and encode before it"
    )


def _letters(tokens: dict[int, int]) -> tuple[list[int], int]:
    """Code points in order, then the token of each; and how many."""
    codes = sorted(tokens)
    return [*codes, *(tokens[x] for x in codes)], len(codes)


def _character(piece: bytes) -> str | None:
    """The one character that these bytes are."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return None
    return text if len(text) == 1 else None


def _pairs(merges: Merges) -> bytes:
    """Pairs in order; equal ranks stay equal, whatever numbers they are."""
    ranks = {x: n for n, x in enumerate(sorted({rank for rank, _ in merges.values()}))}
    rows = sorted((*pair, ranks[rank], new) for pair, (rank, new) in merges.items())
    return _words([x for row in rows for x in row])


def _words(numbers: Sequence[int] | np.ndarray) -> bytes:
    return np.asarray(numbers, "<u4").tobytes()
