"""How cost grows: with position, length, batch, width and threads; a plot each, with the roof.

    python benchmarks/scaling.py [--only position,length,batch,width,threads] [--quick]
        [--contestants planish,torch] [--python PATH | NAME=PATH] [--threads 2] [--rounds 5]
        [--out docs] [--json out.json]

Contestants run as in `compare.py`: in processes of their own, in turns, at each point together.
What they compute is checked there. The roof is what operations or reads take at least, at the
speeds that `planish bench` measures, here in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from bounds import Roof, bound, fresh_roof
from compare import chosen, note
from contestant import CONTESTANTS
from plot import lines, speedups
from turns import HERE, processor, pythons, start, take_turns
from workloads import CONFIGS, WORKLOADS, Config

TOKENS = 9  # made by a decode at a position: one is the prompt's own, eight are timed
HEAD = 64  # width of a head where the width of the model varies
NANO, BABY = CONFIGS["nano"], CONFIGS["baby"]
LONG = replace(BABY, context=1024)


def at_position(c: Config, position: int) -> Config:
    """Decoding of a few tokens that end at a position."""
    return replace(c, prompt=position - TOKENS + 1, new=TOKENS)


def of_width(c: Config, width: int) -> Config:
    """A model of another width."""
    return replace(c, width=width, heads=max(1, width // HEAD))


@dataclass(frozen=True)
class Sweep:
    """A workload at several sizes; `share` is what one run is divided by."""

    workload: str
    title: str
    axis: str
    unit: str
    base: Config
    vary: Callable[[Config, int], Config]
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    share: Callable[[Config], int] = lambda c: 1


SWEEPS = {
    "position": Sweep(
        "decode", "a token after so many, baby with a context of 1,024", "position",
        "ms per token", LONG, at_position, (16, 32, 64, 128, 256, 512, 768, 1024), (16, 256),
        lambda c: c.new - 1,
    ),
    "length": Sweep(
        "prefill", "a prompt, baby with a context of 1,024", "tokens", "ms", LONG,
        lambda c, n: replace(c, prefill=n), (16, 32, 64, 128, 256, 512, 1024), (16, 128),
    ),
    "batch": Sweep(
        "train", "a training step, baby, 256 tokens a sequence", "sequences", "ms", BABY,
        lambda c, n: replace(c, batch=n), (1, 2, 4, 8, 16, 32), (1, 2),
    ),
    "width": Sweep(
        "prefill", "a prompt of 256 tokens, 6 layers", "width", "ms", BABY, of_width,
        (64, 128, 256, 384, 512, 768, 1024), (64, 256),
    ),
}  # fmt: skip


class Bench:
    """The contestants and how they are measured; remembers all points."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.paths = options, pythons(options.python)
        self.records: list[dict] = []

    def point(self, place: dict, workload: str, c: Config, threads: int) -> dict[str, float]:
        """Median seconds of one run of each contestant."""
        note(f"{place} ...")
        contestants = [
            start(n, self.paths.get(n, self.paths[""]), workload, self.options.dtype, c, threads)
            for n in self.options.contestants
        ]
        take_turns(contestants, self.options.rounds)
        found = {}
        for contestant in contestants:
            record = {**place, "contestant": contestant.name, "threads": threads}
            if contestant.skip:
                record["skip"] = contestant.skip
            else:
                found[contestant.name] = statistics.median(contestant.times)
                record |= {"seconds": found[contestant.name], "noisy": not contestant.quiet}
            self.records.append(record)
            print(json.dumps(record), flush=True)
            contestant.stop()
        return found

    def sweep(self, name: str, roof: Roof) -> None:
        """One line for each contestant and one for the roof."""
        s, options = SWEEPS[name], self.options
        series: dict[str, list[tuple]] = {}
        least = []
        for size in s.quick if options.quick else s.sizes:
            c = s.vary(s.base, size)
            share = 1e3 / s.share(c)
            found = self.point({"sweep": name, "size": size}, s.workload, c, options.threads)
            for who, seconds in found.items():
                series.setdefault(who, []).append((size, share * seconds))
            least.append((size, share * bound(roof, s.workload, c, options.dtype)))
        title = f"{s.title}\n{self.where(name, options.threads)}"
        path = options.out / f"scaling-{name}.svg"
        lines(path, title, (s.axis, s.unit), series, {"roof": least})
        print(f"wrote {path}")

    def threads(self, one: Roof, two: Roof) -> None:
        """How much faster two threads are than one."""
        options = self.options
        groups: dict[str, dict[str, float]] = {}
        least: dict[str, float] = {}
        for name, c in (("nano", NANO),) if options.quick else (("nano", NANO), ("baby", BABY)):
            for workload in WORKLOADS:
                what = f"{name} {workload}"
                place = {"sweep": "threads", "size": what}
                times = [self.point(place, workload, c, n) for n in (1, 2)]
                both = times[0].keys() & times[1].keys()
                groups[what] = {
                    who: times[0][who] / times[1][who] for who in times[0] if who in both
                }
                bounds = [bound(r, workload, c, options.dtype) for r in (one, two)]
                least[what] = bounds[0] / bounds[1]
        title = f"two threads against one\n{self.where('threads', '1 and 2')}"
        path = options.out / "scaling-threads.svg"
        speedups(path, title, groups, least)
        print(f"wrote {path}")

    def where(self, name: str, threads: object) -> str:
        """What was measured where, and whether the machine was quiet."""
        text = f"{processor()}, {threads} threads, {self.options.dtype}, {date.today()}"
        noisy = sum(r.get("noisy", False) for r in self.records if r["sweep"] == name)
        return text + (f", {noisy} points NOISY" if noisy else "")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*SWEEPS, "threads"]
    listed = lambda known: lambda text: [chosen(x, known) for x in text.split(",")]  # noqa: E731
    parser.add_argument("--only", type=listed(names), default=names)
    parser.add_argument("--contestants", type=listed(CONTESTANTS), default=["planish"])
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few points, to see that it works")
    parser.add_argument("--python", action="append", default=[], metavar="[NAME=]PATH")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    for name in options.only:
        if name == "threads":
            bench.threads(fresh_roof(1), fresh_roof(2))
        else:
            bench.sweep(name, fresh_roof(options.threads))
        if options.json:
            options.json.write_text(json.dumps(bench.records, indent=1) + "\n")


if __name__ == "__main__":
    main()
