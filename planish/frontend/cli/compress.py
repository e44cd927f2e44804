"""`planish compress`: recipes side by side, how small, how fast and how accurate."""

from __future__ import annotations

from pathlib import Path

import click

from planish.frontend.auto import BUDGET, considered
from planish.frontend.cli.common import (
    File,
    examples,
    json_text,
    model_argument,
    need_folder_of,
    threads_option,
)
from planish.frontend.cli.functions import was_said
from planish.frontend.cli.recipes import AUTO, named
from planish.frontend.compress import compress
from planish.frontend.judge import halves
from planish.frontend.pretrained import load_model
from planish.frontend.quantize import stored, weight_reports
from planish.frontend.sensitivity import sensitivity
from planish.frontend.text import read_text
from planish.ir.errors import DataError
from planish.ir.plots import need_plot
from planish.ir.store import save_graph
from planish.passes.layers import SLOWER
from planish.passes.pipelines import pipeline
from planish.passes.speed import RULES
from planish.runtime.target import Target, thread_count


@click.command(
    epilog=examples(
        "planish compress book.safetensors --recipe int8,int4 --text book.txt",
        "planish compress book.safetensors --recipe int4 --text book.txt --out small.safetensors",
        "planish compress book.safetensors --recipe O2,int8,int4 --text book.txt --plot f.png",
        "planish compress book.safetensors --recipe int4 --text book.txt --sensitivity",
        "planish compress book.safetensors --recipe int8 --text book.txt --layers --faster decode",
        "planish compress book.safetensors --recipe O2,auto --budget 1.02 --text book.txt",
    )
)
@model_argument
@click.option("--recipe", required=True, metavar="R,R",
              help="Names of pipelines, or auto, or passes; ';' between lists.")  # fmt: skip
@click.option("--text", type=File, required=True,
              help="Calibrate on its first half, judge on its second.")  # fmt: skip
@click.option("--out", type=File, metavar="FILE.safetensors",
              help="Write the graph that the last recipe makes.")  # fmt: skip
@click.option("--plot", type=File, metavar="FILE.(png|svg)",
              help="Draw perplexity against size and speed.")  # fmt: skip
@click.option("--budget", type=float, default=BUDGET, show_default=True, metavar="R",
              help="For auto: the most that perplexity may grow, as a ratio.")  # fmt: skip
@click.option("--sensitivity", "by_layer", is_flag=True,
              help="What each weight costs, where it alone is changed.")  # fmt: skip
@click.option("--layers", is_flag=True,
              help="What becomes of each weight, why, and its times before > after.")  # fmt: skip
@click.option("--faster", type=click.Choice(RULES[1:]), default=None,
              help="Weights stay that fewer bits make slower; auto: the fastest mix.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0), default=1.0, show_default=True, metavar="S",
              help="Time to spend on measuring.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@threads_option
def command(model: Path, recipe: str, text: Path, out: Path | None, plot: Path | None,
            budget: float, by_layer: bool, layers: bool, faster: str | None, seconds: float,
            as_json: bool, threads: int | None) -> None:  # fmt: skip
    """Compare recipes on MODEL: bytes, times, perplexity, distance from the model as it is.

    A recipe is a pipeline. KL and same top are beside the float model. What looks at text, or is
    chosen by it or by times, is printed below as a pipeline of its own: to be given to --pipeline
    of other commands, with the same text as --calibrate.
    """
    if out is not None:
        need_folder_of(out)
        if out.suffix != ".safetensors":
            raise click.UsageError(f"--out is a .safetensors file, not {out.name!r}")
    if plot is not None:
        need_folder_of(need_plot(plot))
    recipes = named(recipe, "--recipe")
    if AUTO not in recipes and was_said("budget"):
        raise click.UsageError("--budget is for the recipe auto")
    if by_layer and (len(recipes) > 1 or out or plot or layers or faster):
        raise click.UsageError(
            "--sensitivity is of one --recipe, and goes without --out, --plot, --layers, --faster"
        )
    made, tokenizer = load_model(model)
    if tokenizer is None:
        raise DataError(f"{model} has no tokenizer, so it cannot read {text}")
    tokens = tokenizer.encode(read_text(text))
    facts = {"model": str(model), "threads": thread_count(threads), "cpu": Target.parse().cpu}
    if by_layer:
        one = sensitivity(made, tokens, recipes[0], threads=threads)
        more = {"recipe": one.recipe, "exact": one.exact, "rows": one.records()}
        print(json_text({**facts, **more}) if as_json else one)
        return
    table = compress(
        made, recipes, tokens, threads=threads, seconds=seconds, budget=budget, faster=faster or ""
    )
    if plot is not None:
        table.plot(plot)
    if out is not None:
        save_graph(stored(made, table.pipelines[-1]), out)
    seen = halves(made, tokens)[0]
    found = [weight_reports(made, p, seen, threads=threads) for p in table.pipelines if layers]
    if as_json:
        more = {"rows": table.records(), "pipelines": list(map(str, table.pipelines))}
        more |= {"slower": [x.record() for x in table.slower]}
        told = [x.records() for x in found]
        more |= {kind: [x[kind] for x in told] for kind in (told[0] if told else ())}
        print(json_text({**facts, **more}))
        return
    print(table)
    for row, report in zip(table.rows, found, strict=False):
        print(f"\n{row.recipe}\n{report}")
        late = any(x.bits <= 8 and SLOWER in x.reason for x in report.layers.found)
        if late and not faster:  # which is of integers
            print("with --faster decode, prefill or both what is slower stays as it was")
    for row, passes in zip(table.rows, table.pipelines, strict=True):
        if row.recipe == AUTO or str(pipeline(row.recipe)) != str(passes):
            print(f"\n{row.recipe}: {passes}")
        if row.recipe == AUTO:
            print(f"chosen from {considered(Target.parse())}")
