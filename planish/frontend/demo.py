"""The whole story in a minute: train, save, compile, write, compare pipelines, draw.

Runs on the English text that every CPython carries. Every number that is told was measured in this
run; everything that is made stays in one folder.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.api import compare
from planish.frontend.checkpoint import save
from planish.frontend.data import split
from planish.frontend.generate import Generator, generator_for
from planish.frontend.models.tinygpt import TinyGPT
from planish.frontend.optim import AdamW, cosine
from planish.frontend.presets import PRESETS, Preset
from planish.frontend.sampling import Sampling, row_keys
from planish.frontend.text import CharTokenizer, default_corpus
from planish.frontend.trace import spec, trace
from planish.frontend.training import Trainer
from planish.frontend.writing import generate_text
from planish.ir.dims import Dim
from planish.ir.errors import PlanishError
from planish.passes.compare import Table
from planish.passes.pipelines import PIPELINES

Say = Callable[[str], object]

PIPELINES_SHOWN = ("O0", "O1", "O2")
FIRST = 10  # steps that are timed, to see how many the budget allows
FEWEST, MOST = 100, 800  # steps
WARMUP = 50
PROMPT = "The "
WRITTEN = 240  # characters


def demo(
    out: Path, *, steps: int | None = None, seconds: float = 24.0, seed: int = 0,
    threads: int | None = None, preset: Preset = PRESETS["nano"], text: str | None = None,
    say: Say = print, progress: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run all of it and leave files in the folder `out`; the measured numbers.

    Without `steps`, as many are trained as take about `seconds`.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    words = default_corpus() if text is None else text
    tokenizer = CharTokenizer.from_text(words)
    learnt, held = split(tokenizer.encode(words))
    model = preset.model(len(tokenizer), seed)
    say(
        f"text       {len(words):,} characters, {len(tokenizer)} different ones\n"
        f"model      {model!r}\n"
    )
    trainer = Trainer(
        model, AdamW(lr=preset.lr, betas=(0.9, 0.99), weight_decay=0.1), batch=preset.batch,
        seed=seed, tokenizer=tokenizer, threads=threads,
    )  # fmt: skip
    facts = train(trainer, learnt, held, preset.lr, steps, seconds, progress, say)
    save(model, out / "model.safetensors", tokenizer)
    facts |= write(model, tokenizer, threads, seed, out, say)
    facts |= side_by_side(model, held, threads, out, say)
    draw(model, out, say)
    facts["seconds"] = time.perf_counter() - started
    say(f"\n{facts['seconds']:.0f} s in all. {next_steps(out)}")
    return facts


def train(
    trainer: Trainer, learnt: np.ndarray, held: np.ndarray, lr: float, steps: int | None,
    seconds: float, progress: bool | None, say: Say,
) -> dict[str, Any]:  # fmt: skip
    """Train, and tell how the loss fell."""
    started = time.perf_counter()
    trainer.schedule = cosine(lr, lr / 10, WARMUP, MOST)
    first = FIRST if steps is None else min(FIRST, steps)
    trainer.fit(learnt, 1, progress=False)
    compiled = time.perf_counter() - started
    trainer.fit(learnt, first - 1, progress=False)
    each = (time.perf_counter() - started - compiled) / max(first - 1, 1)
    total = steps if steps is not None else max(FEWEST, min(MOST, int(seconds / each)))
    trainer.schedule = cosine(lr, lr / 10, min(WARMUP, total), total)
    begun = time.perf_counter()
    trainer.fit(learnt, total - first, progress=progress)
    speed = (total - first) / max(time.perf_counter() - begun, 1e-9)
    validation = trainer.evaluate(held)
    say(f"train      one native call for a whole step, compiled in {compiled:.1f} s")
    for step in sorted({1, *(round(total * part / 5) for part in range(1, 6))} - {0}):
        near = trainer.losses[max(0, step - 10) : step]
        say(f"  step {step:>5}   loss {np.mean(near):.3f}")
    say(
        f"  {speed:.0f} steps/s; loss {validation:.3f} on text never seen, "
        f"{math.exp(validation):.1f} characters to choose from instead of {trainer.vocab_size}\n"
    )
    return {"steps": total, "steps_per_second": speed, "losses": trainer.losses,
            "validation": validation}  # fmt: skip


def write(
    model: TinyGPT, tokenizer: CharTokenizer, threads: int | None, seed: int, out: Path, say: Say
) -> dict[str, Any]:
    """Compile for generation and write text."""
    started = time.perf_counter()
    maker = generator_for(model, threads=threads)
    kernels = len(maker.decode.plan.steps) + len(maker.prefill.plan.steps)
    compiled = time.perf_counter() - started
    text = PROMPT + generate_text(
        model, tokenizer, PROMPT, WRITTEN, seed=seed, temperature=0.8, sliding_window=True,
        threads=threads,
    )  # fmt: skip
    (out / "text.txt").write_text(text + "\n", "utf-8")
    (out / "decode.txt").write_text(maker.decode.explain() + "\n", "utf-8")
    token = token_seconds(maker)
    say(f"generate   {kernels} kernels in two programs, compiled in {compiled:.1f} s")
    say("\n".join(f"  | {line}" for line in text.splitlines()))
    say(f"  {1e6 * token:.0f} us for each character, all of it in native code\n")
    return {"text": text, "token_seconds": token}


def token_seconds(maker: Generator) -> float:
    """Seconds for one more token: the best of some full contexts."""
    count = maker.context // 2
    times = []
    for _ in range(5):
        prompt = np.zeros((1, maker.context - count), np.int32)
        operands = (row_keys(0, 1), *Sampling().operands(maker.vocab_size))
        bound = maker.decode.bind(*maker.begin(prompt, operands))
        started = time.perf_counter()
        bound.run(repeat=count - 1)
        times.append((time.perf_counter() - started) / (count - 1))
    return min(times)


def side_by_side(
    model: TinyGPT, held: np.ndarray, threads: int | None, out: Path, say: Say
) -> dict[str, Any]:
    """Pipelines on text that the model has not seen."""
    context = model.config["max_seq_len"]
    tokens = held[:context].reshape(1, -1)
    table: Table = compare(model, PIPELINES_SHOWN, tokens, threads=threads)
    (out / "compare.txt").write_text(f"{table}\n", "utf-8")
    (out / "compare.json").write_text(json.dumps(table.records(), indent=2), "utf-8")
    say(f"compare    the same model after other passes, {context} tokens at once")
    say("\n".join(f"  {line}" for line in str(table).splitlines()) + "\n")
    return {"table": table}


def draw(model: TinyGPT, out: Path, say: Say) -> None:
    """The graph as it was traced, and after all passes: text and pictures."""
    graph = trace(model, spec(("B", Dim("T", max=model.config["max_seq_len"])), "i32"))
    made = []
    for name, seen in (("traced", graph), ("fused", PIPELINES["O2"].run(graph))):
        (out / f"{name}.txt").write_text(f"{seen}\n", "utf-8")
        seen.draw(out / f"{name}.dot")
        made += [f"{name}.txt", f"{name}.dot"]
        try:
            seen.draw(out / f"{name}.svg")
            made.append(f"{name}.svg")
        except PlanishError as error:
            reason = str(error)
    say(f"draw       {', '.join(made)}")
    if "fused.svg" not in made:
        say(f"  no .svg: {reason}")


def next_steps(out: Path) -> str:
    """What to try next."""
    model = out / "model.safetensors"
    return "\n".join(
        [
            f"Everything is in {out}{'' if str(out).endswith('/') else '/'}. Try next:",
            f'  planish generate {model} --prompt "A class" -n 200 --slide --seed 1',
            f"  planish graph {model} --after expand --out -",
            f"  planish compare {model} --pipelines O1,O2",
            "  planish train --text YOUR.txt --steps 2000 --out yours.safetensors",
        ]
    )
