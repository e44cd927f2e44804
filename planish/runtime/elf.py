"""Machine code into memory: ELF object files, laid out, linked and made executable.

    code = Code([first, second])
    code.address("planish_main")

LLVM makes an object for each module. They need little of a linker: sections side by side in one
mapping, calls and constants at distances of 32 bits, and jumps to the few functions of the C
library that are used. This is done here, so that code from a cache runs without LLVM, whose
library alone takes 60 MB. x86-64 on Linux; elsewhere `planish.runtime.llvm.Library` does it.

Format: "System V Application Binary Interface", chapters 4 and 5, and its AMD64 supplement.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.errors import ArtifactError, CompileError
from planish.ir.later import later
from planish.runtime.objects import (
    ALLOC,
    AMD64,
    HEADER,
    LOCAL,
    MAGIC,
    NOBITS,
    PROGBITS,
    RELA,
    RELOCATABLE,
    RELOCATION,
    SECTION,
    SPECIAL,
    SYMBOL,
    SYMTAB,
    UNDEFINED,
    WRITE,
)
from planish.runtime.target import Target, perf_wanted

llvm = later("planish.runtime.llvm")

R_64, R_PC32, R_PLT32 = 1, 2, 4
STUB = b"\xff\x25\x00\x00\x00\x00"  # jmp [rip], followed by the address
STUB_BYTES = 16
READ, EXECUTE = 1, 4  # of mprotect
PERF_MAP = "/tmp/perf-{}.map"  # where perf looks


def loaded(codes: Iterable[bytes], target: Target) -> Any:
    """Code in this process, by whoever knows how: `address(name)` is where a function is."""
    ours = target.arch == "x86_64" and "linux" in target.triple
    return Code(codes) if ours else llvm.Library(codes, target)


@dataclass(frozen=True, slots=True)
class _Section:
    """A section of an object; `at` is its place in the mapping, or -1 where it is not loaded."""

    kind: int
    at: int
    data: bytes
    link: int
    info: int


@dataclass(frozen=True, slots=True)
class _Symbol:
    """A name in an object: the section where it is and the offset in it."""

    name: str
    section: int
    value: int
    size: int
    is_global: bool


class Code:
    """Objects in memory, as long as this lives; they may call functions of each other.

    ArtifactError where an object is none, CompileError where it needs what nobody defines.
    """

    def __init__(self, objects: Iterable[bytes]) -> None:
        layout = _Layout()
        try:
            parsed = [_parsed(data, layout) for data in objects]
            linked = layout.linked(parsed)
        except (struct.error, IndexError, ValueError, OverflowError) as error:
            raise ArtifactError(f"damaged machine code: {error}") from error
        self._memory, base = linked
        self._addresses = {name: base + at for name, at in layout.defined.items()}
        if perf_wanted():
            _tell_perf(base, parsed)

    def address(self, name: str) -> int:
        """Where the function `name` is."""
        if name not in self._addresses:
            raise CompileError(f"code has no {name}")
        return self._addresses[name]


class _Layout:
    """Places in one mapping."""

    def __init__(self) -> None:
        self.size = 0
        self.defined: dict[str, int] = {}

    def place(self, size: int, align: int) -> int:
        """Room for `size` bytes."""
        at = -(-self.size // max(1, align)) * max(1, align)
        self.size = at + size
        return at

    def linked(self, objects: list[tuple[list[_Section], list[_Symbol]]]) -> tuple[mmap.mmap, int]:
        """The mapping and its address: sections copied, relocations applied, no longer writable."""
        for sections, symbols in objects:
            for x in symbols:
                if x.is_global and x.section != UNDEFINED:
                    if x.name in self.defined:
                        raise ArtifactError(f"machine code defines {x.name} twice")
                    self.defined[x.name] = sections[x.section].at + x.value
        needed = {x.name for _, symbols in objects for x in symbols if x.section == UNDEFINED}
        stubs = self._stubs(sorted(needed - self.defined.keys() - {""}))
        try:
            memory = mmap.mmap(-1, max(self.size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no room for {self.size:,} bytes of code: {error}") from None
        base = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
        for name, (at, target) in stubs.items():
            memory[at : at + STUB_BYTES] = STUB + struct.pack("<Q", target) + bytes(2)
            self.defined[name] = at
        for sections, symbols in objects:
            for home in sections:
                if home.at >= 0:
                    memory[home.at : home.at + len(home.data)] = home.data
            self._relocate(memory, base, sections, symbols)
        _protect(base, max(self.size, 1))
        return memory, base

    def _stubs(self, names: list[str]) -> dict[str, tuple[int, int]]:
        """Where jumps to functions of the C library lie, and where those are."""
        library, found = ctypes.CDLL(None), {}
        missing = [name for name in names if not hasattr(library, name)]
        if missing:
            raise CompileError(f"code needs {', '.join(missing)}, which this process lacks")
        for name in names:
            target = ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
            found[name] = self.place(STUB_BYTES, STUB_BYTES), target
        return found

    def _relocate(
        self, memory: mmap.mmap, base: int, sections: list[_Section], symbols: list[_Symbol]
    ) -> None:
        for x in sections:
            if x.kind != RELA or sections[x.info].at < 0:
                continue
            home = sections[x.info]
            for offset, info, addend in RELOCATION.iter_unpack(x.data):
                symbol, kind = symbols[info >> 32], info & 0xFFFFFFFF
                value = self._value(symbol, sections) + addend
                width = 8 if kind == R_64 else 4
                if offset + width > len(home.data):
                    raise ArtifactError("damaged machine code: a relocation outside its section")
                place = home.at + offset
                if kind in (R_PC32, R_PLT32):
                    memory[place : place + 4] = struct.pack("<i", value - place)
                elif kind == R_64:
                    memory[place : place + 8] = struct.pack("<Q", base + value)
                else:
                    raise ArtifactError(f"machine code has a relocation of kind {kind}")

    def _value(self, symbol: _Symbol, sections: list[_Section]) -> int:
        if symbol.section == UNDEFINED:
            if symbol.name not in self.defined:
                raise ArtifactError("damaged machine code: it calls what has no name")
            return self.defined[symbol.name]
        return sections[symbol.section].at + symbol.value


def _parsed(data: bytes, layout: _Layout) -> tuple[list[_Section], list[_Symbol]]:
    """The sections of an object, with places, and its symbols."""
    ident, kind, arch, _, _, _, start, _, _, _, _, size, count, _ = HEADER.unpack_from(data)
    if ident[: len(MAGIC)] != MAGIC or (kind, arch, size) != (RELOCATABLE, AMD64, SECTION.size):
        raise ArtifactError("damaged machine code: no object file for x86-64")
    sections = [_section(data, start + i * size, layout) for i in range(count)]
    tables = [x for x in sections if x.kind == SYMTAB]
    return sections, [s for x in tables for s in _symbols(x, sections)]


def _section(data: bytes, at: int, layout: _Layout) -> _Section:
    _, kind, flags, _, offset, size, link, info, align, _ = SECTION.unpack_from(data, at)
    content = bytes(size) if kind == NOBITS else data[offset : offset + size]
    if (kind == NOBITS and size > len(data)) or len(content) != size:
        raise ArtifactError("damaged machine code: a section beyond the end")
    loaded = flags & ALLOC and kind in (PROGBITS, NOBITS)
    if loaded and flags & WRITE:
        raise ArtifactError("machine code with memory of its own, which kernels have not")
    if loaded and align > mmap.PAGESIZE:
        raise ArtifactError(f"damaged machine code: a section aligned to {align:,}")
    place = layout.place(size, align) if loaded else -1
    return _Section(kind, place, content, link, info)


def _symbols(table: _Section, sections: list[_Section]) -> Iterator[_Symbol]:
    names = sections[table.link].data
    for name, info, _, section, value, size in SYMBOL.iter_unpack(table.data):
        text = names[name : names.index(b"\0", name)].decode("ascii")
        is_global = info >> 4 != LOCAL
        if section < SPECIAL and section >= len(sections):
            raise ArtifactError("damaged machine code: a symbol outside of all sections")
        if section >= SPECIAL:  # the name of the file
            section, text, is_global = UNDEFINED, "", False
        elif section and sections[section].at >= 0 and value > len(sections[section].data):
            raise ArtifactError("damaged machine code: a symbol outside its section")
        yield _Symbol(text, section, value, size, is_global)


def _tell_perf(base: int, objects: Iterable[tuple[list[_Section], list[_Symbol]]]) -> None:
    """Add functions to the file where `perf report` looks for names of code without a file.

    Format: tools/perf/Documentation/jit-interface.txt of Linux, lines of start, size and name.
    """
    lines = [
        f"{base + sections[x.section].at + x.value:x} {x.size:x} {x.name}\n"
        for sections, symbols in objects
        for x in symbols
        if x.size and x.section != UNDEFINED and sections[x.section].at >= 0
    ]
    own = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with open(os.open(PERF_MAP.format(os.getpid()), own, 0o600), "w") as file:
        file.writelines(lines)


def _protect(base: int, size: int) -> None:
    """Make a mapping executable, and no longer writable."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(size), READ | EXECUTE):
        raise CompileError(
            "the system does not let this process run code that it made "
            f"(mprotect: error {ctypes.get_errno()})"
        )
