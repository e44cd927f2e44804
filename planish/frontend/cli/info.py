"""`planish info`: the machine, or a model."""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import click

from planish import __version__
from planish.frontend.checkpoint import read_file
from planish.frontend.cli.common import File, examples, json_text
from planish.frontend.cli.table import facts_text
from planish.frontend.formats.known import kind_of
from planish.frontend.generate import graphs
from planish.frontend.optim import AdamW
from planish.frontend.peak import peak_of
from planish.frontend.pretrained import load_model
from planish.frontend.step import training_graph
from planish.frontend.trace import spec, trace
from planish.ir.graph import Graph
from planish.ir.store import KEY as GRAPH
from planish.ir.store import load_graph
from planish.passes.measure import weight_bytes
from planish.passes.pipelines import pipeline as pipeline_named
from planish.runtime.lower import lower
from planish.runtime.memory import plan_memory
from planish.runtime.target import Target, thread_count

PACKAGES = ("numpy", "llvmlite", "networkx", "ml_dtypes", "safetensors")
VARIABLES = ("PLANISH_CACHE", "PLANISH_THREADS", "PLANISH_TARGET", "PLANISH_LEVEL")


@click.command(
    epilog=examples("planish info", "planish info book.safetensors --memory", "planish info --json")
)
@click.argument("model", type=File, required=False)
@click.option("--memory", is_flag=True, help="The memory that running MODEL takes.")
@click.option("--train", "batch", type=click.IntRange(1), metavar="N",
              help="With --memory: that of training on N texts, too.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: Path | None, memory: bool, batch: int | None, as_json: bool) -> None:
    """Say what this machine is like, or what is in MODEL, which may be a graph of compress --out.

    --memory: bytes of temporaries (arena; no plan can do with less than lower_bound), of weights as
    packed, of key-value caches; and what a process that generates has in memory at most.
    """
    if memory and model is None:
        raise click.UsageError("--memory needs a MODEL")
    if batch is not None and not memory:
        raise click.UsageError("--train is about --memory")
    facts = machine() if model is None else described(model)
    if memory and model is not None:
        facts |= needed(model, batch)
    print(json_text(facts) if as_json else facts_text(facts))


def machine() -> dict[str, Any]:
    """Versions, processor, threads, and the variables that are set."""
    target = Target.parse()
    return {
        "planish": __version__,
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
        "target": target.name,
        "cpu": target.cpu,
        "triple": target.triple,
        "vector_bytes": target.vector_bytes,
        "features": sorted(target.features),
        "threads": thread_count(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def installed(package: str) -> str | None:
    """The version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def described(path: Path) -> dict[str, Any]:
    """What a file holds."""
    kind = kind_of(path)
    if kind == "safetensors" and GRAPH in read_file(path).metadata:
        return of_graph(path)
    model, tokenizer = load_model(path)
    losses = read_file(path).arrays.get("training/losses") if kind == "safetensors" else None
    return {
        "model": str(path),
        "format": kind,
        "class": type(model).__name__,
        "config": model.config,
        "parameters": model.count_parameters(),
        "bytes": path.stat().st_size,
        "tokenizer": None if tokenizer is None else repr(tokenizer),
        "trained_steps": None if losses is None else len(losses),
    }


def of_graph(path: Path) -> dict[str, Any]:
    """What a stored graph takes and gives, and what its weights are."""
    graph = load_graph(path)
    dtypes = Counter(str(x.dtype) for x in graph.param_nodes.values())
    return {
        "graph": str(path),
        "inputs": {x.attrs["name"] or f"input {i}": str(x.type)
                   for i, x in enumerate(graph.inputs)},
        "outputs": [str(x.type) for x in graph.outputs],
        "nodes": len(graph.nodes),
        "weights": dict(dtypes),
        "weights_bytes": weight_bytes(graph),
        "bytes": path.stat().st_size,
    }  # fmt: skip


def needed(path: Path, batch: int | None) -> dict[str, Any]:
    """Memory: of each program, of the caches, and of a process that generates."""
    model = load_model(path)[0]
    context = model.config["max_seq_len"]
    found = {"forward": trace(model, spec((1, context), "i32"))}
    found |= {name: graphs(model, 1, context)[name] for name in ("prefill", "decode")}
    passes = dict.fromkeys(found, "O2")
    if batch is not None:
        found["train"], passes["train"] = training_graph(model, AdamW(), batch, context), "train"
    told = {name: planned(graph, passes[name]) for name, graph in found.items()}
    caches = [x for pair in model.cache_specs(1) for x in pair]
    size = sum(prod(x.shape) * x.dtype.itemsize for x in caches)
    most = max(told[name]["arena"] for name in ("prefill", "decode"))
    sizes = model.count_parameters() * 4 + size + most
    return {
        "memory": told,
        "kv_caches": size,
        "process": {
            **peak_of(path, max(1, context // 2), max(1, context // 4), thread_count()),
            "weights_caches_arena": sizes,
        },
    }


def over(arena: int, least: int) -> float:
    """How many times the least an arena is."""
    return round(arena / least, 3) if least else 1.0


def planned(graph: Graph, passes: str) -> dict[str, Any]:
    """Bytes: the arena, the least that any arena could have, weights as packed; and the steps.

    Small temporaries keep their place for longer than they are read, so that threads meet less:
    `lingering` is what the arena is larger for it; `ratio` is to the least, with it and without.
    """
    plan = lower(pipeline_named(passes).run(graph), Target.parse())
    memory = plan_memory(plan)
    needed = min(memory.arena, plan_memory(plan, linger=0).arena)
    return {
        "steps": len(plan.steps),
        "arena": memory.arena,
        "lingering": memory.arena - needed,
        "lower_bound": memory.peak,
        "ratio": over(memory.arena, memory.peak),
        "ratio_without_lingering": over(needed, memory.peak),
        "weights": memory.params,
    }
