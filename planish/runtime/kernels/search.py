"""Searches along the last axis or another one: argmax, argmin, and the thresholds of sampling.

argmax      the extreme of the row, then the least index that has it; NaN counts as the extreme
kth_largest, nucleus
            bisection over the bits of the value: floats in the order of their bits, read as
            integers, so that 32 counting passes give the exact threshold without sorting
"""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.loops import Buffer, Const, Expr, as_index, bitcast, cast, scalar, select, size_expr
from planish.ir.node import Node
from planish.runtime.kernels.nest import Index, Lowered, Nest, Pull, lowered, minimum, unflatten
from planish.runtime.target import Target

FIRST = (as_index(0),)


def arg_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """argmax or argmin: the index of the extreme along an axis."""
    nest, pull, out = _open(body, anchor)
    (x,) = anchor.inputs
    axis, op = anchor.attrs["axis"], "max" if anchor.op.name == "argmax" else "min"
    outer = x.shape[:axis] + x.shape[axis + 1 :]
    lanes = target.lanes(x.dtype if x.dtype.bits > 32 else t.i64)
    size = x.shape[axis]
    first_value = as_index(0)
    with nest.loop("p", product(outer), "parallel") as p:
        at = unflatten(p, outer)
        extreme, found = nest.local("extreme", x.dtype, 1), nest.local("found", t.i64, 1)
        nest.store(extreme, FIRST, pull(x, (*at[:axis], first_value, *at[axis:])))
        nest.store(found, FIRST, Const(2**62, t.i64))
        with nest.loop("j", size, "vector", target.lanes(x.dtype)) as j:
            nest.accumulate(extreme, FIRST, op, pull(x, (*at[:axis], j, *at[axis:])))
        best = nest.let(nest.load(extreme, 0), here=True)
        none = nest.let(scalar("ne", best, best), here=True)
        with nest.loop("k", size, "vector", lanes) as j:
            value = nest.let(pull(x, (*at[:axis], j, *at[axis:])), here=True)
            hit = scalar("eq", value, best)
            if x.dtype.is_float:
                hit = hit | (scalar("ne", value, value) & none)
            nest.accumulate(found, FIRST, "min", select(hit, cast(j, t.i64), Const(2**62, t.i64)))
        place = (*at[:axis], as_index(0), *at[axis:]) if anchor.attrs.get("keep") else at
        nest.store(out, place, nest.let(nest.load(found, 0), here=True))
    return lowered(nest, pull, name)


def threshold_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """kth_largest(x, k) or nucleus(probs, p): the threshold is built bit by bit from the top.

    A bit stays where what is at or above it still counts at least k, or weighs at least p. Where
    all elements are kept (k is their number, p more than their sum) one pass says so.
    """
    nest, pull, out = _open(body, anchor)
    x, bound = anchor.inputs
    rows, size = x.shape[:-1], x.shape[-1]
    nucleus = anchor.op.name == "nucleus"
    limit = nest.let(cast(pull(bound, ()), x.dtype if nucleus else t.i64))
    if not nucleus:
        limit = nest.let(minimum(scalar("max", limit, as_index(1)), size_expr(size)))
    with nest.loop("p", product(rows), "parallel") as p:
        at = unflatten(p, rows)
        search = _Search(nest, pull, x, at, limit, target)
        search.everything() if nucleus else search.least()
        with nest.when(search.chooses):
            search.bit_by_bit()
        found = nest.let(nest.load(search.bits, 0), here=True)
        value = bitcast(found, t.f32) if nucleus else unordered(found)
        nest.store(out, (*at, as_index(0)), value)
    return lowered(nest, pull, name)


