"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDTH = 100  # where nobody looks


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], last_is_total: bool = False
) -> None:
    """Print a table: the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        justify = "left" if number == 0 else "right"
        table.add_column(name, justify=justify, no_wrap=number > 0, overflow="fold")  # type: ignore
    rows = list(rows)
    for number, row in enumerate(rows):
        table.add_row(*row, end_section=last_is_total and number == len(rows) - 2)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    with console.capture() as text:
        console.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))
