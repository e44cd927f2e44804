"""`planish compile`: a model as a program that runs without compiling anything."""

from __future__ import annotations

from pathlib import Path

import click

from planish.frontend.api import compile as compiled
from planish.frontend.cli.common import (
    File,
    examples,
    model_argument,
    need_folder_of,
    pipeline_option,
)
from planish.frontend.compiled import KINDS
from planish.frontend.pretrained import load_model
from planish.frontend.trace import spec
from planish.ir.dims import Dim


@click.command(
    epilog=examples(
        "planish compile book.safetensors -o book.so",
        "planish compile book.safetensors -o book.so --pipeline int8 --target x86-64-v3",
        "planish inspect book.so",
    )
)
@model_argument
@click.option("-o", "--out", type=File, required=True, metavar="FILE.so", help="The library.")
@pipeline_option()
@click.option("--target", metavar="CPU", help="The processor to compile for.  [default: this one]")
@click.option("--of", "what", type=click.Choice(["last", "all"]), default="last", show_default=True,
              help="The logits of the last token, or of all.")  # fmt: skip
def command(model: Path, out: Path, pipeline: str, target: str | None, what: str) -> None:
    """Compile MODEL into a shared library, with its weights.

    It takes tokens i32 [B, T] and returns logits; Python runs it with pl.load(FILE), without LLVM.
    """
    if out.suffix not in KINDS:
        raise click.UsageError(f"{out}: programs are written as {', '.join(KINDS)}")
    need_folder_of(out)
    loaded, _ = load_model(model)
    length = Dim("T", max=loaded.config["max_seq_len"])
    function = loaded.last_logits if what == "last" else loaded
    program = compiled(function, spec(("B", length), "i32"), pipeline=pipeline, target=target)
    program.save(out)
    print(f"{out}: {out.stat().st_size:,} bytes, for {program.target.cpu} ({program.target})")
