"""Programs as one artifact: their weights, host code around them, a C header.

    name.so, or name.o, and name.h    the functions of `planish.runtime.host`, called as C calls

The programs share weights and state. Tables say where each of their slots is, so that host code can
make a model of zeros.

There may be programs for each of several levels of processors; host code chooses. Each level reads
weights packed in its own way, where they lie in the file: arrays that are equal are there once, and
pages of those that are for other levels are never read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import numpy as np

from planish import __version__
from planish.ir.dims import upper
from planish.ir.errors import ArtifactError
from planish.ir.files import write_atomically
from planish.ir.later import later
from planish.runtime.artifact import ALIGN, Packed, beside, code_of, described
from planish.runtime.checksum import checksum
from planish.runtime.host import abi, cpu, known, levels, libc, model, quota, records
from planish.runtime.host.abi import ABI
from planish.runtime.host.compiler import PREFIX, baseline, host_text, source_of
from planish.runtime.image import Image
from planish.runtime.linker import link
from planish.runtime.objects import defined, renamed
from planish.runtime.pool import pool_object
from planish.runtime.program import Program
from planish.runtime.scratch import scratch_bytes
from planish.runtime.ship.header import header_text
from planish.runtime.ship.processor import needed, probe_text
from planish.runtime.ship.tables import Kind, Run, tables_text
from planish.runtime.slots import Slot
from planish.runtime.target import Target, kept_in_cache
from planish.runtime.version import llvm_version

llvm = later("planish.runtime.llvm")

Modules: TypeAlias = tuple[ModuleType, ...]
COMMON: Modules = (abi, libc, quota, cpu, records, levels, model, known)
STATE, WEIGHTS, TEMPORARY = 0, records.WEIGHTS, records.TEMPORARY
POOL = ("planish_worker", "planish_run", "planish_rouse", "planish_stop")
TOLD = ("planish_tables", "planish_places")  # what host code asks an artifact
CODES = ("OK", "ARGUMENT", "NO_MEMORY", "FILE", "CPU", "ROOM", "NAN", "FAULT")
LINKED = {".so": "library", ".o": "object", "": "program"}
EMBEDDED = 1 << 30  # bytes of weights inside: code reaches no further than 2 GiB


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """Programs, ready to be written.

    `levels` are those for several kinds of processors of one architecture, by the name of the kind;
    later ones are preferred. Each has the same programs, in the order in which host code numbers
    them. `more` are facts of their origin.
    """

    kind: ClassVar[str]
    sources: ClassVar[Modules]  # of host code, beside those of `COMMON`
    levels: Mapping[str, Mapping[str, Program]]
    more: Mapping[str, Any]
    context: int = 0  # of texts
    vocabulary: int = 0
    prefix: str = PREFIX

    # What a kind of artifact says of itself

    @property
    def own_facts(self) -> dict[str, Any]:
        """Facts that only this kind has."""
        raise NotImplementedError(f"{type(self).__name__} defines no own_facts")

    @property
    def state_bytes(self) -> int:
        """Bytes of what changes."""
        raise NotImplementedError(f"{type(self).__name__} defines no state_bytes")

    @property
    def most(self) -> dict[str, int]:
        """The largest sizes."""
        return {}

    @property
    def begun(self) -> Mapping[int, np.ndarray]:
        """What the state begins with where that is not zero, by its place."""
        return {}

    def slots(self, program: Program) -> Iterator[tuple[int, int]]:
        """Where the inputs and outputs of a program are, in order: a space and an offset in it."""
        raise NotImplementedError(f"{type(self).__name__} defines no slots")

    def places_text(self) -> str:
        """The function `planish_places`, which this kind's host code asks, as LLVM text."""
        raise NotImplementedError(f"{type(self).__name__} defines no places_text")

    # Weights

    @cached_property
    def least(self) -> Target:
        """The processor that host code is for: any of the architecture."""
        (least,) = {baseline(x.target) for x in self._programs}
        return least

    @property
    def _programs(self) -> Iterator[Program]:
        return (x for programs in self.levels.values() for x in programs.values())

    @property
    def first(self) -> Mapping[str, Program]:
        """The programs of a level, for what all have in common."""
        return next(iter(self.levels.values()))

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """All arrays that are stored, each once."""
        return tuple(self._stored[0])

    @cached_property
    def _stored(self) -> tuple[list[np.ndarray], dict[int, int]]:
        """All arrays, and the number of each array that is asked for: equal ones are one."""
        kept: list[np.ndarray] = []
        known: dict[object, int] = {}
        numbers: dict[int, int] = {}
        params = (x for program in self._programs for x in program.params)
        for x in (*params, *self.begun.values()):
            if id(x) in numbers:
                continue
            data = np.ascontiguousarray(x).reshape(-1).view(np.uint8).data
            key = (x.dtype.str, x.shape, hashlib.sha256(data).digest())
            numbers[id(x)] = known.setdefault(key, len(kept))
            if numbers[id(x)] == len(kept):
                kept.append(x)
        return kept, numbers

    def _number(self, array: np.ndarray) -> int:
        return self._stored[1][id(array)]

    @cached_property
    def _offsets(self) -> list[int]:
        """Where each weight is, from the first one on."""
        at, found = 0, []
        for x in self.weights:
            found.append(at)
            at += up(x.nbytes)
        return found

    @cached_property
    def checksum(self) -> int:
        """What host code compares: SHA-256 takes longer than to begin with a text."""
        return checksum(self.weights, ALIGN)

    # Facts and code

    def facts(self, weights_file: str | None) -> dict[str, Any]:
        """Everything that an artifact says of itself."""
        return {
            **self.more,
            "kind": self.kind,
            "planish": __version__,
            "abi": ABI,
            "prefix": self.prefix,
            "context": self.context,
            "vocabulary": self.vocabulary,
            "weights_file": weights_file,
            "weights_checksum": f"{self.checksum:016x}",
            "levels": [self._level_facts(name) for name in self.levels],
            **self.own_facts,
        }

    def _level_facts(self, level: str) -> dict[str, Any]:
        """What is known of a level; its bytes of weights, also of those that others have, too."""
        programs = self.levels[level]
        arrays = [x for program in programs.values() for x in program.params]
        used = {self._number(x) for x in (*arrays, *self.begun.values())}
        return {
            **described(self._image(level)),
            "level": level,
            "memory": {
                "state": self.state_bytes,
                "arena": self._arena(level),
                "each_thread": self._scratch(level),
                "weights": sum(self.weights[i].nbytes for i in used),
            },
            "programs": {
                name: {
                    "image": program.image.facts(),
                    "main": self._main(level, name),
                    "weights": [self._number(x) for x in program.params],
                }
                for name, program in programs.items()
            },
        }

    def _image(self, level: str) -> Image:
        """One of a level: all are for the same processor."""
        return next(iter(self.levels[level].values())).image

    def _arena(self, level: str) -> int:
        return max(x.memory.arena for x in self.levels[level].values())

    def _scratch(self, level: str) -> int:
        """Bytes of each thread, at the largest sizes."""
        images = [x.image for x in self.levels[level].values()]
        sizes = (scratch_bytes(x, self.most) + i.private for i in images for x in (*i.scratch, ()))
        return up(max(sizes))

    def objects(self, packed: Packed, inside: bool) -> Iterator[tuple[str, bytes]]:
        """Files of code: kernels under names of their own, threads, host code and its tables."""
        mains = {self._main(level, x) for level in self.levels for x in self.first}
        shown = mains | {self._symbol(x) for x in POOL}
        for level, programs in self.levels.items():
            for name, program in programs.items():
                codes, stem = code_of(program), self._stem(level, name)
                new = {x: f"{stem}_{x}" for code in codes for x in defined(code)}
                new["planish_main"] = self._main(level, name)
                for number, code in enumerate(codes):
                    yield f"{stem}{number}.o", renamed(code, new, shown)
        new = {x: self._symbol(x) for x in POOL}
        yield "pool.o", renamed(pool_object(self.least), new, shown)
        # All artifacts of a kind have the same host code, but for its tables
        yield "host.o", _object(_host_text(self.sources, self.least, self.prefix), self.least)
        new = {x: self._symbol(x) for x in TOLD}
        told = f"{self._tables(packed, inside)}\n{self.places_text()}"
        yield "tables.o", renamed(_object(told, self.least), new, ())

    def _main(self, level: str, program: str) -> str:
        return f"{self._stem(level, program)}_main"

    def _stem(self, level: str, program: str) -> str:
        """How names of a program's functions begin."""
        own = re.sub(r"\W", "_", f"_{level}") if len(self.levels) > 1 else ""
        return f"{self.prefix}{program}{own}"

    def _symbol(self, name: str) -> str:
        return self.prefix + name.removeprefix(PREFIX)

    def _tables(self, packed: Packed, inside: bool) -> str:
        numbers = {
            "state": self.state_bytes, "inside": int(inside), "weights_at": packed.start,
            "size": packed.size, "checksum": self.checksum,
            "context": self.context, "vocabulary": self.vocabulary,
        }  # fmt: skip
        initial = [
            number
            for at, x in self.begun.items()
            for number in (self._offsets[self._number(x)], at, x.nbytes)
        ]
        kinds = [self._kind(x) for x in self.levels]
        return tables_text(kinds, self.artifact, initial, numbers, __version__)

    def _kind(self, level: str) -> Kind:
        """A level as host code sees it."""
        programs, image = self.levels[level], self._image(level)
        runs = [Run(self._main(level, x), self._all_slots(y)) for x, y in programs.items()]
        needs = needed(image.target, described(image)["requires"])
        numbers = {
            "arena": self._arena(level), "scratch": self._scratch(level),
            "tiles": int(image.target.has_matrix),
        }  # fmt: skip
        return Kind(level, runs, needs, numbers)

    def _all_slots(self, program: Program) -> tuple[tuple[int, int], ...]:
        """Where all slots of a program are."""
        return (
            *self.slots(program),
            *((WEIGHTS, self._offsets[self._number(x)]) for x in program.params),
            *((TEMPORARY, life.offset) for life in program.memory.lives),
        )

    @property
    def artifact(self) -> str:
        """The symbol of the data."""
        return f"{self.prefix}artifact"

    # Files

    def header(self, title: str) -> str:
        """The C header."""
        codes = [(x, getattr(records, x)) for x in CODES]
        texts = map(source_of, (*COMMON, *self.sources))
        return header_text(texts, title, codes, ABI, self.prefix)

    def save(self, path: Path, inside: bool = True) -> None:
        """Write name.so or name.o and, beside it, name.h; name.weights if they are not `inside`.

        A name without a suffix is that of a program for the shell, which has no header.
        """
        size = sum(x.nbytes for x in self.weights)
        if inside and size > EMBEDDED:
            raise ArtifactError(
                f"{size:,} bytes of weights do not fit into a library, at most {EMBEDDED:,}; "
                "write them to a file of their own (weights='file')"
            )
        weights = path.with_suffix(".weights")
        packed = Packed(self.facts(None if inside else weights.name), self.weights)
        with beside(path) as folder:
            files = dict(self.objects(packed, inside))
            for name, data in files.items():
                (folder / name).write_bytes(data)
            arch, kind = self.least.arch, LINKED[path.suffix]
            packed.write_object(folder / "data.o", arch, self.artifact, inside)
            # C programs look for a library by this name; they are not told where it was built
            soname = path.name if kind == "library" else ""
            link(folder, [*files, "data.o"], path, kind, arch, soname)
            if not inside:
                with open(folder / "weights", "wb") as file:
                    packed.write(file)
                os.replace(folder / "weights", weights)
        if path.suffix:
            self.save_header(path.with_suffix(".h"))

    def save_header(self, path: Path) -> None:
        """Write the C header."""
        write_atomically(path, self.header(path.stem).encode())


def _object(text: str, target: Target) -> bytes:
    """A module as an object file."""
    parts = ("host", text, target.triple, target.cpu, target.feature_text)
    return kept_in_cache((*parts, llvm_version()), lambda: llvm.compile_text(text, target))


@cache
def _host_text(sources: Modules, target: Target, prefix: str) -> str:
    """Host code, which asks for its tables."""
    given = {"planish_probe": probe_text(target)}
    return host_text(map(source_of, (*COMMON, *sources)), given, prefix)


def up(size: int) -> int:
    """A size in whole cache lines."""
    return -(-size // ALIGN) * ALIGN


def slot_bytes(slot: Slot) -> int:
    """The bytes of a slot at its largest; ArtifactError where it has no largest size."""
    size = upper(slot.type.size)
    if size is None:
        raise ArtifactError(f"{slot.name}: {slot.type} has no largest size")
    return size * slot.type.dtype.itemsize


def placed(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each of some pieces of memory is, one after the other, and the size of all."""
    places, at = [], 0
    for size in sizes:
        places.append(at)
        at += up(size)
    return places, at
