"""Programs as files that run where planish was not compiled, and without LLVM.

A library (or program, or object file) has the code, the functions of a pool of threads, and an
object whose name ends with `_artifact`:

    object  ::= MAGIC | version, u64 | length of the facts, u64 | sha256 of facts and weights
              | facts, JSON | zeros up to a multiple of 64 | weights, each from a multiple of 64 on

Facts say what the program takes and returns, the memory it needs, which processor its code is for
and what it was compiled from. They are read from the file, and checked, before the system's loader
sees it; weights stay in the file and are mapped. They may also be in a file of their own, which is
the whole object as above; the one in the library then ends after the facts.

An artifact has one program, or several by name that share weights, as those of a generator do; and
these, maybe, for several levels of processors, of which the best one that runs here is taken.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from planish.ir.errors import ArtifactError, TargetError
from planish.ir.files import naming, need_place
from planish.ir.later import later
from planish.ir.mapped import mapped
from planish.ir.types import DTYPES
from planish.runtime import objects
from planish.runtime.host.abi import ABI
from planish.runtime.image import MALFORMED, Image
from planish.runtime.memory import plan_memory
from planish.runtime.target import Target, common_here, level_wanted, missing_here

if TYPE_CHECKING:
    from planish.runtime.program import Program

linker = later("planish.runtime.linker")
tempfile = later("tempfile")

MAGIC = b"planish program\n"
VERSION = 4  # of the layout, of where temporaries lie, and of what functions it has
ALIGN = 64
PREFIX = "planish_"
SYMBOL = f"{PREFIX}artifact"
AGAIN = 1000  # libraries of one path in a process
FOUND = "_artifact"  # how the names of all such symbols end
FACTS = ("weights", "abi", "pipeline", "graph", "quantization")
LEVEL_FACTS = ("triple", "cpu", "requires", "memory")
HEAD = struct.Struct("<16sQQ32s")


class Level(NamedTuple):
    """Programs for one kind of processor, by name; the name of an only one is "".

    `facts` say what the processor must have, and the memory that the programs need.
    """

    name: str
    images: Mapping[str, Image]
    facts: Mapping[str, Any]

    @property
    def missing(self) -> list[str]:
        """What this processor lacks of what the code needs."""
        return missing_here(self.facts["requires"])

    def __repr__(self) -> str:
        return f"<Level {self.name or '-'}: {', '.join(self.images) or 'no programs'}>"


class Artifact(NamedTuple):
    """What a file says of itself. `facts` is everything, `weights` are arrays that lie in it.

    Of its `levels` later ones are preferred. `head` is how its data begins.
    """

    path: Path
    levels: tuple[Level, ...]
    weights: tuple[np.ndarray, ...]
    facts: Mapping[str, Any]
    head: bytes

    @property
    def is_program(self) -> bool:
        """Whether it has one program only."""
        return "" in self.levels[0].images

    def params(self, level: Level, name: str) -> tuple[np.ndarray, ...]:
        """The weights of a program."""
        listed = level.facts["programs"][name]["weights"] if name else range(len(self.weights))
        return tuple(self.weights[i] for i in listed)

    def level(self) -> Level:
        """The best level that this processor runs, or the one that PLANISH_LEVEL names.

        TargetError says what the processor lacks; ArtifactError refuses code that is called in
        another way.
        """
        ours = ABI if "kind" in self.facts else VERSION
        if (abi := self.facts["abi"]) != ours:
            raise ArtifactError(
                f"{self.path} has ABI {abi!r:.20}; this planish calls ABI {ours}: compile it again"
            )
        wanted = level_wanted()
        known = [x for x in self.levels if wanted in (None, x.name)]
        if not known:
            have = ", ".join(x.name for x in self.levels)
            raise TargetError(f"{self.path} has code for {have}; PLANISH_LEVEL is {wanted!r:.100}")
        found = next((x for x in reversed(known) if not x.missing), None)
        if found is None:
            raise TargetError(
                f"{self.path} is for processors with {', '.join(known[0].missing)}, which this one "
                f"lacks; compile it again with target='{common_here()}', say"
            )
        return found


def save_shared(program: Program, path: Path, pool: bytes, more: Mapping[str, Any]) -> None:
    """Write a program as a shared library; `more` are facts about where it comes from.

    `pool` is the object of the functions of a pool. LinkError where nothing can link.
    """
    facts = {
        **more, **described(program.image), "abi": VERSION, "image": program.image.facts()
    }  # fmt: skip
    packed = Packed(facts, program.params)
    files = {f"code{i}.o": x for i, x in enumerate(code_of(program))} | {"pool.o": pool}
    with beside(path) as folder:
        for file, data in files.items():
            (folder / file).write_bytes(data)
        arch = program.image.target.arch
        packed.write_object(folder / "data.o", arch, SYMBOL)
        linker.link(folder, [*files, "data.o"], path, "library", arch)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the file system of `path`."""
    need_place(path)
    with naming(path), tempfile.TemporaryDirectory(prefix=".planish-", dir=path.parent) as name:
        yield Path(name)


