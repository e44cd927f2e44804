"""The README's table and plot from what `compare.py --json` wrote, a row for each workload.

    python benchmarks/table.py compare.json [more.json ...] [--readme README.md] [--plot out.svg]

A row's numbers come from one run; rows may come from different ones, whose dates are shown. Without
`--readme` the table is printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from contestant import OURS
from plot import plot_rows

BASE = "torch"
MARKS = "<!-- measurements -->", "<!-- end measurements -->"
HEAD = (
    f"{'ms a run, median':20}{'planish':>9}{'roof':>9}   {'best peer':18}{'ms':>9}{'times':>7}"
    f"{'torch':>10}{'times':>7}"
)


def line(rows: list[dict]) -> str:
    """One workload: planish beside the best peer and PyTorch eager."""
    ours = next(row for row in rows if row["contestant"] == OURS)
    peers = sorted((r for r in rows if r["contestant"] != OURS), key=lambda r: r["median_ms"])
    best, base = peers[0], next((r for r in peers if r["contestant"] == BASE), None)
    roof = number(ours["roof_ms"]) if ours["roof_ms"] else "-"
    text = f"{' '.join((ours['config'], ours['workload'], ours['dtype'])):20}"
    text += f"{number(ours['median_ms']):>9}{roof:>9}   {best['contestant']:18}"
    text += f"{number(best['median_ms']):>9}{best['median_ms'] / ours['median_ms']:7.2f}"
    if base:
        text += f"{number(base['median_ms']):>10}{base['median_ms'] / ours['median_ms']:7.2f}"
    return text + ("  NOISY" if any(row["noisy"] for row in rows) else "")


def number(ms: float) -> str:
    """Three digits."""
    return f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 100 else f"{ms:,.0f}"


def cases(rows: list[dict]) -> list[list[dict]]:
    """Rows by workload, those with planish and a peer."""
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault((row["config"], row["workload"], row["dtype"]), []).append(row)
    return [x for x in found.values() if {OURS} < {row["contestant"] for row in x}]


def table(documents: list[dict]) -> str:
    """All of it as text."""
    dates = ", ".join(sorted({x["date"] for x in documents}))
    rows = [row for x in documents for row in x["rows"]]
    versions = sorted({f"{row['contestant']} {row['version']}" for row in rows})
    where = f"{dates}  {documents[0]['cpu']}, {documents[0]['threads']} threads"
    return "\n".join([where, "", HEAD, *map(line, cases(rows)), "", *wrapped(versions)])


def wrapped(words: list[str], width: int = 92) -> list[str]:
    """Words in lines."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 2 > width:
            lines.append("")
        lines[-1] += f", {word}" if lines[-1] else word
    return lines


def placed(page: str, text: str) -> str:
    """A page with the text between its marks."""
    before, rest = page.split(MARKS[0], 1)
    after = rest.split(MARKS[1], 1)[1]
    return f"{before}{MARKS[0]}\n```\n{text}\n```\n{MARKS[1]}{after}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", type=Path, nargs="+")
    parser.add_argument("--readme", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    documents = [json.loads(path.read_text()) for path in options.documents]
    text = table(documents)
    if options.readme:
        options.readme.write_text(placed(options.readme.read_text(), text))
    else:
        print(text)
    if options.plot:
        rows = [row for group in cases([r for x in documents for r in x["rows"]]) for row in group]
        plot_rows(rows, documents[0], options.plot)


if __name__ == "__main__":
    main()
