"""The option `skip` of passes that change weights: patterns of the names of those that stay.

    patterns ::= pattern ("|" pattern)*      wte|h.*.attn.c_proj

`*` stands for any letters, `?` for one. A name matches with and without ".weight".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase

from planish.ir.errors import DataError


def with_skipped(what: str, reasons: Mapping[str, str], skip: str) -> dict[str, str]:
    """For each weight why it stays, those that match `skip` with that reason.

    DataError where one of its patterns matches none: nothing is skipped by mistake, or kept by one.
    """
    found = dict(reasons)
    for pattern in skip.split("|") if skip else ():
        skipped = [name for name in reasons if matches(name, pattern)]
        if not skipped:
            listed = ", ".join(reasons) or "none"
            raise DataError(f"{what}: skip={pattern!r} matches no weight of {listed}")
        found.update(dict.fromkeys(skipped, f"its name matches {pattern!r}"))
    return found


def matches(name: str, pattern: str) -> bool:
    """Whether one pattern names a weight."""
    return any(
        x == pattern or fnmatchcase(x, pattern) for x in (name, name.removesuffix(".weight"))
    )


def pattern_of(names: Collection[str], known: Iterable[str]) -> str:
    """Patterns that match exactly these of the known names, layers that are alike by one."""
    wanted, known = set(names), list(known)
    found: dict[str, None] = {}
    for name in known:
        if name not in wanted:
            continue
        short = name.removesuffix(".weight")
        alike = re.sub(r"(?<=\.)\d+(?=\.)", "*", short)
        found[alike if {x for x in known if matches(x, alike)} <= wanted else short] = None
    return "|".join(found)
