"""Updates of slices of donated arrays: `update_slice(x, update, starts)`, where x lies already.

    out[starts + i] = update[i]

The whole update must fit in x; where it begins is checked when the program runs. A start may be one
for each row i[0]. A matmul writes runs of the columns of a tile as soon as they are made: keys and
values of a token, side by side behind its query, go to the heads of their caches.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from math import gcd

from planish.ir.groups import views_of
from planish.ir.loops import Buffer, Expr, as_index, scalar
from planish.ir.node import Node
from planish.ir.ops.indexing import start_of
from planish.ir.ops.view import reshape_index
from planish.runtime.kernels.nest import Index, Pull


def starts_of(pull: Pull, update: Node, first: Expr) -> Index:
    """Where an update begins, on each axis; `first` is the index on the first axis."""
    return tuple(_start(pull, update, axis, first) for axis in range(update.type.rank))


def _start(pull: Pull, update: Node, axis: int, first: Expr) -> Expr:
    """Where an update begins on one axis, named once for all that it is read for."""
    key = update, axis, first
    if (found := pull.nest.known(key)) is not None:
        return found
    x, part, *starts = update.inputs
    # the whole update must fit: the last place that may start is size - length
    room, start = x.shape[axis] - part.shape[axis], starts[axis]
    return pull.nest.named(key, start_of(axis, partial(pull, start), start.type, first, room))


def write_runs(
    pull: Pull,
    buffer: Buffer,
    update: Node,
    columns: tuple[Expr, int],
    among: tuple[int, int] | None,
    row: Index,
    element: Callable[[Node, Expr], Expr],
    lanes: int,
) -> None:
    """Write those columns of a row that belong to an update; `columns` are the first, how many.

    They are `among` columns, begin and end, if that is known now. `element` gives that of a value
    in a column, counted from the first.
    """
    nest, (start, count), value = pull.nest, columns, views_of(update)[-1]
    low, high, width = _columns(update, count)
    begin, end = among or (0, high + 1)
    if end <= low or high <= begin:
        return
    with nest.loop("run", count // width) as run, ExitStack() as checks:
        first = nest.let(start + run * width)
        if begin < low:
            checks.enter_context(nest.when(scalar("le", as_index(low), first)))
        if high < end:
            checks.enter_context(nest.when(scalar("lt", first, as_index(high))))
        place = _place(update, (*row, first))
        starts = starts_of(pull, update, place[0])
        *lead, last = (nest.let(a + b) for a, b in zip(starts, place, strict=True))
        with nest.loop("j", width, "vector", lanes) as j:
            nest.store(buffer, (*lead, last + j), element(value, run * width + j))


def _columns(update: Node, most: int) -> tuple[int, int, int]:
    """The columns of a value that an update has, begin and end; and of how many, at most so many,
    each run lies side by side in it."""
    *views, value = views_of(update)
    cut = [x for x in views if x.op.name == "slice"]
    low = sum(x.attrs["starts"][-1] for x in cut)
    high = low + (cut[0] if cut else value).shape[-1]
    return low, high, gcd(most, low, high, *(x.shape[-1] for x in (*views, value)))


def _place(update: Node, index: Index) -> Index:
    """Where in what an update writes the element of the value at `index` is."""
    for view in reversed(views_of(update)[:-1]):
        before = view.inputs[0].shape
        if view.op.name == "slice":
            index = (*index[:-1], index[-1] - view.attrs["starts"][-1])
        elif view.op.name == "transpose":
            index = tuple(index[axis] for axis in view.attrs["perm"])
        else:
            index = reshape_index(index, view.shape, before)
    return index
