"""A compiled plan without its kernels: what running it needs, but for the weights.

An image is a value that becomes bytes and comes back, so that code made once runs in other
processes, without LLVM and without lowering anything. `planish.runtime.build` makes it of a plan;
`planish.runtime.cache` keeps images in files.

    bytes ::= length of the JSON, i64 | JSON | object files, one after the other
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from planish.ir import types as t
from planish.ir.dims import AnySize, Size, Symbol, symbols
from planish.ir.errors import ArtifactError
from planish.ir.types import TensorType
from planish.runtime.scratch import Local, local_of
from planish.runtime.slots import Limit, Made, Slot
from planish.runtime.target import Target

if TYPE_CHECKING:
    from planish.runtime.plan import Plan

Spans = tuple[tuple[int, int], ...]
Scratch = tuple[tuple[Local, ...], ...]
_LENGTH = struct.Struct("<q")
MALFORMED = (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError)
KINDS = {x.name: x for x in t.DTYPES.values()}


class Image(NamedTuple):
    """A program. `code` are object files whose function `planish_main` runs it.

    `dims` are the symbolic sizes that it is handed, `scratch` the large locals of each kernel,
    `private` the bytes of temporaries that each thread has for itself, `made` says how each param
    is made of the weights, and `spans` how long each temporary lives.
    """

    name: str
    target: Target
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    temps: tuple[Slot, ...]
    aliases: tuple[tuple[int, int], ...]
    limits: tuple[Limit, ...]
    sites: tuple[str, ...]
    spans: Spans
    made: tuple[Made, ...]
    weight_bytes: int
    dims: tuple[str, ...]
    scratch: Scratch
    private: int
    code: tuple[bytes, ...]

    @staticmethod
    def of(
        plan: Plan, target: Target, dims: tuple[str, ...], scratch: Scratch, private: int,
        code: tuple[bytes, ...],
    ) -> Image:  # fmt: skip
        """The image of a plan that was compiled to `code`."""
        return Image(
            plan.name, target, plan.inputs, plan.outputs, plan.temps, plan.aliases, plan.limits,
            plan.sites, plan.spans, plan.made, plan.weight_bytes, dims, scratch, private, code,
        )  # fmt: skip

    def to_bytes(self) -> bytes:
        """For `from_bytes`."""
        facts = {**self.facts(), "code": [len(x) for x in self.code]}
        head = json.dumps(facts, separators=(",", ":")).encode()
        return b"".join((_LENGTH.pack(len(head)), head, *self.code))

    def facts(self) -> dict[str, Any]:
        """All but the code, for JSON and `from_facts`."""
        slots = (*self.inputs, *self.outputs, *self.temps)
        sizes = [size for slot in slots for size in slot.type.shape]
        known = symbols(*sizes, *(x.size for x in self.limits))
        target = self.target
        return {
            "name": self.name,
            "target": [target.name, target.triple, target.cpu, sorted(target.features)],
            "symbols": {x.name: x.max for x in known},
            "slots": [_slot_facts(x) for x in slots],
            "counts": [len(self.inputs), len(self.outputs), len(self.temps)],
            "aliases": self.aliases,
            "limits": [[_size_facts(x.size), x.limit, x.reason] for x in self.limits],
            "sites": self.sites,
            "spans": self.spans,
            "made": [[x.names, x.kind, x.view, x.width, x.before, x.part] for x in self.made],
            "weight_bytes": self.weight_bytes,
            "dims": self.dims,
            "scratch": [[x.facts() for x in kernel] for kernel in self.scratch],
            "private": self.private,
        }

    @staticmethod
    def from_bytes(data: bytes) -> Image:
        """The image in bytes that `to_bytes` made; ArtifactError if there is none."""
        try:
            (length,) = _LENGTH.unpack_from(data)
            facts = json.loads(data[_LENGTH.size : _LENGTH.size + length])
            return _image(facts, _pieces(data[_LENGTH.size + length :], facts["code"]))
        except MALFORMED as error:
            raise ArtifactError(f"not a compiled program: {error!r:.200}") from error

    @staticmethod
    def from_facts(facts: Mapping[str, Any]) -> Image:
        """The image that `facts` are of, without code; ArtifactError if they are of none."""
        try:
            return _image(facts, ())
        except MALFORMED as error:
            raise ArtifactError(f"not a compiled program: {error!r:.200}") from error


def _pieces(data: bytes, sizes: Sequence[int]) -> tuple[bytes, ...]:
    if sum(sizes) != len(data) or min(sizes, default=0) < 0:
        raise ValueError(f"{len(data)} bytes of code, not {sum(sizes)}")
    ends = accumulate(sizes)
    return tuple(data[end - size : end] for size, end in zip(sizes, ends, strict=True))


def _image(facts: Mapping[str, Any], code: tuple[bytes, ...]) -> Image:
    known = {name: Symbol(name, most) for name, most in facts["symbols"].items()}
    slots = iter([_slot(x, known) for x in facts["slots"]])
    inputs, outputs, temps = (tuple(next(slots) for _ in range(n)) for n in facts["counts"])
    name, triple, cpu, features = facts["target"]
    return Image(
        name=facts["name"],
        target=Target(name, triple, cpu, frozenset(features)),
        inputs=inputs,
        outputs=outputs,
        temps=temps,
        aliases=_pairs(facts["aliases"]),
        limits=tuple(Limit(_size(size, known), most, why) for size, most, why in facts["limits"]),
        sites=tuple(facts["sites"]),
        spans=_pairs(facts["spans"]),
        made=tuple(Made(tuple(names), *rest) for names, *rest in facts["made"]),
        weight_bytes=facts["weight_bytes"],
        dims=tuple(facts["dims"]),
        scratch=tuple(tuple(map(local_of, kernel)) for kernel in facts["scratch"]),
        private=facts["private"],
        code=code,
    )


def _pairs(given: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(a), int(b)) for a, b in given)


def _slot_facts(slot: Slot) -> list[Any]:
    shape = [_size_facts(size) for size in slot.type.shape]
    return [slot.kind, slot.index, slot.type.dtype.name, shape, slot.name]


def _slot(facts: Sequence[Any], known: Mapping[str, Symbol]) -> Slot:
    kind, index, dtype, shape, name = facts
    type_ = TensorType(KINDS[dtype], tuple(_size(size, known) for size in shape))
    return Slot(kind, index, type_, name)


def _size_facts(size: AnySize) -> Any:
    if isinstance(size, int):
        return size
    return [[[symbol.name for symbol in monomial], factor] for monomial, factor in size.terms]


def _size(facts: Any, known: Mapping[str, Symbol]) -> AnySize:
    if isinstance(facts, int):
        return facts
    return Size(tuple((tuple(known[n] for n in names), factor) for names, factor in facts))
