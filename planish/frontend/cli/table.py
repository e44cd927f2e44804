"""Tables and lists of facts on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDE = 10_000  # more than any table is


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], last_is_total: bool = False
) -> None:
    """Print a table: the first column is text, the others are numbers.

    It is as wide as it needs to be: where lines are folded, names would be cut into pieces.
    """
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    rows = list(rows)
    for number, row in enumerate(rows):
        table.add_row(*row, end_section=last_is_total and number == len(rows) - 2)
    console = Console(width=WIDE, highlight=False)
    with console.capture() as text:
        console.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def facts_text(facts: dict[str, Any], indent: str = "") -> str:
    """Facts for people: one in a line."""
    lines = []
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}", facts_text(value, indent + "  ")]
            continue
        if isinstance(value, list):
            value = " ".join(map(str, value))
        if isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        told = "-" if value is None or value == {} or value == "" else value
        lines.append(f"{indent}{name:<{width}}  {told}")
    return "\n".join(lines)
