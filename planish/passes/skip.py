"""The option `skip` of passes that change weights: patterns of the names of those that stay.

    patterns ::= pattern ("|" pattern)*      wte|h.*.attn.c_proj

`*` stands for any letters, `?` for one. A name matches with and without ".weight".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase

from planish.ir.errors import DataError
from planish.ir.graph import Graph


def with_skipped(
    what: str, reasons: Mapping[str, str], skip: str, graph: Graph | None = None
) -> dict[str, str]:
    """For each weight why it stays, those that match `skip` with that reason.

    DataError where one of its patterns matches none: nothing is skipped by mistake, or kept by one.
    """
    skipped = matching(what, reasons, skip, heads=tied(graph) if graph and skip else ())
    return dict(reasons) | {x: f"its name matches {by!r}" for x, by in skipped.items()}


def check_some(what: str, reasons: Mapping[str, str]) -> None:
    """DataError where all weights have a reason to stay: a pass that is asked for changes some."""
    if "" in reasons.values():
        return
    alike: dict[str, list[str]] = {}
    for name, why in reasons.items():
        alike.setdefault(why, []).append(name)
    listed = "; ".join(
        names[0] + (f" and {len(names) - 1} more" if names[1:] else "") + f" stay: {why}"
        for why, names in alike.items()
    )
    raise DataError(f"{what}: nothing to change: {listed or 'the graph has no weights'}")


def matching(
    what: str, names: Collection[str], patterns: str, option: str = "skip",
    heads: Collection[str] = (),
) -> dict[str, str]:  # fmt: skip
    """The names that patterns match, with the last that does; DataError where one matches none.

    It names `heads`, weights that have a use beside that of their name.
    """
    found: dict[str, str] = {}
    for pattern in patterns.split("|") if patterns else ():
        matched = [name for name in names if matches(name, pattern)]
        if not matched:
            listed = ", ".join(names) or "none"
            tables = [x.removesuffix(".weight") for x in heads if x in names]
            also = "".join(f"; {x} is a table and the head, too: {option}={x!r}" for x in tables)
            raise DataError(f"{what}: {option}={pattern!r} matches no weight of {listed}{also}")
        found.update(dict.fromkeys(matched, pattern))
    return found


def tied(graph: Graph) -> list[str]:
    """The tables, of which rows are taken, that something is multiplied by, too."""
    kinds = {n: {y.op.name for y in graph.users[x]} for n, x in graph.param_nodes.items()}
    return [n for n, x in kinds.items() if "take" in x and x & {"transpose", "matmul"}]


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
