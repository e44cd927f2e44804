"""`planish train`: a model from a text."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from planish.frontend.checkpoint import read_file
from planish.frontend.cli.common import File, examples, need_folder_of, note, threads_option
from planish.frontend.data import check_length, split
from planish.frontend.optim import AdamW, cosine
from planish.frontend.presets import PRESETS, Preset
from planish.frontend.text import CharTokenizer, default_corpus, read_text
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.bpe import BytePairTokenizer
from planish.frontend.training import Trainer
from planish.ir.errors import DataError
from planish.ir.plots import need_plot

VOCAB = 512  # byte pairs where nobody says how many
WARMUP = 100  # steps, or a tenth of them where there are few
OPTIONS = (
    ("--width", int, "Width of the model.", "width"),
    ("--layers", int, "Number of layers.", "layers"),
    ("--heads", int, "Heads of a layer; they divide the width.", "heads"),
    ("--context", int, "Tokens that the model sees at once.", "context"),
    ("--batch", int, "Pieces of text in a step.", "batch"),
    ("--lr", float, "Highest learning rate; it falls to a tenth.", "lr"),
    ("--dropout", float, "Rate of dropout.", "dropout"),
)


def preset_options(function: Any) -> Any:
    """Options that change a preset."""
    for option, kind, text, name in reversed(OPTIONS):
        known = " / ".join(f"{getattr(p, name):g}" for p in PRESETS.values())
        text = f"{text}  [default: {known}]"
        function = click.option(option, type=kind, help=text, metavar="N")(function)
    return function


@click.command(
    epilog=examples(
        "planish train --steps 500 --out words.safetensors",
        "planish train --text book.txt --steps 5000 --preset baby --out book.safetensors",
        "planish train --text book.txt --steps 9000 --preset baby --out book.safetensors --resume",
        "planish train --text book.txt --tokenizer bpe --vocab 1000 --out book.safetensors",
    )
)
@click.option("--text", type=File, help="Text to learn, UTF-8.  [default: Python's own help pages]")
@click.option("--steps", type=click.IntRange(0), default=2000, show_default=True, metavar="N",
              help="Steps in all, those before --resume included.")  # fmt: skip
@click.option("--out", type=File, required=True, metavar="MODEL.safetensors",
              help="Where the model is written; an old file is replaced.")  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), default="nano", show_default=True,
              help="Sizes, which the next options change (nano / baby / gpt2).")  # fmt: skip
@preset_options
@click.option("--tokenizer", "kind", type=click.Choice(["char", "bpe"]), default="char",
              show_default=True,
              help="Tokens: characters, or byte pairs learnt from the text.")  # fmt: skip
@click.option("--vocab", type=int, metavar="N",
              help=f"Tokens of byte pairs, 256 at least.  [default: {VOCAB}]")  # fmt: skip
@click.option("--accumulate", type=click.IntRange(1), default=1, metavar="N", show_default=True,
              help="Batches of a step: one update by the mean of N of them.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Decides weights and batches.")
@click.option("--resume", is_flag=True, help="Go on with the training in --out.")
@click.option("--evaluate-every", type=click.IntRange(0), default=0, metavar="N",
              help="Also measure and tell the validation loss every N steps.")  # fmt: skip
@click.option("--checkpoint-every", type=click.IntRange(0), default=500, show_default=True,
              metavar="N", help="Write --out every N steps.")  # fmt: skip
@click.option("--errors", type=click.Choice(["strict", "replace", "ignore"]), default="strict",
              help="What to do with bytes that are not UTF-8.  [default: strict]")  # fmt: skip
@click.option("--plot", type=File, metavar="FILE.(png|svg)", help="Draw the losses.")
@click.option("--bf16", is_flag=True,
              help="Multiply in bf16: faster where the CPU can. Weights stay float32.")  # fmt: skip
@threads_option
def command(text: Path | None, steps: int, out: Path, preset: str, seed: int, resume: bool,
            evaluate_every: int, checkpoint_every: int, errors: str, plot: Path | None,
            bf16: bool, threads: int | None, accumulate: int, kind: str, vocab: int | None,
            **changes: Any) -> None:  # fmt: skip
    """Train a TinyGPT on a text, by characters or by byte pairs.

    The last tenth of the text is kept apart for validation. Ctrl-C saves what has been learnt.
    """
    need_folder_of(out)
    if plot is not None:
        need_folder_of(need_plot(plot))
    if vocab is not None and kind != "bpe":
        raise click.UsageError("--vocab goes with --tokenizer bpe")
    words = default_corpus() if text is None else read_text(text, errors)
    sizes = replace(PRESETS[preset], **{n: x for n, x in changes.items() if x is not None})
    pairs = (VOCAB if vocab is None else vocab) if kind == "bpe" else None
    tokenizer, learnt, held = prepared(words, sizes.context, pairs)
    pipeline = "train_bf16" if bf16 else "train"
    options = {"pipeline": pipeline, "threads": threads, "accumulate": accumulate}
    trainer = trainer_for(sizes, tokenizer, steps, seed, **options)
    if resume:
        refuse_other_tokens(out, tokenizer)
        trainer.resume(out)
    before, left = trainer.steps, steps - trainer.steps
    if left < 0:
        raise DataError(f"{out} has had {before} steps already, --steps is {steps}")
    note(f"{trainer.model!r}\n{len(words):,} characters, {tokenizer!r}")
    started = time.perf_counter()
    try:
        trainer.fit(learnt, left, validation=held, evaluate_every=evaluate_every, checkpoint=out,
                    checkpoint_every=checkpoint_every,
                    on_evaluate=told if evaluate_every else None)  # fmt: skip
    except KeyboardInterrupt:
        if trainer.steps > before:
            note(f"{out} has had {trainer.steps} steps; --resume goes on")
        raise
    spent = time.perf_counter() - started
    if left == 0:
        trainer.save(out)
    if plot is not None:
        trainer.plot(plot)
    print(summary(trainer, left, spent, out))


def prepared(
    words: str, context: int, pairs: int | None = None
) -> tuple[Tokenizer, np.ndarray, np.ndarray]:
    """The tokenizer of a text, and its tokens: nine tenths to learn, one for validation.

    Tokens are characters, or `pairs` byte pairs, which come from the first nine tenths, too.
    """
    tokenizer: Tokenizer = CharTokenizer.from_text(words)
    if len(tokenizer) < 2:
        raise DataError(f"the text repeats one character, {words[0]!r}: nothing to learn")
    if pairs is not None:
        tokenizer = BytePairTokenizer.train(words[: len(words) * 9 // 10], pairs)
    learnt, held = split(tokenizer.encode(words))
    check_length(learnt, context, "the first nine tenths of the text")
    return tokenizer, learnt, held


def trainer_for(
    sizes: Preset, tokenizer: Tokenizer, steps: int, seed: int, **options: Any
) -> Trainer:
    """A trainer with nanoGPT's settings."""
    optimizer = AdamW(lr=sizes.lr, betas=(0.9, 0.99), weight_decay=0.1)
    schedule = cosine(sizes.lr, sizes.lr / 10, min(WARMUP, steps // 10), max(steps, 1))
    return Trainer(
        sizes.model(len(tokenizer), seed), optimizer, schedule, batch=sizes.batch, seed=seed,
        tokenizer=tokenizer, **options,
    )  # fmt: skip


def refuse_other_tokens(out: Path, tokenizer: Tokenizer) -> None:
    """A training goes on only with the tokens it began with."""
    found = read_file(out).tokenizer
    if found is not None and found != tokenizer:
        raise DataError(f"{out} was trained with other tokens")


def told(trainer: Trainer) -> None:
    """Tell how far the training is, on standard error."""
    step, held = trainer.evaluations[-1]
    loss = np.mean(trainer.losses[-50:])
    print(f"step {step:,}: loss {loss:.4f}, validation {held:.4f}", file=sys.stderr, flush=True)


def summary(trainer: Trainer, steps: int, seconds: float, out: Path) -> str:
    """What has been done, in two lines."""
    speed = f", {steps / trainer.seconds:.1f} steps/s" if steps else ""
    told = f"{steps} steps in {seconds:.1f} s{speed}"
    if trainer.losses:
        told += f"; loss {np.mean(trainer.losses[-50:]):.4f}"
    if trainer.evaluations:
        told += f", validation {trainer.evaluations[-1][1]:.4f}"
    count = trainer.model.count_parameters()
    return f"{told}\n{out}: {out.stat().st_size:,} bytes, {count:,} parameters"
