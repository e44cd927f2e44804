"""The README's table and plot from what `compare.py --json` wrote, a row for each workload.

    python benchmarks/table.py compare.json [more.json ...] [--readme README.md] [--plot out.svg]

A row's numbers come from one run; rows may come from different ones, whose dates are shown, but not
of different processors or numbers of threads. A second table has the time to be ready (compiling
and the first run) beside torch.compile's. Without `--readme` the tables are printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from contestant import OURS
from plot import plot_rows

BASE, COMPILER = "torch", "torch.compile"
MARKS = "<!-- measurements -->", "<!-- end measurements -->"
WIDTH = 26  # of a workload's name
HEAD = (
    f"{'ms a run, median':{WIDTH}}{'planish':>9}{'roof':>9}   {'best peer':18}{'ms':>9}{'times':>7}"
    f"{'torch':>10}{'times':>7}"
)
READY = f"{'s until ready':{WIDTH}}{OURS:>9}{COMPILER:>15}{'times':>7}"


def line(rows: list[dict]) -> str:
    """One workload: planish beside the best peer and PyTorch eager."""
    ours = next(row for row in rows if row["contestant"] == OURS)
    peers = sorted((r for r in rows if r["contestant"] != OURS), key=lambda r: r["median_ms"])
    best, base = peers[0], next((r for r in peers if r["contestant"] == BASE), None)
    roof = number(ours["roof_ms"]) if ours["roof_ms"] else "-"
    text = f"{' '.join((ours['config'], ours['workload'], ours['dtype'])):{WIDTH}}"
    text += f"{number(ours['median_ms']):>9}{roof:>9}   {best['contestant']:18}"
    text += f"{number(best['median_ms']):>9}{best['median_ms'] / ours['median_ms']:7.2f}"
    if base:
        text += f"{number(base['median_ms']):>10}{base['median_ms'] / ours['median_ms']:7.2f}"
    return text + ("  NOISY" if any(row["noisy"] for row in rows) else "")


def ready(rows: list[dict]) -> str | None:
    """One workload: how long planish takes to be ready, beside torch.compile, if that was there."""
    found = {row["contestant"]: row["ready_s"] for row in rows}
    if COMPILER not in found:
        return None
    ours, compiled = found[OURS], found[COMPILER]
    name = " ".join(rows[0][x] for x in ("config", "workload", "dtype"))
    return f"{name:{WIDTH}}{number(ours):>9}{number(compiled):>15}{compiled / ours:7.1f}"


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
    """All of it as text. ValueError where documents are of different machines."""
    where, *others = (f"{x['cpu']}, {x['threads']} threads" for x in documents)
    if other := next((x for x in others if x != where), None):
        raise ValueError(f"one table is of one machine: got documents of {where} and of {other}")
    dates = ", ".join(sorted({x["date"] for x in documents}))
    rows = [row for x in documents for row in x["rows"]]
    versions = sorted({f"{row['contestant']} {row['version']}" for row in rows})
    found = cases(rows)
    starts = [x for x in map(ready, found) if x]
    below = ["", READY, *starts] if starts else []
    title = f"{dates}  {where}"
    return "\n".join([title, "", HEAD, *map(line, found), *below, "", *wrapped(versions)])


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
    try:
        text = table(documents)
    except ValueError as error:
        parser.error(str(error))
    if options.readme:
        options.readme.write_text(placed(options.readme.read_text(), text))
    else:
        print(text)
    if options.plot:
        rows = [row for group in cases([r for x in documents for r in x["rows"]]) for row in group]
        plot_rows(rows, documents[0], options.plot)


if __name__ == "__main__":
    main()
