"""Several pipelines in one option: names between commas, lists of passes between semicolons."""

from __future__ import annotations

import re

import click

from planish.ir.errors import IRError, ParseError
from planish.passes.pipelines import PIPELINES, pipeline

AUTO = "auto"  # a recipe that is found
NAMES = {*PIPELINES, AUTO}
# what holds no mark at which to split: a text, what stands in braces, any other letter
WHOLE = r'"(?:[^"\\]|\\.)*"'
PIECE = rf'(?:{WHOLE}|\{{(?:{WHOLE}|[^"}}])*\}}|[^{{}}"{{mark}}])*'


def named(text: str, option: str = "--pipelines") -> list[str]:
    """The pipelines of an option. Commas separate names; what is no list of names is one pipeline,
    a list of passes, of which some may be those of a named one. Errors say how a text was read."""
    found = split(text, ";")
    parts = [part for one in found for part in split(one, ",")]
    if not parts:
        raise click.UsageError(f"{option} names none")
    if len(found) == 1 and NAMES.issuperset(parts):
        found = parts
    how = f"{len(found)} between ';'" if len(found) > 1 else "one list of passes"
    how += "; ',' separates passes, or recipes if all are names of pipelines, else ';' does"
    for one in found:
        try:
            _ = one == AUTO or pipeline(one)
        except (ParseError, IRError) as error:
            told = "" if len(parts) == 1 else f" (of {option} {text!r}, read as {how})"
            raise type(error)(f"{error}{told}") from error
    return found


def split(text: str, mark: str) -> list[str]:
    """The parts of a text between marks that stand in no braces and in no quotes."""
    whole = re.compile(PIECE.replace("{mark}", mark))
    found, at = [], 0
    while at <= len(text):
        piece = whole.match(text, at)
        end = piece.end() if piece else at
        if text[end : end + 1] not in ("", mark):
            end = len(text)  # braces or quotes that nothing closes: the parser says where
        found.append(text[at:end].strip())
        at = end + 1
    return [x for x in found if x]
