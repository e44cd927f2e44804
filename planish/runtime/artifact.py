"""Programs as files that run where planish was not compiled, and without LLVM.

A library (or program, or object file) has the code, the functions of a pool of threads, and an
object whose name ends with `_artifact`:

    object  ::= MAGIC | version, u64 | length of the facts, u64 | sha256 of facts and weights
              | facts, JSON | zeros up to a multiple of 64 | weights, each from a multiple of 64 on

Facts say what the program takes and returns, the memory it needs, which processor its code is for
and what it was compiled from. They are read from the file, and checked, before the system's loader
sees it; weights stay in the file and are mapped. They may also be in a file of their own, which is
the whole object as above; the one in the library then ends after the facts.

An artifact has one program, or several by name that share weights, as those of a generator do.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from planish.ir.errors import ArtifactError, TargetError
from planish.ir.mapped import mapped
from planish.ir.types import DTYPES
from planish.runtime import elf, objects
from planish.runtime.image import MALFORMED, Image
from planish.runtime.linker import link
from planish.runtime.memory import plan_memory
from planish.runtime.program import Program
from planish.runtime.target import Target, missing_here

MAGIC = b"planish program\n"
VERSION = 2  # of the layout, and of how `planish_main` is called
ALIGN = 64
SYMBOL = "planish_artifact"
FOUND = "_artifact"  # how the names of all such symbols end
FACTS = ("weights", "abi", "triple", "requires", "memory", "pipeline", "graph", "quantization")
HEAD = struct.Struct("<16sQQ32s")


@dataclass(frozen=True)
class Artifact:
    """What a file says of itself. `facts` is everything, `weights` are arrays that lie in it.

    `images` are its programs by name; that of an only one is "".
    """

    path: Path
    images: Mapping[str, Image]
    weights: tuple[np.ndarray, ...]
    facts: Mapping[str, Any]

    def params(self, name: str) -> tuple[np.ndarray, ...]:
        """The weights of a program."""
        listed = self.facts["programs"][name]["weights"] if name else range(len(self.weights))
        return tuple(self.weights[i] for i in listed)


def save_shared(program: Program, path: Path, pool: bytes, more: Mapping[str, Any]) -> None:
    """Write a program as a shared library; `more` are facts about where it comes from.

    `pool` is the object of the functions of a pool. LinkError where nothing can link.
    """
    facts = {**more, **described(program.image), "image": program.image.facts()}
    packed = Packed(facts, program.params)
    files = {f"code{i}.o": x for i, x in enumerate(code_of(program))} | {"pool.o": pool}
    with beside(path) as folder:
        for file, data in files.items():
            (folder / file).write_bytes(data)
        packed.write_object(folder / "data.o", program.image.target.arch, SYMBOL)
        link(folder, [*files, "data.o"], path, "library")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the file system of `path`."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    with tempfile.TemporaryDirectory(prefix=".planish-", dir=path.parent) as name:
        yield Path(name)


def code_of(program: Program) -> tuple[bytes, ...]:
    """The object files of a program; ArtifactError where it was loaded from a library."""
    if not program.image.code:
        raise ArtifactError(f"{program.image.name} is in a library already: copy that file instead")
    return program.image.code


def described(image: Image) -> dict[str, Any]:
    """The facts of a program: how it is called, the memory and the processor it needs."""
    memory = plan_memory(image)
    return {
        "abi": VERSION,
        "triple": image.target.triple,
        "cpu": image.target.cpu,
        "requires": needed(image.target),
        "memory": {"arena": memory.arena, "least": memory.peak, "weights": memory.params},
    }


def needed(target: Target) -> list[str]:
    """What a processor must have for code of a target: the architecture, and its features.

    Of this machine's own features those count that the system has words for: of the others nobody
    could say whether another machine has them.
    """
    silent = missing_here(target.features) if target.name == "host" else []
    return [target.arch, *sorted(target.features - set(silent))]


def _entries(weights: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
    """Where each weight is, from the first one on."""
    at = 0
    names = {x.numpy: name for name, x in DTYPES.items()}
    for x in weights:
        yield {"dtype": names[x.dtype], "shape": list(x.shape), "at": at}
        at += _up(x.nbytes)


def _up(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


class Packed:
    """Facts and weights as the bytes of an object. `start` is where weights begin."""

    def __init__(self, facts: Mapping[str, Any], weights: Sequence[np.ndarray]) -> None:
        self.weights = [np.ascontiguousarray(x) for x in weights]
        listed = {**facts, "weights": list(_entries(self.weights))}
        text = json.dumps(listed, separators=(",", ":"), sort_keys=True).encode() + b"\n"
        text += b"\n" * ((HEAD.size + len(text)) % ALIGN == 0)  # so that a zero follows, for C
        checksum = hashlib.sha256(text)
        for x in self.weights:
            checksum.update(x.reshape(-1).view(np.uint8).data)
        self.start = _up(HEAD.size + len(text))
        self.size = self.start + sum(_up(x.nbytes) for x in self.weights)
        head = HEAD.pack(MAGIC, VERSION, len(text), checksum.digest())
        self._head = (head + text).ljust(self.start, b"\0")

    def write(self, file: BinaryIO) -> None:
        """Write all of it."""
        file.write(self._head)
        for x in self.weights:
            file.write(x.reshape(-1).view(np.uint8).data)
            file.write(bytes(_up(x.nbytes) - x.nbytes))

    def write_object(self, path: Path, arch: str, symbol: str, inside: bool = True) -> None:
        """Write an ELF object of which this is the only symbol; without weights if not `inside`."""
        size = self.size if inside else self.start
        before, after = objects.data_object(arch, symbol, size, ALIGN)
        with open(path, "wb") as file:
            file.write(before)
            if inside:
                self.write(file)
            else:
                file.write(self._head)
            file.write(after)


def read_shared(path: Path) -> Artifact:
    """What is in a library that `save_shared` wrote; ArtifactError, naming it, if it is none.

    Nothing in it is run. The checksum is compared, which reads all weights once.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise ArtifactError(f"{path}: not a file")
    if path.stat().st_size < elf.HEADER.size:
        raise ArtifactError(f"{path}: not a program of planish: {path.stat().st_size} bytes")
    data = mapped(path)
    try:
        at, size = objects.found(data.data, FOUND)
        return _artifact(path, data[at : at + size])
    except FileNotFoundError:
        raise
    except (*MALFORMED, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise ArtifactError(f"{path}: {error}") from error
        raise ArtifactError(f"{path}: not a program of planish: {error!s:.200}") from error


def _artifact(path: Path, data: np.ndarray) -> Artifact:
    if len(data) < HEAD.size:
        raise ArtifactError("not a program of planish")
    magic, version, length, checksum = HEAD.unpack_from(data.data)
    if magic != MAGIC:
        raise ArtifactError("not a program of planish")
    if version != VERSION:
        raise ArtifactError(f"a program of version {version}; this planish runs version {VERSION}")
    if length > len(data) - HEAD.size:
        raise ArtifactError("cut: its facts go beyond its end")
    text = data[HEAD.size : HEAD.size + length].tobytes()
    facts = json.loads(text)
    check_said(facts, FACTS)
    rest = data[_up(HEAD.size + length) :]
    if file := facts.get("weights_file"):
        rest = _beside(path, file, data[: _up(HEAD.size + length)])
    weights = tuple(_weight(entry, rest) for entry in facts["weights"])
    found = hashlib.sha256(text)
    for x in weights:
        found.update(x.reshape(-1).view(np.uint8).data)
    if found.digest() != checksum:
        raise ArtifactError("damaged: the contents do not match their checksum")
    several = facts.get("programs", {"": facts})
    images = {name: Image.from_facts(x["image"]) for name, x in several.items()}
    artifact = Artifact(path, images, weights, facts)
    for name, image in images.items():
        if (many := len(artifact.params(name))) != len(image.made):
            raise ArtifactError(f"damaged: {many} weights for {len(image.made)} places")
    return artifact


def check_said(facts: Any, names: Iterable[str]) -> None:
    """ArtifactError unless facts have all of these names, and name what a processor must have."""
    if absent := [x for x in names if not isinstance(facts, dict) or x not in facts]:
        raise ArtifactError(f"damaged: it does not say its {absent[0]}")
    requires = facts.get("requires", [])
    if not isinstance(requires, list) or not all(isinstance(x, str) for x in requires):
        raise ArtifactError("damaged: what a program requires is no list of names")


def _beside(path: Path, file: str, head: np.ndarray) -> np.ndarray:
    """Weights in a file of their own, which lies beside the artifact and begins as that does."""
    if Path(file).name != file:
        raise ArtifactError(f"damaged: a file of weights called {file!r:.100}")
    other = path.parent / file
    if not other.is_file():
        raise FileNotFoundError(f"no such file: {other}, the weights of {path}")
    data = mapped(other) if other.stat().st_size >= len(head) else head[:0]
    if not np.array_equal(data[: len(head)], head):
        raise ArtifactError(f"{other} has the weights of another program")
    return data[len(head) :]


def _weight(entry: Mapping[str, Any], data: np.ndarray) -> np.ndarray:
    """An array that lies in the file; nothing is allocated on the file's word."""
    dtype, shape, at = DTYPES[entry["dtype"]].numpy, entry["shape"], entry["at"]
    if not all(isinstance(x, int) and 0 <= x <= len(data) for x in (*shape, at)):
        raise ArtifactError(f"damaged: a weight of {shape} at {at}")
    size = dtype.itemsize
    for x in shape:
        size = min(size * x, len(data) + 1)  # so that it stays a small number
    if at + size > len(data):
        raise ArtifactError(f"cut: a weight of {shape} goes beyond its end")
    return data[at : at + size].view(dtype).reshape(shape)


class Shared:
    """The functions of a library, in this process; TargetError if the processor lacks something."""

    def __init__(self, artifact: Artifact) -> None:
        if missing := missing_here(artifact.facts["requires"]):
            raise TargetError(
                f"{artifact.path} is for processors with {', '.join(missing)}, which this one "
                "lacks; compile it again with target='x86-64-v3', say"
            )
        try:
            self._library = ctypes.CDLL(str(artifact.path.resolve()))
        except OSError as error:
            raise ArtifactError(f"{artifact.path}: the system cannot load it: {error}") from error

    def address(self, name: str) -> int:
        """Where the function `name` is."""
        found = ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value
        return int(found or 0)
