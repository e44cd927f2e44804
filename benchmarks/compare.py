"""Workloads x contestants, paired in one run: medians, minima, ratios.

    python benchmarks/compare.py [--configs nano,baby,gpt2] [--workloads prefill,first,decode,train]
        [--dtypes f32,bf16] [--threads 2] [--contestants planish,torch,jax] [--rounds 10]
        [--python PATH | NAME=PATH] [--json out.json] [--plot out.svg]

Each contestant is a process of its own, kept warm; they take turns of a fraction of a second.
Before anything is timed, outputs are compared with a float64 run of the reference interpreter.
Turns during which other processes took the processor are repeated, and marked where that did not
help. OPENBLAS_* variables are not passed on. See README.md here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from datetime import date
from pathlib import Path

from bounds import bound, fresh_roof
from contestant import CONTESTANTS, OURS
from peers.case import Case
from plot import plot_rows
from reference import TOLERANCE, Judge
from turns import Contestant, processor, pythons, start, take_turns
from workloads import CONFIGS, DTYPES, WORKLOADS

from planish.ir.errors import PlanishError
from planish.ir.plots import need_plot

BASE = "torch"  # eager PyTorch: what most people run
COMPILER = "torch.compile"  # beside whose time to be ready that of others is put
HEAD = (
    f"{'':22}{'median ms':>10}{'min ms':>10}{'runs':>6}{'ready s':>9}{'error':>10}"
    f"{'x torch':>9}{'x best peer':>12}{'ready x compile':>17}"
)


def judged(case: Case, contestants: list[Contestant]) -> None:
    """Whoever is wrong takes no further part."""
    judge = Judge(case)
    for contestant in contestants:
        if not contestant.skip:
            contestant.error = judge.error(contestant.output)
            if not contestant.error <= TOLERANCE[case.dtype]:
                contestant.skip = f"wrong by {contestant.error:.2g}"


def measured(name: str, case: Case, options: argparse.Namespace) -> list[Contestant]:
    """Start, judge, and let all contestants take turns at one case."""
    contestants = []
    paths = pythons(options.python)
    for who in options.contestants:
        note(f"{name} {case.workload} {case.dtype}: {who} ...")
        python = paths.get(who, paths[""])
        begun = start(who, python, case.workload, case.dtype, case.c, case.threads)
        contestants.append(begun)
        if begun.skip:
            note(f"{name} {case.workload} {case.dtype}: {who} skipped: {begun.skip}")
            begun.stop()
    judged(case, contestants)
    take_turns(contestants, options.rounds)
    for contestant in contestants:
        if contestant.process.poll() is None:
            contestant.stop()
    return contestants


def rows_of(name: str, case: Case, contestants: list[Contestant], roof: float | None) -> list[dict]:
    """What was measured of a case, one row for each contestant that took part."""
    timed = [c for c in contestants if not c.skip]
    medians = {c.name: statistics.median(c.times) for c in timed}
    base = medians.get(BASE)
    compiled = next((c.ready for c in timed if c.name == COMPILER), None)
    best = min((m for who, m in medians.items() if who != OURS), default=None)
    return [
        {
            "config": name, "workload": case.workload, "dtype": case.dtype, "contestant": c.name,
            "version": c.version, "median_ms": 1e3 * medians[c.name], "min_ms": 1e3 * min(c.times),
            "runs": len(c.times), "ready_s": c.ready, "load_s": c.load, "error": c.error,
            "times_torch": base and base / medians[c.name],
            "times_best_peer": best and best / medians[c.name],
            "ready_times_compile": compiled and compiled / c.ready,
            "turns": c.turns, "repeated": c.repeated, "noisy_turns": c.noisy_turns,
            "noisy": not c.quiet, "roof_ms": roof and 1e3 * roof,
        }
        for c in timed
    ]  # fmt: skip


def show(rows: list[dict], skipped: dict[str, str]) -> None:
    """Print the rows of one case."""
    for row in rows:
        ratios = (row["times_torch"], row["times_best_peer"], row["ready_times_compile"])
        torch, best, ready = (f"{r:.2f}" if r else "-" for r in ratios)
        print(
            f"  {row['contestant']:20}{row['median_ms']:10.3f}{row['min_ms']:10.3f}"
            f"{row['runs']:6}{row['ready_s']:9.2f}{row['error']:10.1e}{torch:>9}{best:>12}"
            f"{ready:>17}{'  NOISY' if row['noisy'] else ''}"
        )
    if roof := next((row["roof_ms"] for row in rows if row["roof_ms"]), None):
        print(f"  {'roof':20}{roof:10.3f}")
    for who, reason in skipped.items():
        print(f"  {who:20}skipped: {reason}")
    repeated, lost = (sum(row[k] for row in rows) for k in ("repeated", "noisy_turns"))
    turns = sum(row["turns"] for row in rows)
    print(f"  {turns} turns, {repeated} times repeated because other processes ran", end="")
    print(f"; {lost} were never quiet\n" if lost else "\n", flush=True)


def note(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    listed = lambda known: lambda text: [chosen(x, known) for x in text.split(",")]  # noqa: E731
    for name, known, default in (
        ("configs", CONFIGS, ["nano"]), ("workloads", WORKLOADS, WORKLOADS),
        ("dtypes", DTYPES, ["f32"]), ("contestants", CONTESTANTS, CONTESTANTS),
    ):  # fmt: skip
        told = f"some of {','.join(known)}; default: {'all' if default is known else default[0]}"
        parser.add_argument(f"--{name}", type=listed(known), default=[*default], help=told)
    parser.add_argument("--threads", type=int, default=2, help="of each contestant; default: 2")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each; default: 10")
    parser.add_argument("--python", action="append", default=[], metavar="[NAME=]PATH",
                        help="of an environment that has the peers, or one of them")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write all that was measured")
    parser.add_argument("--plot", type=picture, help="draw it: a .svg, .png or .pdf file")
    parser.add_argument("--roofs", action="store_true", help="measure the machine's roofs, too")
    return parser.parse_args()


def chosen(word: str, known: object) -> str:
    """A word of a list; argparse reports the others."""
    if word not in known:  # type: ignore[operator]
        choices = ", ".join(map(str, known))
        raise argparse.ArgumentTypeError(f"{word!r} is none of {choices}")
    return word


def picture(path: str) -> Path:
    """The file of a plot; argparse reports what cannot be one."""
    try:
        return need_plot(path)
    except PlanishError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    where = {"date": str(date.today()), "cpu": processor(), "threads": options.threads}
    print(f"{where['date']}  {where['cpu']}  {options.threads} threads\n{HEAD}")
    roof = fresh_roof(options.threads) if options.roofs else None
    rows: list[dict] = []
    left_out: list[dict] = []
    cases = [
        (name, Case(workload, dtype, CONFIGS[name], options.threads))
        for name in options.configs
        for workload in options.workloads
        for dtype in options.dtypes
        if workload in CONFIGS[name].workloads
    ]
    for name, case in cases:
        contestants = measured(name, case, options)
        least = bound(roof, case.workload, case.c, case.dtype) if roof else None
        found = rows_of(name, case, contestants, least)
        skipped = {c.name: c.skip for c in contestants if c.skip}
        print(f"{name} {case.workload} {case.dtype}")
        show(found, skipped)
        rows += found
        place = {"config": name, "workload": case.workload, "dtype": case.dtype}
        left_out += [{**place, "contestant": k, "reason": v} for k, v in skipped.items()]
        if options.json:  # after each case: a long run may be stopped
            document = {**where, "rows": rows, "skipped": left_out}
            options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(versions(rows))
    if options.plot:
        plot_rows(rows, where, options.plot)


def versions(rows: list[dict]) -> str:
    """Of whom took part."""
    found = {row["contestant"]: row["version"] for row in rows}
    return ", ".join(f"{who} {version}" for who, version in found.items())


if __name__ == "__main__":
    main()
