"""What it is worth to read the prompts of a batch together, by their lengths.

    python benchmarks/prompts.py MODEL [MODEL ...] [--pipelines O2,int8] [--rows 8]
        [--lengths 1,4,8,16,32-64,128] [--threads 2] [--seconds 1]

Each prompt by itself into caches of one row, and all together into caches of so many, in turns,
until each has its first token. `32-64` are lengths spread evenly between these. Tokens are random;
times are medians. The caches are there already: a generator keeps those of the text before where
they are not too large (`KEPT_BYTES` in `planish/frontend/session.py`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import planish as pl
from planish.frontend.sampling import Sampling
from planish.frontend.session import Session

LEAST = 5  # turns


def lengths_of(text: str, rows: int) -> list[int]:
    """`rows` lengths: all alike, or from one to another."""
    first, _, last = text.partition("-")
    return np.linspace(int(first), int(last or first), rows).round().astype(int).tolist()


def session_of(maker: pl.Generator) -> Session:
    """Caches for a greedy text in each row."""
    settings = np.zeros((maker.batch, 2), np.uint32), *Sampling(0.0).operands(maker.vocab_size)
    made = Session(maker.prefill, maker.decode, maker.piece, len(settings))
    made.set(settings)
    return made


def first_tokens(session: Session, prompts: list[np.ndarray]) -> list[int]:
    """The likeliest token after each prompt."""
    session.read(range(len(prompts)), prompts)
    return [int(session.state[0][row, len(x)]) for row, x in enumerate(prompts)]


def in_turns(ways: list[Callable[[], Any]], seconds: float) -> list[float]:
    """Median seconds of each."""
    times: list[list[float]] = [[] for _ in ways]
    end = time.perf_counter() + seconds
    while len(times[0]) < LEAST or time.perf_counter() < end:
        for way, spent in zip(ways, times, strict=True):
            started = time.perf_counter()
            way()
            spent.append(time.perf_counter() - started)
    return [statistics.median(x[1:]) for x in times]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--pipelines", type=lambda x: x.split(","), default=["O2", "int8"])
    parser.add_argument("--lengths", default="1,4,8,16,32-64,128")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    print(
        f"{'model':8}{'pipeline':12}{'tokens each':>12}{'alone ms':>11}{'together':>11}"
        f"{'times':>7}{'tokens/s':>11}"
    )
    for path in options.models:
        model, rng = pl.TinyGPT.from_pretrained(path), np.random.default_rng(0)
        for pipeline in options.pipelines:
            makers = [pl.Generator(model, pipeline, options.threads, n) for n in (1, options.rows)]
            one, many = map(session_of, makers)
            for said in options.lengths.split(","):
                sizes = lengths_of(said, options.rows)
                if max(sizes) >= makers[0].context:
                    continue  # there is no place for a token
                prompts = [rng.integers(0, makers[0].vocab_size, n, np.int32) for n in sizes]

                def alone(one=one, prompts=prompts) -> list[int]:
                    return [x for prompt in prompts for x in first_tokens(one, [prompt])]

                def together(many=many, prompts=prompts) -> list[int]:
                    return first_tokens(many, prompts)

                if alone() != together():
                    raise SystemExit(f"{path}, {pipeline}, {said}: other tokens together")
                apart, joint = in_turns([alone, together], options.seconds)
                print(
                    f"{path.stem:8}{pipeline:12}{said:>12}{1e3 * apart:11.2f}{1e3 * joint:11.2f}"
                    f"{apart / joint:7.2f}{sum(sizes) / joint:11,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
