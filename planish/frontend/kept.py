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
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from planish.ir.errors import PlanishError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.parse import parse
from planish.ir.text import graph_text
from planish.passes.pipeline import Pipeline
from planish.runtime.cache import digest
from planish.runtime.image import Image
from planish.runtime.target import Target

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
    files = sorted((str(x), x.stat()) for x in root.rglob("*.py"))
    facts = [(name, x.st_size, x.st_mtime_ns) for name, x in files]
    return json.dumps([facts, version("llvmlite"), np.__version__, os.name])


def packed(image: Image, before: Graph, after: Graph) -> bytes | None:
    """The entry of a program; None where it could not be used with other weights.

    `before` is the graph that the key is of, `after` what the passes made of it.
    """
    recipes: dict[str, str] = {}
    if "" in after.made:
        return None
    for name in dict.fromkeys(name for x in image.made for name in x.names):
        if not _noted(name, after.params[name], before, after, recipes):
            return None
    head = json.dumps(recipes).encode()
    return _LENGTH.pack(len(head)) + head + image.to_bytes()


def _noted(
    name: str, array: np.ndarray, before: Graph, after: Graph, recipes: dict[str, str]
) -> bool:
    """Whether a param is one of the graph before, or made of such; how goes to `recipes`."""
    if before.params.get(name) is array:
        return True
    source = after.made.get(name)
    if source is None or name in before.params:
        return False
    made = all(_noted(n, x, before, after, recipes) for n, x in source.params.items())
    recipes[name] = graph_text(source)  # after those that it reads
    return made


def unpacked(data: bytes) -> tuple[Image, dict[str, str]]:
    """The image in an entry, and how weights are made."""
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    return Image.from_bytes(data[start:]), json.loads(data[_LENGTH.size : start])


def weights_of(
    image: Image, recipes: Mapping[str, str], graph: Graph
) -> dict[str, np.ndarray] | None:
    """The arrays that an image's params are made of.

    None where one is not finite: passes that round weights refuse it, and say where it is.
    """
    arrays = dict(graph.params)
    for name, text in recipes.items():
        source = parse(text)
        reads = {n: arrays[n] for n in source.param_nodes}
        if not all(map(_is_finite, reads.values())):
            return None
        made = evaluate(replace(source, params=reads))
        arrays[name] = made[0] if isinstance(made, tuple) else made
        arrays[name].flags.writeable = False
    return {name: arrays[name] for x in image.made for name in x.names}


def _is_finite(array: np.ndarray) -> bool:
    kind = np.asarray(array).dtype.kind
    return kind in "iub" or bool(np.isfinite(array.sum(dtype=np.float64)))
