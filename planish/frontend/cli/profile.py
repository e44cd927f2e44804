"""`planish profile`: where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from planish.frontend.cli.bound import Recipe, bound, calibrate_option
from planish.frontend.cli.common import (
    File,
    examples,
    json_text,
    model_argument,
    need_folder_of,
    note,
    threads_option,
)
from planish.frontend.cli.table import show_table
from planish.frontend.pretrained import load_model
from planish.frontend.workloads import PIPELINE, WORKLOADS, Workload, workload
from planish.ir.plots import need_plot
from planish.runtime.profile import COLUMNS, Profile
from planish.runtime.roofs import machine_roof
from planish.runtime.target import Target

SECONDS = 2.0  # to spend on runs, about
RUNS = 3, 100  # at least, at most


@click.command(
    epilog=examples(
        "planish profile book.safetensors",
        "planish profile book.safetensors --workload decode --steps",
        "planish profile book.safetensors --trace trace.json --roofline roofline.svg",
    )
)
@model_argument
@click.option("--workload", "what", type=click.Choice(list(WORKLOADS)), default="prefill",
              show_default=True, help="Read a prompt, add a token, train a step.")  # fmt: skip
@click.option("--length", type=int, metavar="N",
              help="Tokens: of the prompt, before the new one, of a piece.")  # fmt: skip
@click.option("--batch", type=int, metavar="N", help="Texts at once.  [default: 1; 8 to train]")
@click.option("--steps", is_flag=True, help="A row for each step, not for each kernel.")
@click.option(
    "--trace",
    type=File,
    metavar="FILE.json",
    help="Record a run of all threads, as a trace for Perfetto.",
)
@click.option("--roofline", type=File, metavar="FILE.(svg|png|pdf)", help="Draw the kernels.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--pipeline", metavar="P", help="Passes to run.  [default: O2; train to train]")
@calibrate_option
@threads_option
def command(model: Path, what: str, length: int | None, batch: int | None, steps: bool,
            trace: Path | None, roofline: Path | None, as_json: bool, pipeline: str | None,
            calibrate: Path | None, threads: int | None) -> None:  # fmt: skip
    """Measure the time of each kernel of MODEL, and how near it is to what the machine can do.

    Layers that run the same kernel are one row. FLOPs and bytes are counted on the program; the
    roof is measured, and kept for the next time.
    """
    for path in (trace, roofline):
        if path is not None:
            need_folder_of(path)
    if roofline is not None:
        need_plot(roofline)
    made, tokenizer = load_model(model)
    passes: Recipe | None = pipeline
    if pipeline is not None or calibrate is not None:
        (passes,) = bound(made, [pipeline or PIPELINE[what]], calibrate, tokenizer, threads)
    task = workload(what, made, batch=batch, length=length, pipeline=passes, threads=threads)
    note(f"compiled in {task.seconds:.2f} s")
    found = measured(task)
    if trace is not None:
        found.trace(trace)
    if roofline is not None:
        found.roofline(roofline)
    if as_json:
        print(json_text({"model": str(model), **facts(task, found)}))
    else:
        show(task, found, steps)


def measured(task: Workload) -> Profile:
    """The profile, from as many runs as fit into some seconds."""
    roof = machine_roof(task.bound.program.threads)
    once = task.profile(1).seconds
    return task.profile(int(min(max(SECONDS / max(once, 1e-9), RUNS[0]), RUNS[1])), roof)


def facts(task: Workload, found: Profile) -> dict[str, Any]:
    """What --json prints."""
    return {
        "workload": task.name,
        "batch": task.batch,
        "length": task.length,
        "threads": found.threads,
        "cpu": Target.parse().cpu,
        "seconds": found.seconds,
        "tokens_per_second": task.tokens / found.seconds if found.seconds else None,
        "roof": found.roof.record() if found.roof else None,
        "steps": found.records(),
        "kernels": found.by_kernel().records(),
    }


def show(task: Workload, found: Profile, steps: bool) -> None:
    """Print the table."""
    chosen = found if steps else found.by_kernel()
    kept = [i for i, name in enumerate(COLUMNS) if name != "kernel"]
    title = (
        f"{task.name}: batch {task.batch}, {task.length} tokens, {found.threads} threads; "
        f"{1e3 * found.seconds:.3g} ms a run, {task.tokens / found.seconds:,.0f} tokens/s"
    )
    rows = [[cells[i] for i in kept] for cells in chosen.cells()]
    show_table(title, [COLUMNS[i] for i in kept], rows, last_is_total=True)
    print(found.roof)
