"""Compiled programs in the user's cache: the same graph is compiled once, not once in each process.

An entry is an image and, for weights that passes computed (rounded to 8 bits, say), the graphs that
make them of the model's own. Weights themselves are not kept. The key is a digest of the graph's
text, of the pipeline and the target, and of planish itself.

Not kept is what a text does not say: a pipeline with a pass that has no name, a program with
numbers of weights in its code, or weights that were computed from others and nobody wrote down how;
nor a pipeline that wants to see text and has seen none: its text may be that of one that has.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from planish.frontend.recipes import Recipes, Step
from planish.ir.errors import PlanishError
from planish.ir.graph import Graph
from planish.passes.pipeline import Pipeline
from planish.runtime.cache import digest
from planish.runtime.image import Image
from planish.runtime.target import Target
from planish.runtime.version import llvm_version

_LENGTH = struct.Struct("<q")


def key_of(graph: Graph, text: str, pipeline: Pipeline, target: Target) -> str | None:
    """What the program of a graph, which has this text, is kept under; None if none can be said."""
    passes = str(pipeline)
    if not pipeline.is_bound:
        return None  # it is refused, or what it would have been bound to changes nothing
    try:
        if Pipeline.parse(passes) != pipeline:
            return None
    except PlanishError:
        return None
    facts = (target.name, target.triple, target.cpu, target.feature_text)
    types = [f"{name}: {x.dtype}{list(x.shape)}" for name, x in graph.params.items()]
    return digest("program", text, *types, passes, *facts, ours())


@cache
def ours() -> str:
    """Planish and what it compiles with: a changed file is another compiler."""
    root = Path(__file__).resolve().parent.parent
    return json.dumps([sorted(_sources(str(root))), llvm_version(), np.__version__, os.name])


def _sources(folder: str) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of the last change of all modules in a folder."""
    with os.scandir(folder) as found:
        for x in found:
            if x.name.endswith(".py"):
                facts = x.stat()
                yield x.path, facts.st_size, facts.st_mtime_ns
            elif "." not in x.name and x.name != "__pycache__" and x.is_dir():
                yield from _sources(x.path)


def packed(image: Image, before: Graph, after: Graph) -> bytes | None:
    """The entry of a program; None where it could not be used with other weights.

    `before` is the graph that the key is of, `after` what the passes made of it.
    """
    if "" in after.made:
        return None
    names = dict.fromkeys(name for x in image.made for name in x.names)
    recipes = Recipes.of(names, before, after)
    if recipes is None:
        return None
    head = json.dumps(recipes, separators=(",", ":")).encode()
    return _LENGTH.pack(len(head)) + head + image.to_bytes()


def unpacked(data: bytes) -> tuple[Image, Recipes]:
    """The image in an entry, and how weights are made."""
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    texts, steps = json.loads(data[_LENGTH.size : start])
    return Image.from_bytes(data[start:]), Recipes(texts, tuple([Step(*x) for x in steps]))
