"""Dot products of narrow numbers, whose operands are words of 32 bits: what processors have.

    dpbf16          vdpbf16ps; else two fma
    dpbusd, dpbssd  vpdpbusd, usdot (a unsigned); sdot (signed); vpmaddwd of every other byte
                    (vpmaddubsw would saturate); else four products
    dpflip          vpabsb, vpcmpgtb, vpxor, vpmaddubsw, vpmaddwd by ones; else four products
    dpbusw          vpmaddubsw, vpaddw; else four products
    dpwssd          vpmaddwd, vpaddd; else two products

All give the same bits as `planish.ir.loop_scalars` says, subnormal numbers of vdpbf16ps excepted.

Why dpflip: what it does for 32 products where there is no vpdpbusd, once magnitudes and flips of a
vector are there for many others. vpsignb instead of vpxor needs no sums besides, but waits for the
ports of multiplications (Zen 3; by the tables of instructions Skylake's, too).

    dpbssd  2 vpmaddwd, 2 vpaddd, and shifts of both sides
    dpflip  vpxor, vpmaddubsw, vpmaddwd, vpaddd

See `planish.runtime.cores` for what it gains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from planish.ir import types as t
from planish.runtime.codegen.text import mangled, splat_literal, vector_type
from planish.runtime.codegen.value import Value

if TYPE_CHECKING:
    from planish.runtime.codegen.scalar import Scalars

DOT_LANES = 16  # of vdpbf16ps on whole registers
ONES = 0x00010001  # two halves of 1, by which vpmaddwd adds halves
_BYTES = (16, 8, 4)  # lanes of i32 in registers of 512, 256, 128 bits
_HALFWISE = {16: "avx512.pmaddw.d.512", 8: "avx2.pmadd.wd", 4: "sse2.pmadd.wd"}
_BYTEWISE = {16: "avx512.pmaddubs.w.512", 8: "avx2.pmadd.ub.sw", 4: "ssse3.pmadd.ub.sw.128"}
_NEEDS = {"avx512": "avx512bw", "avx2": "avx2", "ssse3": "ssse3", "sse2": ""}


def dot_pairs(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """vdpbf16ps on pieces of 16 lanes; elsewhere fma on the upper, then on the lower halves."""
    if s.target.has_bf16_dot and total.lanes and total.lanes % DOT_LANES == 0:
        name, kind = "llvm.x86.avx512bf16.dpbf16ps.512", f"<{2 * DOT_LANES} x bfloat>"
        return _pieces(s, partial(_summed, s, name, kind), DOT_LANES, total, a, b)
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
        return _pieces(s, partial(_summed, s, name, f"<{4 * lanes} x i8>"), lanes, total, a, b)
    if lanes := _x86_lanes(s, total.lanes, _HALFWISE):
        return _pieces(s, partial(_by_halves, s, signed), lanes, total, a, b)
    return _four_products(s, total, a, b, signed)


def dot_flipped(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """The sum of four products of a's magnitudes by bytes of b, flipped where a is negative."""
    kind = vector_type("i8", 4 * max(1, a.lanes))
    bytes_of_a = s.writer.op(f"bitcast {a.typed} to {kind}")
    name = f"llvm.abs.{mangled(kind)}"
    size = s.writer.call(name, kind, (kind, bytes_of_a), ("i1", "false"))
    below = s.writer.op(f"icmp slt {kind} {bytes_of_a}, zeroinitializer")
    cond = vector_type("i1", 4 * max(1, a.lanes))
    flips = _as_words(s, kind, s.writer.op(f"sext {cond} {below} to {kind}"), a)
    words = _as_words(s, kind, size, a), s.binary("xor", b, flips)
    if lanes := _x86_lanes(s, total.lanes, _BYTEWISE):
        return _pieces(s, partial(_by_pairs, s), lanes, total, *words)
    return _four_products(s, total, *words, signed=False)


