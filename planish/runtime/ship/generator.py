"""A generator as one artifact: two programs, their weights, host code around them, a C header.

    name.so, or name.o, and name.h    the functions of `planish.runtime.host`, called as C calls

The two programs (`prefill` reads a prompt, `decode` draws a token) share weights and state. Tables
say where each of their slots is, so that host code can make a model of zeros.
"""

from __future__ import annotations

import hashlib
import os
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
from planish.runtime.artifact import ALIGN, Packed, beside, code_of, described
from planish.runtime.host import (
    cpu,
    generator,
    keys,
    letters,
    libc,
    merging,
    model,
    shell,
    tokenizer,
    vocab,
    words,
)
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

SOURCES = (libc, cpu, model, keys, generator, letters, merging, vocab, tokenizer, words)
STATE, WEIGHTS, TEMPORARY = 0, model.WEIGHTS, model.TEMPORARY
POOL = ("planish_worker", "planish_run", "planish_stop")
CODES = ("OK", "ARGUMENT", "NO_MEMORY", "FILE", "CPU", "ROOM", "NAN", "FAULT")
SET = ("keys", "temperature", "top_k", "top_p")  # what host code sets of the state, by name
KINDS = {".so": "library", ".o": "object"}
EMBEDDED = 1 << 30  # bytes of weights inside: code reaches no further than 2 GiB


@dataclass(frozen=True)
class Shipped:
    """A generator, ready to be written: its programs by name, and what is known of the model.

    `more` are facts about where it comes from, `piece` is how many tokens one run of prefill reads,
    `words` the tokenizer. One that `is_program` is written as a program for the shell.
    """

    programs: Mapping[str, Program]
    context: int
    vocabulary: int
    piece: int
    more: Mapping[str, Any]
    prefix: str = PREFIX
    words: bytes = b""
    is_program: bool = False

    @property
    def target(self) -> Target:
        """The processor that the programs are for."""
        return self.programs["decode"].target

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
        for x in (x for program in self.programs.values() for x in program.params):
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
        for slot in self.programs["decode"].image.inputs:
            places.append(at)
            at += _up(_bytes(slot))
        return places, at

    def facts(self, weights_file: str | None) -> dict[str, Any]:
        """Everything that an artifact says of itself."""
        return {
            **self.more,
            **described(self.programs["decode"].image),
            "kind": "generator",
            "abi": model.ABI,
            "prefix": self.prefix,
            "context": self.context,
            "vocabulary": self.vocabulary,
            "piece": self.piece,
            "weights_file": weights_file,
            "memory": {
                "state": self._state[1],
                "arena": self._arena,
                "each_thread": self._scratch,
                "weights": sum(x.nbytes for x in self.weights),
            },
            "programs": {
                name: {
                    "image": program.image.facts(),
                    "weights": [self._stored[1][id(x)] for x in program.params],
                }
                for name, program in self.programs.items()
            },
        }

    @property
    def _arena(self) -> int:
        return max(x.memory.arena for x in self.programs.values())

    @property
    def _scratch(self) -> int:
        """Bytes of each thread, at the largest sizes."""
        most = {"T": self.piece}
        images = [x.image for x in self.programs.values()]
        sizes = (scratch_bytes(x, most) + i.private for i in images for x in (*i.scratch, ()))
        return _up(max(sizes))

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
        }
        sources = (*SOURCES, shell) if self.is_program else SOURCES
        text = host_text(map(source_of, sources), given, self.prefix)
        parts = ("host", text, target.triple, target.cpu, target.feature_text)
        version = metadata.version("llvmlite")
        return kept_in_cache((*parts, version), lambda: llvm.compile_text(text, target))

    def _tables(self, packed: Packed, inside: bool) -> str:
        places, size = self._state
        inputs = self.programs["decode"].image.inputs
        named = {slot.name: at for slot, at in zip(inputs, places, strict=True)}
        prompt = len(self.programs["prefill"].image.inputs) - 1
        features = described(self.programs["decode"].image)["requires"]
        numbers = {
            "state": size, "arena": self._arena, "scratch": self._scratch,
            "tokens": places[0], "pos": places[1], **{x: named[x] for x in SET},
            "prompt": prompt, "context": self.context, "vocabulary": self.vocabulary,
            "piece": self.piece, "tiles": int(self.target.has_matrix), "inside": int(inside),
            "weights_at": packed.start, "size": packed.size,
        }  # fmt: skip
        runs = {name: Run(self._main(name), self._slots(x)) for name, x in self.programs.items()}
        return tables_text(runs, needed(self.target, features), self.artifact, self.words, numbers)

    @property
    def artifact(self) -> str:
        """The symbol of the data."""
        return f"{self.prefix}artifact"

    def _slots(self, program: Program) -> tuple[tuple[int, int], ...]:
        """Where the slots of a program are, in the order of its pointer table."""
        image, places = program.image, self._state[0]
        ours = self.programs["decode"].image.inputs
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
            packed.write_object(folder / "data.o", self.target.arch, self.artifact, inside)
            kind = "program" if self.is_program else KINDS[path.suffix]
            link(folder, [*files, "data.o"], path, kind)
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
