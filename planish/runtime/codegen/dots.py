"""Dot products of narrow numbers, whose operands are words of 32 bits: what processors have.

    dpbf16          vdpbf16ps; else two fma
    dpbusd, dpbssd  vpdpbusd, usdot (a unsigned); sdot (signed); vpmaddwd of every other byte
                    (vpmaddubsw would saturate); else four products
    dpsign          vpabsb, vpsignb, vpmaddubsw, vpmaddwd by ones
    dpbusw          vpmaddubsw
    dpwssd          vpmaddwd

All give the same bits as `planish.ir.loop_scalars` says, subnormal numbers of vdpbf16ps excepted.

Why dpsign: what it does for 32 products, beside dpbssd where there is no vpdpbusd. By the tables of
instructions, all but additions wait for the same one (Zen 1: for two cycles; Haswell) or two ports
(Zen 3, Skylake), and dpbssd shifts besides, three times for each vector and for each element of A:

    dpbssd  2 vpmaddwd, 2 vpaddd
    dpsign  vpsignb, vpmaddubsw, vpmaddwd, vpaddd

Zen 1, C loops, 192 x 384 x 384, one thread, 10^9 operations a second (floats: 39.6, and more than
that no two multiplications for 32 products can give):

    vectors x rows   2x4   2x6   1x8   4x2   4x3   2x2
    dpbssd          33.4  32.4  23.8  28.5  27.0  26.2
    dpsign          38.0  36.9  38.6  34.6  34.7  38.4
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
ONES = 0x00010001  # two halves of 1, by which dpwssd adds halves
_BYTES = (16, 8, 4)  # lanes of i32 in registers of 512, 256, 128 bits
_HALFWISE = {16: "avx512.pmaddw.d.512", 8: "avx2.pmadd.wd", 4: "sse2.pmadd.wd"}
_BYTEWISE = {16: "avx512.pmaddubs.w.512", 8: "avx2.pmadd.ub.sw", 4: "ssse3.pmadd.ub.sw.128"}
_SIGNS = {8: "avx2.psign.b", 4: "ssse3.psign.b.128"}
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
    for i in range(4):
        x, y = _byte(s, a, i, signed), _byte(s, b, i, True)
        total = s.binary("add", total, s.binary("mul", x, y))
    return total


def dot_signs(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """The sum of four products of bytes, as pairs of a's magnitude by b with a's sign."""
    kind = vector_type("i8", 4 * max(1, a.lanes))
    bytes_of_a = s.writer.op(f"bitcast {a.typed} to {kind}")
    name = f"llvm.abs.{mangled(kind)}"
    size = s.writer.call(name, kind, (kind, bytes_of_a), ("i1", "false"))
    magnitudes = _as_words(s, kind, size, a)
    nothing = s.const(0, a)
    return dot_halves(s, total, dot_half_bytes(s, nothing, magnitudes, _signed(s, b, a)))


def dot_half_bytes(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """To each half its two products of unsigned by signed bytes, whose sum saturates."""
    if lanes := _x86_lanes(s, total.lanes, _BYTEWISE):
        return _pieces(s, partial(_half_bytes, s), lanes, total, a, b)
    x, y = _widened(s, a, "i8", "zext"), _widened(s, b, "i8", "sext")
    wide = vector_type("i32", 2 * max(1, a.lanes))
    sums = _added_pairs(s, x, y, 4 * max(1, a.lanes))
    for name, limit in (("smin", 32767), ("smax", -32768)):
        ends = splat_literal(str(limit), "i32", 2 * max(1, a.lanes))
        sums = s.writer.call(f"llvm.{name}.{mangled(wide)}", wide, (wide, sums), (wide, ends))
    kind = vector_type("i16", 2 * max(1, a.lanes))
    return _plus_halves(s, total, kind, s.writer.op(f"trunc {wide} {sums} to {kind}"))


def dot_halves(s: Scalars, total: Value, a: Value, b: Value | None = None) -> Value:
    """The sum of two products of signed halves; without `b`, of the halves themselves."""
    b = s.const(ONES, a) if b is None else b
    if lanes := _x86_lanes(s, total.lanes, _HALFWISE):
        name, kind = f"llvm.x86.{_HALFWISE[lanes]}", vector_type("i16", 2 * lanes)

        def act(part: Value, *words: Value) -> Value:
            given = [(kind, s.writer.op(f"bitcast {x.typed} to {kind}")) for x in words]
            found = Value(s.writer.call(name, part.type, *given), t.i32, part.lanes)
            return s.binary("add", part, found)

        return _pieces(s, act, lanes, total, a, b)
    x, y = _widened(s, a, "i16", "sext"), _widened(s, b, "i16", "sext")
    sums = _added_pairs(s, x, y, 2 * max(1, a.lanes))
    kind = vector_type("i32", max(1, a.lanes))
    return s.binary("add", total, _as_words(s, kind, sums, total))


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
        total = dot_halves(s, total, _half_words(s, a, odd, signed), _half_words(s, b, odd, True))
    return total


def _half_words(s: Scalars, words: Value, odd: bool, signed: bool) -> Value:
    """Bytes 1 and 3, or 0 and 2, of each word as 16 bits."""
    kind, op = vector_type("i16", 2 * words.lanes), "ashr" if signed else "lshr"
    found = s.writer.op(f"bitcast {words.typed} to {kind}")
    eight = splat_literal("8", "i16", 2 * words.lanes)
    if not odd:
        found = s.writer.op(f"shl {kind} {found}, {eight}")
    return _as_words(s, kind, s.writer.op(f"{op} {kind} {found}, {eight}"), words)


def _half_bytes(s: Scalars, total: Value, a: Value, b: Value) -> Value:
    """vpmaddubsw, and an addition of halves."""
    given = vector_type("i8", 4 * total.lanes)
    words = [(given, s.writer.op(f"bitcast {x.typed} to {given}")) for x in (a, b)]
    kind = vector_type("i16", 2 * total.lanes)
    return _plus_halves(
        s, total, kind, s.writer.call(f"llvm.x86.{_BYTEWISE[total.lanes]}", kind, *words)
    )


def _plus_halves(s: Scalars, total: Value, kind: str, more: str) -> Value:
    """A word of halves and others, as `kind`, added without carry from one to the next."""
    halves = s.writer.op(f"bitcast {total.typed} to {kind}")
    return _as_words(s, kind, s.writer.op(f"add {kind} {halves}, {more}"), total)


def _signed(s: Scalars, x: Value, y: Value) -> Value:
    """Bytes of x, negated where those of y are negative; any where those are 0."""
    if lanes := _x86_lanes(s, x.lanes, _SIGNS):
        return _pieces(s, partial(_with_signs, s), lanes, x, y)
    kind = vector_type("i8", 4 * max(1, x.lanes))
    a, b = (s.writer.op(f"bitcast {v.typed} to {kind}") for v in (x, y))
    negated = s.writer.op(f"sub {kind} zeroinitializer, {a}")
    below = s.writer.op(f"icmp slt {kind} {b}, zeroinitializer")
    cond = vector_type("i1", 4 * max(1, x.lanes))
    return _as_words(
        s, kind, s.writer.op(f"select {cond} {below}, {kind} {negated}, {kind} {a}"), x
    )


def _with_signs(s: Scalars, x: Value, y: Value) -> Value:
    """vpsignb, which makes 0 of what belongs to 0."""
    kind = vector_type("i8", 4 * x.lanes)
    given = [(kind, s.writer.op(f"bitcast {v.typed} to {kind}")) for v in (x, y)]
    return _as_words(s, kind, s.writer.call(f"llvm.x86.{_SIGNS[x.lanes]}", kind, *given), x)


def _widened(s: Scalars, words: Value, part: str, opcode: str) -> str:
    """The bytes or halves of words as i32."""
    count = {"i8": 4, "i16": 2}[part] * max(1, words.lanes)
    kind = vector_type(part, count)
    found = s.writer.op(f"bitcast {words.typed} to {kind}")
    return s.writer.op(f"{opcode} {kind} {found} to {vector_type('i32', count)}")


def _added_pairs(s: Scalars, x: str, y: str, count: int) -> str:
    """Products of so many lanes of i32, each added to its neighbour."""
    kind = vector_type("i32", count)
    products = s.writer.op(f"mul {kind} {x}, {y}")
    sides = []
    for first in (0, 1):
        places = ", ".join(f"i32 {i}" for i in range(first, count, 2))
        mask = f"<{count // 2} x i32> <{places}>"
        sides.append(s.writer.op(f"shufflevector {kind} {products}, {kind} poison, {mask}"))
    return s.writer.op(f"add {vector_type('i32', count // 2)} {sides[0]}, {sides[1]}")


def _as_words(s: Scalars, kind: str, ref: str, like: Value) -> Value:
    """A register of `kind` as words, or sums of them."""
    return Value(s.writer.op(f"bitcast {kind} {ref} to {like.type}"), like.dtype, like.lanes)


def _byte(s: Scalars, words: Value, i: int, signed: bool) -> Value:
    """Byte i of each word as i32."""
    x = Value(words.ref, t.i32, words.lanes)
    left = s.binary("shl", x, s.const(24 - 8 * i, x)) if i < 3 else x
    return s.binary("ashr" if signed else "lshr", left, s.const(24, x))
