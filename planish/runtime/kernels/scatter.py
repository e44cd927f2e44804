"""Writes at places known only at run time: scatter-add, and updates of a donated array in place.

scatter_add(x, indices, updates)   out = x; out[indices[n]] += updates[n], n in order
update_slice(x, update, starts)    see `updates`
update_rows(x, update, starts, ends)   out[r, starts[r] + i] = update[0, first[r] + i] for the
                                   places i of each row r
"""

from __future__ import annotations

from functools import partial

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.loops import Const, as_index, cast, scalar, size_expr
from planish.ir.node import Node
from planish.ir.ops.ragged import bounds, start_in
from planish.runtime.kernels.nest import Lowered, Nest, Pull, lowered, minimum, unflatten
from planish.runtime.kernels.updates import starts_of
from planish.runtime.target import Target

BLOCK = 4  # registers of columns that one parallel iteration owns


def scatter_add_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """Columns run in parallel, indices in order: each sum has one order, whatever the threads."""
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    x, indices, updates = anchor.inputs
    axis = anchor.attrs.get("axis", 0)
    before, rest = x.shape[:axis], x.shape[axis + 1 :]
    out = nest.output("out0", anchor.type)
    width = size_expr(product(rest))
    block = target.lanes(anchor.dtype) * BLOCK
    blocks = (width + (block - 1)) // block
    with nest.loop("p", size_expr(product(before)) * blocks, "parallel") as p:
        at = unflatten(p // blocks, before)
        start = nest.let((p % blocks) * block)
        extent = nest.let(minimum(width - start, as_index(block)))
        lanes = target.lanes(anchor.dtype)
        with nest.loop("v", x.shape[axis]) as v, nest.loop("j", extent, "vector", lanes) as j:
            place = (*at, v, *unflatten(start + j, rest))
            nest.store(out, place, pull(x, place))
        with nest.loop("n", product(indices.shape)) as n:
            where = unflatten(n, indices.shape)
            found = cast(pull(indices, where), t.i64)
            limit = size_expr(x.shape[axis])
            site = Const("scatter index", t.i64)  # type: ignore[arg-type]
            row = nest.let(scalar("guard", found, limit, site))
            with nest.loop("k", extent, "vector", lanes) as j:
                column = unflatten(start + j, rest)
                place = (*at, row, *column)
                value = pull(updates, (*at, *where, *column))
                nest.store(out, place, nest.load(out, *place) + value)
    return lowered(nest, pull, name)


def write_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """An update in place."""
    ragged = anchor.op.name == "update_rows"
    return (write_rows_kernel if ragged else write_slice_kernel)(body, anchor, name, target)


def write_rows_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """What stands between rows and columns in parallel, all rows of it, so that threads share out
    each row, however long."""
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    x, update, starts, ends = anchor.inputs
    out, axis, lanes = nest.output("out0", anchor.type), anchor.attrs["axis"], target.lanes(x.dtype)
    outer = (*x.shape[1:axis], *x.shape[axis + 1 : -1], x.shape[0])
    with nest.loop("p", product(outer), "parallel") as p:
        *others, row = unflatten(p, outer)
        first, count = bounds(partial(pull, ends), row, x.shape[0], update.shape[axis])
        first, count = nest.let(first), nest.let(count)
        start = nest.let(start_in(axis, partial(pull, starts), row, x.shape[axis], count))
        before, after = others[: axis - 1], others[axis - 1 :]
        with nest.loop("i", count) as i, nest.loop("j", x.shape[-1], "vector", lanes) as j:
            value = pull(update, (as_index(0), *before, first + i, *after, j))
            nest.store(out, (row, *before, start + i, *after, j), value)
    return lowered(nest, pull, name)


def write_slice_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """The update alone is written: `out` already holds the rest."""
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    out = nest.output("out0", anchor.type)
    lanes = target.lanes(anchor.dtype)
    outer = anchor.inputs[1].shape[:-1]
    with nest.loop("p", product(outer), "parallel") as p:
        at = unflatten(p, outer)
        found = starts_of(pull, anchor, at[0] if at else as_index(0))
        with nest.loop("j", anchor.inputs[1].shape[-1], "vector", lanes) as j:
            index = (*at, j)
            place = tuple(s + i for s, i in zip(found, index, strict=True))
            nest.store(out, place, pull(anchor.inputs[1], index))
    return lowered(nest, pull, name)
