"""LLVM's types and literals, and a function being written."""

from __future__ import annotations

import math
import struct
from ctypes import c_float
from functools import cache

import numpy as np

from planish.ir import types as t
from planish.ir.types import DType

# bf16 stays bits: where the processor has no bf16, LLVM calls a library for values of that type.
_TYPES = {
    t.f64: "double", t.f32: "float", t.f16: "half", t.bf16: "i16", t.i64: "i64", t.i32: "i32",
    t.i8: "i8", t.i4: "i8", t.u32: "i32", t.u8: "i8", t.boolean: "i1",
}  # fmt: skip

# First lines of modules: what LLVM has to do with them. Without one, it does all that it knows.
KERNELS = "; kernels\n"  # loops that say already what is a vector and what is unrolled
CALLS = "; calls\n"  # a list of calls, in which there is nothing to be found

_LOOP, _STAYS = "!4000000000", "!4000000001"  # beyond the numbers of trips
_AS_IT_IS = (
    f'{_LOOP} = distinct !{{{_LOOP}, {_STAYS}}}\n{_STAYS} = !{{!"llvm.loop.unroll.disable"}}'
)

_MANGLED = {"double": "f64", "float": "f32", "half": "f16", "ptr": "p0"}


@cache
def llvm_type(dtype: DType, lanes: int = 0) -> str:
    """The type of a register that holds `lanes` values (0: one scalar) of `dtype`."""
    return vector_type(_TYPES[dtype], lanes)


@cache
def memory_type(dtype: DType) -> str:
    """The type of an element in memory: bool is a byte, f16 moves as its bits."""
    if dtype == t.boolean:
        return "i8"
    return "i16" if dtype == t.f16 else _TYPES[dtype]


@cache
def vector_type(element: str, lanes: int) -> str:
    """`element`, or a vector of it."""
    return f"<{lanes} x {element}>" if lanes else element


@cache
def mangled(kind: str) -> str:
    """A type as it stands in the name of an intrinsic: v16f32, p0, i64."""
    if kind.startswith("<"):
        lanes, element = kind[1:-1].split(" x ")
        return f"v{lanes}{mangled(element)}"
    return _MANGLED.get(kind, kind)


def literal(value: bool | int | float, dtype: DType) -> str:
    """A constant as LLVM writes it."""
    if dtype == t.boolean:
        return "true" if value else "false"
    if not dtype.is_float:
        bits = max(dtype.bits, 8)
        wrapped = int(value) & ((1 << bits) - 1)
        return str(wrapped - (1 << bits) if wrapped >> (bits - 1) else wrapped)
    if dtype in (t.f16, t.bf16):
        bits = int(np.array(value, np.float32).astype(dtype.numpy).view(np.uint16))
        return f"0xH{bits:04X}" if dtype == t.f16 else str(bits)
    number = float(value)
    if dtype == t.f32:
        number = c_float(number).value
    if math.isnan(number):
        return "0x7FF8000000000000"
    return f"0x{struct.unpack('>Q', struct.pack('>d', number))[0]:016X}"


def splat_literal(text: str, element: str, lanes: int) -> str:
    """The constant `text` in every lane."""
    return f"splat ({element} {text})" if lanes else text


def literal_int(ref: str) -> int | None:
    """The number that an integer literal (in every lane) is; None for a register."""
    text = ref.rsplit(" ", 1)[-1].rstrip(")")
    return int(text) if text.lstrip("-").isdigit() else None


class Writer:
    """The text of one function, instruction by instruction, and what it declares."""

    def __init__(self, declarations: dict[str, str]) -> None:
        self.declarations = declarations
        self.entry: list[str] = []  # runs first: allocas
        self.lines: list[str | list[str]] = []  # a list inside: what is moved out of a loop
        self.loops = 0  # begun so far
        self._count = 0

    def name(self, hint: str = "") -> str:
        """A new name, for a label or a register (without its %)."""
        self._count += 1
        return f"{hint}{self._count}" if hint else f"r{self._count}"

    def op(self, text: str) -> str:
        """Add an instruction with a result; returns the register."""
        self._count += 1
        ref = f"%r{self._count}"
        self.lines.append(f"  {ref} = {text}")
        return ref

    def op_in(self, block: list[str], text: str) -> str:
        """Add an instruction to an earlier block."""
        self._count += 1
        block.append(f"  %r{self._count} = {text}")
        return f"%r{self._count}"

    def earlier(self) -> list[str]:
        """A place here for instructions that are found later."""
        block: list[str] = []
        self.lines.append(block)
        return block

    def do(self, text: str) -> None:
        """Add an instruction without a result."""
        self.lines.append(f"  {text}")

    def label(self, name: str) -> None:
        """Begin a block."""
        self.lines.append(f"{name}:")

    def body(self) -> list[str]:
        """All lines in order."""
        lines = list(self.entry)
        for line in self.lines:
            lines.extend(line) if isinstance(line, list) else lines.append(line)
        return lines

    def alloca(self, text: str) -> str:
        """Stack memory, set aside on entry."""
        ref = f"%{self.name('m')}"
        self.entry.append(f"  {ref} = alloca {text}")
        return ref

    def call(self, name: str, result: str, *args: tuple[str, str], flags: str = "") -> str:
        """Call a function of another module, most often an intrinsic, with (type, value) pairs."""
        self.declare(name, result, *(kind for kind, _ in args))
        given = ", ".join(f"{kind} {value}" for kind, value in args)
        text = f"call {flags}{result} @{name}({given})"
        if result == "void":
            self.do(text)
            return ""
        return self.op(text)

    def told(self, trips: int | None, stays: bool) -> str:
        """What LLVM is told of a loop: how often it runs, where that is known, so that it spills
        what the others use; of one that `stays`, not to unroll it, nor to find out whether to."""
        told = ""
        if stays:
            self.declarations[_LOOP] = _AS_IT_IS
            told = f", !llvm.loop {_LOOP}"
        if trips is not None:
            node = f"!{trips + 1}"
            weights = f'!{{!"branch_weights", i32 {max(trips - 1, 1)}, i32 1}}'
            self.declarations[node] = f"{node} = {weights}"
            told += f", !prof {node}"
        return told

    def declare(self, name: str, result: str, *kinds: str) -> None:
        """Note that the module needs `name`."""
        if name not in self.declarations:
            plain = ", ".join(kind.split(" align")[0] for kind in kinds)
            self.declarations[name] = f"declare {result} @{name}({plain})"
