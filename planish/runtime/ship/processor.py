"""Instruction sets as a processor reports them: what host code checks before it runs a kernel.

On x86-64 a word is a register of cpuid, or the state that the system saves (xgetbv); on aarch64 and
riscv64 it is one of the words in which Linux lists instruction sets (getauxval).
"""

from __future__ import annotations

from collections.abc import Iterable

from planish.runtime.target import Target

# name: (leaf, sub-leaf, bits of register eax ebx ecx edx). Intel SDM 2A, CPUID; AMD APM 3, E.
_LEAVES: dict[tuple[int, int, int], str] = {
    (1, 0, 2): "sse3:0 pclmul:1 ssse3:9 fma:12 cx16:13 sse4.1:19 sse4.2:20 movbe:22 popcnt:23 "
    "aes:25 xsave:26 avx:28 f16c:29 rdrnd:30",
    (1, 0, 3): "cx8:8 cmov:15 mmx:23 fxsr:24 sse:25 sse2:26",
    (7, 0, 1): "fsgsbase:0 bmi:3 avx2:5 bmi2:8 invpcid:10 rtm:11 avx512f:16 avx512dq:17 rdseed:18 "
    "adx:19 avx512ifma:21 clflushopt:23 clwb:24 avx512cd:28 sha:29 avx512bw:30 avx512vl:31",
    (7, 0, 2): "avx512vbmi:1 waitpkg:5 avx512vbmi2:6 gfni:8 vaes:9 vpclmulqdq:10 avx512vnni:11 "
    "avx512bitalg:12 avx512vpopcntdq:14 rdpid:22 cldemote:25 movdiri:27 movdir64b:28 enqcmd:29",
    (7, 0, 3): "avx512vp2intersect:8 serialize:14 tsxldtrk:16 amx-bf16:22 avx512fp16:23 "
    "amx-tile:24 amx-int8:25",
    (7, 1, 0): "sha512:0 avxvnni:4 avx512bf16:5 cmpccxadd:7 amx-fp16:21 avxifma:23",
    (7, 1, 3): "avxvnniint8:4 avxneconvert:5 amx-complex:8 avxvnniint16:10 prefetchi:14",
    (13, 1, 0): "xsaveopt:0 xsavec:1 xsaves:3",
    (0x80000001, 0, 2): "sahf:0 lzcnt:5 sse4a:6 prfchw:8 xop:11 fma4:16 tbm:21 mwaitx:29",
    (0x80000001, 0, 3): "64bit:29",
    (0x80000008, 0, 1): "clzero:0 rdpru:4 wbnoinvd:9",
}
XGETBV = 0xFFFFFFFF  # a leaf of our own
_STATES = {"avx": 0x6, "avx512f": 0xE6, "amx-tile": 0x60000}
_SAVED = " (saved by the system)"
_ARM = {
    "neon": (16, 1 << 1), "lse": (16, 1 << 8), "fullfp16": (16, 1 << 10), "dotprod": (16, 1 << 20),
    "i8mm": (26, 1 << 13), "bf16": (26, 1 << 14),
}  # fmt: skip

_RISCV = 16  # each letter of the instruction set has its bit there

Word = tuple[str, int, int, int, int]  # name, leaf, sub-leaf, register, bits


def needed(target: Target, features: Iterable[str]) -> list[Word]:
    """The words that say whether a processor has these features.

    Those without a word (crc32, say, which comes with sse4.2) are parts of others or of no use to
    compiled code.
    """
    wanted = set(features)
    if target.arch == "aarch64":
        return [(x, leaf, 0, 0, bits) for x, (leaf, bits) in _ARM.items() if x in wanted]
    if target.arch == "riscv64":
        letters = sorted(x for x in wanted if len(x) == 1)
        return [(x, _RISCV, 0, 0, 1 << ord(x) - ord("a")) for x in letters]
    if target.arch != "x86_64":
        return []
    found = [
        (name, *leaf, 1 << int(bit))
        for leaf, listed in _LEAVES.items()
        for name, bit in (x.split(":") for x in listed.split())
        if name in wanted
    ]
    states = [(x + _SAVED, XGETBV, 0, 0, bits) for x, bits in _STATES.items() if x in wanted]
    return found + states


def probe_text(target: Target) -> str:
    """The function `planish_probe` as LLVM text."""
    if target.arch == "x86_64":
        return _X86
    return _LISTED if target.arch in ("aarch64", "riscv64") else _OTHER


_CPUID = (
    "call { i32, i32, i32, i32 } asm sideeffect "
    '"cpuid", "={ax},={bx},={cx},={dx},{ax},{cx},~{dirflag},~{fpsr},~{flags}"'
)
# A leaf beyond the largest one, or xgetbv where the system has not allowed it, says nothing: 0.
_X86 = f"""
define internal i32 @planish_probe(i32 %leaf, i32 %sub, i32 %register) noinline nounwind uwtable {{
entry:
  %own = icmp eq i32 %leaf, {XGETBV}
  br i1 %own, label %allowed, label %ask
allowed:
  %first = {_CPUID}(i32 1, i32 0)
  %cx = extractvalue {{ i32, i32, i32, i32 }} %first, 2
  %bit = and i32 %cx, 134217728
  %may = icmp ne i32 %bit, 0
  br i1 %may, label %state, label %nothing
state:
  %pair = call {{ i32, i32 }} asm sideeffect "xgetbv", "={{ax}},={{dx}},{{cx}}"(i32 0)
  %low = extractvalue {{ i32, i32 }} %pair, 0
  ret i32 %low
ask:
  %kind = and i32 %leaf, 2147483648
  %most = {_CPUID}(i32 %kind, i32 0)
  %last = extractvalue {{ i32, i32, i32, i32 }} %most, 0
  %beyond = icmp ugt i32 %leaf, %last
  br i1 %beyond, label %nothing, label %read
read:
  %words = {_CPUID}(i32 %leaf, i32 %sub)
  %a = extractvalue {{ i32, i32, i32, i32 }} %words, 0
  %b = extractvalue {{ i32, i32, i32, i32 }} %words, 1
  %c = extractvalue {{ i32, i32, i32, i32 }} %words, 2
  %d = extractvalue {{ i32, i32, i32, i32 }} %words, 3
  %is_a = icmp eq i32 %register, 0
  %is_b = icmp eq i32 %register, 1
  %is_c = icmp eq i32 %register, 2
  %cd = select i1 %is_c, i32 %c, i32 %d
  %bcd = select i1 %is_b, i32 %b, i32 %cd
  %found = select i1 %is_a, i32 %a, i32 %bcd
  ret i32 %found
nothing:
  ret i32 0
}}
"""
_LISTED = """
declare i64 @getauxval(i64)
define internal i32 @planish_probe(i32 %leaf, i32 %sub, i32 %register) nounwind uwtable {
  %which = zext i32 %leaf to i64
  %word = call i64 @getauxval(i64 %which)
  %low = trunc i64 %word to i32
  ret i32 %low
}
"""
_OTHER = """
define internal i32 @planish_probe(i32 %leaf, i32 %sub, i32 %register) nounwind uwtable {
  ret i32 0
}
"""
