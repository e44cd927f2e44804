"""Graphs as files: the text, and the weights as safetensors.

    x.safetensors    one file, the text in its metadata
    x/               a folder: graph.ir and weights-<hash>.safetensors, which graph.ir names

Both are replaced in one step: whoever is stopped in the middle of saving leaves the old graph
whole. Loading verifies; nothing in a file is run or followed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from planish.ir.errors import ArtifactError, PlanishError
from planish.ir.files import write_atomically
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.ir.parse import parse
from planish.ir.text import graph_text
from planish.ir.types import i4
from planish.ir.verify import verify

KEY = "planish.graph"  # of the text, in the metadata
SOURCE = "graph.ir"  # the text, in a folder
_WEIGHTS = re.compile(r"# weights-([0-9a-f]{16})\.safetensors\n")


def save_graph(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph with its weights: one file if `path` ends in .safetensors, else a folder."""
    verify(graph, strict=True)
    target, text = Path(path), graph_text(graph, locs=True)
    arrays = plain_params(graph)
    if target.suffix == ".safetensors":
        write_atomically(target, file_bytes(arrays, {KEY: text}))
        return
    target.mkdir(parents=True, exist_ok=True)
    data = safetensors.numpy.save(arrays)
    name = f"weights-{_digest(data)}.safetensors"
    write_atomically(target / name, data)
    write_atomically(target / SOURCE, f"# {name}\n{text}\n".encode())
    for old in target.glob("weights-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def holds_graph(path: Path) -> bool:
    """Whether `save_graph` wrote what is at a path; of a file no more than the header is read."""
    if not path.is_file():
        return (path / SOURCE).is_file()
    try:
        with safetensors.safe_open(path, "np") as file:
            return KEY in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def load_graph(path: str | os.PathLike[str]) -> Graph:
    """The graph in a file or folder written by `save_graph`; ArtifactError if it is not one."""
    target = Path(path)
    if not target.is_dir():
        metadata, arrays = _read(target)
        if KEY not in metadata:
            raise ArtifactError(f"{target}: holds weights, but no graph")
        return graph_of(target, metadata[KEY], arrays)
    source = target / SOURCE
    if not source.is_file():
        raise ArtifactError(f"{target}: this folder has no {SOURCE}")
    try:
        text = source.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{source}: not text, {error}") from error
    named = _WEIGHTS.match(text)
    if named is None:
        raise ArtifactError(f"{source}: the first line does not name a weights file")
    weights = target / f"weights-{named[1]}.safetensors"
    if not weights.is_file() or _digest(weights.read_bytes()) != named[1]:
        raise ArtifactError(f"{weights}: missing or damaged")
    return graph_of(source, text, _read(weights)[1])


def file_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file. The library puts metadata in any order; here equal ones are equal."""
    data = safetensors.numpy.save(dict(arrays), dict(metadata))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[start:]))


def plain_params(graph: Graph) -> dict[str, np.ndarray]:
    """The weights of a graph as files hold them, for `graph_of`."""
    return {name: _plain(graph.params[name]) for name in graph.param_nodes}


def graph_of(path: Path, text: str, arrays: Mapping[str, np.ndarray]) -> Graph:
    """The graph of a text with its weights; ArtifactError, naming the file, if it is none."""
    try:
        wanted = parse(text).param_nodes
        extra = [name for name in arrays if name not in wanted]
        if extra:
            raise ArtifactError(f"{path}: the graph has no param {extra[0]!r}")
        params = {n: _stored(path, wanted[n], a) for n, a in arrays.items()}
        for array in params.values():
            array.flags.writeable = False
        return verify(parse(text, params), strict=True)
    except ArtifactError:
        raise
    except PlanishError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _read(path: Path) -> tuple[Mapping[str, str], dict[str, np.ndarray]]:
    """The metadata and the arrays of a safetensors file."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a safetensors file ({error})") from error


def _plain(array: np.ndarray) -> np.ndarray:
    """As the file format knows it: contiguous; of i4 two in a byte, the first in its lower half."""
    array = np.asarray(array, order="C")
    if array.dtype != i4.numpy:
        return array
    halves = np.append(array.view(np.uint8).reshape(-1) & 15, np.zeros(array.size % 2, np.uint8))
    return halves[::2] | halves[1::2] << 4


def _stored(path: Path, node: Node, array: np.ndarray) -> np.ndarray:
    """The array of a param, from what the file has of it."""
    if node.dtype != i4:
        return array
    size = math.prod(node.shape)
    if array.dtype != np.uint8 or array.shape != ((size + 1) // 2,):
        found = f"{array.dtype}{list(array.shape)}"
        raise ArtifactError(f"{path}: {node.attrs['name']}: {node.type} is not in {found}")
    halves = np.stack([array & 15, array >> 4], -1).reshape(-1)[:size]
    return ((halves ^ 8).view(np.int8) - 8).astype(i4.numpy).reshape(node.shape)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
