"""`planish generate`: text from a model."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from planish.frontend.cli.bound import bound, calibrate_option
from planish.frontend.cli.common import (
    File,
    examples,
    json_text,
    model_argument,
    note,
    pipeline_option,
    threads_option,
)
from planish.frontend.models.tinygpt import TinyGPT
from planish.frontend.pretrained import load_model
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.stored import fits, read_tokenizer
from planish.frontend.writing import generate_text, write
from planish.ir.errors import DataError
from planish.runtime.target import thread_count

MOST = 200  # new tokens where nobody says how many, if so many fit


@click.command(
    epilog=examples(
        'planish generate book.safetensors --prompt "Once upon" -n 50 --seed 1',
        'planish generate book.safetensors --prompt "Once upon" --temperature 0',
        'planish generate book.safetensors --prompt "Once upon" -n 1000 --slide --top-k 20',
        'planish generate book.safetensors --prompt "Once upon" --min-p 0.05 --json',
        'planish generate stories260K.bin --tokenizer tok512.bin --prompt ""',
    )
)
@model_argument
@click.option("--prompt", required=True, help="How the text begins.")
@click.option("-n", "--tokens", "count", type=int, metavar="N",
              help=f"New tokens.  [default: what fits, at most {MOST}]")  # fmt: skip
@click.option("--tokenizer", type=File, metavar="FILE",
              help="The tokenizer, where the model has none or another is wanted.")  # fmt: skip
@click.option("--temperature", type=float, default=1.0, show_default=True, metavar="T",
              help="Below 1 bolder in what is likely; 0 always takes the likeliest.")  # fmt: skip
@click.option("--top-k", type=int, metavar="K", help="Choose among the K likeliest tokens.")
@click.option("--top-p", type=float, metavar="P",
              help="Choose among the likeliest tokens that have probability P.")  # fmt: skip
@click.option("--min-p", type=float, metavar="P",
              help="Choose among tokens at least P times as likely as the likeliest.")  # fmt: skip
@click.option("--repetition-penalty", type=float, metavar="R",
              help="Above 1, tokens that are in the text already are less likely.")  # fmt: skip
@click.option("--seed", type=int, metavar="N", help="The same seed writes the same text.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this; may be repeated.")
@click.option("--slide", is_flag=True,
              help="When the context is full, go on with its last half.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, when all is written.")
@pipeline_option()
@calibrate_option
@threads_option
def command(model: Path, prompt: str, count: int | None, tokenizer: Path | None, slide: bool,
            as_json: bool, pipeline: str, calibrate: Path | None, threads: int | None,
            **settings: Any) -> None:  # fmt: skip
    """Write on from a prompt with MODEL.

    MODEL is a file of `planish train`, a folder in Hugging Face's layout, a GGUF file or a
    checkpoint of llama2.c, whose tokenizer is a file of its own. An empty prompt needs a tokenizer
    that has a start token.
    """
    made, own = load_model(model)
    words = own if tokenizer is None else read_tokenizer(tokenizer)
    if words is None:
        raise DataError(f"{model} has no tokenizer; name one with --tokenizer FILE")
    if not fits(words, made.config["vocab_size"]):
        raise DataError(
            f"the tokenizer has {len(words)} tokens, the model {made.config['vocab_size']}"
        )
    wanted = room(made, words, prompt, count, slide)
    (passes,) = bound(made, [pipeline], calibrate, words, threads)
    given = {**settings, "sliding_window": slide, "pipeline": passes, "threads": threads}
    if as_json:
        print(json_text({"model": str(model), **facts(made, words, prompt, wanted, given)}))
        return
    started = time.perf_counter()
    pieces = Pieces(prompt)
    written = generate_text(made, words, prompt, wanted, stream=pieces, **given)
    pieces("\n")
    note(f"{len(written)} characters in {time.perf_counter() - started:.1f} s with compilation")


def facts(
    model: TinyGPT, tokenizer: Tokenizer, prompt: str, count: int, given: dict[str, Any]
) -> dict[str, Any]:
    """What was written, and how fast; compiling is counted by itself."""
    started = time.perf_counter()
    generate_text(model, tokenizer, prompt, min(count, 2), **given)  # compiles both programs
    compiled = time.perf_counter()
    written = write(model, tokenizer, prompt, count, **given)
    seconds = time.perf_counter() - compiled
    return {
        "prompt": prompt, "text": written.text, "tokens": written.tokens, "seconds": seconds,
        "tokens_per_second": len(written.tokens) / seconds, "compile_seconds": compiled - started,
        "threads": thread_count(given["threads"]),
    }  # fmt: skip


class Pieces:
    """Shows pieces of text at once, and before the first one how the text begins."""

    def __init__(self, prompt: str):
        self.before = prompt

    def __call__(self, piece: str) -> None:
        """Show a piece."""
        sys.stdout.write(self.before + piece)
        sys.stdout.flush()
        self.before = ""


def room(model: TinyGPT, tokenizer: Tokenizer, prompt: str, count: int | None, slide: bool) -> int:
    """How many tokens to write: as many as are wanted, else what fits."""
    context = model.config["max_seq_len"]
    left = context - len(tokenizer.prompt(prompt))
    if count is None:
        return MOST if slide else min(MOST, max(left, 1))
    if count > left >= 0 and not slide:
        raise DataError(
            f"the context of {context} has room for {left} more tokens, not for {count}; "
            "--slide goes on with the last half of it"
        )
    return count
