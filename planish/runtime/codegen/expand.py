"""Kept values go to where the bits of a mask are, zeros elsewhere: what processors have for it.

    vexpandps, vpexpandb  a whole vector, of a register: from memory it is slow on Zen 5
    vpshufb, tbl          16 bytes, by a table of where each comes from: for four floats one of 16
                          entries, for eight bytes one of 256. A place beyond 15 gives 0.

With AVX2, vpermps on eight floats by a table of 256 took a third longer on Zen 1 than vpshufb on
four: zeros cost it instructions. See `planish.runtime.expansion` for who has what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planish.ir import types as t
from planish.ir.loop_expand import LANES
from planish.ir.types import DType
from planish.runtime.codegen.text import mangled, vector_type
from planish.runtime.codegen.value import Value
from planish.runtime.expansion import way

if TYPE_CHECKING:
    from planish.runtime.codegen.scalar import Scalars

NOWHERE = 0x80  # a place of both instructions that gives 0
BYTES = vector_type("i8", 16)
SHUFFLES = {"x86_64": "llvm.x86.ssse3.pshuf.b.128", "aarch64": "llvm.aarch64.neon.tbl1.v16i8"}


def expand_load(s: Scalars, values: DType, address: str, mask: Value, dtype: DType) -> Value:
    """A vector of `dtype` from the values at an address, by the way that the target has."""
    if way(s.target, values) == "instruction":
        ref = _by_instruction(s, values, address, mask)
    else:
        ref = _by_tables(s, values, address, mask)
    if values == t.u8:
        ref = s.writer.op(f"bitcast <{4 * LANES} x i8> {ref} to {vector_type('i32', LANES)}")
    return Value(ref, dtype, LANES)


def _by_instruction(s: Scalars, values: DType, address: str, mask: Value) -> str:
    element, count = ("i8", 4 * LANES) if values == t.u8 else ("float", LANES)
    kind, bits = vector_type(element, count), mask.ref
    if count < 64:
        bits = s.writer.op(f"trunc {mask.typed} to i{count}")
    lanes = s.writer.op(f"bitcast i{count} {bits} to {vector_type('i1', count)}")
    # volatile, or LLVM makes the load a part of the instruction
    read = s.writer.op(f"load volatile {kind}, ptr {address}, align {values.itemsize}")
    given = (kind, read), (kind, "zeroinitializer"), (vector_type("i1", count), lanes)
    return s.writer.call(f"llvm.x86.avx512.mask.expand.{mangled(kind)}", kind, *given)


def _by_tables(s: Scalars, values: DType, address: str, mask: Value) -> str:
    """Sixteen bytes at a time, side by side; `at` goes on by what is kept."""
    make, element, lanes = (_sixteen, "i8", 16) if values == t.u8 else (_four_floats, "float", 4)
    parts, at = [], "0"
    for i in range(4):
        part, at = make(s, address, mask, i, at)
        parts.append(part)
    while len(parts) > 1:
        parts = [_joined(s, element, lanes, *parts[i : i + 2]) for i in range(0, len(parts), 2)]
        lanes *= 2
    return parts[0]


def _four_floats(s: Scalars, address: str, mask: Value, i: int, at: str) -> tuple[str, str]:
    """Floats 4 i .. 4 i + 3, and where the next begin."""
    w = s.writer
    entries = [_places([4 * x + b for x in _ranks(m, 4) for b in range(4)]) for m in range(16)]
    pointer = w.op(f"getelementptr float, ptr {address}, i64 {at}")
    read = w.op(f"load {BYTES}, ptr {pointer}, align 4")
    places, at = _entry(s, "planish.places4", BYTES, entries, _bits(s, mask, 4 * i, 4, 4), at)
    found = w.call(SHUFFLES[s.target.arch], BYTES, (BYTES, read), (BYTES, places))
    return w.op(f"bitcast {BYTES} {found} to <4 x float>"), at


def _sixteen(s: Scalars, address: str, mask: Value, i: int, at: str) -> tuple[str, str]:
    """Bytes 16 i .. 16 i + 15, whose halves begin in different places; and where the next do."""
    w, half = s.writer, vector_type("i8", 8)
    read, places = [], []
    for upper in (0, 1):
        pointer = w.op(f"getelementptr i8, ptr {address}, i64 {at}")
        read.append(w.op(f"load {half}, ptr {pointer}, align 1"))
        entries = [_places([x + 8 * upper for x in _ranks(m, 8)]) for m in range(256)]
        bits = _bits(s, mask, 16 * i + 8 * upper, 8, 3)
        entry, at = _entry(s, f"planish.places8.{upper}", half, entries, bits, at)
        places.append(entry)
    given = [(BYTES, _joined(s, "i8", 8, *pair)) for pair in (read, places)]
    return w.call(SHUFFLES[s.target.arch], BYTES, *given), at


def _ranks(mask: int, count: int) -> list[int]:
    """For each bit how many are set below it; where it is not, a place that gives 0."""
    below = [(mask & ((1 << i) - 1)).bit_count() for i in range(count)]
    return [x if mask >> i & 1 else NOWHERE for i, x in enumerate(below)]


def _places(numbers: list[int]) -> str:
    return ", ".join(f"i8 {x if x < NOWHERE else NOWHERE - 256}" for x in numbers)


def _bits(s: Scalars, mask: Value, first: int, count: int, shift: int) -> str:
    """So many bits of a mask, shifted to the left: where an entry of as many bytes begins."""
    op, by = ("lshr", first - shift) if first >= shift else ("shl", shift - first)
    bits = s.writer.op(f"{op} i64 {mask.ref}, {by}")
    return s.writer.op(f"and i64 {bits}, {((1 << count) - 1) << shift}")


def _entry(
    s: Scalars, name: str, kind: str, entries: list[str], bits: str, at: str
) -> tuple[str, str]:
    """The entry that begins at `bits` of a table that belongs to the module; and `at`, increased by
    how many those are."""
    w = s.writer
    rows = ", ".join(f"{kind} <{x}>" for x in entries)
    table = f"[{len(entries)} x {kind}] [{rows}]"
    w.declarations[name] = f"@{name} = private unnamed_addr constant {table}, align 64"
    pointer = w.op(f"getelementptr i8, ptr @{name}, i64 {bits}")
    entry = w.op(f"load {kind}, ptr {pointer}, align {kind[1:].split()[0]}")
    count = w.call("llvm.ctpop.i64", "i64", ("i64", bits))
    return entry, count if at == "0" else w.op(f"add i64 {at}, {count}")


def _joined(s: Scalars, element: str, lanes: int, low: str, high: str) -> str:
    """Two vectors as one."""
    kind, numbers = vector_type(element, lanes), ", ".join(f"i32 {i}" for i in range(2 * lanes))
    text = f"shufflevector {kind} {low}, {kind} {high}, <{2 * lanes} x i32> <{numbers}>"
    return s.writer.op(text)
