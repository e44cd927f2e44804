"""Processors known by name, and the instruction sets they have, as LLVM spells them."""

from __future__ import annotations

V2 = "sse3 ssse3 sse4.1 sse4.2 popcnt cx16 sahf"
V3 = f"{V2} avx avx2 bmi bmi2 f16c fma lzcnt movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"
ICELAKE = f"{V4} avx512vnni avx512vbmi avx512vbmi2 avx512bitalg avx512ifma avx512vpopcntdq gfni"
ARM = "neon"
RISCV = "m a f d c"

# name -> (architecture, features beyond the architecture's baseline)
CPUS: dict[str, tuple[str, str]] = {
    "x86-64": ("x86_64", ""),
    "x86-64-v2": ("x86_64", V2),
    "x86-64-v3": ("x86_64", V3),
    "x86-64-v4": ("x86_64", V4),
    "haswell": ("x86_64", V3),
    "skylake": ("x86_64", V3),
    "skylake-avx512": ("x86_64", V4),
    "cascadelake": ("x86_64", f"{V4} avx512vnni"),
    "cooperlake": ("x86_64", f"{V4} avx512vnni avx512bf16"),
    "icelake-server": ("x86_64", ICELAKE),
    "sapphirerapids": ("x86_64", f"{ICELAKE} avx512bf16 avx512fp16 avxvnni amx-bf16"),
    "znver1": ("x86_64", V3),
    "znver2": ("x86_64", V3),
    "znver3": ("x86_64", V3),
    "znver4": ("x86_64", f"{ICELAKE} avx512bf16"),
    "znver5": ("x86_64", f"{ICELAKE} avx512bf16 avxvnni"),
    "aarch64": ("aarch64", ARM),
    "cortex-a72": ("aarch64", ARM),
    "neoverse-n1": ("aarch64", f"{ARM} dotprod fullfp16 lse"),
    "neoverse-v1": ("aarch64", f"{ARM} dotprod fullfp16 lse bf16 i8mm"),
    "apple-m1": ("aarch64", f"{ARM} dotprod fullfp16 lse"),
    "riscv64": ("riscv64", RISCV),
    "rva23u64": ("riscv64", f"{RISCV} v"),  # what of this profile is used, and can be asked for
}
