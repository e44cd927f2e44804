"""Products by integers whose scale changes along k, in groups: see the op `scaled_matmul`.

    for each tile:                      MR rows by NR columns, f32, in registers
      for each group:
        part = sum over the group       exact for bytes of A, else f32
        tile = tile + part * scale      the scales of the group, one for each column

Weights of 4 bits lie in panels of words [N / NR, groups * (1 + G / 8), NR]. A group begins with its
scales, as bits of f32; each other word holds eight steps of k for its column, 8 added to each, so
that they are 0 to 15: byte j of a word has step j in its lower and step 4 + j in its upper half.
Two `and` and a shift make it two words of bytes, which a dot product of unsigned by signed bytes
takes as they are. The 8s are taken away again as 8 times the sum of A's bytes, found for a group at
once. A word for the bf16 of two groups would be less to read, and was slower on Zen 5.

Where a dot product takes several instructions, products of `CHUNK` words are first summed in 16
bits: 8 of at most 2 * 15 * 128 are 30,720. That leaves two instructions for 32 products.

Any other operands are read where they lie, an element at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

import numpy as np

from planish.ir import types as t
from planish.ir.dims import AnySize, product
from planish.ir.graph import Graph
from planish.ir.loops import Buffer, Const, Expr, as_index, bitcast, cast, scalar, size_expr
from planish.ir.node import Node
from planish.runtime.kernels.gemm import Along, Gemm, Roles
from planish.runtime.kernels.nest import Index, Lowered, lowered, minimum
from planish.runtime.kernels.tiles import HIGHEST, WIDTHS, times
from planish.runtime.target import Target

STEPS = 8  # of k in a word
CHUNK = 4  # words of which 16 bits hold the sums
ONES = 0x00010001  # two halves
BYTES = 0x0F0F0F0F  # the lower halves of four bytes
EIGHTS = 0x08080808
SIGNS = 0x88888888  # what makes halves of 0 to 15, 8 added, signed ones again


def is_nibbles(anchor: Node) -> bool:
    """Whether the weights of a `scaled_matmul` make whole words of 4 bits, group by group."""
    _, b, scale = anchor.inputs
    return b.dtype == t.i4 and b.shape[0] // scale.shape[0] % STEPS == 0


def nibble_rows(b: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """i4 [K, N] and bf16 [groups, N] as rows of words: for each group its scales, and its steps."""
    columns, groups = b.shape[1], len(scale)
    halves = (np.ascontiguousarray(b.T).view(np.uint8) & 15) ^ 8
    eights = halves.reshape(columns, groups, -1, 2, 4)
    packed = np.ascontiguousarray(eights[..., 0, :] | eights[..., 1, :] << 4).view("<u4")
    first = scale.T.astype(np.float32, order="C").view(np.uint32)[..., None, None]
    return np.concatenate([first, packed], 2).reshape(columns, -1).astype(np.uint32, copy=False).T


def tile_of(target: Target, rows: AnySize, columns: AnySize, lanes: int) -> tuple[int, int]:
    """(MR, NR): the quickest tile by the instructions of a step, of those that fit in registers.

    In registers are sums, the words and their halves, what takes them apart, and two of A.
    """
    highest = min(rows, HIGHEST) if isinstance(rows, int) else HIGHEST
    found = [
        (v, h)
        for v in WIDTHS
        for h in range(1, max(1, highest) + 1)
        if v * h + 2 * v + 3 <= target.vector_registers
    ]

    def cost(tile: tuple[int, int]) -> float:
        v, h = tile
        return times(rows, h) * times(columns, v * lanes) * (4 * v + h * (4 * v + 4))

    v, h = min(found, key=cost)
    return h, v * lanes


class Scaled(Gemm):
    """A `scaled_matmul` kernel being written. Its A is words where its B is packed and it bytes."""

    def __init__(self, body: Graph, anchor: Node, target: Target, packed: bool):
        a, b, self.scale = anchor.inputs
        super().__init__(body, anchor, Roles(a, b), target, False, 1)
        self.matrix, self.bytewise = False, "dpbssd" if target.arch == "aarch64" else "dpbusd"
        self.in_halves = target.has_byte_pairs and not target.has_byte_dot
        self.sums = t.f32 if a.dtype == t.f32 else t.i32
        self.lanes = target.lanes(t.f32)
        p, self.groups = self.product, int(self.scale.shape[0])  # type: ignore[arg-type]
        self.size = int(b.shape[0]) // self.groups  # type: ignore[arg-type]
        self.mr, self.nr = tile_of(target, product(p.rows), p.columns, self.lanes)
        if packed:
            count = (size_expr(p.columns) + (self.nr - 1)) // self.nr
            depth = as_index(self.groups * self.in_group)
            self.panel = Buffer("packed", t.u32, (count, depth, Const(self.nr, t.i64)))
            self.nest.params.append(self.panel)

    @property
    def in_group(self) -> int:
        """Rows of a panel that belong to a group."""
        return 1 + self.size // STEPS

    def accumulate(self, batch: Index, panel: Expr, of_a: list[Along]) -> None:
        """tile[i, j] = sum over groups; rows beyond the last repeat it, and are not stored."""
        nest = self.nest
        acc, part = (
            nest.local(name, dtype, self.mr, self.nr)
            for name, dtype in (("acc", t.f32), ("part", self.sums))
        )
        self.eights = nest.local("eights", t.i32, self.mr) if self.in_bytes else None
        if self.in_bytes and self.in_halves:
            self.halves = nest.local("halves", t.u32, self.mr, self.nr)
        self.tile = nest.local("tile", t.f32, self.mr, self.nr)
        self.over(lambda i, j: nest.store(acc, (i, j), Const(0.0, t.f32)))
        with nest.loop("g", self.groups) as g:
            self.begin(part, of_a, g)
            self.add_group(part, of_a, panel, g)
            self.over(lambda i, j: self.add(acc, part, panel, g, i, j))
        self.over(lambda i, j: nest.store(self.tile, (i, j), nest.load(acc, i, j)))

    @property
    def in_bytes(self) -> bool:
        """Whether words of bytes are multiplied."""
        return self.panel is not None and self.sums == t.i32

    def over(self, act: Callable[[Expr, Expr], None]) -> None:
        """All elements of the tile: row and column."""
        with self.nest.loop("i", self.mr, "unroll") as i:
            self.across(lambda j: act(i, j))

    def across(self, act: Callable[[Expr], None]) -> None:
        """All columns of the tile, a register at a time."""
        nest = self.nest
        with nest.loop("v", self.nr // self.lanes, "unroll") as v:
            with nest.loop("j", self.lanes, "vector", self.lanes) as j:
                act(v * self.lanes + j)

    def begin(self, part: Buffer, of_a: list[Along], g: Expr) -> None:
        """The sums of a group begin with what its 8s add, taken away."""
        nest = self.nest
        if (eights := self.eights) is None:
            zero = Const(0.0 if self.sums.is_float else 0, self.sums)
            self.over(lambda i, j: nest.store(part, (i, j), zero))
            return
        words = self.size // 4
        for i, along in enumerate(of_a):
            at = (as_index(i),)
            nest.store(eights, at, Const(0, t.i32))
            with nest.loop("w", words, "vector", gcd(words, self.lanes)) as w:
                a, eight = along(g * words + w), Const(EIGHTS, t.u32)
                nest.accumulate(eights, at, "add", self.product_of(eight, a))
        self.over(lambda i, j: nest.store(part, (i, j), -nest.load(eights, i)))

    def product_of(self, weights: Expr, a: Expr) -> Expr:
        """The sum of the products of four bytes."""
        zero = Const(0, t.i32)
        if not self.in_halves:
            return scalar(self.bytewise, zero, weights, a)
        halves = scalar("dpbusw", Const(0, t.u32), weights, a)
        return scalar("dpwssd", zero, halves, Const(ONES, t.u32))

    def add(self, acc: Buffer, part: Buffer, panel: Expr, g: Expr, i: Expr, j: Expr) -> None:
        """acc = acc + part * scale, rounded once."""
        nest = self.nest
        total = cast(nest.load(part, i, j), t.f32)
        nest.store(
            acc, (i, j), scalar("fma", total, self.factor(panel, g, j), nest.load(acc, i, j))
        )

    def factor(self, panel: Expr, g: Expr, j: Expr) -> Expr:
        """The scale of a column in a group."""
        if self.panel is not None:
            return bitcast(self.nest.load(self.panel, panel, g * self.in_group, j), t.f32)
        return cast(self.pull(self.scale, (g, self.column(panel, j))), t.f32)

    def column(self, panel: Expr, j: Expr) -> Expr:
        """A column of B; beyond the last, the last."""
        n = self.product.columns
        column = panel * self.nr + j
        whole = isinstance(n, int) and n % self.nr == 0
        return column if whole else minimum(column, size_expr(n) - 1)

    def add_group(self, part: Buffer, of_a: list[Along], panel: Expr, g: Expr) -> None:
        """The sum over a group."""
        if self.panel is None:
            with self.nest.loop("k", self.size) as k:
                self.plain_step(part, of_a, panel, g * self.size + k)
            return
        if self.in_bytes and self.in_halves:
            self.add_chunks(part, of_a, panel, g)
            return
        step = self.byte_step if self.in_bytes else self.float_step
        with self.nest.loop("k", self.size // STEPS) as k:
            step(part, of_a, panel, g, k)

    def add_chunks(self, part: Buffer, of_a: list[Along], panel: Expr, g: Expr) -> None:
        """The sum over a group, some words of it at a time in 16 bits."""
        nest, sums, words = self.nest, self.halves, self.size // STEPS
        some = next(n for n in range(CHUNK, 0, -1) if words % n == 0)
        with nest.loop("c", words // some) as c:
            self.over(lambda i, j: nest.store(sums, (i, j), Const(0, t.u32)))
            with nest.loop("k", some) as k:
                self.byte_step(sums, of_a, panel, g, c * some + k)

            def act(i: Expr, j: Expr) -> None:
                ones, total = Const(ONES, t.u32), nest.load(part, i, j)
                nest.store(part, (i, j), scalar("dpwssd", total, nest.load(sums, i, j), ones))

            self.over(act)

    def plain_step(self, part: Buffer, of_a: list[Along], panel: Expr, k: Expr) -> None:
        """A step of k, from B as it lies."""
        nest = self.nest
        for i, along in enumerate(of_a):
            a = nest.let(cast(along(k), self.sums))

            def act(j: Expr, a: Expr = a, i: int = i) -> None:
                b = cast(self.pull(self.b, (k, self.column(panel, j))), self.sums)
                at = as_index(i), j
                nest.store(part, at, scalar("fma", a, b, nest.load(part, *at)))

            self.across(act)

    def word(self, panel: Expr, g: Expr, k: Expr, j: Expr) -> Expr:
        """Eight steps of a column."""
        return self.nest.load(self.panel, panel, g * self.in_group + 1 + k, j)  # type: ignore

    def byte_step(self, part: Buffer, of_a: list[Along], panel: Expr, g: Expr, k: Expr) -> None:
        """Eight steps of k, as two products of words of bytes that are added to `part`."""
        nest = self.nest
        dot = "dpbusw" if part.dtype == t.u32 else self.bytewise
        for i, along in enumerate(of_a):
            at = g * (self.size // 4) + k * 2
            low, high = (nest.let(along(at + x)) for x in (0, 1))

            def act(j: Expr, low: Expr = low, high: Expr = high, i: int = i) -> None:
                word, place = self.word(panel, g, k, j), (as_index(i), j)
                total = scalar(dot, nest.load(part, *place), word & BYTES, low)
                nest.store(part, place, scalar(dot, total, (word >> 4) & BYTES, high))

            self.across(act)

    def float_step(self, part: Buffer, of_a: list[Along], panel: Expr, g: Expr, k: Expr) -> None:
        """Eight steps of k, the weights made floats."""
        nest = self.nest
        for i, along in enumerate(of_a):
            at = g * self.size + k * STEPS
            a = [nest.let(along(at + x)) for x in range(STEPS)]

            def act(j: Expr, a: list[Expr] = a, i: int = i) -> None:
                word = nest.let(bitcast(self.word(panel, g, k, j) ^ SIGNS, t.i32), here=True)
                place = as_index(i), j
                total: Expr = nest.load(part, *place)
                for step, x in enumerate(a):
                    shift = 8 * (step % 4) + 4 * (step // 4)
                    b = cast(word << (28 - shift) >> 28, t.f32)
                    total = scalar("fma", x, b, total)
                nest.store(part, place, total)

            self.across(act)


def scaled_kernel(body: Graph, anchor: Node, name: str, target: Target, packed: bool) -> Lowered:
    """The kernel of a `scaled_matmul`; packed B, if any, is the argument ("packed", 0)."""
    made = Scaled(body, anchor, target, packed)
    made.write()
    return lowered(made.nest, made.pull, name)
