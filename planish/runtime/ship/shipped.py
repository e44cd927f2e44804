"""Programs as one artifact: their weights, host code around them, a C header.

    name.so, or name.o, and name.h    the functions of `planish.runtime.host`, called as C calls

The programs share weights and state. Tables say where each of their slots is, so that host code can
make a model of zeros.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import numpy as np

from planish.ir.dims import upper
from planish.ir.errors import ArtifactError
from planish.ir.files import write_atomically
from planish.ir.later import later
from planish.runtime.artifact import ALIGN, Packed, beside, code_of, described
from planish.runtime.host import cpu, libc, model, records
from planish.runtime.host.compiler import PREFIX, baseline, host_text, source_of
from planish.runtime.linker import link
from planish.runtime.objects import defined, renamed
from planish.runtime.plan import Slot
from planish.runtime.pool import pool_object
from planish.runtime.program import Program, scratch_bytes
from planish.runtime.ship.header import header_text
from planish.runtime.ship.processor import needed, probe_text
from planish.runtime.ship.tables import Run, tables_text
from planish.runtime.target import Target, kept_in_cache

llvm = later("planish.runtime.llvm")
metadata = later("importlib.metadata")

Modules: TypeAlias = tuple[ModuleType, ...]
COMMON: Modules = (libc, cpu, records, model)
STATE, WEIGHTS, TEMPORARY = 0, records.WEIGHTS, records.TEMPORARY
POOL = ("planish_worker", "planish_run", "planish_stop")
CODES = ("OK", "ARGUMENT", "NO_MEMORY", "FILE", "CPU", "ROOM", "NAN", "FAULT")
LINKED = {".so": "library", ".o": "object", "": "program"}
EMBEDDED = 1 << 30  # bytes of weights inside: code reaches no further than 2 GiB


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """Programs in the order in which host code numbers them; `more` are facts of their origin."""

    kind: ClassVar[str]
    sources: ClassVar[Modules]  # of host code, beside those of `COMMON`
    programs: Mapping[str, Program]
    more: Mapping[str, Any]
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

    @property
    def target(self) -> Target:
        """The processor that the programs are for."""
        return next(iter(self.programs.values())).target

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
        params = (x for program in self.programs.values() for x in program.params)
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

    # Facts and code

    def facts(self, weights_file: str | None) -> dict[str, Any]:
        """Everything that an artifact says of itself."""
        first = next(iter(self.programs.values()))
        return {
            **self.more,
            **described(first.image),
            "kind": self.kind,
            "abi": records.ABI,
            "prefix": self.prefix,
            "weights_file": weights_file,
            "memory": {
                "state": self.state_bytes,
                "arena": self._arena,
                "each_thread": self._scratch,
                "weights": sum(x.nbytes for x in self.weights),
            },
            "programs": {
                name: {
                    "image": program.image.facts(),
                    "weights": [self._number(x) for x in program.params],
                }
                for name, program in self.programs.items()
            },
            **self.own_facts,
        }

    @property
    def _arena(self) -> int:
        return max(x.memory.arena for x in self.programs.values())

    @property
    def _scratch(self) -> int:
        """Bytes of each thread, at the largest sizes."""
        images = [x.image for x in self.programs.values()]
        sizes = (scratch_bytes(x, self.most) + i.private for i in images for x in (*i.scratch, ()))
        return up(max(sizes))

    def objects(self, packed: Packed, inside: bool) -> Iterator[tuple[str, bytes]]:
        """Files of code: kernels under names of their own, threads, host code."""
        shown = {self._main(x) for x in self.programs} | {self._symbol(x) for x in POOL}
        for name, program in self.programs.items():
            codes = code_of(program)
            new = {x: f"{self.prefix}{name}_{x}" for code in codes for x in defined(code)}
            new["planish_main"] = self._main(name)
            for number, code in enumerate(codes):
                yield f"{name}{number}.o", renamed(code, new, shown)
        least = baseline(self.target)
        new = {x: self._symbol(x) for x in POOL}
        yield "pool.o", renamed(pool_object(least), new, shown)
        yield "host.o", self._host(least, packed, inside)

    def _main(self, program: str) -> str:
        return f"{self.prefix}{program}_main"

    def _symbol(self, name: str) -> str:
        return self.prefix + name.removeprefix(PREFIX)

    def _host(self, target: Target, packed: Packed, inside: bool) -> bytes:
        """Host code and its tables as an object file."""
        given = {
            "planish_probe": probe_text(target),
            "planish_tables": self._tables(packed, inside),
            "planish_places": self.places_text(),
        }
        text = host_text(map(source_of, (*COMMON, *self.sources)), given, self.prefix)
        parts = ("host", text, target.triple, target.cpu, target.feature_text)
        version = metadata.version("llvmlite")
        return kept_in_cache((*parts, version), lambda: llvm.compile_text(text, target))

    def _tables(self, packed: Packed, inside: bool) -> str:
        features = described(next(iter(self.programs.values())).image)["requires"]
        numbers = {
            "state": self.state_bytes, "arena": self._arena, "scratch": self._scratch,
            "tiles": int(self.target.has_matrix), "inside": int(inside),
            "weights_at": packed.start, "size": packed.size,
        }  # fmt: skip
        runs = [Run(self._main(name), self._all_slots(x)) for name, x in self.programs.items()]
        initial = [
            number
            for at, x in self.begun.items()
            for number in (self._offsets[self._number(x)], at, x.nbytes)
        ]
        return tables_text(runs, needed(self.target, features), self.artifact, initial, numbers)

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
        return header_text(texts, title, codes, records.ABI, self.prefix)

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
            packed.write_object(folder / "data.o", self.target.arch, self.artifact, inside)
            link(folder, [*files, "data.o"], path, LINKED[path.suffix])
            if not inside:
                with open(folder / "weights", "wb") as file:
                    packed.write(file)
                os.replace(folder / "weights", weights)
        if path.suffix:
            self.save_header(path.with_suffix(".h"))

    def save_header(self, path: Path) -> None:
        """Write the C header."""
        write_atomically(path, self.header(path.stem).encode())


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
