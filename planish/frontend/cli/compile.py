"""`planish compile`: a model as a file that runs without compiling anything."""

from __future__ import annotations

from pathlib import Path

import click

from planish.frontend.cli.bound import bound, calibrate_option
from planish.frontend.cli.common import (
    File,
    examples,
    model_argument,
    need_folder_of,
    pipeline_option,
)
from planish.frontend.cli.functions import (
    for_c,
    limited,
    logits_graph,
    save_code,
    stored_graph,
    was_said,
    written,
)
from planish.frontend.compiled import BUNDLE
from planish.frontend.generate import Generator
from planish.frontend.optim import AdamW
from planish.frontend.pretrained import load_model
from planish.frontend.sampling import OPTIONS
from planish.frontend.ship import EMITS, MULTI, WEIGHTS
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.stored import read_tokenizer
from planish.frontend.training import Trainer
from planish.runtime.artifact import level_name

ENDS = {**EMITS, "bundle": BUNDLE}
PREFIX = "planish_"
BATCH = 12
OPTIONS_OF = {"what": "--of", "tokenizer": "--tokenizer", "calibrate": "--calibrate"}
NO_TOKENIZER = Path("none")


@click.command(
    epilog=examples(
        "planish compile book.safetensors -o book --emit so",
        "planish compile book.safetensors -o book --emit exe && ./book 'Once upon' -n 50",
        "planish compile book.safetensors -o book.so --pipeline int8 --target x86-64-v3",
        "planish compile book.safetensors -o book.so --pipeline auto --calibrate book.txt",
        "planish compile book.safetensors -o book --emit exe --target multi",
        "planish compile book.safetensors -o book.so --weights file",
        "planish compile book.safetensors -o logits.so --of last",
        "planish compile book.safetensors -o logits.so --of last --prefix logits_ --batch 4",
        "planish compile small.safetensors -o f.so --prefix f_ --batch 4",
        "planish compile book.safetensors -o logits.bundle --target x86-64-v3,x86-64-v4",
        "planish compile book.safetensors -o step.so --of step --batch 16",
        "planish inspect book.so",
    )
)
@model_argument
@click.option("-o", "--out", type=File, required=True, metavar="NAME", help="What to write.")
@click.option("--emit", type=click.Choice(list(ENDS)),
              help="Library, program, object file, C header, or code for several processors in one "
              "file.  [default: by NAME]")  # fmt: skip
@pipeline_option()
@calibrate_option
@click.option("--target", metavar="CPU[,CPU...]",
              help="The processor to compile for, or several in one file, last preferred; multi: "
              "some levels of x86-64.  [default: this one; multi for a bundle]")  # fmt: skip
@click.option("--tokenizer", type=File, metavar="FILE",
              help="The tokenizer, where the model has none or another is wanted; none: leave "
              "it out.")  # fmt: skip
@click.option("--weights", type=click.Choice(WEIGHTS), default="embed", show_default=True,
              help="Inside, or in NAME.weights beside it.")  # fmt: skip
@click.option("--prefix", default=PREFIX, show_default=True,
              help="How names of C begin; two models in one program need two.")  # fmt: skip
@click.option("--of", "what", type=click.Choice(["tokens", "last", "all", "step"]),
              help="Tokens, or the logits of the last token, or of all, or a step of training.  "
              "[default: tokens; last for a bundle]")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), metavar="N",
              help="Rows of a step of training, or the most of a program in C.  "
              f"[default: {BATCH} or 1]")  # fmt: skip
def command(
    model: Path, out: Path, emit: str | None, pipeline: str, calibrate: Path | None,
    target: str | None, tokenizer: Path | None, weights: str, prefix: str, what: str | None,
    batch: int | None,
) -> None:  # fmt: skip
    """Compile MODEL into what runs without Python: prompt, cached decoding and sampling.

    The C header beside it says how to call it; Python runs a library with pl.load(FILE), without
    LLVM. With --of last or all, and in a bundle, the program is for Python, with --prefix for C:
    tokens i32 [B, T] to logits. So it is where MODEL is a graph of pl.save_graph or compress --out;
    --batch is then the most of what has no maximum. With --of step it is a library that trains, by
    AdamW, from the weights in MODEL on; the pipeline is then "train" unless said.
    """
    path = named(out, emit)
    need_folder_of(path)
    if (graph := stored_graph(model)) is not None:
        for option in OPTIONS_OF:
            if was_said(option):
                raise click.UsageError(f"{model} is a graph: {OPTIONS_OF[option]} is for models")
        if path.suffix != BUNDLE and for_c(path):
            graph = limited(graph, batch or 1)
        elif batch is not None:
            raise click.UsageError("--batch is for C: give --prefix, too")
        save_code(graph, path, pipeline, target, weights, prefix)
        return
    what = what or ("last" if path.suffix == BUNDLE else "tokens")
    if what != "tokens" and tokenizer:
        raise click.UsageError(f"--tokenizer is for what writes text, not for --of {what}")
    if what == "step":
        if calibrate:
            raise click.UsageError("--calibrate is for what reads a prompt, not for --of step")
        if target and (target == MULTI or "," in target):
            raise click.UsageError("--of step is for one processor; a bundle is for several")
        save_step(model, path, pipeline, target, weights, prefix, batch or BATCH)
        return
    rows = (batch or 1) if what != "tokens" and path.suffix != BUNDLE and for_c(path) else None
    if batch is not None and rows is None:
        raise click.UsageError("--batch is for --of step, and for --of last and all in C")
    if what == "tokens" and path.suffix == BUNDLE:
        raise click.UsageError("a bundle holds programs for Python: --of last or --of all")
    loaded, own = load_model(model)
    words = tokenizer_for(own, tokenizer)
    (passes,) = bound(loaded, [pipeline], calibrate, words or own)
    if what != "tokens":
        save_code(logits_graph(loaded, what, rows), path, passes, target, weights, prefix)
        return
    maker = Generator(loaded, passes, options=tuple(OPTIONS))
    print(written(path, maker.save(path, words, weights, prefix, target)))


def tokenizer_for(own: Tokenizer | None, named: Path | None) -> Tokenizer | None:
    """The one that a file is to hold, of the model's own and the one that is named."""
    if named is None:
        return own
    return None if named == NO_TOKENIZER else read_tokenizer(named)


def save_step(
    model: Path, path: Path, pipeline: str, target: str | None, weights: str, prefix: str,
    batch: int,
) -> None:  # fmt: skip
    """Write a step of training, with the settings of `planish train`."""
    passes = pipeline if was_said("pipeline") else "train"
    loaded, words = load_model(model)
    optimizer = AdamW(betas=(0.9, 0.99), weight_decay=0.1)
    trainer = Trainer(loaded, optimizer, batch=batch, tokenizer=words, pipeline=passes)
    machine = trainer.save_step(path, weights, prefix, target)
    print(written(path, [level_name(machine)]))


def named(out: Path, emit: str | None) -> Path:
    """The file to write: what is emitted gives a name without a suffix its own."""
    suffix = out.suffix if emit is None else ENDS[emit]
    if suffix not in ENDS.values() or out.suffix not in ("", suffix):
        known = ", ".join(f"{name} ({end or 'no suffix'})" for name, end in ENDS.items())
        raise click.UsageError(f"{out}: --emit and the end of the name are one of {known}")
    if out.suffix or out.name in ("", ".."):  # these are folders, in which is no name to write
        return out
    return out.with_name(out.name + suffix)
