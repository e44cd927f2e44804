"""Losses of a training with products of bf16 beside those of one in float32.

    python benchmarks/loss_curves.py --text tinyshakespeare.txt [--out docs/loss-curves.svg]
        [--preset nano] [--steps 2000] [--seed 0] [--every 250] [--threads 2]

Both begin with the same weights and see the same batches, so what differs is rounding. Prints the
losses on the last tenth of the text, which neither has seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from plot import new_figure, save

import planish as pl
from planish.frontend.cli.train import prepared, trainer_for
from planish.frontend.presets import PRESETS

PIPELINES = {"float32": "train", "bf16": "train_bf16"}
SMOOTH = 50  # steps that a drawn loss is the mean of


def trained(options: argparse.Namespace, pipeline: str) -> pl.Trainer:
    """A finished training."""
    sizes = PRESETS[options.preset]
    tokenizer, learnt, held = prepared(options.text.read_text("utf-8"), sizes.context)
    trainer = trainer_for(
        sizes, tokenizer, options.steps, options.seed, threads=options.threads, pipeline=pipeline
    )
    trainer.fit(learnt, options.steps, validation=held, evaluate_every=options.every)
    return trainer


def means(losses: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the mean loss of those around each."""
    count = len(losses) // SMOOTH
    found = np.reshape(losses[: count * SMOOTH], (count, SMOOTH)).mean(1)
    return (np.arange(count) + 0.5) * SMOOTH, found


def draw(found: dict[str, pl.Trainer], title: str, out: Path) -> None:
    """Losses above, below the difference of those in bf16 and those in float32, step by step."""
    figure, (above, below) = new_figure(
        nrows=2, sharex=True, height_ratios=(3, 1), figsize=(7, 4.5)
    )
    for (name, trainer), style in zip(found.items(), ("-", "--"), strict=True):
        (line,) = above.plot(*means(trainer.losses), style, lw=1.2, label=f"{name}, training")
        steps, losses = zip(*trainer.evaluations, strict=True)
        above.plot(
            steps, losses, "o" if style == "-" else "x", color=line.get_color(), ms=5,
            label=f"{name}, validation: {losses[-1]:.4f} in the end",
        )  # fmt: skip
    wide, narrow = (np.array(trainer.losses) for trainer in found.values())
    below.plot(np.arange(len(wide)) + 1, narrow - wide, lw=0.4)
    above.set(ylabel=f"loss, means of {SMOOTH} steps", title=title)
    below.set(xlabel="step", ylabel="difference")
    above.legend()
    save(figure, out)


def main() -> None:
    """Train twice, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/loss-curves.svg"))
    parser.add_argument("--preset", choices=list(PRESETS), default="nano")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=250, help="steps between evaluations")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    found = {}
    for name, pipeline in PIPELINES.items():
        found[name] = trained(options, pipeline)
        last = np.mean(found[name].losses[-SMOOTH:])
        held = found[name].evaluations[-1][1]
        print(f"{name:8} training {last:.4f}   validation {held:.4f}", flush=True)
    draw(found, f"{options.preset}, {options.text.stem}, {options.steps:,} steps", options.out)


if __name__ == "__main__":
    main()
