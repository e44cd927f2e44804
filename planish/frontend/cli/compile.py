"""`planish compile`: a model as a file that runs without compiling anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from planish.frontend.api import compile as compiled
from planish.frontend.bundle import TARGETS, save_bundle
from planish.frontend.cli.bound import Recipe, bound, calibrate_option
from planish.frontend.cli.common import (
    File,
    examples,
    model_argument,
    need_folder_of,
    pipeline_option,
)
from planish.frontend.compiled import BUNDLE
from planish.frontend.generate import Generator
from planish.frontend.models.tinygpt import TinyGPT
from planish.frontend.optim import AdamW
from planish.frontend.pretrained import load_model
from planish.frontend.sampling import OPTIONS
from planish.frontend.ship import EMITS, MULTI, WEIGHTS
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.stored import read_tokenizer
from planish.frontend.trace import spec, trace
from planish.frontend.training import Trainer
from planish.ir.dims import Dim
from planish.ir.graph import Graph
from planish.runtime.artifact import level_name

ENDS = {**EMITS, "bundle": BUNDLE}
PREFIX = "planish_"
BATCH = 12
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
              help=f"Rows of a step of training.  [default: {BATCH}]")  # fmt: skip
def command(
    model: Path, out: Path, emit: str | None, pipeline: str, calibrate: Path | None,
    target: str | None, tokenizer: Path | None, weights: str, prefix: str, what: str | None,
    batch: int | None,
) -> None:  # fmt: skip
    """Compile MODEL into what runs without Python: prompt, cached decoding and sampling.

    The C header beside it says how to call it; Python runs a library with pl.load(FILE), without
    LLVM. With --of last or all, and in a bundle, the program is for Python only: tokens i32 [B, T]
    to logits. With --of step it is a library that trains, by AdamW, from the weights in MODEL on;
    the pipeline is then "train" unless said.
    """
    path = named(out, emit)
    need_folder_of(path)
    is_bundle = path.suffix == BUNDLE
    what = what or ("last" if is_bundle else "tokens")
    if batch is not None and what != "step":
        raise click.UsageError("--batch is for --of step")
    if what != "tokens" and not is_bundle and target and (target == MULTI or "," in target):
        raise click.UsageError(f"--of {what} is for one processor; a bundle is for several")
    if what == "step":
        if tokenizer or calibrate:
            raise click.UsageError(
                "--tokenizer and --calibrate are for what writes text, not for --of step"
            )
        save_step(model, path, pipeline, target, weights, prefix, batch or BATCH)
        return
    if what != "tokens" and path.suffix not in (BUNDLE, EMITS["so"]):
        raise click.UsageError(f"--of {what} makes a library (.so) or a bundle, not {path.name}")
    if is_bundle and what == "tokens":
        raise click.UsageError("a bundle holds programs for Python: --of last or --of all")
    if what != "tokens" and (tokenizer or weights != WEIGHTS[0] or prefix != PREFIX):
        raise click.UsageError(
            f"--tokenizer, --weights and --prefix are for what writes text, not for --of {what}"
        )
    loaded, own = load_model(model)
    words = tokenizer_for(own, tokenizer)
    (passes,) = bound(loaded, [pipeline], calibrate, words or own)
    if is_bundle:
        save_bundles(loaded, path, passes, target, what)
        return
    if what == "tokens":
        maker = Generator(loaded, passes, options=tuple(OPTIONS))
        levels = maker.save(path, words, weights, prefix, target)
    else:
        levels = (save_logits(loaded, path, passes, target, what),)
    print(written(path, levels))


def tokenizer_for(own: Tokenizer | None, named: Path | None) -> Tokenizer | None:
    """The one that a file is to hold, of the model's own and the one that is named."""
    if named is None:
        return own
    return None if named == NO_TOKENIZER else read_tokenizer(named)


def written(path: Path, levels: Sequence[str]) -> str:
    """What is told of a file."""
    return f"{path}: {path.stat().st_size:,} bytes, for {', '.join(levels)}"


def save_step(
    model: Path, path: Path, pipeline: str, target: str | None, weights: str, prefix: str,
    batch: int,
) -> None:  # fmt: skip
    """Write a step of training, with the settings of `planish train`."""
    said = click.get_current_context().get_parameter_source("pipeline")
    passes = "train" if said is ParameterSource.DEFAULT else pipeline
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
    return out if out.suffix else out.with_name(out.name + suffix)


def save_logits(model: TinyGPT, path: Path, pipeline: Recipe, target: str | None, what: str) -> str:
    """Write the program that returns logits; the processor that it is for."""
    program = compiled(logits_graph(model, what), pipeline=pipeline, target=target)
    program.save(path)
    return level_name(program.target)


def save_bundles(
    model: TinyGPT, path: Path, pipeline: Recipe, targets: str | None, what: str
) -> None:
    """Write programs that return logits, one for each processor."""
    names = targets.split(",") if targets not in (None, MULTI) else TARGETS
    save_bundle(logits_graph(model, what), path, pipeline, names)
    print(written(path, names))


def logits_graph(model: TinyGPT, what: str) -> Graph:
    """From tokens i32 [B, T] to logits, of the last token or of all."""
    length = Dim("T", max=model.config["max_seq_len"])
    return trace(model.last_logits if what == "last" else model, spec(("B", length), "i32"))