def dot_halves(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """The sum of two products of signed halves."""
    if lanes := _x86_lanes(s, total.lanes, _HALFWISE):
        return _pieces(s, partial(_halves, s), lanes, total, a, b)
    for i in (0, 1):
        x, y = _part(s, a, i, 16, True), _part(s, b, i, 16, True)
        total = s.binary("add", total, s.binary("mul", x, y))
    return total


def dot_into_halves(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """Halves, to which two products of unsigned by signed bytes are added."""
    if lanes := _x86_lanes(s, total.lanes, _BYTEWISE):
        return _pieces(s, partial(_into_halves, s), lanes, total, a, b)
    found = []
    for half in (0, 1):
        low, high = (
            s.binary("mul", _part(s, a, i, 8, False), _part(s, b, i, 8, True))
            for i in (2 * half, 2 * half + 1)
        )
        both = s.emit("max", [s.binary("add", low, high), s.const(-32768, low)], t.i32)
        fitting = s.emit("min", [both, s.const(32767, low)], t.i32)
        found.append(s.binary("add", _part(s, total, half, 16, False), fitting))
    low, high = found
    low, high = s.binary("and", low, s.const(0xFFFF, low)), s.binary("shl", high, s.const(16, high))
    return Value(s.binary("or", low, high).ref, total.dtype, total.lanes)


def _into_halves(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """vpmaddubsw, and the addition of halves."""
    kind, sums = _pairs(s, a, b)
    halves = s.writer.op(f"bitcast {total.typed} to {kind}")
    return _as_words(s, kind, s.writer.op(f"add {kind} {halves}, {sums}"), total)


def _four_products(s: Scalars, total: Value, a: Value, b: Value, signed: bool) -> Value:
    for i in range(4):
        x, y = _part(s, a, i, 8, signed), _part(s, b, i, 8, True)
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


def _x86_lanes(s: Scalars, lanes: int, names: Mapping[int, str]) -> int:
    """The most lanes of one of these instructions that divide `lanes`; 0 for none."""

    def there(n: int) -> bool:
        needed = _NEEDS[names[n].split(".")[0]] if n in names else None
        return needed is not None and (not needed or s.target.has(needed))

    return _fitting(lanes, there) if s.target.arch == "x86_64" else 0


def _pieces(
    s: Scalars, act: Callable[..., Value], lanes: int, total: Value, *words: Value
) -> Value:
    """What `act` makes of each piece of so many lanes of a sum and of words."""
    for start in range(0, total.lanes, lanes):
        given = (s.part(x, start, lanes) for x in (total, *words))
        total = _with_part(s, total, act(*given), start)
    return total


def _summed(s: Scalars, name: str, kind: str, total: Value, *words: Value) -> Value:
    """What an intrinsic makes of a sum and of words that it takes as `kind`."""
    given = [(kind, s.writer.op(f"bitcast {x.typed} to {kind}")) for x in words]
    ref = s.writer.call(name, total.type, (total.type, total.ref), *given)
    return Value(ref, total.dtype, total.lanes)


def _with_part(s: Scalars, x: Value, part: Value, start: int) -> Value:
    if part.lanes == x.lanes:
        return part
    name = f"llvm.vector.insert.{mangled(x.type)}.{mangled(part.type)}"
    given = (x.type, x.ref), (part.type, part.ref), ("i64", str(start))
    return Value(s.writer.call(name, x.type, *given), x.dtype, x.lanes)


def _by_halves(s: Scalars, signed: bool, total: Value, a: Value, b: Value) -> Value:
    """Even and odd bytes as 16 bits each, multiplied and added in pairs: exact."""
    for odd in (False, True):
        total = _halves(s, total, _half_words(s, a, odd, signed), _half_words(s, b, odd, True))
    return total


def _by_pairs(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """vpmaddubsw makes halves, which vpmaddwd adds."""
    kind, sums = _pairs(s, a, b)
    return _halves(s, total, _as_words(s, kind, sums, a), s.const(ONES, a))


def _pairs(s: Scalars, a: Value, b: Value) -> tuple[str, str]:
    """vpmaddubsw: the type and the halves."""
    given, kind = vector_type("i8", 4 * a.lanes), vector_type("i16", 2 * a.lanes)
    words = [(given, s.writer.op(f"bitcast {x.typed} to {given}")) for x in (a, b)]
    return kind, s.writer.call(f"llvm.x86.{_BYTEWISE[a.lanes]}", kind, *words)


def _halves(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """vpmaddwd: the sum of two products of signed halves."""
    name, kind = f"llvm.x86.{_HALFWISE[total.lanes]}", vector_type("i16", 2 * total.lanes)
    given = [(kind, s.writer.op(f"bitcast {x.typed} to {kind}")) for x in (a, b)]
    found = Value(s.writer.call(name, total.type, *given), t.i32, total.lanes)
    return s.binary("add", total, found)


def _half_words(s: Scalars, words: Value, odd: bool, signed: bool) -> Value:
    """Bytes 1 and 3, or 0 and 2, of each word as 16 bits."""
    kind, op = vector_type("i16", 2 * words.lanes), "ashr" if signed else "lshr"
    found = s.writer.op(f"bitcast {words.typed} to {kind}")
    eight = splat_literal("8", "i16", 2 * words.lanes)
    if not odd:
        found = s.writer.op(f"shl {kind} {found}, {eight}")
    return _as_words(s, kind, s.writer.op(f"{op} {kind} {found}, {eight}"), words)


def _as_words(s: Scalars, kind: str, ref: str, like: Value) -> Value:
    """A register of `kind` as words, or sums of them."""
    return Value(s.writer.op(f"bitcast {kind} {ref} to {like.type}"), like.dtype, like.lanes)


def _part(s: Scalars, words: Value, i: int, bits: int, signed: bool) -> Value:
    """Part i of so many bits of each word as i32."""
    x = Value(words.ref, t.i32, words.lanes)
    rest = 32 - bits * (i + 1)
    left = s.binary("shl", x, s.const(rest, x)) if rest else x
    return s.binary("ashr" if signed else "lshr", left, s.const(32 - bits, x))
