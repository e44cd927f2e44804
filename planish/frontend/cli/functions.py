"""What `planish compile` makes of graphs: libraries, C functions and bundles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from planish.frontend.api import compile as compiled
from planish.frontend.bundle import TARGETS, save_bundle
from planish.frontend.cli.bound import Recipe
from planish.frontend.compiled import BUNDLE
from planish.frontend.models.tinygpt import TinyGPT
from planish.frontend.ship import EMITS, MULTI
from planish.frontend.trace import spec, trace
from planish.ir.dims import Dim
from planish.ir.graph import Graph
from planish.ir.parse import parse
from planish.ir.store import holds_graph, load_graph
from planish.ir.text import graph_text
from planish.runtime.artifact import level_name


def stored_graph(path: Path) -> Graph | None:
    """The graph that pl.save_graph wrote; None for a model."""
    return load_graph(path) if holds_graph(path) else None


def limited(graph: Graph, most: int) -> Graph:
    """A graph whose sizes are at most this where nothing else limits them, as C wants it."""

    def closed(head: re.Match[str]) -> str:
        sizes = [x if "<=" in x else f"{x}<={most}" for x in head[2].split(", ")]
        return f"{head[1]}[{', '.join(sizes)}]("

    heads = re.compile(r"^(graph [^\[\n]+)\[([^\]\n]+)\]\(", re.MULTILINE)
    return parse(heads.sub(closed, graph_text(graph)), graph.params)


def save_code(
    graph: Graph, path: Path, pipeline: Recipe, target: str | None, weights: str, prefix: str
) -> None:
    """Write a graph's program, and tell of it: for Python, or with --prefix for C."""
    if path.suffix == BUNDLE:
        if was_said("prefix") or was_said("weights"):
            raise click.UsageError("--weights and --prefix are for C, not for a bundle")
        names = target.split(",") if target is not None and target != MULTI else list(TARGETS)
        save_bundle(graph, path, pipeline, names)
        print(written(path, names))
        return
    if path.suffix == EMITS["exe"]:
        raise click.UsageError(f"{path}: a graph becomes a library, an object or a bundle; no "
                               "program for the shell")  # fmt: skip
    if target is not None and (target == MULTI or "," in target):
        raise click.UsageError(f"{path.name} is for one processor; a bundle is for several")
    program = compiled(graph, pipeline=pipeline, target=target)
    program.save(path, weights, prefix if for_c(path) else None)
    print(written(path, [level_name(program.target)]))


def logits_graph(model: TinyGPT, what: str, rows: int | None) -> Graph:
    """From tokens i32 [B, T] to logits, of the last token or of all; B is at most `rows`."""
    batch = "B" if rows is None else Dim("B", max=rows)
    length = Dim("T", max=model.config["max_seq_len"])
    return trace(model.last_logits if what == "last" else model, spec((batch, length), "i32"))


def for_c(path: Path) -> bool:
    """Whether C calls what is written."""
    return was_said("prefix") or path.suffix != EMITS["so"]


def was_said(option: str) -> bool:
    """Whether the command line has an option."""
    source = click.get_current_context().get_parameter_source(option)
    return source is not ParameterSource.DEFAULT


def written(path: Path, levels: Sequence[str]) -> str:
    """What is told of a file."""
    return f"{path}: {path.stat().st_size:,} bytes, for {', '.join(levels)}"
