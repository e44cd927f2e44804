"""GGUF, the container of llama.cpp: facts and tensors, in one file.

    "GGUF"  u32 version  u64 tensors  u64 facts
    facts    string key, u32 type, value           a string: u64 length, then UTF-8
    tensors  string name, u32 rank, u64 sizes (innermost first), u32 kind, u64 offset
    data     from the next multiple of general.alignment on, every tensor at a multiple of it

A reader of our own: the `gguf` package reads numbers of a file and goes where they point, and
brings a dozen packages along. Here every count and length is compared with what is left of the
file before anything is made of it, and tensors lie side by side or the file is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.formats.gguf_blocks import KINDS, WRITTEN, Kind
from planish.ir.errors import ArtifactError, UnsupportedError
from planish.ir.files import write_atomically
from planish.ir.mapped import mapped

MAGIC, VERSIONS, VERSION = b"GGUF", (2, 3), 3
STRING, ARRAY, BOOL = 8, 9, 7
# The file's numbers of scalar types -> how struct and NumPy write them, little endian
SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", BOOL: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
MOST_AXES = 4
ALIGNMENT = 32


@dataclass(frozen=True)
class Tensor:
    """A tensor as it lies in the file: its shape, outermost first, and its bytes."""

    shape: tuple[int, ...]
    kind: Kind
    raw: np.ndarray

    def read(self) -> np.ndarray:
        """The numbers: where they lie if they are stored plainly, else in float32."""
        return self.kind.decode(self.raw, self.shape)


@dataclass(frozen=True)
class GGUF:
    """What a file holds."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]


class _Cursor:
    """Reads on through the bytes of a file, and never beyond its end."""

    def __init__(self, path: Path, data: np.ndarray):
        self.path, self.data, self.at = path, data, 0

    def take(self, size: int, what: str) -> bytes:
        """The next bytes."""
        return self.array(size, what).tobytes()

    def array(self, size: int, what: str) -> np.ndarray:
        """The next bytes, where they lie."""
        if size > len(self.data) - self.at:
            left = len(self.data) - self.at
            raise self.wrong(f"cut: {what} takes {size:,} bytes, {left:,} are left")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str, what: str) -> Any:
        """The next number."""
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def text(self, what: str) -> str:
        """The next string."""
        data = self.take(self.number("<Q", what), what)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong(f"{what} is not UTF-8: {error}") from error

    def value(self, kind: int, what: str) -> Any:
        """The next value of a type; an array of numbers as an array of NumPy."""
        if kind == STRING:
            return self.text(what)
        if kind in SCALARS:
            return self.number(SCALARS[kind], what)
        if kind != ARRAY:
            raise self.wrong(f"{what} has the unknown type {kind}")
        inner, count = self.number("<I", what), self.number("<Q", what)
        if inner == STRING:
            if 8 * count > len(self.data) - self.at:
                raise self.wrong(f"cut: {what} has {count:,} strings")
            return [self.text(what) for _ in range(count)]
        if inner not in SCALARS:
            raise self.wrong(f"{what} is an array of the unknown type {inner}")
        dtype = np.dtype(SCALARS[inner])
        return self.array(count * dtype.itemsize, what).view(dtype)

    def wrong(self, text: str) -> ArtifactError:
        """The error of this file."""
        return ArtifactError(f"{self.path}: no whole GGUF file: {text}")


