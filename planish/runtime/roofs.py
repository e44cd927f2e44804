"""Measuring the machine's roofs, with kernels of loop IR like any other, in about two seconds.

    fma        chains of multiply-adds in registers, as many as keep the units busy
    bf16       the same with dot products of bf16 pairs, where the target has an instruction; or
               small products of matrices, where it has a matrix unit
    int8       the same with dot products of bytes, where one instruction multiplies and adds them
               to a sum (vpdpbusd, sdot); else a tile of a product from L1, by the instructions
               that the target has instead (vpmaddwd). AMX's for bytes is not used, nor measured
    L1 ...     each thread reads a piece of its own again and again, which fits in that level, from
               one, two or four places in turn: more lines are under way, and some machines need it
    barrier    a step that does nothing, but for the meeting after it

All are steps of one program, whose work is counted on their loops, as that of any other kernel is.
The best of each counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np

from planish import __version__
from planish.ir import types as t
from planish.ir.loop_matrix import SIDE, matrix_step
from planish.ir.loops import Const, Expr, Kernel, as_index, cast, scalar
from planish.ir.types import DType, TensorType
from planish.runtime.cost import kernel_cost
from planish.runtime.kernels.nest import Nest
from planish.runtime.memory import aligned
from planish.runtime.plan import Plan, Step
from planish.runtime.program import Program
from planish.runtime.roof import LEVELS, Reading, Roof, roof_of
from planish.runtime.slots import Slot
from planish.runtime.target import (
    Target,
    cache_folder,
    cache_sizes,
    cpu_name,
    memory_limit,
    thread_count,
)

CHAINS = 12  # of an operation that takes 4 cycles, two a cycle: 8 are needed, 16 registers allow 13
READS = 8  # vectors of a piece that are added up at once
PLACES = 1, 2, 4  # of a piece, that are read in turn
TILES = (1, 6), (2, 3), (2, 4), (4, 6)  # vectors and rows of sums of bytes: the best counts
DEPTH = 64  # words of k of such a tile, whose operands are in L1
BLOCK = 2 * SIDE, 8 * SIDE  # rows and columns, and words of k: two by two tiles, all in L1
STEPS = 1 << 16  # links of a chain: 0.2 ms on a fast core
VOLUME = 32 << 20  # bytes that a thread reads in a step, at least
# Bytes that count as main memory: at least, at most. Of 128 MB, two L3 caches of 32 MB keep so much
# that they seem to come at 88 to 103 GB/s; of 512 MB at 85 (AMD EPYC, Zen 5, both by `measured`).
LARGE = 256 << 20, 512 << 20
TRIES = 6  # of each step in a run, but for the one that reads main memory: it takes longest
RUNS = 3
TICK = 1e-9  # seconds that no step is shorter than
SECONDS = 0.4  # to spend on runs, at least: others may use the machine, too
_HALVES = 0x3F003F00  # two bf16 of 0.5


@cache
def machine_roof(threads: int | None = None) -> Roof:
    """The roof of this machine: as it was measured before, or measured now and kept."""
    threads = thread_count(threads)
    return _kept(threads) or fresh_roof(threads)


def fresh_roof(threads: int | None = None) -> Roof:
    """The roof of this machine, measured now; where that was done before, the best of both."""
    threads = thread_count(threads)
    roof, before = measured(threads, working_sets(threads)), _kept(threads)
    roof = roof.best(before) if before else roof
    _keep(roof)
    return roof


# The file in the user's cache


def _key(threads: int) -> dict[str, object]:
    target = Target.host()
    return {
        "planish": __version__, "cpu": cpu_name(), "features": target.feature_text,
        "sizes": list(working_sets(threads)), "threads": threads,
    }  # fmt: skip


def _path(threads: int) -> Path | None:
    folder = cache_folder()
    digest = hashlib.sha256(json.dumps(_key(threads)).encode()).hexdigest()[:16]
    return folder / f"roof-{digest}.json" if folder else None


def _kept(threads: int) -> Roof | None:
    """What the file says, if it is about this machine and makes sense."""
    path = _path(threads)
    if path is None:
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("key") != _key(threads):
        return None
    roof = roof_of(found.get("roof"))
    good = roof and roof.threads == threads and (roof.bf16 is not None) == has_bf16(Target.host())
    return roof if good else None


def _keep(roof: Roof) -> None:
    """Write the file in one move; a cache that cannot be written is no failure."""
    path = _path(roof.threads)
    if path is None:
        return
    text = json.dumps({"key": _key(roof.threads), "roof": roof.record()}, indent=1)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".roof-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


# Measuring


def working_sets(threads: int) -> tuple[int, ...]:
    """Bytes of all threads together, for each of `LEVELS`: they fill half of it at most."""
    first, second, third = cache_sizes()
    private = max(second // 2, 2 * first)
    shared = max(min(4 * second * threads, third // 2), 4 * private * threads)
    least, most = LARGE
    large = max(min(16 * third, most, memory_limit() // 8), least, 2 * shared)
    middle = math.isqrt(shared * max(min(large, 4 * third), 2 * shared)) >> 12 << 12
    return first // 2 * threads, private * threads, shared, middle, large


def measured(
    threads: int, sizes: tuple[int, ...], steps: int = STEPS, seconds: float = SECONDS
) -> Roof:
    """The best of some runs of the program below; it takes `seconds` and some."""
    target = Target.host()
    pieces = _pieces(sizes, threads)
    plan = roof_plan(threads, pieces, target, steps)
    data = aligned(4 * threads * max(pieces)).view(np.float32)
    data.fill(1.0)  # memory that was never written is one page of zeros
    words = np.full(_words(target), _HALVES, np.uint32)
    start = np.linspace(0.1, 0.9, _start(target), dtype=np.float32)
    bound = Program(plan, target, threads).bind(start, words, data)
    amounts = np.array([_amount(step) for step in plan.steps])
    names = np.array([step.label for step in plan.steps])
    best = dict.fromkeys(names, 0.0)
    meeting = math.inf
    end = time.perf_counter() + seconds
    while not best["DRAM"] or time.perf_counter() < end:
        times = bound.times(RUNS)
        rates = (amounts / np.maximum(times, TICK)).max(0)
        best = {name: max(before, rates[names == name].max()) for name, before in best.items()}
        # thread 0 may look at the clock late: one meeting looks short, most do not
        meeting = min(meeting, float(np.median(times[:, names == "barrier"])))
    readings = [
        Reading(level, 4 * threads * piece, float(best[level]))
        for level, piece in zip(LEVELS, pieces, strict=True)
    ]
    return Roof(
        threads,
        float(best["fma"]),
        float(best["bf16"]) if has_bf16(target) else None,
        float(best["int8"]),
        tuple(readings),
        meeting if threads > 1 else None,
    )


def _amount(step: Step) -> int:
    """What a step is measured by: operations, dot products, or bytes that it reads."""
    cost = kernel_cost(step.kernel, step.known({}))
    if step.label == "barrier":
        return 0
    if step.label in LEVELS:
        return 4 * cost.reads["data"]
    return cost.dots + cost.byte_dots or cost.flops


def has_bf16(target: Target) -> bool:
    """Whether bf16 has a roof of its own."""
    return target.has_matrix or target.has_bf16_dot


def _start(target: Target) -> int:
    return CHAINS * target.lanes(t.f32)


def _words(target: Target) -> int:
    """Words that the largest operand has."""
    lanes = target.lanes(t.f32)
    of_tiles = max(max(v * lanes, h) for v, h in TILES) * DEPTH
    return max(BLOCK[0] * BLOCK[1] if target.has_matrix else 0, _start(target), of_tiles)


def _blocks(steps: int) -> int:
    return max(1, steps // BLOCK[1])


def _pieces(sizes: tuple[int, ...], threads: int) -> list[int]:
    """Elements that each thread reads: whole turns of the reading loop."""
    turn = READS * Target.host().lanes(t.f32)
    return [max(1, size // (4 * threads * turn)) * turn for size in sizes]


def _rounds(piece: int) -> int:
    return max(1, VOLUME // (4 * piece))


def roof_plan(threads: int, pieces: list[int], target: Target, links: int) -> Plan:
    """The program: a step for each roof, that of main memory last."""
    lanes, start = target.lanes(t.f32), _start(target)
    given = (
        Slot("input", 0, TensorType(t.f32, (start,)), "start"),
        Slot("input", 1, TensorType(t.u32, (_words(target),)), "words"),
        Slot("input", 2, TensorType(t.f32, (threads * max(pieces),)), "data"),
    )
    out = Slot("output", 0, TensorType(t.f32, (threads, CHAINS, lanes)), "out")

    def step(name: str, kernel: Kernel, *args: Slot) -> Step:
        return Step(kernel, (*args, out), name)

    found = [step("fma", chain_kernel("fma", t.f32, out, lanes, links), given[0])]
    if target.has_matrix:
        kernel = matrix_kernel(out, _blocks(links))
        found.append(step("bf16", kernel, given[1], given[1]))
    elif target.has_bf16_dot:
        found.append(step("bf16", chain_kernel("dpbf16", t.u32, out, lanes, links), given[1]))
    found += [
        step("int8", kernel, *given[1:2] * (len(kernel.params) - 1))
        for kernel in byte_kernels(out, target, links)
    ]
    for level, piece in zip(LEVELS, pieces, strict=True):
        for places in PLACES:
            kernel = read_kernel(f"{level}_{places}", given[2], piece, out, lanes, places)
            found.append(step(level, kernel, given[2]))
    meet = step("barrier", _meeting_kernel(given[0], out), given[0])
    # two meetings before each: a thread that fell asleep in the step before wakes up in the first
    last = len(PLACES)
    steps = [x for one in [*found[:-last] * TRIES, *found[-last:]] for x in (meet, meet, one)]
    return Plan("roofs", given, (out,), (), (), tuple(steps))


def chain_kernel(op: str, dtype: DType, out: Slot, lanes: int, steps: int) -> Kernel:
    """start [CHAINS * lanes] -> out [threads, CHAINS, lanes]: acc = op(..., acc), many times."""
    nest = Nest()
    start = nest.param("start", TensorType(dtype, (CHAINS * lanes,)))
    result = nest.output("out", out.type)
    sums = t.f32 if op in ("fma", "dpbf16") else t.i32
    acc = nest.local("acc", sums, CHAINS, lanes)
    with nest.loop("p", out.type.shape[0], "parallel") as p:
        with _vectors(nest, "a", CHAINS, lanes) as (i, j):
            # different numbers: chains that are equal would become one
            nest.store(acc, (i, j), cast(start[i * lanes + j], sums))
        with nest.loop("k", steps), _vectors(nest, "b", CHAINS, lanes) as (i, j):
            x = nest.load(acc, i, j)
            first, second = start[j], start[j + lanes]
            value = scalar(op, first, x, second) if op == "fma" else scalar(op, x, first, second)
            nest.store(acc, (i, j), value)
        with _vectors(nest, "c", CHAINS, lanes) as (i, j):
            nest.store(result, (p, i, j), cast(nest.load(acc, i, j), t.f32))
    return nest.kernel(op)


def byte_kernels(out: Slot, target: Target, links: int) -> list[Kernel]:
    """What dot products of bytes are measured by.

    No chains where a dot product is several instructions: LLVM would move most of them, which do
    not depend on the sum, out of the loop.
    """
    lanes = target.lanes(t.f32)
    if target.has_byte_dot or target.has("dotprod"):
        return [
            chain_kernel("dpbusd" if target.has_byte_dot else "dpbssd", t.u32, out, lanes, links)
        ]
    rounds = max(1, links // DEPTH)
    return [
        tile_kernel(op, out, lanes, *tile, rounds) for op in ("dpbusd", "dpbssd") for tile in TILES
    ]


def tile_kernel(op: str, out: Slot, lanes: int, vectors: int, rows: int, rounds: int) -> Kernel:
    """a [DEPTH, rows], b [DEPTH, vectors * lanes] of words of bytes -> out: sums of their product.

    It is made many times; of its sums, those that `out` has room for are stored.
    """
    nest = Nest()
    a = nest.param("a", TensorType(t.u32, (DEPTH, rows)))
    b = nest.param("b", TensorType(t.u32, (DEPTH, vectors * lanes)))
    result = nest.output("out", out.type)
    acc = nest.local("acc", t.i32, rows * vectors, lanes)
    with nest.loop("p", out.type.shape[0], "parallel") as p:
        with _vectors(nest, "a", rows * vectors, lanes) as (i, j):
            nest.store(acc, (i, j), Const(0, t.i32))
        with nest.loop("r", rounds), nest.loop("k", DEPTH) as k:
            with _vectors(nest, "b", rows * vectors, lanes) as (i, j):
                column = i // rows * lanes + j
                value = scalar(op, nest.load(acc, i, j), nest.load(a, k, i % rows), b[k, column])
                nest.store(acc, (i, j), value)
        with _vectors(nest, "c", rows * vectors, lanes) as (i, j):
            nest.store(result, (p, i % CHAINS, j), cast(nest.load(acc, i, j), t.f32))
    return nest.kernel(f"{op}_{vectors}_{rows}")


def matrix_kernel(out: Slot, rounds: int) -> Kernel:
    """a [rows, k], b [k, columns] of bf16 pairs -> out: the same product, many times."""
    side, depth = BLOCK
    nest = Nest()
    a = nest.param("a", TensorType(t.u32, (side, depth)))
    b = nest.param("b", TensorType(t.u32, (depth, side)))
    result = nest.output("out", out.type)
    zero = as_index(0)
    with nest.loop("p", out.type.shape[0], "parallel") as p:
        tile = nest.local("tile", t.f32, side, side)
        with nest.loop("r", rounds), nest.loop("k", depth, "matrix") as k:
            with nest.loop("i", side) as i, nest.loop("j", side, "vector", side) as j:
                pair = nest.load(a, i, k), nest.load(b, k, j)
                nest.store(tile, (i, j), matrix_step(k, nest.load(tile, i, j), *pair))
        nest.store(result, (p, zero, zero), nest.load(tile, 0, 0))
    return nest.kernel("matrix")


def read_kernel(name: str, data: Slot, piece: int, out: Slot, lanes: int, places: int) -> Kernel:
    """data [threads * pieces] -> out: each thread adds up its piece, many times.

    It is read in so many places in turn, each a part of it.
    """
    nest = Nest()
    source = nest.param("data", data.type)
    result = nest.output("out", out.type)
    acc = nest.local("acc", t.f32, READS, lanes)
    part, beside = piece // places, READS // places
    with nest.loop("p", out.type.shape[0], "parallel") as p:
        with _vectors(nest, "a", READS, lanes) as (i, j):
            nest.store(acc, (i, j), Const(0.0, t.f32))
        with nest.loop("r", _rounds(piece)), nest.loop("k", piece // (READS * lanes)) as k:
            with _vectors(nest, "b", READS, lanes) as (i, j):
                start = p * piece + i // beside * part
                x = source[start + (k * beside + i % beside) * lanes + j]
                nest.store(acc, (i, j), nest.load(acc, i, j) + x)
        with _vectors(nest, "c", READS, lanes) as (i, j):
            nest.store(result, (p, i, j), nest.load(acc, i, j))
    return nest.kernel(f"read_{name}")


@contextmanager
def _vectors(nest: Nest, tag: str, count: int, lanes: int) -> Iterator[tuple[Expr, Expr]]:
    """Loops over a tile of registers."""
    with nest.loop(f"i{tag}", count, "unroll") as i:
        with nest.loop(f"j{tag}", lanes, "vector", lanes) as j:
            yield i, j


def _meeting_kernel(start: Slot, out: Slot) -> Kernel:
    """Next to nothing."""
    nest = Nest()
    source = nest.param("start", start.type)
    result = nest.output("out", out.type)
    zero = as_index(0)
    nest.store(result, (zero, zero, zero), source[zero])
    return nest.kernel("meeting")
