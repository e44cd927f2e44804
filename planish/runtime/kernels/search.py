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
from planish.runtime.kernels.nest import Lowered, Nest, Pull, lowered, minimum, unflatten
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
        with nest.loop("k", size, "vector", lanes) as j:
            value = nest.let(pull(x, (*at[:axis], j, *at[axis:])), here=True)
            hit = scalar("eq", value, best)
            if x.dtype.is_float:
                hit = hit | (scalar("ne", value, value) & scalar("ne", best, best))
            nest.accumulate(found, FIRST, "min", select(hit, cast(j, t.i64), Const(2**62, t.i64)))
        place = (*at[:axis], as_index(0), *at[axis:]) if anchor.attrs.get("keep") else at
        nest.store(out, place, nest.let(nest.load(found, 0), here=True))
    return lowered(nest, pull, name)


def threshold_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """kth_largest(x, k) or nucleus(probs, p): the threshold is built bit by bit from the top.

    A bit stays where what is at or above it still counts at least k, or weighs at least p.
    """
    nest, pull, out = _open(body, anchor)
    x, bound = anchor.inputs
    rows, size = x.shape[:-1], x.shape[-1]
    nucleus = anchor.op.name == "nucleus"
    weight = x.dtype if nucleus else t.i64
    lanes = target.lanes(weight)
    zero, one = Const(0.0 if nucleus else 0, weight), Const(1, t.u32)
    steps = 31 if nucleus else 32  # probabilities have no sign bit
    limit = nest.let(cast(pull(bound, ()), weight))
    if not nucleus:
        limit = nest.let(minimum(scalar("max", limit, as_index(1)), size_expr(size)))
    with nest.loop("p", product(rows), "parallel") as p:
        at = unflatten(p, rows)
        bits, total = nest.local("bits", t.u32, 1), nest.local("total", weight, 1)
        top = nest.local("top", t.u32, 1)
        nest.store(bits, FIRST, Const(0, t.u32))
        nest.store(top, FIRST, Const(0, t.u32))
        with nest.loop("m", size, "vector", lanes) as j:
            nest.accumulate(top, FIRST, "max", ordered_bits(nest, pull(x, (*at, j)), nucleus))
        most = nest.let(nest.load(top, 0), here=True)
        with nest.loop("step", steps) as step:
            shift = cast(as_index(steps - 1) - step, t.u32)
            tried = nest.let(nest.load(bits, 0) | (one << shift), here=True)
            nest.store(total, FIRST, zero)
            with nest.loop("j", size, "vector", lanes) as j:
                value = nest.let(pull(x, (*at, j)), here=True)
                inside = scalar("ge", ordered_bits(nest, value, nucleus), tried)
                part = value if nucleus else Const(1, t.i64)
                nest.accumulate(total, FIRST, "add", select(inside, part, zero))
            enough = scalar("ge", nest.load(total, 0), limit) & scalar("le", tried, most)
            nest.store(bits, FIRST, select(enough, tried, nest.load(bits, 0)))
        found = nest.let(nest.load(bits, 0), here=True)
        value = bitcast(found, t.f32) if nucleus else unordered(found)
        nest.store(out, (*at, as_index(0)), value)
    return lowered(nest, pull, name)


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
