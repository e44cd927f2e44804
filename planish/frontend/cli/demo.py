"""`planish demo`: the whole story."""

from __future__ import annotations

from pathlib import Path

import click

from planish.frontend.cli.common import File, examples, threads_option
from planish.frontend.demo import demo


@click.command(epilog=examples("planish demo", "planish demo --out /tmp/demo --steps 1000"))
@click.option("--out", type=File, default="planish-demo", show_default=True, metavar="FOLDER",
              help="Where files go; those of an earlier demo are replaced.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), metavar="N",
              help="Steps to train.  [default: what takes about 24 seconds]")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Decides weights and text.")
@threads_option
def command(out: Path, steps: int | None, seed: int, threads: int | None) -> None:
    """Train a small GPT on Python's own help pages, compile it, let it write, compare and draw."""
    if out.exists() and not out.is_dir():
        raise click.UsageError(f"{out} is a file, not a folder")
    demo(out, steps=steps, seed=seed, threads=threads, say=click.echo)
