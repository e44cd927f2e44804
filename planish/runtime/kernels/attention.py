"""Attention, one query row at a time: softmax(scale * q . k) . v over the keys that it may see.

    q [B, H, T, D]   k, v [B, G, S, D]   out [B, H, T, D]   query head h reads key head h // (H / G)

A row keeps its S scores in scratch, so memory is linear in S; keys beyond the causal limit are
never read. Operands are read through their views: the fused QKV product is read in place.

    pass 1  score[j] = scale * sum over d of q[d] * k[j, d], and their maximum
    pass 2  score[j] = exp(score[j] - maximum), and their sum
    pass 3  out[d]   = (sum over j of score[j] * v[j, d]) / sum
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.loops import Buffer, Const, Expr, as_index, cast, scalar, select, size_expr
from planish.ir.node import Node
from planish.runtime.kernels.nest import Index, Lowered, Nest, Pull, lowered, minimum, unflatten
from planish.runtime.kernels.rows import lane_width
from planish.runtime.target import Target


def attention_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """The kernel of an attention node; `body` holds its operands' views."""
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    out = nest.output("out0", anchor.type)
    q, k, v = anchor.inputs[:3]
    dtype = anchor.dtype
    _, heads, _, depth = q.shape
    groups, keys = k.shape[1], k.shape[2]
    lanes = target.lanes(dtype)
    with nest.loop("p", product(q.shape[:-1]), "parallel") as p:
        b, h, row = unflatten(p, q.shape[:-1])
        group = h if groups == heads else h // (heads // groups)
        seen = nest.let(_visible(anchor, pull, row))
        score = nest.local("score", dtype, keys)
        most, total, dot = (nest.local(n, dtype, 1) for n in ("most", "total", "dot"))
        low, zero = Const(float("-inf"), dtype), Const(0.0, dtype)
        first = (as_index(0),)
        nest.store(most, first, low)
        nest.store(total, first, zero)
        wide = lane_width(depth, lanes, True)
        with nest.loop("j", seen) as j:
            nest.store(dot, first, zero)
            with nest.loop("d", depth, "vector", wide) as d:
                x = pull(q, (b, h, row, d)) * pull(k, (b, group, j, d))
                nest.accumulate(dot, first, "add", x)
            nest.store(score, (j,), nest.load(dot, 0) * float(anchor.attrs["scale"]))
        with nest.loop("jm", seen, "vector", lanes) as j:
            nest.accumulate(most, first, "max", nest.load(score, j))
        maximum = nest.let(nest.load(most, 0), here=True)
        with nest.loop("je", seen, "vector", lanes) as j:
            e = nest.let(scalar("exp", nest.load(score, j) - maximum), here=True)
            nest.store(score, (j,), e)
            nest.accumulate(total, first, "add", e)
        s = nest.let(nest.load(total, 0), here=True)
        factor = nest.let(select(scalar("gt", s, zero), Const(1.0, dtype) / s, zero), here=True)
        weights = _Weights(score, seen, factor)
        _values(nest, pull, v, (b, group), out, (b, h, row), weights, lanes)
    return lowered(nest, pull, name)


def _visible(anchor: Node, pull: Pull, row: Expr) -> Expr:
    """How many keys query `row` sees: all, or those up to its own position, at most S."""
    t_, s = anchor.inputs[0].shape[2], anchor.inputs[1].shape[2]
    keys = size_expr(s)
    if not anchor.attrs["causal"]:
        return keys
    if len(anchor.inputs) > 3:
        offset = cast(pull(anchor.inputs[3], ()), t.i64)
    else:
        offset = size_expr(s - t_)
    # a query before the first key sees none
    return scalar("max", minimum(offset + row + 1, keys), as_index(0))


@dataclass(frozen=True)
class _Weights:
    """The unscaled weights of the keys that a query sees, and their common factor."""

    score: Buffer
    seen: Expr
    factor: Expr


def _values(
    nest: Nest, pull: Pull, v: Node, head: Index, out: Buffer, place: Index, w: _Weights, lanes: int
) -> None:
    """Pass 3: the weighted sum of the visible rows of v, in registers, scaled and stored."""
    depth, zero = v.shape[-1], Const(0.0, v.dtype)
    wide = lane_width(depth, lanes, True)
    acc = nest.local("acc", v.dtype, depth)
    with nest.loop("d0", depth, "vector", wide) as d:
        nest.store(acc, (d,), zero)
    with nest.loop("jv", w.seen) as j:
        weight = nest.let(nest.load(w.score, j), here=True)
        with nest.loop("d1", depth, "vector", wide) as d:
            value = scalar("fma", weight, pull(v, (*head, j, d)), nest.load(acc, d))
            nest.store(acc, (d,), value)
    with nest.loop("d2", depth, "vector", wide) as d:
        nest.store(out, (*place, d), nest.load(acc, d) * w.factor)
