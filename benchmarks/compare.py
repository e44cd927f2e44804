"""Workloads x contestants, paired in one run: medians, minima, ratios.

    python benchmarks/compare.py [--config nano] [--workloads prefill,decode,train] [--threads 2]
                                 [--contestants planish,torch] [--python torch=/path/to/python]

Each contestant is a process of its own, kept warm; they take turns of a fraction of a second.
Before anything is timed, outputs are compared with a float64 run of the reference interpreter.
Turns during which other processes took the processor are repeated. OPENBLAS_* variables are not
passed on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
from workloads import CONFIGS, WORKLOADS, Config, tokens, weights

import planish as pl

HERE = Path(__file__).resolve().parent
TURN = 0.3  # seconds that a contestant runs before the next one's turn
STOLEN = 0.05  # share of a turn's processor time that others may take


@dataclass
class Contestant:
    """A running process and the times of its turns."""

    name: str
    process: subprocess.Popen
    ready: float = 0.0
    output: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def answer(self) -> dict:
        """The next line that the process prints."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit(f"{self.name} stopped with exit code {self.process.wait()}")
        return json.loads(line)

    def turn(self, seconds: float) -> list[float]:
        """Let it run for a while; the time of each run."""
        self.process.stdin.write(f"{seconds}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.answer()["times"]


def start(name: str, python: str, workload: str, config: str, threads: int) -> Contestant:
    """Start a contestant and wait until it has run once."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    env["PYTHONPATH"] = str(HERE.parent)
    command = [python, str(HERE / "contestant.py"), name, workload, config, str(threads)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    contestant = Contestant(name, process)
    first = contestant.answer()
    contestant.ready, contestant.output = first["ready"], first["output"]
    return contestant


def reference(workload: str, c: Config) -> np.ndarray | None:
    """The output in float64, by the interpreter; None where it would take too long."""
    model = pl.TinyGPT(
        vocab_size=c.vocab, embed_dim=c.width, num_layers=c.layers, num_heads=c.heads,
        max_seq_len=c.context, dropout=0.0,
    )  # fmt: skip
    model.load_state_dict(weights(c))
    if workload == "prefill":
        return pl.interpret(model.last_logits, tokens(c, 1, min(c.context, 256)), dtype="f64")
    if workload == "train":
        x, y = tokens(c, c.batch, c.context), tokens(c, c.batch, c.context, seed=2)
        return pl.interpret(model.loss, x, y, dtype="f64")
    return None  # greedy tokens are compared between contestants


def busy() -> float:
    """Processor seconds that all processes have used since the machine started."""
    with open("/proc/stat") as file:
        user, nice, system = (int(x) for x in file.readline().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def cpu_of(process: subprocess.Popen) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def paired(contestants: list[Contestant], rounds: int) -> int:
    """Turn after turn; the number of turns that had to be repeated."""
    repeated = 0
    for _ in range(rounds):
        for contestant in contestants:
            for _attempt in range(5):
                before, own = busy(), cpu_of(contestant.process)
                began = time.perf_counter()
                times = contestant.turn(TURN)
                wall = time.perf_counter() - began
                others = busy() - before - (cpu_of(contestant.process) - own)
                if others <= STOLEN * wall + 0.02:
                    break
                repeated += 1
            contestant.times += times
    return repeated


def check(workload: str, contestants: list[Contestant], want: np.ndarray | None) -> None:
    """Every output against float64, or against each other for tokens."""
    truth = np.asarray(contestants[0].output if want is None else want, np.float64).ravel()
    for contestant in contestants:
        error = np.abs(np.asarray(contestant.output) - truth).max()
        if error > 1e-3 * max(1.0, np.abs(truth).max()):
            raise SystemExit(f"{workload}: {contestant.name} is wrong by {error:.3g}")


def report(config: str, workload: str, contestants: list[Contestant], repeated: int) -> list[dict]:
    """Print and return the rows of one workload."""
    base = {c.name: statistics.median(c.times) for c in contestants}
    rows = []
    for c in contestants:
        median = base[c.name]
        row = {
            "config": config, "workload": workload, "contestant": c.name,
            "median_ms": 1e3 * median, "min_ms": 1e3 * min(c.times), "runs": len(c.times),
            "ready_s": c.ready, "planish_is_faster_by": median / base["planish"],
        }  # fmt: skip
        rows.append(row)
        print(
            f"{config:5} {workload:8} {c.name:14} median {row['median_ms']:9.3f} ms  "
            f"min {row['min_ms']:9.3f} ms  ready {c.ready:6.2f} s  "
            f"planish is faster by {row['planish_is_faster_by']:.2f}"
        )
    if repeated:
        print(f"  {repeated} turns repeated because other processes ran")
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="nano", choices=CONFIGS)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--contestants", default="planish,torch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pythons = dict(item.split("=", 1) for item in options.python)
    cpuinfo = Path("/proc/cpuinfo").read_text()
    cpu = next(
        (x.split(":")[1].strip() for x in cpuinfo.splitlines() if x.startswith("model name")),
        platform.processor(),
    )
    print(f"{date.today()}  {cpu}  {options.threads} threads  float32")
    rows: list[dict] = []
    for workload in options.workloads.split(","):
        contestants = [
            start(n, pythons.get(n, sys.executable), workload, options.config, options.threads)
            for n in options.contestants.split(",")
        ]
        check(workload, contestants, reference(workload, CONFIGS[options.config]))
        repeated = paired(contestants, options.rounds)
        rows += report(options.config, workload, contestants, repeated)
        for c in contestants:
            c.process.stdin.close()  # type: ignore[union-attr]
            c.process.wait()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
