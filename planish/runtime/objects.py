"""Object files that go into artifacts: data, functions under other names, and what is inside.

    before, after = data_object("x86_64", "planish_artifact", size, 64)
    code = renamed(code, {"planish_main": "planish_decode_main"}, shown={"planish_decode_main"})
    at, size = found(data, "_artifact")

Format: "System V Application Binary Interface", chapters 4 and 5. `planish.runtime.elf` loads
objects into this process.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping

from planish.ir.errors import ArtifactError

MAGIC = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
RELOCATABLE, AMD64 = 1, 62
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELOCATION = struct.Struct("<QQq")

PROGBITS, SYMTAB, RELA, NOBITS = 1, 2, 4, 8  # kinds of sections
WRITE, ALLOC = 1, 2  # their flags
UNDEFINED, ABSOLUTE, SPECIAL = 0, 0xFFF1, 0xFF00  # places of symbols
LOCAL = 0  # a binding

STRTAB, DYNSYM = 3, 11
GLOBAL_OBJECT, HIDDEN = 0x11, 2
_MACHINES = {"x86_64": AMD64, "aarch64": 183, "riscv64": 243}
# Of the header: RISC-V's floats in registers of f64, as all of our code has; lld links no other
_FLAGS = {"riscv64": 4}
_SECTIONS = ("", ".rodata", ".symtab", ".strtab", ".note.GNU-stack")


def data_object(arch: str, name: str, size: int, align: int) -> tuple[bytes, bytes]:
    """What stands before and after `size` bytes of data in an object, whose symbol is `name`."""
    start = -(-HEADER.size // align) * align
    symbols_at = -(-(start + size) // 8) * 8
    names = b"".join(x.encode() + b"\0" for x in (*_SECTIONS, name))
    names = names.ljust(-(-len(names) // 8) * 8, b"\0")
    place = {x: names.index(x.encode() + b"\0") for x in (*_SECTIONS, name)}
    symbols = bytes(SYMBOL.size) + SYMBOL.pack(place[name], GLOBAL_OBJECT, 0, 1, 0, size)
    names_at = symbols_at + len(symbols)
    kinds = {
        "": (0, 0, 0, 0, 0, 0, 0, 0),
        ".rodata": (PROGBITS, ALLOC, start, size, 0, 0, align, 0),
        ".symtab": (SYMTAB, 0, symbols_at, len(symbols), 3, 1, 8, SYMBOL.size),
        ".strtab": (STRTAB, 0, names_at, len(names), 0, 0, 1, 0),
        ".note.GNU-stack": (PROGBITS, 0, symbols_at, 0, 0, 0, 1, 0),  # the stack is for no code
    }
    table = b"".join(
        SECTION.pack(place[x], kind, flags, 0, *rest) for x, (kind, flags, *rest) in kinds.items()
    )
    ident = MAGIC.ljust(16, b"\0")
    head = HEADER.pack(
        ident, RELOCATABLE, _MACHINES[arch], 1, 0, 0, names_at + len(names), _FLAGS.get(arch, 0),
        HEADER.size, 0, 0, SECTION.size, len(_SECTIONS), 3,
    )  # fmt: skip
    return head.ljust(start, b"\0"), bytes(symbols_at - start - size) + symbols + names + table


class _Tables:
    """The sections of a file and the symbols in it."""

    def __init__(self, data: memoryview) -> None:
        ident, *_, start, _, _, _, _, size, count, _ = HEADER.unpack_from(data)
        if ident[: len(MAGIC)] != MAGIC or size != SECTION.size:
            raise ArtifactError("no program, library or object file of 64 bits")
        if start + count * size > len(data):
            raise ArtifactError("cut: its table of sections goes beyond its end")
        self.data, self.start = data, start
        self.sections = [SECTION.unpack_from(data, start + i * size) for i in range(count)]

    def symbols(self, kind: int) -> Iterator[tuple[int, str, tuple[int, ...]]]:
        """Global symbols of tables of a kind: place in the file, name, fields."""
        for table in (x for x in self.sections if x[1] == kind):
            names = self.sections[table[6]][4]
            for at in range(table[4], table[4] + table[5], SYMBOL.size):
                fields = SYMBOL.unpack_from(self.data, at)
                if fields[1] >> 4 != LOCAL and fields[3] < SPECIAL:
                    yield at, self._name(names + fields[0]), fields

    def _name(self, at: int) -> str:
        found = bytearray()
        while self.data[at]:
            found.append(self.data[at])
            at += 1
        return found.decode("utf-8", "replace")


def defined(data: bytes) -> list[str]:
    """The global names that an object defines."""
    symbols = _Tables(memoryview(data)).symbols(SYMTAB)
    return [name for _, name, fields in symbols if fields[3] != UNDEFINED]


def renamed(data: bytes, new: Mapping[str, str], shown: Collection[str]) -> bytes:
    """An object with other names; only those `shown` are seen outside of what it is linked into."""
    tables, out = _Tables(memoryview(data)), bytearray(data)
    (link,) = {x[6] for x in tables.sections if x[1] == SYMTAB}
    place = tables.start + link * SECTION.size
    fields = list(tables.sections[link])
    names = bytearray(data[fields[4] : fields[4] + fields[5]])
    for at, name, (word, info, other, section, value, size) in tables.symbols(SYMTAB):
        if name in new:
            word = len(names)
            names += new[name].encode() + b"\0"
        if section != UNDEFINED and new.get(name, name) not in shown:
            other = HIDDEN
        SYMBOL.pack_into(out, at, word, info, other, section, value, size)
    out += bytes(-len(out) % 8)
    fields[4], fields[5] = len(out), len(names)  # the table of names moves to the end
    SECTION.pack_into(out, place, *fields)
    return bytes(out + names)


def found(data: memoryview, name: str) -> tuple[int, int]:
    """Where the object whose name ends with `name` is in a library, a program or an object file.

    Offset and size; ArtifactError where there is none, or where it goes beyond the file's end.
    """
    tables = _Tables(data)
    for kind in (DYNSYM, SYMTAB):
        for _, symbol, (_, info, _, section, value, length) in tables.symbols(kind):
            if info != GLOBAL_OBJECT or section == UNDEFINED or not symbol.endswith(name):
                continue
            home = tables.sections[section]
            offset = home[4] + value - home[3]
            if not home[4] <= offset <= offset + length <= min(home[4] + home[5], len(data)):
                raise ArtifactError(f"cut: {symbol} goes beyond its end")
            return offset, length
    raise ArtifactError("not a program of planish")
