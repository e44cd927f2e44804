"""Weights without zeros: which processors put zeros back, and whether that is worth its time.

A vector is 64 bytes of a weight: 16 floats, or words of four bytes. To multiply one row by it takes

    hypot(bytes read / bytes a cycle, cycles of instructions)

as reading and computing overlap, but not wholly. Without zeros fewer bytes are read, and there are
more instructions: `CYCLES` and `PAIRS` were fitted to loops on Zen 1 (floats), Zen 3 and Sapphire
Rapids (bytes), and are within a tenth of those. What comes of it for whole models
stands in docs/pruning.md, with its commands.
"""

from __future__ import annotations

from math import hypot

from planish.ir import types as t
from planish.ir.loop_expand import LANES
from planish.ir.types import DType
from planish.runtime.target import Target

VECTOR = 64  # bytes
CACHES = 2  # cores whose L2 caches together may hold all weights
GAIN = 0.95  # of the time with zeros, at most
INSTRUCTIONS = {t.f32: "avx512f", t.u8: "avx512vbmi2"}  # vexpandps, vpexpandb
# Cycles that a vector takes to expand, by what there is
CYCLES = {
    ("instruction", t.f32): 2.7, ("instruction", t.u8): 2.7,
    ("table", t.f32): 6.5, ("table", t.u8): 14,
}  # fmt: skip
PAIRS = 3  # times the cycles, where no single instruction multiplies bytes and adds products


def way(target: Target, values: DType) -> str:
    """How kept floats, or bytes (u8), get their zeros back: by one "instruction", a "table" with
    which bytes are shuffled, or not at all."""
    if target.has(INSTRUCTIONS[values]):
        return "instruction"
    return "table" if target.has("avx2") or target.has("neon") else ""


def why_slower(target: Target, values: DType, kept: float, weights: int) -> str:
    """Why kernels gain nothing by a weight without its zeros; "" where they do.

    `kept` is the share of its numbers that are none, `weights` the bytes of all weights.
    """
    found = way(target, values)
    if not found:
        return f"{target} has no instruction that expands"
    core, units = target.core, LANES if values == t.f32 else 4 * LANES
    near = weights <= CACHES * core.l2
    reading = VECTOR / (core.panel if near else core.far)
    work = product_cycles(target, values)
    share = kept + units / 8 / VECTOR
    with_zeros = hypot(reading, work)
    without = hypot(share * reading, work + CYCLES[found, values])
    if without <= GAIN * with_zeros:
        return ""
    where = "caches hold all weights" if near else f"{kept:.0%} are none"
    return f"{where}, {without:.0f} cycles for 64 bytes and not {with_zeros:.0f}"


def product_cycles(target: Target, values: DType) -> float:
    """Cycles of multiplying a row by a vector that is there."""
    plain = LANES / target.lanes(t.f32) / target.core.fma
    dot = target.has_byte_dot or target.has("dotprod")
    return plain if values == t.f32 or dot else PAIRS * plain
