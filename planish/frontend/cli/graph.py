"""`planish graph`: what a model is, before and after passes."""

from __future__ import annotations

from pathlib import Path

import click

from planish.frontend.cli.bound import bound, calibrate_option
from planish.frontend.cli.common import examples, model_argument, need_folder_of, note
from planish.frontend.cli.functions import stored_graph, was_said
from planish.frontend.models.tinygpt import TinyGPT
from planish.frontend.next_token import graphs
from planish.frontend.pretrained import load_model
from planish.frontend.trace import spec, trace
from planish.ir.dims import Dim
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.passes.pipeline import Pipeline, pass_name
from planish.passes.pipelines import PIPELINES
from planish.passes.pipelines import pipeline as pipeline_named

KINDS = (".txt", ".dot", ".svg", ".png")
DEFAULT = "O2"  # the pipeline that --after looks into


@click.command(
    epilog=examples(
        "planish graph book.safetensors --out book.svg",
        "planish graph book.safetensors --after expand --out -",
        "planish graph book.safetensors --pipeline O2 --of decode --out decode.txt",
        "planish graph small.safetensors --out small.dot",
    )
)
@model_argument
@click.option("--after", metavar="PASS", help=f"The graph after this pass of {DEFAULT}.")
@click.option("--pipeline", metavar="P", help="The graph after these passes.  [default: none]")
@calibrate_option
@click.option("--of", "what", type=click.Choice(["forward", "prefill", "decode"]),
              default="forward", show_default=True,
              help="All logits; reading a prompt; or adding a token.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, allow_dash=True), required=True,
              metavar="FILE.(txt|dot|svg|png)", help="The file; - prints text.")  # fmt: skip
def command(model: Path, after: str | None, pipeline: str | None, calibrate: Path | None,
            what: str, out: Path) -> None:  # fmt: skip
    """Write the graph of MODEL as text (.txt) or as a picture (.dot, .svg, .png).

    MODEL may also be a graph of compress --out.
    """
    if after is not None and pipeline is not None:
        raise click.UsageError("--after and --pipeline exclude each other")
    if calibrate is not None and pipeline is None:
        raise click.UsageError("--calibrate is for --pipeline")
    to_stdout = str(out) == "-"
    if not to_stdout:
        need_folder_of(out)
        if out.suffix.lower() not in KINDS:
            raise click.UsageError(f"--out is a {', '.join(KINDS)} file, or -, not {out.name!r}")
    passes = Pipeline() if after is None else up_to(after)
    stored = stored_graph(model)
    if stored is not None:
        if was_said("what") or calibrate is not None:
            raise click.UsageError(f"{model} is a graph: --of and --calibrate are for models")
        graph, recipes = stored, [passes if pipeline is None else pipeline]
    else:
        loaded, tokenizer = TinyGPT.from_pretrained(model), None
        if calibrate is not None:
            loaded, tokenizer = load_model(model)
        graph = graph_of(loaded, what)
        recipes = [passes]
        if pipeline is not None:
            recipes = bound(loaded, [pipeline], calibrate, tokenizer)
    passes = pipeline_named(*recipes)
    graph = passes.run(graph)
    if to_stdout:
        print(graph)
    elif out.suffix.lower() == ".txt":
        out.write_text(f"{graph}\n", "utf-8")
    else:
        graph.draw(out)
    note(f"{graph.name} after {passes or 'no pass'}: {len(graph.nodes)} nodes")


def up_to(after: str) -> Pipeline:
    """The default pipeline up to the last time that a pass runs in it."""
    passes = PIPELINES[DEFAULT].passes
    names = [pass_name(x) for x in passes]
    if after not in names:
        known = ", ".join(dict.fromkeys(names))
        raise DataError(f"{DEFAULT} has no pass {after!r}; its passes are {known}")
    return Pipeline(*passes[: len(names) - names[::-1].index(after)])


def graph_of(model: TinyGPT, what: str) -> Graph:
    """The graph of a model for any batch and length; those of generation are for one text."""
    context = model.config["max_seq_len"]
    if what != "forward":
        return graphs(model, 1, context)[what]
    return trace(model, spec(("B", Dim("T", max=context)), "i32"))
