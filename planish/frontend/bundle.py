"""One file for several processors: a graph after its passes, its weights, and programs for some.

    pl.save_bundle(graph, "tinygpt.bundle", pipeline="int8", targets=["x86-64-v3", "x86-64-v4"])
    program = pl.load("tinygpt.bundle")

Weights are there once, as the passes left them: whoever loads the file packs them for the program
that the processor runs best, and needs no LLVM for it. Where it runs none, the graph is compiled.

The file is one of safetensors: the graph's text and facts about the programs in its metadata, their
images beside the weights.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.checkpoint import File, read_file, write_file
from planish.frontend.compiled import BUNDLE, Compiled, Origin
from planish.frontend.strict import strict_json
from planish.ir.errors import ArtifactError, DataError
from planish.ir.graph import Graph
from planish.ir.later import later
from planish.ir.store import KEY, graph_of, plain_params
from planish.ir.text import graph_text
from planish.passes.layers import Layers
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import pipeline as pipeline_named
from planish.runtime.artifact import VERSION, check_said, described
from planish.runtime.cache import digest
from planish.runtime.elf import loaded
from planish.runtime.image import Image
from planish.runtime.packing import params_of
from planish.runtime.pool import pool_object
from planish.runtime.target import Target, missing_here

build = later("planish.runtime.build")
lowering = later("planish.runtime.lower")

FACTS = "planish.bundle"  # of the facts, in the metadata
CODE = "planish.code."  # how the names of images begin
SAID = ("abi", "pipeline", "graph", "quantization", "programs")
SAID_OF_EACH = ("target", "triple", "requires", "memory")
TARGETS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")


class BundleWarning(UserWarning):
    """No program of a bundle fits the processor; its graph was compiled."""


def save_bundle(
    graph: Graph, path: str | os.PathLike[str], pipeline: str | Pipeline = "O2",
    targets: Iterable[str | Target] = TARGETS,
) -> None:  # fmt: skip
    """Write a graph with programs for some targets, of which later ones are preferred.

    The same graph makes the same bytes. The file, a .bundle, is replaced in one step.
    """
    if (file := Path(path)).suffix != BUNDLE:
        raise ArtifactError(f"{file}: bundles are saved as {BUNDLE}, by which pl.load knows them")
    machines = [Target.parse(x) for x in targets]
    if not machines:
        raise DataError("a bundle is for one target at least")
    passes = pipeline_named(pipeline)
    seen = Layers()
    after = passes.run(graph, observe=(seen,))
    arrays = plain_params(after)
    if taken := [name for name in arrays if name.startswith(CODE)]:
        raise DataError(f"{taken[0]}: names that begin with {CODE} are those of code in bundles")
    images = [_image(after, x) for x in machines]
    arrays |= {f"{CODE}{i}": np.frombuffer(x.to_bytes(), np.uint8) for i, x in enumerate(images)}
    facts = {
        "abi": VERSION,
        "pipeline": str(passes),
        "graph": digest(graph_text(graph)),
        "quantization": seen.records(),
        "programs": [{"target": x.target.name, **described(x)} for x in images],
    }
    write_file(path, arrays, {KEY: graph_text(after, locs=True), FACTS: json.dumps(facts)})


def _image(graph: Graph, target: Target) -> Image:
    """A program with the functions of a pool of threads beside it."""
    image = build.build(lowering.lower(graph, target), target)
    return image._replace(code=(*image.code, pool_object(target)))


def load_bundle(path: Path, threads: int | None = None) -> Compiled:
    """The best of a bundle's programs that this processor runs; ArtifactError if it is none."""
    file = read_file(path)
    facts = facts_of(file)
    code = [f"{CODE}{i}" for i in range(len(facts["programs"]))]
    if absent := [name for name in code if name not in file.arrays]:
        raise ArtifactError(f"{path}: damaged: {absent[0]} is missing")
    params = {name: x for name, x in file.arrays.items() if name not in code}
    graph = graph_of(path, file.metadata[KEY], params)
    runs = [
        n for n, x in zip(code, facts["programs"], strict=True) if not missing_here(x["requires"])
    ]
    if runs:
        program = _program(path, file.arrays[runs[-1]].tobytes(), graph, threads)
    else:
        known = ", ".join(x["target"] for x in facts["programs"])
        program = _compiled(f"{path} has code for {known}, none for this processor", graph, threads)
    program.origin = Origin.of(facts, graph.treedef)
    return program


def _program(path: Path, data: bytes, graph: Graph, threads: int | None) -> Compiled:
    try:
        image = Image.from_bytes(data)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    if unknown := [n for x in image.made for n in x.names if n not in graph.params]:
        raise ArtifactError(f"{path}: damaged: its code reads {unknown[0]}, which is not there")
    params = params_of(image.made, graph.params)
    code = loaded(image.code, image.target)
    image = image._replace(code=image.code[:-1])  # those of a pool are everybody's
    return Compiled.of(image, params, lambda: lowering.lower(graph, image.target), threads, code)


def _compiled(why: str, graph: Graph, threads: int | None) -> Compiled:
    warnings.warn(f"{why}: its graph is compiled", BundleWarning, stacklevel=4)
    here = Target.host()
    return Compiled(lowering.lower(graph, here), here, threads)


def facts_of(file: File) -> Mapping[str, Any]:
    """What a bundle says of itself; ArtifactError if the file is none."""
    if FACTS not in file.metadata or KEY not in file.metadata:
        raise ArtifactError(f"{file.path}: no bundle of planish")
    facts = strict_json(file.path, file.metadata[FACTS])
    try:
        check_said(facts, SAID)
        if facts["abi"] != VERSION:
            found = f"{facts['abi']!r:.20}; this planish runs version {VERSION}"
            raise ArtifactError(f"a bundle of version {found}")
        if not isinstance(facts["programs"], list):
            raise ArtifactError("damaged: its programs are no list")
        for program in facts["programs"]:
            check_said(program, SAID_OF_EACH)
    except ArtifactError as error:
        raise ArtifactError(f"{file.path}: {error}") from error
    return facts
