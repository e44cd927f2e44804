"""Characters of UTF-8, their kinds, and the words that byte pairs stay within.

Patterns are written out: that of GPT-2, see `planish.frontend.tokenizers.words`, and that of GPT-4
and Llama 3, which `planish.frontend.tokenizers.pairs` knows by its text.
"""

from __future__ import annotations

from planish.runtime.host.language import Ptr, Text, i64, u8, u32

OTHER = 0  # kinds of characters
LETTER = 1
DIGIT = 2
SPACE = 3
CR = 13
LF = 10
LONG_S = 0x17F  # whose other case is S


def code_at(data: Text, at: i64, length: i64) -> i64:
    """The code point of the character that begins there; -1 where bytes are not UTF-8."""
    lead = i64(data[at])
    if lead < 0x80:
        return lead
    more = 1
    least = 0x80
    if lead >= 0xF0:
        more = 3
        least = 0x10000
    elif lead >= 0xE0:
        more = 2
        least = 0x800
    if lead < 0xC2 or lead > 0xF4 or at + more >= length:
        return -1
    code = lead & (0x3F >> more)
    for n in range(more):
        byte = i64(data[at + 1 + n])
        if byte & 0xC0 != 0x80:
            return -1
        code = code << 6 | byte & 0x3F
    if code < least or code > 0x10FFFF or 0xD800 <= code < 0xE000:
        return -1
    return code


def width(code: i64) -> i64:
    """Bytes of a character in UTF-8."""
    if code < 0x80:
        return 1
    if code < 0x800:
        return 2
    return 3 if code < 0x10000 else 4


def letter_kind(kinds: Ptr[u32], count: i64, code: i64) -> i64:
    """The kind of a character; `kinds` are ranges in order: 4 * first code point + kind."""
    low = 0
    high = count
    while high - low > 1:
        middle = (low + high) >> 1
        if i64(kinds[middle]) >> 2 <= code:
            low = middle
        else:
            high = middle
    return i64(kinds[low]) & 3


def word_end(kinds: Ptr[u32], count: i64, data: Text, at: i64, length: i64) -> i64:
    """Where the word ends that begins at a place of a text, which is UTF-8.

    's|'t|'re|'ve|'m|'ll|'d| ?letters| ?numbers| ?others|spaces before a space or the end|spaces
    """
    short = contraction(data, at, length, 0)
    if short > 0:
        return at + short
    begin = at + 1 if data[at] == ord(" ") else at
    if begin < length:
        kind = letter_kind(kinds, count, code_at(data, begin, length))
        if kind != SPACE:
            return run_end(kinds, count, data, begin, length, kind)
    return spaces_end(data, at, run_end(kinds, count, data, at, length, SPACE), length)


def later_word_end(
    kinds: Ptr[u32], count: i64, digits: i64, data: Text, at: i64, length: i64
) -> i64:  # fmt: skip
    """The same by a later pattern, where a number has so many digits at most.

    's|'t|'re|'ve|'m|'ll|'d in either case|(one that is no letter, number, line end)?letters|
    numbers{1,digits}| ?others(line ends)*|spaces up to the last line end|
    spaces before a space or the end|spaces
    """
    short = contraction(data, at, length, 0x20)
    if short > 0:
        return at + short
    code = code_at(data, at, length)
    kind = letter_kind(kinds, count, code)
    if kind == LETTER:
        return run_end(kinds, count, data, at, length, LETTER)
    next = at + width(code)
    if kind == DIGIT:
        left = digits - 1
        while left > 0 and is_kind(kinds, count, data, next, length, DIGIT):
            next += width(code_at(data, next, length))
            left -= 1
        return next
    if code != CR and code != LF and is_kind(kinds, count, data, next, length, LETTER):
        return run_end(kinds, count, data, next, length, LETTER)
    begin = next if code == ord(" ") else at
    if is_kind(kinds, count, data, begin, length, OTHER):
        end = run_end(kinds, count, data, begin, length, OTHER)
        while end < length and (data[end] == CR or data[end] == LF):
            end += 1
        return end
    end = run_end(kinds, count, data, at, length, SPACE)
    last = end
    while last > at and data[last - 1] != CR and data[last - 1] != LF:
        last -= 1
    return last if last > at else spaces_end(data, at, end, length)


def is_kind(kinds: Ptr[u32], count: i64, data: Text, at: i64, length: i64, kind: i64) -> bool:
    """Whether a character of this kind follows."""
    return at < length and letter_kind(kinds, count, code_at(data, at, length)) == kind


def spaces_end(data: Text, at: i64, end: i64, length: i64) -> i64:
    """Where a word of the spaces from a place to an end stops: the last is the next word's.

    Unless it is the only one, or the text ends there.
    """
    if end == length:
        return end
    last = end - 1
    while data[last] & 0xC0 == 0x80:
        last -= 1
    return last if last > at else end


def run_end(
    kinds: Ptr[u32], count: i64, data: Text, at: i64, length: i64, kind: i64
) -> i64:  # fmt: skip
    """Where characters of one kind end."""
    while at < length:
        code = code_at(data, at, length)
        if letter_kind(kinds, count, code) != kind:
            return at
        at += width(code)
    return at


def contraction(data: Text, at: i64, length: i64, either: u8) -> i64:
    """Bytes of an English contraction that begins there, or 0.

    `either` is 0x20 where capital letters count, too, else 0.
    """
    if data[at] != ord("'") or at + 1 >= length:
        return 0
    if either != 0 and code_at(data, at + 1, length) == LONG_S:
        return 3
    first = data[at + 1] | either
    if first == ord("s") or first == ord("t") or first == ord("m") or first == ord("d"):
        return 2
    if at + 2 >= length:
        return 0
    second = data[at + 2] | either
    if first == ord("l") and second == ord("l"):
        return 3
    return 3 if (first == ord("r") or first == ord("v")) and second == ord("e") else 0
