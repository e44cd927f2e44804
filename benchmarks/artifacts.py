"""What artifacts take to start, to load, to compile again, and to write tokens, beside the bars.

    python benchmarks/artifacts.py                      # nano and baby
    python benchmarks/artifacts.py --configs nano --pipelines int8 --threads 1

Models have random weights. Of starts, loads and compiles each run is a process of its own; the
median of `--rounds` is shown. Their bars allow for reading the file of weights as well, and those
of loads for its checksum. For tokens per second the program, a C program that calls the library,
Python on the library and Python on what it compiled itself take turns, `--rounds` times: texts of
`--tokens`, which slide where the context is full. The first token is not counted, the median of all
turns is shown.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import processor
from workloads import CONFIGS, Config

import planish as pl
from planish.frontend.generate import Generator
from planish.frontend.sampling import Sampling
from planish.frontend.writer import written
from planish.runtime.target import thread_count

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,:;!?'-&3$\n"
FIRST_MS, AGAIN_MS, LOAD_MS, NANO_BYTES = 30, 50, 50, 1_500_000  # the bars
TOLD = re.compile(r"then (\d+) tokens/s")

# Writes tokens as the program does, and tells the same rate
DRIVER = r"""
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { double first; long count; } state;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int32_t note(void *user, int32_t token) {
    state *mine = user;
    (void)token;
    if (mine->count++ == 0) mine->first = now();
    return 0;
}

