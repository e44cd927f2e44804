"""One query and a long cache: threads share out heads and pieces of the cache, then sums meet.

    part[b, h, c] = (weighted sum of the values of piece c, their largest score, sum of weights)
    out[b, h]     = sum over c of f[c] * part[c].values / sum over c of f[c] * part[c].weights,
                    f[c] = exp(part[c].score - the largest score of all pieces)

These are the streaming sums of online softmax (Milakov and Gimelshein, 2018), put together in the
order of the pieces; how many there are follows from the shape of the cache, not from the threads.
"""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.loops import Const, as_index, cast, scalar, select
from planish.ir.node import Node
from planish.ir.types import TensorType
from planish.runtime.kernels.attention import attend
from planish.runtime.kernels.nest import Lowered, Nest, Pull, lowered, minimum, unflatten
from planish.runtime.kernels.rows import lane_width
from planish.runtime.kernels.visible import visible
from planish.runtime.target import Target

PIECE = 256  # keys: about 10 us with heads of 64 from the L3 cache, where a meeting takes 0.2
LONG = 2 * PIECE


def is_long(anchor: Node) -> bool:
    """Whether a node is attention of one query to a long cache."""
    if anchor.op.name != "attention":
        return False
    q, k, v = anchor.inputs[:3]
    keys, width = k.shape[2], v.shape[3]
    if anchor.attrs.get("ragged"):
        return False
    long = isinstance(keys, int) and keys >= LONG and isinstance(width, int)
    return long and q.shape[2] == 1 and q.dtype != t.f64


def parts_type(anchor: Node) -> TensorType:
    """What the first kernel writes."""
    q, k, v = anchor.inputs[:3]
    return TensorType(t.f32, (*q.shape[:2], -(-k.shape[2] // PIECE), v.shape[3] + 2))


def part_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """Heads and pieces in parallel; a piece that is not seen weighs nothing."""
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    type_ = parts_type(anchor)
    out, width = nest.output("out0", type_), anchor.inputs[2].shape[3]
    with nest.loop("p", product(type_.shape[:3]), "parallel") as p:
        b, h, c = unflatten(p, type_.shape[:3])
        start = nest.let(c * PIECE)
        seen = scalar("max", visible(anchor, pull, b, as_index(0)) - start, as_index(0))
        count = nest.let(minimum(seen, as_index(PIECE)))
        query = (b, h, as_index(0))
        acc, most, total = attend(nest, pull, anchor, query, start, count, target, PIECE)
        with nest.loop("d2", width, "vector", target.lanes(t.f32)) as d:
            nest.store(out, (b, h, c, d), nest.load(acc, d))
        nest.store(out, (b, h, c, as_index(width)), most)
        nest.store(out, (b, h, c, as_index(width + 1)), total)
    return lowered(nest, pull, f"{name}_parts")


def sum_kernel(parts: Node, anchor: Node, name: str, target: Target) -> Lowered:
    """Heads in parallel, pieces in order."""
    nest = Nest()
    pull = Pull(nest, Graph("parts", (parts,), (parts,)))
    pull.declare()
    out, width = nest.output("out0", anchor.type), anchor.inputs[2].shape[3]
    pieces, wide = parts.shape[2], lane_width(width, target.lanes(t.f32), True)
    low, zero, first = Const(float("-inf"), t.f32), Const(0.0, t.f32), (as_index(0),)
    with nest.loop("p", product(parts.shape[:2]), "parallel") as p:
        b, h = unflatten(p, parts.shape[:2])
        most, total = (nest.local(n, t.f32, 1) for n in ("most", "total"))
        acc = nest.local("acc", t.f32, width)
        nest.store(most, first, low)
        nest.store(total, first, zero)
        with nest.loop("d0", width, "vector", wide) as d:
            nest.store(acc, (d,), zero)
        with nest.loop("cm", pieces) as c:
            nest.accumulate(most, first, "max", pull(parts, (b, h, c, as_index(width))))
        seen = scalar("gt", nest.load(most, 0), low)
        top = nest.let(select(seen, nest.load(most, 0), zero), here=True)  # 0: nothing is seen
        with nest.loop("c", pieces) as c:
            score = pull(parts, (b, h, c, as_index(width)))
            share = nest.let(scalar("exp", score - top), here=True)
            weights = pull(parts, (b, h, c, as_index(width + 1)))
            nest.accumulate(total, first, "add", share * weights)
            with nest.loop("d1", width, "vector", wide) as d:
                value = scalar("fma", share, pull(parts, (b, h, c, d)), nest.load(acc, d))
                nest.store(acc, (d,), value)
        s = nest.let(nest.load(total, 0), here=True)
        factor = nest.let(select(scalar("gt", s, zero), Const(1.0, t.f32) / s, zero), here=True)
        row = as_index(0)
        place = (b, row, h) if anchor.attrs.get("time_first") else (b, h, row)
        with nest.loop("d2", width, "vector", wide) as d:
            nest.store(out, (*place, d), cast(nest.load(acc, d) * factor, out.dtype))
    return lowered(nest, pull, f"{name}_sum")
