"""Words of a text with their places, for the parsers: refusals say line and column."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from planish.ir.errors import ParseError

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+) | (?P<comment>\#[^\n]*)
    | (?P<value>%(?:"(?:[^"\\\n]|\\.)*"|[A-Za-z0-9_.]+))
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)
    | (?P<word>[^\W\d][\w.]*) | (?P<mark>->|<=|[@()\[\]{},:=+*-])""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A word of the text. `comment` is the one behind it on its line."""

    kind: str
    text: str
    at: int
    comment: str = ""


class Reader:
    """The tokens of a text, and a position in them."""

    def __init__(self, text: str):
        self.text = text
        self.tokens: list[Token] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                self.fail(f"unexpected {text[at]!r}", at=Token("", "", at))
            kind, piece = str(found.lastgroup), found.group()
            if kind == "comment":
                self._add_comment(piece, at)
            elif kind != "space":
                self.tokens.append(Token(kind, piece, at))
            at = found.end()
        self.tokens.append(Token("end", "end of text", len(text)))
        self.next = 0
        self.token = self.tokens[0]  # that comes next

    def _add_comment(self, piece: str, at: int) -> None:
        """A comment belongs to the token before it on its line."""
        last = self.tokens[-1] if self.tokens else None
        if last is not None and "\n" not in self.text[last.at + len(last.text) : at]:
            self.tokens[-1] = last._replace(comment=piece)

    def step(self, count: int = 1) -> None:
        """Go on."""
        self.next += count
        self.token = self.tokens[self.next]

    def ahead(self, count: int = 1) -> Token:
        """A token further on."""
        return self.tokens[min(self.next + count, len(self.tokens) - 1)]

    def error(self, message: str, at: Token) -> ParseError:
        """A refusal that says where."""
        line = self.text.count("\n", 0, at.at) + 1
        column = at.at - self.text.rfind("\n", 0, at.at)
        return ParseError(f"line {line}, column {column}: {message}")

    def fail(self, message: str, at: Token | None = None) -> NoReturn:
        """Refuse the text, at the next token or the one given."""
        raise self.error(message, at or self.token)

    def take(self, kind: str, what: str = "") -> Token:
        """The next token, which must be of this kind."""
        token = self.token
        if token.kind != kind:
            self.fail(f"expected {what or kind}, got {token.text}")
        self.step()
        return token

    def accept(self, text: str) -> bool:
        """Step over a mark or a word, if it is next."""
        token = self.token
        if token.text != text or token.kind not in ("mark", "word"):
            return False
        self.step()
        return True

    def expect(self, text: str) -> None:
        """Step over a mark or a word that must be next."""
        if not self.accept(text):
            self.fail(f"expected '{text}', got {self.token.text}")

    def listed(self, item: Callable[[], Any], close: str) -> list[Any]:
        """Items separated by commas, up to and with `close`; a comma may follow the last."""
        found = []
        while not self.accept(close):
            found.append(item())
            if not self.accept(","):
                self.expect(close)
                break
        return found

    def integer(self) -> int:
        """A number without sign, point or exponent."""
        token = self.take("number")
        try:
            return int(token.text)
        except ValueError:
            self.fail(f"expected a whole number, got {token.text[:40]}", at=token)

    def unquoted(self, token: Token, text: str) -> str:
        """The name that a quoted or plain token stands for."""
        if not text.startswith('"'):
            return text
        try:
            return json.loads(text)
        except ValueError as error:
            self.fail(f"bad string {text}: {error}", at=token)

    def name(self) -> str:
        """A word or a quoted name."""
        if self.token.kind == "string":
            token = self.take("string")
            return self.unquoted(token, token.text)
        return self.take("word", "a name").text


def like(word: str, choices: Iterable[str]) -> str:
    """A suggestion for a word that is not among the choices."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
