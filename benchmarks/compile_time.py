"""How long planish takes to import and to compile, and the memory it takes, beside what they may.

    python benchmarks/compile_time.py                   # times
    python benchmarks/compile_time.py --memory          # and the peak of a process that generates

Every measurement is a process of its own: nothing is compiled or loaded before. Each row is the
best of `--rounds` processes, in milliseconds. Machine code is made of each kernel as soon as it is
lowered: `code` is what is left to do then, the main function among it; `pack` is the part of
`lower` that fills panels, summed over threads. A bar is what the total may be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workloads import CONFIGS, Config

import planish as pl
from planish.frontend.generate import Generator
from planish.frontend.next_token import graphs
from planish.frontend.optim import AdamW
from planish.frontend.peak import peak_of
from planish.frontend.step import training_graph
from planish.ir.graph import Graph
from planish.passes.pipelines import pipeline as pipeline_named
from planish.runtime import build, packing
from planish.runtime.lower import lower
from planish.runtime.program import Program
from planish.runtime.target import Target, thread_count

STAGES = ("trace", "passes", "lower", "pack", "code", "load", "total")
# configuration, program -> milliseconds
BARS = {
    ("nano", "prefill"): 500, ("baby", "prefill"): 1000, ("gpt2", "prefill"): 2000,
    ("nano", "train"): 1500,
}  # fmt: skip
PROGRAMS = {
    "nano": ("prefill", "generate", "train"),
    "baby": ("prefill", "generate", "train"),
    "gpt2": ("prefill", "generate"),
}
IMPORT_BAR = 150
FIXED, SHARE = 60 << 20, 1.2  # bytes of a process beside its weights, caches, arena; and of these


def model_of(c: Config) -> pl.TinyGPT:
    """A model of this size."""
    return pl.TinyGPT(c.vocab, c.width, c.layers, c.heads, c.context, dropout=0.0)


def traced(name: str, model: pl.TinyGPT, c: Config) -> tuple[list[Graph], str]:
    """The graphs of a program, and their pipeline."""
    if name == "prefill":
        return [pl.trace(model.last_logits, pl.spec((1, c.prefill), "i32"))], "O2"
    if name == "train":
        return [training_graph(model, AdamW(), c.batch, c.context)], "train"
    made = graphs(model, 1, Generator(model).piece)
    return [made["prefill"], made["decode"]], "O2"


class Clock:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(STAGES, 0.0)

    def call(self, stage: str, function: Callable[..., Any], *args: Any) -> Any:
        """What `function` returns; its time is added to the stage's."""
        started = time.perf_counter()
        try:
            return function(*args)
        finally:
            self.spent[stage] += 1e3 * (time.perf_counter() - started)


def measure(config: str, name: str) -> dict[str, float]:
    """Compile once, in this process."""
    model = model_of(CONFIGS[config])
    target = Target.host()
    clock = Clock()
    fill = packing.fill
    packing.fill = lambda *given: clock.call("pack", fill, *given)
    build.lower = lambda *given: clock.call("lower", lower, *given)
    started = time.perf_counter()
    found, passes = clock.call("trace", traced, name, model, CONFIGS[config])
    panels = packing.Panels()  # as a generator has them
    for graph in found:
        with build.begun(target, pooled=thread_count() > 1) as compiling:
            after = clock.call("passes", pipeline_named(passes).run, graph)
            plan, image = clock.call("code", build.lowered, after, compiling, panels)
        clock.call("load", Program.of(image, plan.params, lambda plan=plan: plan).entry)
    clock.spent["code"] -= clock.spent["lower"]
    clock.spent["total"] = 1e3 * (time.perf_counter() - started)
    return clock.spent


def best(rounds: int, config: str, name: str) -> dict[str, float]:
    """The stages of the quickest of some processes."""
    found = []
    for _ in range(rounds):
        command = [sys.executable, __file__, "--one", config, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    return min(found, key=lambda x: x["total"])


def imports(rounds: int) -> float:
    """Milliseconds of `import planish` in a new process."""
    code = "import time; t = time.perf_counter(); import planish; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds)
    ]
    return 1e3 * min(times)


def verdict(value: float, bar: float | None) -> str:
    """The bar, and whether it is kept."""
    if bar is None:
        return f"{'-':>8}"
    return f"{bar:8,.0f}  {'ok' if value <= bar else 'OVER'}"


def print_times(configs: list[str], rounds: int) -> None:
    """The table of times."""
    print(f"{'ms':15}" + "".join(f"{x:>8}" for x in (*STAGES, "bar")))
    spent = imports(rounds)
    empty = " " * 8 * (len(STAGES) - 1)
    print(f"{'import planish':15}{empty}{spent:8.1f}{verdict(spent, IMPORT_BAR)}")
    for config in configs:
        for name in PROGRAMS[config]:
            found = best(rounds, config, name)
            cells = "".join(f"{found[x]:8.0f}" for x in STAGES)
            print(f"{f'{config} {name}':15}{cells}"
                  f"{verdict(found['total'], BARS.get((config, name)))}")  # fmt: skip


def print_memory(configs: list[str]) -> None:
    """The peak of generating, beside weights, caches and arena.

    `first` is that of a process that compiles, `peak` that of the next one, which finds the code in
    the cache.
    """
    heads = ("weights", "caches", "arena", "imports", "first", "peak")
    print(f"\n{'MiB':15}" + "".join(f"{x:>9}" for x in heads) + f"{'bar':>8}")
    for config in configs:
        c = CONFIGS[config]
        model = model_of(c)
        made = graphs(model, 1, Generator(model).piece)
        plans = [lower(pipeline_named("O2").run(made[name]), Target.host())
                 for name in ("prefill", "decode")]  # fmt: skip
        arena = max(Program(plan).memory.arena for plan in plans)
        weights = 4 * model.count_parameters()
        caches = 2 * 4 * c.layers * c.context * c.width
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            pl.save(model, path)
            os.environ["PLANISH_CACHE"] = str(Path(folder) / "cache")
            first, peak = (peak_of(path, c.prompt, c.new, thread_count()) for _ in range(2))
        bar = (SHARE * (weights + caches + arena) + FIXED) / 2**20
        row = [
            x / 2**20 for x in (weights, caches, arena, peak["before"], first["peak"], peak["peak"])
        ]
        print(f"{config:15}" + "".join(f"{x:9.1f}" for x in row) + verdict(row[-1], bar))


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default="nano,baby,gpt2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    configs = options.configs.split(",")
    print_times(configs, options.rounds)
    if options.memory:
        print_memory(configs)


if __name__ == "__main__":
    main()
