"""The bytes of a tokenizer in an artifact: their head, and what is checked once, before any use.

`planish.frontend.tokenizers.blob` writes them, `tokenizer` reads them in place. vocab_fault checks
every size, offset and token, so that damaged bytes cannot lead outside of them, and a checksum of
all, so that they cannot go unnoticed.
"""

from __future__ import annotations

from planish.runtime.host.language import (
    Ptr,
    Record,
    Text,
    i64,
    null,
    size_of,
    text,
    u8,
    u32,
)
from planish.runtime.host.letters import SPACE, letter_kind
from planish.runtime.host.merging import Pair

MAGIC = 0x4B544C50  # PLTK
FORMAT = 2
CHARACTERS = 1  # kinds
BYTE_PAIRS = 2
SCORES = 3
NONE = 0xFFFFFFFF
BYTES = 3  # of llama2.c: the token of byte 0
MOST = 1 << 30  # tokens; bytes of a text


class Vocab(Record):
    """The head of a tokenizer. Offsets are bytes from its beginning, a multiple of 4.

    checksum: Adler-32 of all that follows it. starts: where each token's bytes begin in the pool,
    vocab + 1 of u32. letters: of byte pairs, the token of each byte or NONE; else code points in
    order, then the token of each. pairs: sorted. kinds: see `letters`. start: the token before
    every prompt, alone: the one of an empty prompt. digits: the most that a word of byte pairs has,
    or 0 where words are GPT-2's. wholes: tokens by their bytes, of which a whole word is made
    whatever is merged.
    """

    magic: u32
    checksum: u32
    format: u32
    kind: u32
    size: u32
    tokens: u32
    longest: u32
    starts: u32
    pool: u32
    pool_size: u32
    letters: u32
    letter_count: u32
    pairs: u32
    pair_count: u32
    kinds: u32
    kind_count: u32
    start: u32
    alone: u32
    end: u32
    other_end: u32
    digits: u32
    wholes: u32
    whole_count: u32


def words_at(vocab: Vocab, offset: u32) -> Ptr[u32]:
    """A table of the tokenizer."""
    return Ptr[u32](Ptr[u8](vocab) + offset)


def vocab_fault(vocab: Vocab, size: i64) -> Text:
    """Why these bytes are no tokenizer, or null: all that encode and decode rely on."""
    if size < size_of(Vocab) or vocab.magic != MAGIC:
        return text("these bytes are no tokenizer")
    if vocab.format != FORMAT:
        return text("the tokenizer is of another version of planish")
    if i64(vocab.size) != size:
        return text("the tokenizer is cut")
    if adler(Ptr[u8](vocab) + 8, size - 8) != vocab.checksum:
        return text("the tokenizer is damaged: its checksum differs")
    fit = heads_fit(vocab) and pieces_fit(vocab) and letters_fit(vocab) and pairs_fit(vocab)
    if not (fit and kinds_fit(vocab) and wholes_fit(vocab)):
        return text("the tokenizer is damaged: its tables do not fit")
    return null


def adler(data: Text, size: i64) -> u32:
    """The checksum of zlib's adler32."""
    low = 1
    high = 0
    at = 0
    while at < size:
        end = at + 5552 if at + 5552 < size else size  # so many do not overflow
        for n in range(at, end):
            low += i64(data[n])
            high += low
        low = low % 65521
        high = high % 65521
        at = end
    return u32(high << 16 | low)


def inside(vocab: Vocab, offset: u32, count: i64, each: i64) -> bool:
    """Whether a table lies behind the head and ends in the tokenizer."""
    begin = i64(offset)
    return size_of(Vocab) <= begin and begin % 4 == 0 and begin + count * each <= i64(vocab.size)


def is_token(vocab: Vocab, token: u32) -> bool:
    """Whether this is a token, or none."""
    return token < vocab.tokens or token == NONE


def heads_fit(vocab: Vocab) -> bool:
    """The numbers of the head."""
    if vocab.kind < CHARACTERS or vocab.kind > SCORES or i64(vocab.tokens) > MOST:
        return False
    if vocab.kind == SCORES and vocab.tokens < BYTES + 256:
        return False
    if vocab.kind == BYTE_PAIRS and (vocab.letter_count != 256 or vocab.kind_count == 0):
        return False
    each = 4 if vocab.kind == BYTE_PAIRS else i64(8)
    tables = (
        inside(vocab, vocab.starts, i64(vocab.tokens) + 1, 4)
        and inside(vocab, vocab.pool, i64(vocab.pool_size), 1)
        and inside(vocab, vocab.letters, i64(vocab.letter_count), each)
        and inside(vocab, vocab.pairs, i64(vocab.pair_count), size_of(Pair))
        and inside(vocab, vocab.kinds, i64(vocab.kind_count), 4)
        and inside(vocab, vocab.wholes, i64(vocab.whole_count), 4)
    )
    ends = is_token(vocab, vocab.end) and is_token(vocab, vocab.other_end)
    return tables and ends and is_token(vocab, vocab.start) and is_token(vocab, vocab.alone)


def pieces_fit(vocab: Vocab) -> bool:
    """The bytes of each token are in the pool."""
    starts = words_at(vocab, vocab.starts)
    for n in range(vocab.tokens):
        if starts[n] > starts[n + 1] or starts[n + 1] - starts[n] > vocab.longest:
            return False
    return starts[vocab.tokens] <= vocab.pool_size


def letters_fit(vocab: Vocab) -> bool:
    """Characters, in order, have tokens."""
    codes = words_at(vocab, vocab.letters)
    count = i64(vocab.letter_count)
    for n in range(count):
        if vocab.kind == BYTE_PAIRS:
            if not is_token(vocab, codes[n]):
                return False
        elif codes[count + n] >= vocab.tokens or (n > 0 and codes[n - 1] >= codes[n]):
            return False
    return True


def pairs_fit(vocab: Vocab) -> bool:
    """Pairs are of tokens, and become tokens."""
    pairs = Ptr[Pair](words_at(vocab, vocab.pairs))
    for n in range(vocab.pair_count):
        pair = pairs[n]
        if pair.first >= vocab.tokens or pair.second >= vocab.tokens or pair.new >= vocab.tokens:
            return False
    return True


def kinds_fit(vocab: Vocab) -> bool:
    """A space is of the kind of spaces: otherwise a word could end where it begins."""
    if vocab.kind != BYTE_PAIRS:
        return True
    kinds = words_at(vocab, vocab.kinds)
    return letter_kind(kinds, i64(vocab.kind_count), i64(ord(" "))) == SPACE


def wholes_fit(vocab: Vocab) -> bool:
    """Whole words are tokens."""
    wholes = words_at(vocab, vocab.wholes)
    for n in range(vocab.whole_count):
        token = wholes[n]
        if token >= vocab.tokens:
            return False
    return True
