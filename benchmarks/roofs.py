"""The machine's roofs, measured: multiply-adds in registers, and reading memory.

    python benchmarks/roofs.py [--threads 2]

No run of a workload is faster than `bound`: the larger of what its operations and what its bytes
take at least. Kernels are loop IR, compiled by planish.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from workloads import Config

from planish.ir import types as t
from planish.ir.loop_matrix import SIDE, matrix_step
from planish.ir.loops import Buffer, Const, Expr, as_index, scalar
from planish.ir.types import TensorType
from planish.runtime.kernels.nest import Nest
from planish.runtime.plan import Plan, Slot, Step
from planish.runtime.program import Bound, Program
from planish.runtime.target import Target

CHAINS = 16  # independent sums: latency times multiply-adds a cycle is 8 to 10
ROUNDS = 200_000  # steps of a chain: some milliseconds
READ = 1 << 27  # bytes that one measurement reads at least
SECONDS = 0.3  # of one measurement; the best run counts, as the roof is what is possible


def bound_program(nest: Nest, threads: int, *inputs: np.ndarray) -> Bound:
    """One kernel with `inputs` and one output of a number for each thread."""
    kernel = nest.kernel("roof")
    given = tuple(
        Slot("input", i, TensorType(t.dtype(x.dtype), x.shape), f"x{i}")
        for i, x in enumerate(inputs)
    )
    out = Slot("output", 0, TensorType(t.f32, (threads,)), "out")
    plan = Plan("roof", given, (out,), (), (), (Step(kernel, (*given, out), "roof"),))
    return Program(plan, threads=threads).bind(*inputs)


def fastest(run: Callable[[], object], seconds: float = SECONDS) -> float:
    """The shortest time of a run."""
    run()
    until, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < until:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def flops(threads: int, dtype: str = "f32") -> float:
    """Operations a second: by fma; for bf16 by the matrix unit or dot products, where they are."""
    target = Target.host()
    if dtype == "bf16" and target.has_matrix:
        return matrix_flops(threads)
    lanes, pairs = target.lanes(t.f32), dtype == "bf16" and target.has_bf16_dot
    kind = t.u32 if pairs else t.f32
    x = np.full((2, lanes), 0x3F003F00 if pairs else 0.5, kind.numpy)
    nest = Nest()
    source = nest.param("x", TensorType(kind, x.shape))
    out = nest.output("out", TensorType(t.f32, (threads,)))
    with nest.loop("p", threads, "parallel") as p:
        sums = nest.local("sums", t.f32, CHAINS, lanes)
        with nest.loop("i", CHAINS, "unroll") as i, nest.loop("j", lanes, "vector", lanes) as j:
            nest.store(sums, (i, j), Const(0.0, t.f32))
        with nest.loop("k", ROUNDS):
            with nest.loop("i", CHAINS, "unroll") as i, nest.loop("j", lanes, "vector", lanes) as j:
                a, b = (nest.load(source, row, j) for row in (0, 1))
                old = nest.load(sums, i, j)
                new = scalar("dpbf16", old, a, b) if pairs else scalar("fma", old, a, b)
                nest.store(sums, (i, j), new)
        total(nest, out, p, sums, lanes, CHAINS)
    work = threads * ROUNDS * CHAINS * lanes * (4 if pairs else 2)
    return work / fastest(bound_program(nest, threads, x).run)


def total(nest: Nest, out: Buffer, p: Expr, sums: Buffer, lanes: int, rows: int) -> None:
    """out[p] = the sum of `sums`, so that nothing may be left out."""
    found = nest.local("total", t.f32, 1)
    nest.store(found, (as_index(0),), Const(0.0, t.f32))
    with nest.loop("i", rows, "unroll") as i, nest.loop("j", lanes, "vector", lanes) as j:
        nest.accumulate(found, (as_index(0),), "add", nest.load(sums, i, j))
    nest.store(out, (p,), nest.load(found, 0))


def matrix_flops(threads: int) -> float:
    """Operations a second of the matrix unit, on two by two tiles whose operands stay in L1."""
    side, depth = 2 * SIDE, 4 * SIDE
    a, b = (np.full(shape, 0x3F003F00, np.uint32) for shape in ((side, depth), (depth, side)))
    nest = Nest()
    left, right = (nest.param(name, TensorType(t.u32, x.shape)) for name, x in (("a", a), ("b", b)))
    out = nest.output("out", TensorType(t.f32, (threads,)))
    rounds = ROUNDS // depth
    with nest.loop("p", threads, "parallel") as p:
        tile = nest.local("tile", t.f32, side, side)
        with nest.loop("r", rounds):
            with nest.loop("k", depth, "matrix") as k, nest.loop("i", side) as i:
                with nest.loop("j", side, "vector", side) as j:
                    pair = nest.load(left, i, k), nest.load(right, k, j)
                    nest.store(tile, (i, j), matrix_step(k, nest.load(tile, i, j), *pair))
        nest.store(out, (p,), nest.load(tile, 0, 0))
    work = threads * rounds * side * side * depth * 4
    return work / fastest(bound_program(nest, threads, a, b).run)


def bandwidth(size: int, threads: int) -> float:
    """Bytes a second where `size` bytes are read again and again, a share for each thread."""
    lanes = Target.host().lanes(t.f32)
    wide = CHAINS * lanes
    share = max(wide, size // 4 // threads // wide * wide)
    repeats = max(1, READ // (4 * share * threads))
    x = np.ones((threads, share), np.float32)
    nest = Nest()
    source = nest.param("x", TensorType(t.f32, x.shape))
    out = nest.output("out", TensorType(t.f32, (threads,)))
    with nest.loop("p", threads, "parallel") as p:
        sums = nest.local("sums", t.f32, CHAINS, lanes)
        with nest.loop("i", CHAINS, "unroll") as i, nest.loop("j", lanes, "vector", lanes) as j:
            nest.store(sums, (i, j), Const(0.0, t.f32))
        with nest.loop("r", repeats), nest.loop("k", share // wide) as k:
            with nest.loop("i", CHAINS, "unroll") as i, nest.loop("j", lanes, "vector", lanes) as j:
                read = nest.load(source, p, k * wide + i * lanes + j)
                nest.store(sums, (i, j), nest.load(sums, i, j) + read)
        total(nest, out, p, sums, lanes, CHAINS)
    return 4 * share * threads * repeats / fastest(bound_program(nest, threads, x).run)


def operations(workload: str, c: Config) -> float:
    """Floating-point operations that one run cannot avoid; causal halves are not counted."""
    block = 24 * c.layers * c.width**2  # of one token, two for a multiply-add
    head = 2 * c.vocab * c.width
    if workload == "decode":
        steps, places = c.new - 1, range(c.prompt, c.prompt + c.new - 1)
        return steps * (block + head) + sum(4 * c.layers * c.width * (p + 1) for p in places)
    length = c.prefill if workload == "prefill" else c.context
    attention = 2 * c.layers * c.width * length * (length + 1)
    if workload == "prefill":
        return length * block + attention + head
    return 3 * c.batch * (length * (block + head) + attention)


def traffic(workload: str, c: Config, dtype: str) -> tuple[float, float]:
    """(bytes that one run must read, bytes it reads again and again): weights, caches, moments."""
    size = 2 if dtype == "bf16" else 4
    weights = size * (c.parameters - c.context * c.width)
    if workload == "decode":
        places = range(c.prompt, c.prompt + c.new - 1)
        caches = [2 * size * c.layers * c.width * (p + 1) for p in places]
        return len(places) * weights + sum(caches), weights + max(caches)
    total = weights if workload == "prefill" else 4 * 4 * c.parameters
    return total, total


@dataclass
class Roofs:
    """Measured roofs of this machine with so many threads."""

    threads: int
    peaks: dict[str, float] = field(default_factory=dict)
    speeds: dict[int, float] = field(default_factory=dict)

    def peak(self, dtype: str) -> float:
        """Operations a second."""
        if dtype not in self.peaks:
            self.peaks[dtype] = flops(self.threads, dtype)
        return self.peaks[dtype]

    def speed(self, size: float) -> float:
        """Bytes a second at a working set; measured at the next power of two above it."""
        power = max(14, int(size - 1).bit_length())
        if power not in self.speeds:
            self.speeds[power] = bandwidth(1 << power, self.threads)
        return self.speeds[power]

    def bound(self, workload: str, c: Config, dtype: str = "f32") -> float:
        """Seconds below which no run can be."""
        total, again = traffic(workload, c, dtype)
        return max(operations(workload, c) / self.peak(dtype), total / self.speed(again))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    for dtype in ("f32", "bf16"):
        print(f"{dtype:5} {flops(threads, dtype) / 1e9:8.1f} GFLOP/s")
    for power in (15, 18, 20, 22, 23, 24, 25, 26, 28):
        print(f"{(1 << power) / 2**20:8.2f} MiB {bandwidth(1 << power, threads) / 1e9:8.1f} GB/s")


if __name__ == "__main__":
    main()
