"""Map kernels: each output element is an expression of input elements.

    out[i0, i1] = f(p0[i0, i1], p1[i1])

becomes a parallel loop over all axes but the last (one variable, taken apart by // and %, which
mostly cancel again), and a vector loop over the last. Where an index still divides the vector
variable, as in a merge of heads, that axis is split so that the division goes.
"""

from __future__ import annotations

from collections.abc import Mapping

from planish.ir import types as t
from planish.ir.dims import AnySize, Shape, is_multiple, product
from planish.ir.graph import Graph
from planish.ir.loops import Const, Expr, as_index, size_expr
from planish.runtime.kernels.nest import (
    Index,
    Lowered,
    Nest,
    Pull,
    blocks,
    lowered,
    minimum,
    unflatten,
)
from planish.runtime.target import Target

CHUNK = 1024  # elements of a one-axis map that one parallel iteration takes: 4 KB of float32


def map_kernel(body: Graph, name: str, target: Target) -> Lowered:
    """The kernel of a body whose nodes are all pull shaped."""
    last = body.outputs[0]
    shape = last.shape
    joins = last.op.name == "concat" and last.attrs["axis"] == len(shape) - 1 and len(shape) > 1
    if joins and len(body.outputs) == 1:
        found, nest = _joined(body, name, target, {})
        return _joined(body, name, target, nest.divisions)[0] if nest.divisions else found
    found, nest = _map(body, name, target, shape, shape)
    divisor = nest.divisions.get("j")
    if divisor and isinstance(shape[-1], int) and shape[-1] % divisor == 0:
        split = (*shape[:-1], shape[-1] // divisor, divisor)
        found, _ = _map(body, name, target, shape, split)
    return found


def lanes_of(body: Graph, target: Target) -> int:
    """The lanes of its loops: as many as a register has of its widest output."""
    return target.lanes(max((x.dtype for x in body.outputs), key=lambda d: d.bits))


def _map(
    body: Graph, name: str, target: Target, shape: Shape, split: Shape
) -> tuple[Lowered, Nest]:
    """The loops go over `split`: `shape`, or `shape` with its last axis in two."""
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    outputs = [nest.output(f"out{k}", node.type, split) for k, node in enumerate(body.outputs)]
    axis = max((a for a, size in enumerate(split) if size != 1), default=None)
    lanes = lanes_of(body, target)
    if axis is None:
        _elements(nest, pull, outputs, shape, split, (as_index(0),) * len(split))
    elif product(split[:axis]) == 1:
        _one_axis(nest, pull, outputs, shape, split, axis, lanes)
    else:
        outer = split[:axis]
        zeros = (as_index(0),) * (len(split) - axis - 1)
        with nest.loop("p", product(outer), "parallel") as p:
            with nest.loop("j", split[axis], "vector", lanes) as j:
                index = (*unflatten(p, outer), j, *zeros)
                _elements(nest, pull, outputs, shape, split, index)
    return lowered(nest, pull, name), nest


def _joined(
    body: Graph, name: str, target: Target, divisors: Mapping[str, int]
) -> tuple[Lowered, Nest]:
    """A concat along the last axis: a loop for each piece, rather than a choice for each element.

    `divisors` says by which number the index of a piece divides its variable: it is split there.
    """
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    (last,) = body.outputs
    out, outer = nest.output("out0", last.type), last.shape[:-1]
    lanes = target.lanes(last.dtype)
    with nest.loop("p", product(outer), "parallel") as p:
        at, start = unflatten(p, outer), as_index(0)
        for k, piece in enumerate(last.inputs):
            size, inner = piece.shape[-1], divisors.get(f"j{k}", 1)
            if not isinstance(size, int) or size % inner:
                inner = 1
            wide = size if inner == 1 else inner
            with nest.loop(f"s{k}", 1 if inner == 1 else size // inner) as s:
                with nest.loop(f"j{k}", wide, "vector", lanes) as j:
                    place = s * size_expr(inner) + j
                    nest.store(out, (*at, start + place), pull(piece, (*at, place)))
            start = start + size_expr(size)
    return lowered(nest, pull, name), nest


def _one_axis(
    nest: Nest, pull: Pull, outputs: list, shape: Shape, split: Shape, axis: int, lanes: int
) -> None:
    """One long axis: chunks in parallel, vectors inside."""
    size = split[axis]
    if isinstance(size, int) and size <= CHUNK:
        with nest.loop("j", size, "vector", lanes) as j:
            _elements(nest, pull, outputs, shape, split, _at(j, axis, split))
        return
    with nest.loop("p", blocks(size, CHUNK), "parallel") as p:
        start = nest.let(p * CHUNK)
        even = is_multiple(size, CHUNK)
        extent = (
            Const(CHUNK, t.i64) if even else minimum(size_expr(size) - start, Const(CHUNK, t.i64))
        )
        with nest.loop("j", nest.let(extent), "vector", lanes) as j:
            _elements(nest, pull, outputs, shape, split, _at(start + j, axis, split))


def _at(value: Expr, axis: int, split: Shape) -> Index:
    return tuple(value if a == axis else as_index(0) for a in range(len(split)))


def _elements(
    nest: Nest, pull: Pull, outputs: list, shape: Shape, split: Shape, place: Index
) -> None:
    """Compute and store the elements of all outputs at `place` in `split`."""
    index = place if split == shape else join_last(place, split[-1])
    pull.ahead(pull.body.nodes, index, shape)
    for buffer, node in zip(outputs, pull.body.outputs, strict=True):
        nest.store(buffer, place, pull(node, index))


def join_last(place: Index, inner: AnySize) -> Index:
    """An index into an array from one into the array with its last axis split in two."""
    return (*place[:-2], place[-2] * size_expr(inner) + place[-1])
