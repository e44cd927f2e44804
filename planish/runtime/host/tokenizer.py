"""Tokenizers in artifacts: tables that `planish.frontend.tokenizers.blob` writes, read in place.

    fault = vocab_fault(vocab, size)    once, see `vocab`: why the bytes are no tokenizer, or null
    count = encode_text(vocab, data, length, ids, room, wrong)        as Python's encode
    count = encode_prompt(vocab, data, length, ids, room, wrong)      as Python's prompt
    explain(vocab, count, data, wrong, message, size)   a line, where count is below 0
    size = decode_token(vocab, id, before, out, room)   the bytes of a token, as Python's reader

vocab is the address of the bytes, a multiple of 4. encode_* count all tokens and write the first
`room` of them; ids may be null where room is 0. decode_token likewise; no token has more bytes than
vocab.longest. A token may end inside of a character: its bytes are told as they are.
`before` is the caller's: -1 where a text begins, or the last token of the prompt; decode_token
keeps it. vocab.end and vocab.other_end are tokens that end a text, or NONE.
"""

from __future__ import annotations

from planish.runtime.host.language import (
    Ptr,
    Record,
    Text,
    i32,
    i64,
    local,
    null,
    text,
    u8,
    u32,
)
from planish.runtime.host.letters import code_at, later_word_end, width, word_end
from planish.runtime.host.libc import calloc, free, memcmp, snprintf
from planish.runtime.host.merging import EACH, Chain, Pair, merge, set_chain
from planish.runtime.host.vocab import (
    BYTE_PAIRS,
    BYTES,
    CHARACTERS,
    MOST,
    NONE,
    SCORES,
    Vocab,
    words_at,
)

NO_TOKEN = -1  # what encode_text returns: `wrong` says of which character, or byte of byte pairs
NOT_UTF8 = -2
NO_SPACE = -3


class Wrong(Record):
    """What has no token: a code point (or byte), and how many characters and bytes are before."""

    code: i64
    letter: i64
    byte: i64


class Out(Record):
    """Where tokens go: how many there are, and how many have room."""

    ids: Ptr[i32]
    room: i64
    count: i64


def put(out: Out, token: i64) -> None:
    """One token more."""
    if out.count < out.room:
        out.ids[out.count] = i32(token)
    out.count += 1


def encode_prompt(
    vocab: Vocab, data: Text, length: i64, ids: Ptr[i32], room: i64, wrong: Wrong
) -> i64:
    """The tokens that a model reads to continue a text."""
    first = vocab.start if length > 0 else vocab.alone
    if first == NONE:
        return encode_text(vocab, data, length, ids, room, wrong)
    if room > 0:
        ids[0] = i32(first)
    left = room - 1 if room > 0 else 0
    count = encode_text(vocab, data, length, ids + 1, left, wrong)
    return count + 1 if count >= 0 else count


def encode_text(
    vocab: Vocab, data: Text, length: i64, ids: Ptr[i32], room: i64, wrong: Wrong
) -> i64:
    """The tokens of a text: how many; or NO_TOKEN, NOT_UTF8 (both say where), NO_SPACE."""
    if length <= 0:
        return 0
    if length >= MOST:
        return NO_SPACE
    wrong.byte = 0
    wrong.letter = 0
    while wrong.byte < length:
        wrong.code = code_at(data, wrong.byte, length)
        if wrong.code < 0:
            return NOT_UTF8
        wrong.byte += width(wrong.code)
        wrong.letter += 1
    out = local(Out, 1)[0]
    out.ids = ids
    out.room = room
    out.count = 0
    if vocab.kind == CHARACTERS:
        return encode_letters(vocab, data, length, out, wrong)
    memory = calloc(length + 1, EACH)
    if memory == null:
        return NO_SPACE
    chain = local(Chain, 1)[0]
    chain.pairs = Ptr[Pair](words_at(vocab, vocab.pairs))
    chain.pair_count = i64(vocab.pair_count)
    set_chain(chain, memory, length + 1)
    done = (
        encode_scores(vocab, data, length, out, chain)
        if vocab.kind == SCORES
        else encode_words(vocab, data, length, out, chain, wrong)
    )
    free(memory)
    return done


def token_of(vocab: Vocab, code: i64) -> i64:
    """The token of a character, or -1."""
    codes = words_at(vocab, vocab.letters)
    count = i64(vocab.letter_count)
    low = 0
    high = count
    while low < high:
        middle = (low + high) >> 1
        here = i64(codes[middle])
        if here == code:
            return i64(codes[count + middle])
        if here < code:
            low = middle + 1
        else:
            high = middle
    return -1


def encode_letters(vocab: Vocab, data: Text, length: i64, out: Out, wrong: Wrong) -> i64:
    """Every character is a token."""
    wrong.byte = 0
    wrong.letter = 0
    while wrong.byte < length:
        wrong.code = code_at(data, wrong.byte, length)
        token = token_of(vocab, wrong.code)
        if token < 0:
            return NO_TOKEN
        put(out, token)
        wrong.byte += width(wrong.code)
        wrong.letter += 1
    return out.count


