"""Rows as a table of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table_text(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Lines of columns that stand below each other; those of `left` begin at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
