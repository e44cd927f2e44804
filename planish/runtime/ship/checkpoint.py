"""What host code needs to write checkpoints, as constants of LLVM: the record `Kept`.

The layout is that of `planish.ir.store.file_bytes`: metadata first, f64 before f32, then by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from planish.runtime.host import sha256
from planish.runtime.host.kept import EVALUATIONS, LOSSES, Kept, Saved
from planish.runtime.ship.tables import Constants

NUMBER = 96  # bytes that are enough for the numbers of an entry


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds beside the arrays of a step.

    `names` are those of the arrays, by what they are called in the step; `history` are two f64 ones
    that come first: evaluations, which no step changes, and losses. `total` is the name under which
    the checksum stands in the metadata, `lacking` that of a parameter which the step does not have.
    """

    metadata: Mapping[str, str]
    names: Mapping[str, str]
    history: tuple[str, str]
    evaluations: np.ndarray
    total: str
    lacking: str = ""


def kept_text(
    made: Constants, checkpoint: Checkpoint, arrays: Mapping[str, np.ndarray],
    places: Mapping[str, int],
) -> str:  # fmt: skip
    """The record `Kept` for these arrays, which are at these places of the state."""
    first, losses = checkpoint.history
    named = {checkpoint.names[x]: (places[x], list(y.shape), y.nbytes) for x, y in arrays.items()}
    told = checkpoint.evaluations
    rows = [_saved(made, EVALUATIONS, first, "F64", (0, list(told.shape), told.nbytes), 0)]
    rows.append(_saved(made, LOSSES, losses, "F64", (0, None, 0), told.nbytes))
    before = told.nbytes
    for number, name in enumerate(sorted(named), len(rows)):
        rows.append(_saved(made, number, name, "F32", named[name], before))
        before += named[name][2]
    begin, middle = _head(checkpoint)
    names = [first, losses, *sorted(named)]
    entries = sum(len(_entry(x, "F32", named.get(x, (0, [], 0))[1]).encode()) for x in names)
    values = {
        "begin": made.text("kept.begin", begin), "middle": made.text("kept.middle", middle),
        "about": made.text("kept.about", json.dumps(sorted(checkpoint.metadata.items()))),
        "lacks": made.text("kept.lacks", checkpoint.lacking),
        "evaluations": made.data("kept.evaluations", told.tobytes()),
        "saved": made.records("kept.saved", Saved, rows), "count": len(rows),
        "order": made.numbers("kept.order", sorted(range(len(names)), key=names.__getitem__)),
        "numbers": made.numbers("kept.numbers", numbers()), "bytes": before,
        "room": len(begin.encode()) + len(middle.encode()) + entries + NUMBER * (len(rows) + 3),
    }  # fmt: skip
    return made.records("kept", Kept, [values])


def _saved(
    made: Constants, number: int, name: str, kind: str,
    array: tuple[int, list[int] | None, int], before: int,
) -> dict[str, str | int]:  # fmt: skip
    """An array; one without a shape gets its length, and the ends of these texts, in C."""
    at, shape, size = array
    dtype = {"F64": "float64", "F32": "float32"}[kind]
    label = json.dumps([name, dtype, [] if shape is None else shape])
    return {
        "entry": made.text(f"kept.entry.{number}", _entry(name, kind, shape)),
        "label": made.text(f"kept.label.{number}", label[:-2] if shape is None else label),
        "at": at, "size": size, "before": before,
    }  # fmt: skip


def _entry(name: str, kind: str, shape: list[int] | None) -> str:
    """What the header says of an array, up to where it is; up to its length without a shape."""
    told = f',{_compact(name)}:{{"dtype":"{kind}","shape":['
    if shape is None:
        return told
    return f'{told}{",".join(map(str, shape))}],"data_offsets":['


def _head(checkpoint: Checkpoint) -> tuple[str, str]:
    """The beginning of the header, before and after the checksum."""
    mark = "0" * sha256.DIGITS
    metadata = dict(sorted({**checkpoint.metadata, checkpoint.total: mark}.items()))
    begin, key, middle = _compact({"__metadata__": metadata}).partition(
        f"{_compact(checkpoint.total)}:"
    )
    return f'{begin}{key}"', middle.removeprefix(f'"{mark}').removesuffix("}")


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def numbers() -> list[int]:
    """The first words of SHA-256, and those of its rounds: parts of square and cube roots."""
    primes = [x for x in range(2, 312) if all(x % y for y in range(2, math.isqrt(x) + 1))]
    squares = [math.isqrt(x << 64) for x in primes[: sha256.WORDS]]
    return [x & 0xFFFFFFFF for x in (*squares, *map(_cube_root, primes[: sha256.ROUNDS]))]


def _cube_root(prime: int) -> int:
    """The cube root of a small number, in units of 2^-32, rounded down."""
    found, step = 0, 1 << 35
    while step:
        if (found + step) ** 3 <= prime << 96:
            found += step
        step >>= 1
    return found
