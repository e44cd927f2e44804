"""A generator as one artifact: two programs, their weights, host code around them, a C header.

    name.so, or name.o, and name.h    the functions of `planish.runtime.host`, called as C calls

The two programs (`prefill` reads a prompt, `decode` draws a token) share weights and state. Tables
say where each of their slots is, so that host code can make a model of zeros.

There may be a pair of them for each of several levels of processors; host code chooses. Each level
reads weights packed in its own way, where they lie in the file: arrays that are equal are there
once, and pages of those that are for other levels are never read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from planish.ir.dims import upper
from planish.ir.errors import ArtifactError
from planish.ir.files import write_atomically
from planish.ir.later import later
from planish.runtime.artifact import ALIGN, Packed, beside, described
from planish.runtime.host import (
    cpu,
    generator,
    keys,
    known,
    letters,
    levels,
    libc,
    merging,
    model,
    quota,
    shell,
    tokenizer,
    vocab,
    words,
)
from planish.runtime.host.compiler import PREFIX, baseline, host_text, source_of
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

llvm = later("planish.runtime.llvm")
metadata = later("importlib.metadata")

SOURCES = (
    libc,
    quota,
    cpu,
    levels,
    model,
    known,
    keys,
    generator,
    letters,
    merging,
    vocab,
    tokenizer,
    words,
)
STATE, WEIGHTS, TEMPORARY = 0, model.WEIGHTS, model.TEMPORARY
POOL = ("planish_worker", "planish_run", "planish_stop")
CODES = ("OK", "ARGUMENT", "NO_MEMORY", "FILE", "CPU", "ROOM", "NAN", "FAULT")
# What host code sets of the state, by name; those of options are not in all programs
SET = ("keys", "temperature", "top_k", "top_p")
SET_MAYBE = ("min_p", "repetition_penalty", "seen")
KINDS = {".so": "library", ".o": "object"}
EMBEDDED = 1 << 30  # bytes of weights inside: code reaches no further than 2 GiB


@dataclass(frozen=True)
class Shipped:
    """A generator, ready to be written: its programs by name, and what is known of the model.

    `levels` are programs for several kinds of processors of one architecture, by the name of the
    kind; later ones are preferred. `more` are facts about where it comes from, `piece` is how many
    tokens one run of prefill reads, `words` the tokenizer. One that `is_program` is written as a
    program for the shell.
    """

    levels: Mapping[str, Mapping[str, Program]]
    context: int
    vocabulary: int
    piece: int
    more: Mapping[str, Any]
    prefix: str = PREFIX
    words: bytes = b""
    is_program: bool = False

    @cached_property
    def least(self) -> Target:
        """The processor that host code is for: any of the architecture."""
        (least,) = {baseline(x.target) for x in self._programs}
        return least

    @property
    def _programs(self) -> Iterator[Program]:
        return (x for programs in self.levels.values() for x in programs.values())

    @property
    def _first(self) -> Mapping[str, Program]:
        """The programs of a level, for what all have in common."""
        return next(iter(self.levels.values()))

    @cached_property
    def weights(self) -> tuple[np.ndarray, ...]:
        """All weights, each once."""
        return tuple(self._stored[0])

    @cached_property
    def _stored(self) -> tuple[list[np.ndarray], dict[int, int]]:
        """All weights, and the number of each array of a program: equal ones are one."""
        kept: list[np.ndarray] = []
        known: dict[object, int] = {}
        numbers: dict[int, int] = {}
        for x in (x for program in self._programs for x in program.params):
            if id(x) in numbers:
                continue
            data = np.ascontiguousarray(x).reshape(-1).view(np.uint8).data
            key = (x.dtype.str, x.shape, hashlib.sha256(data).digest())
            numbers[id(x)] = known.setdefault(key, len(kept))
            if numbers[id(x)] == len(kept):
                kept.append(x)
        return kept, numbers

    @cached_property
    def _state(self) -> tuple[list[int], int]:
        """Where each input of decode is in the state, and its bytes."""
        places, at = [], 0
        for slot in self._first["decode"].image.inputs:
            places.append(at)
            at += _up(_bytes(slot))
        return places, at

    def facts(self, weights_file: str | None) -> dict[str, Any]:
        """Everything that an artifact says of itself."""
        return {
            **self.more,
            "kind": "generator",
            "abi": model.ABI,
            "prefix": self.prefix,
            "context": self.context,
            "vocabulary": self.vocabulary,
            "piece": self.piece,
            "weights_file": weights_file,
            "levels": [self._level_facts(name) for name in self.levels],
        }

    def _level_facts(self, level: str) -> dict[str, Any]:
        """What is known of a level; its bytes of weights, also of those that others have, too."""
        programs = self.levels[level]
        used = {self._stored[1][id(x)] for program in programs.values() for x in program.params}
        return {
            "level": level,
            "requires": described(programs["decode"])["requires"],
            "memory": {
                "state": self._state[1],
                "arena": self._arena(level),
                "each_thread": self._scratch(level),
                "weights": sum(self.weights[i].nbytes for i in used),
            },
            "programs": {
                name: {
                    "image": program.image.facts(),
                    "main": self._main(level, name),
                    "weights": [self._stored[1][id(x)] for x in program.params],
                }
                for name, program in programs.items()
            },
        }

    def _arena(self, level: str) -> int:
        return max(x.memory.arena for x in self.levels[level].values())

    def _scratch(self, level: str) -> int:
        """Bytes of each thread, at the largest sizes."""
        most = {"T": self.piece}
        images = [x.image for x in self.levels[level].values()]
        sizes = (scratch_bytes(x, most) + i.private for i in images for x in (*i.scratch, ()))
        return _up(max(sizes))

    def objects(self, packed: Packed, inside: bool) -> Iterator[tuple[str, bytes]]:
        """Files of code: kernels under names of their own, threads, host code."""
        mains = {self._main(level, x) for level in self.levels for x in self._first}
        shown = mains | {self._symbol(x) for x in POOL}
        for level, programs in self.levels.items():
            for name, program in programs.items():
                codes, stem = program.image.code, self._stem(level, name)
                new = {x: f"{stem}_{x}" for code in codes for x in defined(code)}
                new["planish_main"] = self._main(level, name)
                for number, code in enumerate(codes):
                    yield f"{stem}{number}.o", renamed(code, new, shown)
        new = {x: self._symbol(x) for x in POOL}
        yield "pool.o", renamed(pool_object(self.least), new, shown)
        yield "host.o", self._host(self.least, packed, inside)

    def _main(self, level: str, program: str) -> str:
        return f"{self._stem(level, program)}_main"

    def _stem(self, level: str, program: str) -> str:
        """How names of a program's functions begin."""
        own = re.sub(r"\W", "_", f"_{level}") if len(self.levels) > 1 else ""
        return f"{self.prefix}{program}{own}"

    def _symbol(self, name: str) -> str:
        return self.prefix + name.removeprefix(PREFIX)

    def _host(self, target: Target, packed: Packed, inside: bool) -> bytes:
        """Host code and its tables as an object file."""
        given = {
            "planish_probe": probe_text(target),
            "planish_tables": self._tables(packed, inside),
        }
        sources = (*SOURCES, shell) if self.is_program else SOURCES
        text = host_text(map(source_of, sources), given, self.prefix)
        parts = ("host", text, target.triple, target.cpu, target.feature_text)
        version = metadata.version("llvmlite")
        return kept_in_cache((*parts, version), lambda: llvm.compile_text(text, target))

    def _tables(self, packed: Packed, inside: bool) -> str:
        places, size = self._state
        inputs = self._first["decode"].image.inputs
        named = {slot.name: at for slot, at in zip(inputs, places, strict=True)}
        prompt = len(self._first["prefill"].image.inputs) - 1
        numbers = {
            "state": size, "tokens": places[0], "pos": places[1], **{x: named[x] for x in SET},
            **{x: named.get(x, -1) for x in SET_MAYBE},
            "prompt": prompt, "context": self.context, "vocabulary": self.vocabulary,
            "piece": self.piece, "inside": int(inside), "weights_at": packed.start,
            "size": packed.size,
        }  # fmt: skip
        kinds = [self._kind(x) for x in self.levels]
        return tables_text(kinds, self.artifact, self.words, numbers)

    def _kind(self, level: str) -> Kind:
        """A level as host code sees it."""
        programs = self.levels[level]
        runs = {x: Run(self._main(level, x), self._slots(y)) for x, y in programs.items()}
        target, features = programs["decode"].target, described(programs["decode"])["requires"]
        numbers = {
            "arena": self._arena(level), "scratch": self._scratch(level),
            "tiles": int(target.has_matrix),
        }  # fmt: skip
        return Kind(level, runs, needed(target, features), numbers)

    @property
    def artifact(self) -> str:
        """The symbol of the data."""
        return f"{self.prefix}artifact"

    def _slots(self, program: Program) -> tuple[tuple[int, int], ...]:
        """Where the slots of a program are, in the order of its pointer table."""
        image, places = program.image, self._state[0]
        ours = self._first["decode"].image.inputs
        extra = image.inputs[len(ours) :]
        same = [x.type == y.type for x, y in zip(image.inputs, ours, strict=False)]
        if not all(same) or [x.name for x in extra] not in ([], ["prompt"]):
            raise ArtifactError(f"{image.name} and decode have different states")
        homes = {j: i for i, j in image.aliases}
        if len(homes) != len(image.outputs):
            raise ArtifactError(f"{image.name} returns what is no part of the state")
        taken = [*places, *[0] * len(extra)]  # the prompt's pointer is set for each run
        starts = offsets(self.weights)
        return (
            *((STATE, at) for at in taken),
            *((STATE, taken[homes[n]]) for n in range(len(image.outputs))),
            *((WEIGHTS, starts[self._stored[1][id(x)]]) for x in program.params),
            *((TEMPORARY, life.offset) for life in program.memory.lives),
        )

    def header(self, title: str) -> str:
        """The C header."""
        codes = [(x, getattr(model, x)) for x in CODES]
        return header_text(map(source_of, SOURCES), title, codes, model.ABI, self.prefix)

    def save(self, path: Path, inside: bool = True) -> None:
        """Write name.so or name.o and, beside it, name.h; name.weights if they are not `inside`."""
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
            packed.write_object(folder / "data.o", self.least.arch, self.artifact, inside)
            kind = "program" if self.is_program else KINDS[path.suffix]
            # C programs look for a library by this name; they are not told where it was built
            soname = path.name if kind == "library" else ""
            link(folder, [*files, "data.o"], path, kind, self.least.arch, soname)
            if not inside:
                with open(folder / "weights", "wb") as file:
                    packed.write(file)
                os.replace(folder / "weights", weights)
        if not self.is_program:
            self.save_header(path.with_suffix(".h"))

    def save_header(self, path: Path) -> None:
        """Write the C header."""
        write_atomically(path, self.header(path.stem).encode())


def _up(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _bytes(slot: Slot) -> int:
    size = upper(slot.type.size)
    if size is None:
        raise ArtifactError(f"{slot.name}: {slot.type} has no largest size")
    return size * slot.type.dtype.itemsize


def offsets(weights: Sequence[np.ndarray]) -> list[int]:
    """Where each weight is, from the first one on."""
    at, found = 0, []
    for x in weights:
        found.append(at)
        at += _up(x.nbytes)
    return found