def encode_words(
    vocab: Vocab, data: Text, length: i64, out: Out, chain: Chain, wrong: Wrong
) -> i64:
    """Byte pairs, word by word."""
    tokens = words_at(vocab, vocab.letters)
    kinds = words_at(vocab, vocab.kinds)
    count = i64(vocab.kind_count)
    at = 0
    end: i64 = 0
    wrong.letter = 0
    while at < length:
        if vocab.digits == 0:
            end = word_end(kinds, count, data, at, length)
        else:
            end = later_word_end(kinds, count, i64(vocab.digits), data, at, length)
        for n in range(at, end):
            token = tokens[data[n]]
            if token == NONE:
                wrong.code = i64(data[n])
                wrong.byte = n
                wrong.letter -= 1 if data[n] & 0xC0 == 0x80 else 0
                return NO_TOKEN
            chain.token[n - at] = i32(token)
            wrong.letter += 0 if data[n] & 0xC0 == 0x80 else 1
        whole = whole_token(vocab, data + at, end - at)
        if whole >= 0:
            put(out, whole)
        else:
            chain.size = end - at
            merge(chain)
            tell(chain, out)
        at = end
    return out.count


def whole_token(vocab: Vocab, word: Text, size: i64) -> i64:
    """The token that a whole word is, where such are looked for; or -1."""
    wholes = words_at(vocab, vocab.wholes)
    starts = words_at(vocab, vocab.starts)
    low = 0
    high = i64(vocab.whole_count)
    while low < high:
        middle = (low + high) >> 1
        token = i64(wholes[middle])
        begin = i64(starts[token])
        other = i64(starts[token + 1]) - begin
        piece = Ptr[u8](vocab) + vocab.pool + begin
        order = i64(memcmp(piece, word, other if other < size else size))
        if order == 0:
            order = other - size
        if order == 0:
            return token
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return -1


def encode_scores(vocab: Vocab, data: Text, length: i64, out: Out, chain: Chain) -> i64:
    """A space and the text, characters without a token by their bytes, merged by scores."""
    at = -1
    while at < length:
        code = code_at(data, at, length) if at >= 0 else i64(ord(" "))
        token = token_of(vocab, code)
        if token >= 0:
            chain.token[chain.size] = i32(token)
            chain.size += 1
        elif at < 0:
            chain.token[chain.size] = BYTES + ord(" ")
            chain.size += 1
        else:
            for n in range(at, at + width(code)):
                chain.token[chain.size] = BYTES + i32(data[n])
                chain.size += 1
        at += width(code)
    merge(chain)
    tell(chain, out)
    return out.count


def tell(chain: Chain, out: Out) -> None:
    """Put what was merged."""
    for n in range(chain.size):
        put(out, i64(chain.token[n]))


def decode_token(vocab: Vocab, id: i32, before: Ptr[i32], out: Ptr[u8], room: i64) -> i64:
    """The bytes of a token: how many; -1 where there is no such token."""
    if id < 0 or i64(id) >= i64(vocab.tokens):
        return -1
    starts = words_at(vocab, vocab.starts)
    data = Ptr[u8](vocab) + vocab.pool + starts[id]
    size = i64(starts[i64(id) + 1]) - i64(starts[id])
    if vocab.kind == SCORES:
        # the space that encode puts before a text is not part of it
        begins = before[0] < 0 or u32(before[0]) == vocab.start
        if begins and size > 0 and data[0] == ord(" "):
            data = data + 1
            size -= 1
    if u32(id) != vocab.start:
        before[0] = id
    for n in range(size if size < room else room):
        out[n] = data[n]
    return size


def explain(vocab: Vocab, code: i64, data: Text, wrong: Wrong, message: Ptr[u8], size: i64) -> None:
    """What is wrong with a text, in a line."""
    if code == NO_SPACE:
        snprintf(message, size, text("no memory for the tokens of the text"))
    elif code == NOT_UTF8:
        form = text("the text is not UTF-8 at byte %ld, after %ld characters")
        snprintf(message, size, form, wrong.byte, wrong.letter)
    elif vocab.kind == BYTE_PAIRS:
        form = text(
            "the vocabulary of %u tokens lacks byte 0x%02lX, in the character at position %ld"
        )
        snprintf(message, size, form, i32(vocab.tokens), wrong.code, wrong.letter)
    elif wrong.code < 0x20 or wrong.code == 0x7F:
        form = text("character U+%04lX at position %ld is not in the vocabulary of %u characters")
        snprintf(message, size, form, wrong.code, wrong.letter, i32(vocab.tokens))
    else:
        form = text(
            "character '%.*s' (U+%04lX) at position %ld is not in the vocabulary of %u characters"
        )
        letter = data + wrong.byte
        bytes = i32(width(wrong.code))
        snprintf(
            message, size, form, bytes, letter, wrong.code, wrong.letter, i32(vocab.tokens)
        )  # fmt: skip