def code_of(program: Program) -> tuple[bytes, ...]:
    """The object files of a program; ArtifactError where it was loaded from a library."""
    if not program.image.code:
        raise ArtifactError(f"{program.image.name} is in a library already: copy that file instead")
    return program.image.code


def described(image: Image) -> dict[str, Any]:
    """The facts of a program: where it runs, the memory and the processor it needs."""
    memory = plan_memory(image)
    sizes = {"arena": memory.arena, "least": memory.peak, "weights": memory.params}
    grows = {"grows_with": list(memory.open)} if memory.open else {}  # nothing limits these
    return {
        "triple": image.target.triple,
        "cpu": image.target.cpu,
        "requires": needed(image.target),
        "memory": {**sizes, **grows},
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
    if path.stat().st_size < objects.HEADER.size:
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
    levels = tuple(map(_level, facts.get("levels", [facts])))
    artifact = Artifact(path, levels, weights, facts, data[: HEAD.size].tobytes())
    if not levels:
        raise ArtifactError("damaged: no code")
    for level in levels:
        for name, image in level.images.items():
            if (many := len(artifact.params(level, name))) != len(image.made):
                raise ArtifactError(f"damaged: {many} weights for {len(image.made)} places")
    return artifact


def _level(facts: Mapping[str, Any]) -> Level:
    check_said(facts, LEVEL_FACTS)
    programs = facts.get("programs", {"": facts})
    images = {name: Image.from_facts(x["image"]) for name, x in programs.items()}
    first = next(iter(images.values()))
    return Level(facts.get("level", level_name(first.target)), images, facts)


def check_said(facts: Any, names: Iterable[str]) -> None:
    """ArtifactError unless facts have all of these names, and name what a processor must have."""
    if absent := [x for x in names if not isinstance(facts, dict) or x not in facts]:
        raise ArtifactError(f"damaged: it does not say its {absent[0]}")
    requires = facts.get("requires", [])
    if not isinstance(requires, list) or not all(isinstance(x, str) for x in requires):
        raise ArtifactError("damaged: what a program requires is no list of names")


def level_name(target: Target) -> str:
    """How a level for a target is called: of this machine, as LLVM calls its processor."""
    return target.cpu if target.name == "host" else target.name


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
    """The functions of a library, in this process. `level` says that the processor runs them."""

    def __init__(self, artifact: Artifact, level: Level) -> None:
        self.level = level
        path, symbol = artifact.path.resolve(), artifact.facts.get("prefix", PREFIX) + "artifact"
        for turn in range(AGAIN):
            # the system knows a library by its path, also where the file is another one by now:
            # a/x.so, a/./x.so, a/././x.so
            name = os.path.join(path.parent, *["."] * turn, path.name)
            try:
                self._library = ctypes.CDLL(name)
            except OSError as error:
                raise ArtifactError(f"{path}: the system cannot load it: {error}") from error
            if ctypes.string_at(self.address(symbol), HEAD.size) == artifact.head:
                return
        raise ArtifactError(f"{path} was replaced {AGAIN} times while this process had it loaded")

    def address(self, name: str) -> int:
        """Where the function `name` is."""
        found = ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value
        return int(found or 0)
