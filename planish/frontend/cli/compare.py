"""`planish compare`: pipelines side by side, measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from planish.frontend.api import compare
from planish.frontend.cli.bound import Recipe, bound, calibrate_option
from planish.frontend.cli.common import (
    File,
    examples,
    json_text,
    model_argument,
    need_folder_of,
    threads_option,
)
from planish.frontend.cli.recipes import named
from planish.frontend.data import check_length
from planish.frontend.models.tinygpt import TinyGPT
from planish.frontend.perplexity import perplexity
from planish.frontend.pretrained import load_model
from planish.frontend.text import read_text
from planish.frontend.trace import trace
from planish.ir.errors import DataError
from planish.ir.plots import need_plot
from planish.passes.pipelines import pipeline
from planish.passes.reports import KINDS, Reports, reports
from planish.runtime.target import Target, thread_count

PIECES = 64  # of the text, each as long as the context, from which perplexity is measured


@click.command(
    epilog=examples(
        "planish compare book.safetensors --pipelines O0,O1,O2",
        "planish compare book.safetensors --pipelines O0,O2 --text book.txt --json",
        "planish compare book.safetensors --pipelines 'O0; simplify,cse,expand,fuse'",
        "planish compare book.safetensors --pipelines O2,int8 --text book.txt --layers",
    )
)
@model_argument
@click.option("--pipelines", default="O0,O1,O2", show_default=True, metavar="P,P",
              help="Names of pipelines, or a list of passes; ';' between lists.")  # fmt: skip
@click.option("--text", type=File, help="Measure the perplexity on this text too.")
@calibrate_option
@click.option("--layers", is_flag=True,
              help="Show what became of each weight, and why.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0), default=1.0, show_default=True, metavar="S",
              help="Time to spend on measuring.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", type=File, metavar="FILE.(png|svg)", help="Draw the table.")
@threads_option
def command(model: Path, pipelines: str, text: Path | None, calibrate: Path | None, layers: bool,
            seconds: float, as_json: bool, plot: Path | None,
            threads: int | None) -> None:  # fmt: skip
    """Compare pipelines on MODEL: nodes, kernels, bytes, memory, times, and the largest error.

    The input is one text of the model's context. Programs take turns; times are medians. Errors are
    relative to the interpreter in float64.
    """
    if plot is not None:
        need_folder_of(need_plot(plot))
    made, tokenizer = load_model(model)
    names = bound(made, named(pipelines), calibrate, tokenizer, threads, "--pipelines")
    context, vocab = made.config["max_seq_len"], made.config["vocab_size"]
    tokens = np.random.default_rng(0).integers(0, vocab, (1, context)).astype(np.int32)
    judge = None
    if text is not None:
        if tokenizer is None:
            raise DataError(f"{model} has no tokenizer, so it cannot read {text}")
        words = tokenizer.encode(read_text(text))
        check_length(words, context, str(text))
        tokens, judge = words[:context].reshape(1, -1), perplexity_on(words, context)
    table = compare(made, names, tokens, threads=threads, seconds=seconds, perplexity=judge)
    if plot is not None:
        table.plot(plot)
    found = {str(name): layers_of(made, tokens, name) for name in names} if layers else {}
    if not as_json:
        print(table)
        for name, seen in found.items():
            print(f"\n{name}\n{seen}")
        return
    facts = {
        "model": str(model),
        "input": list(tokens.shape),
        "threads": thread_count(threads),
        "cpu": Target.parse().cpu,
        "rows": table.records(),
    }
    for kind in KINDS if layers else ():
        facts[kind] = {name: seen.records()[kind] for name, seen in found.items()}
    print(json_text(facts))


def layers_of(model: TinyGPT, tokens: np.ndarray, name: Recipe) -> Reports:
    """What a pipeline makes of the weights."""
    return reports(trace(model, tokens), pipeline(name))


def perplexity_on(tokens: np.ndarray, context: int) -> Callable[[Any], float]:
    """A judge of programs: exp of the mean loss over the beginning of a text."""
    some = tokens[: PIECES * context + 1]
    return lambda program: perplexity(program, some)
