"""GPT-2's way to cut text into pieces that merges never cross.

    "I'll pay 30 €!\\n\\nOK"  ->  I | 'll | ␣pay | ␣30 | ␣€! | \\n | \\n | OK

The published pattern needs \\p{L} and \\p{N}, which Python's `re` lacks. So it runs over the kinds
of characters instead, one letter for each: L a letter, N a number, O anything else; spaces,
apostrophes, and the letters of English contractions stand for themselves.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator

# 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
PIECE = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[Lstrevmld]+| ?N+| ?[O']+|[ \n]+(?![^ \n])|[ \n]+")
ITSELF = " 'strevmld"
# Unicode's White_Space; str.isspace has four controls more
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


class _Kinds(dict):
    """The kind of each character, looked up once."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in ITSELF:
            kind = character
        elif character in SPACES:
            kind = "\n"
        else:
            kind = {"L": "L", "N": "N"}.get(unicodedata.category(character)[0], "O")
        self[code] = kind
        return kind


def words(text: str) -> Iterator[str]:
    """The pieces of a text, in order and without gaps."""
    for found in PIECE.finditer(text.translate(_Kinds())):
        yield text[found.start() : found.end()]


def kind_ranges() -> list[tuple[int, str]]:
    """Where characters of another kind begin, for code that has no `unicodedata`: L, N, O or \\n.

    What stands for itself is there as a letter, as a space, or as something else.
    """
    kinds = _Kinds()
    plain = dict.fromkeys(ITSELF, "L") | {" ": "\n", "'": "O"}
    found: list[tuple[int, str]] = []
    for code in range(sys.maxunicode + 1):
        kind = plain.get(kinds[code], kinds[code])
        if not found or found[-1][1] != kind:
            found.append((code, kind))
    return found