def read_gguf(path: Path) -> GGUF:
    """Everything in a file; ArtifactError, naming the place, unless it is whole."""
    if path.stat().st_size == 0:
        raise ArtifactError(f"{path}: no whole GGUF file: it is empty")
    file = _Cursor(path, mapped(path))
    if file.take(4, "the first word") != MAGIC:
        raise file.wrong("it does not begin with GGUF")
    version = file.number("<I", "the version")
    if version not in VERSIONS:
        raise UnsupportedError(
            f"{path}: GGUF of version {version}; {' and '.join(map(str, VERSIONS))} are read, "
            "little endian"
        )
    count, facts_count = file.number("<Q", "a count"), file.number("<Q", "a count")
    facts: dict[str, Any] = {}
    for _ in range(facts_count):
        key = file.text("a key")
        if key in facts:
            raise file.wrong(f"{key!r:.80} stands twice")
        facts[key] = file.value(file.number("<I", f"the type of {key!r:.80}"), repr(key)[:80])
    infos = _infos(file, count)
    alignment = facts.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment % 8:
        raise file.wrong(f"general.alignment is {alignment!r:.40}")
    start = -(-file.at // alignment) * alignment
    return GGUF(facts, _tensors(file, infos, start, alignment))


def _infos(file: _Cursor, count: int) -> dict[str, tuple[tuple[int, ...], Kind, int]]:
    """Shape, kind and offset of all tensors."""
    found: dict[str, tuple[tuple[int, ...], Kind, int]] = {}
    for _ in range(count):
        name = file.text("the name of a tensor")
        if name in found:
            raise file.wrong(f"tensor {name!r:.80} stands twice")
        rank = file.number("<I", f"tensor {name!r:.80}")
        if not 1 <= rank <= MOST_AXES:
            raise file.wrong(f"tensor {name!r:.80} has {rank} axes")
        sizes = [file.number("<Q", f"tensor {name!r:.80}") for _ in range(rank)]
        code, offset = file.number("<I", f"tensor {name!r:.80}"), file.number("<Q", "an offset")
        kind = KINDS.get(code)
        if kind is None:
            known = ", ".join(x.name for x in KINDS.values())
            raise UnsupportedError(
                f"{file.path}: tensor {name!r:.80} is of ggml's kind {code}; {known} are read"
            )
        if min(sizes) < 1 or sizes[0] % kind.block:
            raise file.wrong(f"tensor {name!r:.80} of {kind.name} has the sizes {sizes}")
        found[name] = (tuple(reversed(sizes)), kind, offset)
    return found


def _tensors(
    file: _Cursor, infos: Mapping[str, tuple[tuple[int, ...], Kind, int]], start: int, step: int
) -> dict[str, Tensor]:
    """The tensors; they lie one after another, and nothing else lies there."""
    found, end = {}, 0
    for name, (shape, kind, offset) in sorted(infos.items(), key=lambda x: x[1][2]):
        size = prod(shape) // kind.block * kind.size
        if offset != -(-end // step) * step:
            raise file.wrong(
                f"tensor {name!r:.80} is at {offset:,}, the one before ends at {end:,}"
            )
        end = offset + size
        if start + end > len(file.data):
            raise file.wrong(
                f"cut: tensor {name!r:.80} ends at {start + end:,}, the file at {len(file.data):,}"
            )
        found[name] = Tensor(shape, kind, file.data[start + offset : start + end])
    if len(file.data) > max(start + -(-end // step) * step, file.at):
        raise file.wrong(f"{len(file.data) - start - end:,} bytes follow the last tensor")
    return {name: found[name] for name in infos}


def write_gguf(
    path: Path, facts: Mapping[str, Any], tensors: Mapping[str, tuple[np.ndarray, Kind]]
) -> None:
    """Write a file, replacing an old one in one step.

    Of facts, integers become u32, floats f32, lists arrays of strings, and arrays of NumPy stay.
    """
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(facts))]
    for key, value in facts.items():
        head += [_string(key), _value(value)]
    data: list[bytes] = []
    at = 0
    for name, (array, kind) in tensors.items():
        sizes = array.shape[::-1]
        head.append(_string(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes))
        head.append(struct.pack("<IQ", kind.code, at))
        raw = WRITTEN[kind.name](array)
        data.append(raw + bytes(-len(raw) % ALIGNMENT))
        at += len(data[-1])
    begin = b"".join(head)
    write_atomically(path, b"".join([begin, bytes(-len(begin) % ALIGNMENT), *data]))


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, list):
        head = struct.pack("<IIQ", ARRAY, STRING, len(value))
        return head + b"".join(map(_string, value))
    if isinstance(value, np.ndarray):
        code = {np.dtype(form): code for code, form in SCALARS.items()}[value.dtype]
        return struct.pack("<IIQ", ARRAY, code, len(value)) + value.tobytes()
    code = BOOL if isinstance(value, bool) else 4 if isinstance(value, int) else 6
    return struct.pack("<I" + SCALARS[code][1], code, value)