int main(int argc, char **argv) {
    planish_model *model = planish_create(NULL, atoi(argv[1]));
    if (argc != 4 || planish_status(model) != PLANISH_OK) return 1;
    int32_t tokens[4096];
    int64_t count = planish_encode(model, argv[2], strlen(argv[2]), tokens, 4096);
    planish_options options;
    planish_defaults(&options);
    options.temperature = 0;
    options.max_tokens = atoi(argv[3]);
    options.slide = 1;
    state mine = {0};
    if (planish_generate(model, tokens, count, &options, note, &mine, NULL)) return 1;
    fprintf(stderr, "then %.0f tokens/s\n", (mine.count - 1) / (now() - mine.first));
    planish_free(model);
    return 0;
}
"""

# Prints milliseconds of NumPy's import, and of ours until the first token is there
LOADING = """
import sys, time
a = time.perf_counter()
import numpy
b = time.perf_counter()
import planish as pl
pl.load(sys.argv[1]).generate([1, 2], max_new_tokens=1, temperature=0)
print((b - a) * 1e3, (time.perf_counter() - b) * 1e3)
"""
# Prints milliseconds of `COMPILE` or `WRITE`, work on a model whose weights are mapped
COMPILING = """
import sys, time
import planish as pl
from planish.frontend.pretrained import load_model
model, _ = load_model(sys.argv[1])
spec = pl.spec((1, pl.Dim("T", max=model.config["max_seq_len"])), "i32")
a = time.perf_counter()
{work}
print((time.perf_counter() - a) * 1e3)
"""
COMPILE = COMPILING.format(work="pl.compile(model, spec, pipeline=sys.argv[2])")
WRITE = COMPILING.format(work="x = pl.Generator(model, sys.argv[2]); x.prefill, x.decode")


class Made:
    """A model in a folder: `model.safetensors`, the program `model`, `model.so`, the C program."""

    def __init__(self, folder: Path, c: Config, pipeline: str, threads: int, new: int):
        self.folder, self.pipeline, self.threads, self.new = folder, pipeline, threads, new
        tokenizer = pl.CharTokenizer.from_text(CHARACTERS)
        model = pl.TinyGPT(c.vocab, c.width, c.layers, c.heads, c.context, dropout=0.0)
        pl.save(model, folder / "model.safetensors", tokenizer)
        self.compiled = Generator(model, pipeline, threads)
        for name in ("model", "model.so"):
            self.compiled.save(folder / name, tokenizer)
        self.loaded = pl.load(folder / "model.so", threads)
        self.prompt = (CHARACTERS * 9)[: c.prompt]
        self.ids = tokenizer.encode(self.prompt)
        (folder / "driver.c").write_text(DRIVER)
        command = ["cc", "-O2", "-o", "driver", "driver.c", "-L.", "-l:model.so", "-lpthread"]
        subprocess.run([*command, "-Wl,-rpath,$ORIGIN"], cwd=folder, check=True)

    def command(self, *more: str) -> list[str]:
        """The program, which writes a text."""
        flags = ["--temperature", "0", "--threads", str(self.threads)]
        return [str(self.folder / "model"), self.prompt, *flags, *more]

    def rates(self) -> dict[str, Callable[[], float]]:
        """Who writes tokens, and how to get tokens per second of each."""
        new = str(self.new)
        driver = [str(self.folder / "driver"), str(self.threads), self.prompt, new]
        return {
            "Python": lambda: self.python(self.compiled),
            "Python, loaded": lambda: self.python(self.loaded),
            "so": lambda: rate(driver),
            "exe": lambda: rate(self.command("-n", new, "--slide", "--stats")),
        }

    def python(self, maker: Any) -> float:
        """Tokens per second of Python."""
        times: list[float] = []
        note = lambda _: times.append(time.perf_counter())  # noqa: E731
        written(maker, self.ids, self.new, Sampling(0.0), None, True, note, None, True)
        return (len(times) - 1) / (time.perf_counter() - times[0])

    def first(self) -> float:
        """Milliseconds from before the program is started until its first token can be read."""
        start = time.perf_counter()
        with subprocess.Popen(
            self.command("-n", "1"), stdout=subprocess.PIPE, close_fds=False
        ) as process:
            assert process.stdout is not None
            got = 0
            while got <= len(self.prompt):
                got += len(os.read(process.stdout.fileno(), 4096)) or sys.exit("no token came")
            return (time.perf_counter() - start) * 1e3


def rate(command: list[str]) -> float:
    """Tokens per second, as a program tells it."""
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True
    )
    found = TOLD.search(done.stderr)
    return float(found[1]) if found else sys.exit(f"no rate in {done.stderr!r}")


def python(code: str, *given: str, **env: str) -> list[float]:
    """The numbers that a Python prints; one that keeps bytecode, as an installed one does."""
    command = [sys.executable, "-c", code, *given]
    whole = {**os.environ, **env}
    whole.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=whole)
    return [float(x) for x in done.stdout.split()]


def took(work: Callable[[], Any]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def rows(made: Made, rounds: int, name: str) -> list[tuple[str, str, str]]:
    """What was measured, and the bar."""
    median = statistics.median
    library, source = str(made.folder / "model.so"), str(made.folder / "model.safetensors")
    turns: dict[str, list[float]] = {x: [] for x in made.rates()}
    for _ in range(rounds):
        for who, run in made.rates().items():
            turns[who].append(run())
    cache = {"PLANISH_CACHE": str(made.folder / "cache")}
    cold = python(COMPILE, source, made.pipeline, **cache)[0]
    python(LOADING, library)  # and keeps bytecode
    python(WRITE, source, made.pipeline, **cache)
    again, both = (
        median(python(code, source, made.pipeline, **cache)[0] for _ in range(rounds))
        for code in (COMPILE, WRITE)
    )
    copying = min(took(Path(source).read_bytes) for _ in range(3))
    loads = [python(LOADING, library) for _ in range(rounds)]
    bare = median(took(lambda: python("pass")) for _ in range(rounds))
    numpy, ours = (median(x[n] for x in loads) for n in (0, 1))
    reading = took(lambda: hashlib.sha256(Path(library).read_bytes()))
    reading = min(reading, took(lambda: hashlib.sha256(Path(library).read_bytes())))
    first = median(made.first() for _ in range(2 * rounds))
    size = (made.folder / "model").stat().st_size
    rates = {who: median(x) for who, x in turns.items()}
    beside = rates["Python"]
    small = (name, made.pipeline) == ("nano", "int8")
    return [
        ("exe: bytes", f"{size:,}", f"{NANO_BYTES:,}" if small else ""),
        ("exe: first token from process start", f"{first:.1f} ms",
         f"{FIRST_MS} ms" if name == "nano" else ""),
        ("decode: Python, compiled there", f"{beside:,.0f} tokens/s", ""),
        *((f"decode: {who}", f"{x:,.0f} tokens/s, {x / beside:.2f} x", "1 x" if "P" not in who
           else "") for who, x in rates.items() if who != "Python"),
        ("compile: cache empty", f"{cold:.0f} ms", ""),
        ("compile: again, another process", f"{again:.1f} ms",
         f"{AGAIN_MS + copying:.0f} ms, of which {copying:.0f} read the weights"),
        ("compile: again, a generator's two programs", f"{both:.1f} ms", ""),
        ("load: the interpreter", f"{bare:.0f} ms", ""),
        ("load: import of NumPy", f"{numpy:.0f} ms", ""),
        ("load: planish, until the first token", f"{ours:.0f} ms",
         f"{LOAD_MS + reading:.0f} ms, of which {reading:.0f} read the weights"),
    ]  # fmt: skip


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default="nano,baby")
    parser.add_argument("--pipelines", default="O2,int8")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    threads = thread_count(given.threads)
    print(f"{datetime.date.today()}, {processor()}, {threads} threads, Python "
          f"{platform.python_version()}, {platform.system()}\n")  # fmt: skip
    print("| model | what | found | bar |\n|---|---|---|---|")
    for name in given.configs.split(","):
        for pipeline in given.pipelines.split(","):
            with tempfile.TemporaryDirectory() as folder:
                made = Made(Path(folder), CONFIGS[name], pipeline, threads, given.tokens)
                for row in rows(made, given.rounds, name):
                    print("|", " | ".join((f"{name} {pipeline}", *row)), "|", flush=True)


if __name__ == "__main__":
    main()
