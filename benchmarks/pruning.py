"""What pruning costs and gains on a trained model, each variant trained on for as many steps.

    python benchmarks/pruning.py MODEL --text tinyshakespeare.txt --out FOLDER [--steps 800]
        [--variants base,sparse,structured] [--only train|measure] [--json out.json]

    base        the model, trained on: what the others are compared with
    sparse      70 % of the single weights, more and more while it is trained
    structured  half of the MLP's channels and a third of the heads, at once, by Taylor's score

All begin with the same weights, see the same batches, and keep the weights with the lowest loss on
the last tenth of the text, on which perplexity is measured, too. FOLDER keeps them, so that
`--only measure` times what `--only train` has made. Programs take turns while they are timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

import planish as pl
from planish.frontend.checkpoint import load, read_file
from planish.frontend.compress import disk_bytes, stored
from planish.frontend.workloads import Workload, workload

RATIO, SKIP = 0.7, "wpe"  # positions are too few numbers to gain anything
SHARES = {"heads": 1 / 3, "channels": 0.5}
RECIPES = {
    "base": ("O2", "int8"), "sparse": ("O2", "sparse", "sparse_int8"), "structured": ("O2", "int8"),
}  # fmt: skip
SEEN = 64  # contexts of text by which heads and channels are ranked
LOOKS = 8  # evaluations while training
TURNS, SECONDS = 8, 0.15  # of timing, for each program


class Best:
    """Keeps the weights with the lowest loss on a text; called after each step of a training."""

    def __init__(self, text: np.ndarray, steps: int, after: int, path: Path, rest: Callable):
        self.text, self.path, self.rest = text, path, rest
        self.every, self.after, self.lowest = max(1, steps // LOOKS), after, np.inf

    def __call__(self, trainer: pl.Trainer) -> None:
        """Prune if there is something to prune, then look."""
        self.rest(trainer)
        if trainer.steps % self.every == 0 and trainer.steps >= self.after:
            loss = trainer.evaluate(self.text)
            if loss < self.lowest:
                self.lowest = loss
                pl.save(trainer.model, self.path, trainer.tokenizer)
            note(f"{self.path.stem}: {trainer.steps} steps, validation loss {loss:.4f}")


def trained(name: str, options: argparse.Namespace, path: Path) -> None:
    """Make a variant and train it on."""
    file, steps = read_file(options.model), options.steps
    model, tokenizer = load(pl.TinyGPT, file, dropout=options.dropout), file.tokenizer
    learnt, held = split(tokenizer, options.text)
    prune, after = (lambda trainer: None), 0
    if name == "sparse":
        after = steps * 5 // 8
        prune = pl.Gradual(RATIO, 0, after, max(1, steps // 40), skip=SKIP)
    if name == "structured":
        seen = learnt[: SEEN * model.config["max_seq_len"]]
        model = pl.prune(model, method="taylor", tokens=seen, **SHARES)
    schedule = pl.optim.cosine(options.rate, options.rate / 10, steps // 20, steps)
    optimizer = pl.optim.AdamW(
        lr=options.rate, betas=(0.9, 0.99), weight_decay=0.1, keep_zeros=name == "sparse"
    )
    trainer = pl.Trainer(
        model, optimizer, schedule, batch=options.batch, seed=options.seed, tokenizer=tokenizer,
        pipeline="train_bf16", threads=options.threads,
    )  # fmt: skip
    note(f"{name}: {model.count_parameters():,} parameters, {steps} steps")
    trainer.fit(learnt, steps, on_step=Best(held, steps, after, path, prune))


def split(tokenizer: pl.CharTokenizer, text: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first nine tenths of a text, and the last, as tokens."""
    ids = np.asarray(tokenizer.encode(text.read_text("utf-8")), np.int32)
    return np.split(ids, [len(ids) * 9 // 10])


def measured(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """A row for each variant and recipe."""
    cases = [(name, recipe) for name in options.variants for recipe in RECIPES[name]]
    files = {name: read_file(folder / f"{name}.safetensors") for name in options.variants}
    models = {name: load(pl.TinyGPT, file, dropout=0.0) for name, file in files.items()}
    _, held = split(next(iter(files.values())).tokenizer, options.text)
    loads: list[Workload] = []
    for name, recipe in cases:
        note(f"{name} {recipe}: compiling")
        made = {"pipeline": recipe, "threads": options.threads}
        loads += [workload(what, models[name], **made) for what in ("prefill", "decode")]
    times = in_turns(loads)
    for at, (name, recipe) in enumerate(cases):
        note(f"{name} {recipe}: perplexity")
        prefill, decode = times[2 * at : 2 * at + 2]
        yield {
            "variant": name,
            "recipe": recipe,
            "bytes": disk_bytes(stored(models[name], pl.PIPELINES[recipe])),
            "prefill_ms": prefill,
            "decode_ms": decode,
            "perplexity": pl.perplexity(models[name], held, pipeline=recipe),
        }


def in_turns(loads: list[Workload]) -> list[float]:
    """The median time of a run of each, in ms. A turn is many runs, as caches are warm in use."""
    found: list[list[float]] = [[] for _ in loads]
    for _ in range(TURNS):
        for job, times in zip(loads, found, strict=True):
            end = time.perf_counter() + SECONDS
            mine: list[float] = []
            while len(mine) < 3 or time.perf_counter() < end:
                if job.reset is not None:
                    job.reset()
                started = time.perf_counter()
                job.bound.run()
                mine.append(1e3 * (time.perf_counter() - started))
            times += mine[1:]
    return [median(times) for times in found]


def show(rows: list[dict]) -> None:
    """Print a table; ratios are to the first row."""
    first = rows[0]
    print(
        f"{'variant':12}{'recipe':14}{'bytes':>12}{'ratio':>8}{'prefill ms':>12}{'times':>7}"
        f"{'decode ms':>11}{'times':>7}{'perplexity':>12}{'ratio':>8}"
    )
    for x in rows:
        size, judged = (x[k] / first[k] for k in ("bytes", "perplexity"))
        faster = [first[k] / x[k] for k in ("prefill_ms", "decode_ms")]
        print(
            f"{x['variant']:12}{x['recipe']:14}{x['bytes']:12,}{size:8.3f}{x['prefill_ms']:12.3f}"
            f"{faster[0]:7.2f}{x['decode_ms']:11.4f}{faster[1]:7.2f}{x['perplexity']:12.4f}"
            f"{judged:8.4f}"
        )


def note(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the variants")
    parser.add_argument("--variants", type=lambda x: x.split(","), default=[*RECIPES])
    parser.add_argument("--only", choices=("train", "measure"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := [x for x in options.variants if x not in RECIPES]:
        parser.error(f"unknown variant {unknown[0]!r}; known are {', '.join(RECIPES)}")
    return options


def main() -> None:
    """Train, measure, print, write."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only != "measure":
        for name in options.variants:
            trained(name, options, options.out / f"{name}.safetensors")
    if options.only != "train":
        rows = list(measured(options, options.out))
        show(rows)
        if options.json:
            facts = {"steps": options.steps, "batch": options.batch, "rate": options.rate}
            options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