class _Search:
    """A row's threshold, in `bits`. `chooses` says whether some elements may be left out."""

    def __init__(self, nest: Nest, pull: Pull, x: Node, at: Index, limit: Expr, target: Target):
        self.nest, self.pull, self.x, self.at, self.limit = nest, pull, x, at, limit
        self.nucleus = limit.type.is_float
        self.size = x.shape[-1]
        self.lanes = target.lanes(limit.type)
        self.bits, self.top = (nest.local(n, t.u32, 1) for n in ("bits", "top"))
        self.total = nest.local("total", limit.type, 1)
        self.zero = Const(0.0 if self.nucleus else 0, limit.type)
        self.chooses: Expr = Const(True, t.boolean)

    def value(self, j: Expr) -> Expr:
        """Element j."""
        return self.nest.let(self.pull(self.x, (*self.at, j)), here=True)

    def ordered(self, value: Expr) -> Expr:
        """A number that orders as `value` does."""
        return ordered_bits(self.nest, value, self.nucleus)

    def least(self) -> None:
        """The least element, which is the threshold where k is the size of the row."""
        nest = self.nest
        nest.store(self.bits, FIRST, Const(0xFFFFFFFF, t.u32))
        nest.store(self.top, FIRST, Const(0, t.u32))
        with nest.loop("m", self.size, "vector", self.lanes) as j:
            ordered = self.ordered(self.value(j))
            nest.accumulate(self.bits, FIRST, "min", ordered)
            nest.accumulate(self.top, FIRST, "max", ordered)
        self.chooses = nest.let(scalar("lt", self.limit, size_expr(self.size)), here=True)

    def everything(self) -> None:
        """The sum of the row: a mass that is more than that keeps all, by a threshold of 0.

        Sums over fewer elements are not larger, in the same order: adding rounds monotonically.
        """
        nest = self.nest
        nest.store(self.bits, FIRST, Const(0, t.u32))
        nest.store(self.top, FIRST, Const(0, t.u32))
        nest.store(self.total, FIRST, self.zero)
        with nest.loop("m", self.size, "vector", self.lanes) as j:
            value = self.value(j)
            nest.accumulate(self.top, FIRST, "max", self.ordered(value))
            nest.accumulate(self.total, FIRST, "add", value)
        self.chooses = nest.let(scalar("ge", nest.load(self.total, 0), self.limit), here=True)

    def bit_by_bit(self) -> None:
        """The largest threshold that keeps enough."""
        nest, steps = self.nest, 31 if self.nucleus else 32  # probabilities have no sign bit
        one = Const(1, t.u32)
        most = nest.let(nest.load(self.top, 0), here=True)
        nest.store(self.bits, FIRST, Const(0, t.u32))
        with nest.loop("step", steps) as step:
            shift = cast(as_index(steps - 1) - step, t.u32)
            tried = nest.let(nest.load(self.bits, 0) | (one << shift), here=True)
            nest.store(self.total, FIRST, self.zero)
            with nest.loop("j", self.size, "vector", self.lanes) as j:
                value = self.value(j)
                part = value if self.nucleus else Const(1, t.i64)
                inside = scalar("ge", self.ordered(value), tried)
                nest.accumulate(self.total, FIRST, "add", select(inside, part, self.zero))
            kept = nest.load(self.total, 0)
            enough = scalar("ge", kept, self.limit) & scalar("le", tried, most)
            nest.store(self.bits, FIRST, select(enough, tried, nest.load(self.bits, 0)))


def ordered_bits(nest: Nest, value: Expr, positive: bool) -> Expr:
    """The bits of a float32 as a u32 that orders as the floats do (-0.0 as 0.0)."""
    if positive:
        return nest.let(bitcast(value, t.u32), here=True)
    bits = nest.let(bitcast(value + 0.0, t.u32), here=True)
    sign = Const(0x80000000, t.u32)
    negative = scalar("ne", bits & sign, Const(0, t.u32))
    return nest.let(select(negative, bits ^ Const(0xFFFFFFFF, t.u32), bits | sign), here=True)


def unordered(bits: Expr) -> Expr:
    """The float32 whose `ordered_bits` these are."""
    sign = Const(0x80000000, t.u32)
    positive = scalar("ne", bits & sign, Const(0, t.u32))
    inside = bits & Const(0x7FFFFFFF, t.u32)
    return bitcast(select(positive, inside, bits ^ Const(0xFFFFFFFF, t.u32)), t.f32)


def _open(body: Graph, anchor: Node) -> tuple[Nest, Pull, Buffer]:
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    return nest, pull, nest.output("out0", anchor.type)
