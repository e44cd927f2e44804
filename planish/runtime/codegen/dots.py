"""Dot products of narrow numbers, whose operands are words of 32 bits: what processors have.

    dpbf16          vdpbf16ps; else two fma
    dpbusd, dpbssd  vpdpbusd, usdot (a unsigned); sdot (signed); vpmaddwd of every other byte
                    (vpmaddubsw would saturate); else four products

All give the same bits as `planish.ir.loop_scalars` says, subnormal numbers of vdpbf16ps excepted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from planish.ir import types as t
from planish.runtime.codegen.text import mangled, splat_literal, vector_type
from planish.runtime.codegen.value import Value

if TYPE_CHECKING:
    from planish.runtime.codegen.scalar import Scalars

DOT_LANES = 16  # of vdpbf16ps on whole registers
_BYTES = (16, 8, 4)  # lanes of i32 in registers of 512, 256, 128 bits
_PAIRWISE = {16: "avx512.pmaddw.d.512", 8: "avx2.pmadd.wd", 4: "sse2.pmadd.wd"}
_PAIRWISE_NEEDS = {16: "avx512bw", 8: "avx2", 4: ""}


def dot_pairs(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """vdpbf16ps on pieces of 16 lanes; elsewhere fma on the upper, then on the lower halves."""
    if s.target.has_bf16_dot and total.lanes and total.lanes % DOT_LANES == 0:
        kind = f"<{2 * DOT_LANES} x bfloat>"
        return _pieces(s, "llvm.x86.avx512bf16.dpbf16ps.512", kind, DOT_LANES, total, a, b)
    for half in (_upper_half, _lower_half):
        total = s.emit("fma", [half(s, a), half(s, b), total], t.f32)
    return total


def _upper_half(s: Scalars, words: Value) -> Value:
    return s.bits(s.binary("and", words, s.const(0xFFFF0000, words)), t.f32)


def _lower_half(s: Scalars, words: Value) -> Value:
    return s.bits(s.binary("shl", words, s.const(16, words)), t.f32)


def dot_bytes(s: Scalars, total: Value, a: Value, b: Value, signed: bool) -> Value:
    """The sum of four products of bytes; those of b are signed."""
    if (found := _instruction(s, total.lanes, signed)) is not None:
        name, lanes = found
        return _pieces(s, name, f"<{4 * lanes} x i8>", lanes, total, a, b)
    lanes = _fitting(total.lanes, lambda n: s.target.has(_PAIRWISE_NEEDS[n]) or n == 4)
    if s.target.arch == "x86_64" and lanes:
        return _by_pairs(s, total, a, b, lanes, signed)
    for i in range(4):
        x, y = _byte(s, a, i, signed), _byte(s, b, i, True)
        total = s.binary("add", total, s.binary("mul", x, y))
    return total


def _instruction(s: Scalars, lanes: int, signed: bool) -> tuple[str, int] | None:
    """The intrinsic that does it on so many lanes at once."""
    has = s.target.has
    if s.target.arch == "aarch64" and has("dotprod" if signed else "i8mm") and lanes % 4 == 0:
        dot = "sdot" if signed else "usdot"
        return (f"llvm.aarch64.neon.{dot}.v4i32.v16i8", 4) if lanes else None
    if signed or not s.target.has_byte_dot:
        return None
    narrow = has("avxvnni") or has("avx512vl")
    size = _fitting(lanes, lambda n: has("avx512vnni") if n == 16 else narrow)
    return (f"llvm.x86.avx512.vpdpbusd.{32 * size}", size) if size else None


def _fitting(lanes: int, there: Callable[[int], bool]) -> int:
    """The most lanes of a register that divide `lanes`; 0 for none."""
    return next((n for n in _BYTES if lanes and lanes % n == 0 and there(n)), 0)


def _pieces(
    s: Scalars, name: str, kind: str, lanes: int, total: Value, a: Value, b: Value
) -> Value:
    """An intrinsic on pieces of so many lanes, whose words it takes as `kind`."""
    for start in range(0, total.lanes, lanes):
        part, *words = (s.part(x, start, lanes) for x in (total, a, b))
        given = [(kind, s.writer.op(f"bitcast {x.typed} to {kind}")) for x in words]
        ref = s.writer.call(name, part.type, (part.type, part.ref), *given)
        total = _with_part(s, total, Value(ref, total.dtype, lanes), start)
    return total


def _with_part(s: Scalars, x: Value, part: Value, start: int) -> Value:
    if part.lanes == x.lanes:
        return part
    name = f"llvm.vector.insert.{mangled(x.type)}.{mangled(part.type)}"
    given = (x.type, x.ref), (part.type, part.ref), ("i64", str(start))
    return Value(s.writer.call(name, x.type, *given), x.dtype, x.lanes)


def _by_pairs(s: Scalars, total: Value, a: Value, b: Value, lanes: int, signed: bool) -> Value:
    """Even and odd bytes as 16 bits each, multiplied and added in pairs: exact."""
    name, kind = f"llvm.x86.{_PAIRWISE[lanes]}", vector_type("i32", lanes)
    for start in range(0, total.lanes, lanes):
        part, x, y = (s.part(v, start, lanes) for v in (total, a, b))
        for odd in (False, True):
            given = (_half_words(s, x, odd, signed), _half_words(s, y, odd, True))
            part = s.binary("add", part, Value(s.writer.call(name, kind, *given), t.i32, lanes))
        total = _with_part(s, total, part, start)
    return total


def _half_words(s: Scalars, words: Value, odd: bool, signed: bool) -> tuple[str, str]:
    """Bytes 1 and 3, or 0 and 2, of each word as 16 bits."""
    kind, op = vector_type("i16", 2 * words.lanes), "ashr" if signed else "lshr"
    found = s.writer.op(f"bitcast {words.typed} to {kind}")
    eight = splat_literal("8", "i16", 2 * words.lanes)
    if not odd:
        found = s.writer.op(f"shl {kind} {found}, {eight}")
    return kind, s.writer.op(f"{op} {kind} {found}, {eight}")


def _byte(s: Scalars, words: Value, i: int, signed: bool) -> Value:
    """Byte i of each word as i32."""
    x = Value(words.ref, t.i32, words.lanes)
    left = s.binary("shl", x, s.const(24 - 8 * i, x)) if i < 3 else x
    return s.binary("ashr" if signed else "lshr", left, s.const(24, x))
