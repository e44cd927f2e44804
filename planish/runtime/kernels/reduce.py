"""Reduce kernels: reductions over any axes, as for the gradients of biases and norm weights.

    out[j] = sum over i of f(x[i, j])      columns: blocks of j in parallel, i in order, j in lanes
    out[i] = sum over j of f(x[i, j])      rows: i in parallel, j in lanes
    out    = sum over i, j                 one thread, the last axis in lanes

A large sum over rows takes two steps, so that threads read whole rows, those that they have made:

    part[c, j] = sum over i in block c of f(x[i, j])     blocks of rows in parallel, j in lanes
    out[j]     = sum over c of part[c, j]                as above; likewise where j goes, too

The order of summation depends on the shape only, never on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from planish.ir import types as t
from planish.ir.dims import AnySize, Shape, is_multiple, product
from planish.ir.graph import Graph
from planish.ir.groups import Group, classify
from planish.ir.loops import Buffer, Const, as_index, size_expr
from planish.ir.node import OPS, Node
from planish.ir.ops.leaf import input_
from planish.ir.types import TensorType
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
from planish.runtime.kernels.rows import lane_width
from planish.runtime.target import Target

BLOCK = 4  # registers of columns that one parallel iteration sums: enough to hide latency
SUMS = 8  # registers of sums in all: beside operands they must not spill
ROWS = 32  # of a part: few enough to share them out evenly, and their sums are few beside them
LARGE = 1 << 15  # elements, from which a second step is little beside the first


class _Reduce:
    """What the functions below share: the nest, the body, the axes."""

    def __init__(self, body: Graph, group: Group, target: Target):
        self.nest, self.body, self.group, self.target = Nest(), body, group, target
        self.pull = Pull(self.nest, body)
        self.pull.declare()
        first = group.reductions[0]
        self.shape: Shape = first.inputs[0].shape
        self.axes: tuple[int, ...] = first.attrs["axes"]
        self.kept = [a for a in range(len(self.shape)) if a not in self.axes]
        self.keep: bool = first.attrs["keep"]

    def write_to(self, types: Iterable[TensorType]) -> None:
        """Declare what the kernel writes."""
        self.outputs = [self.nest.output(f"out{k}", x) for k, x in enumerate(types)]

    def operand_index(self, kept: Index, reduced: Index) -> Index:
        """The index of an operand element from those of the kept and of the reduced axes."""
        found = dict(zip(self.kept, kept, strict=True)) | dict(zip(self.axes, reduced, strict=True))
        return tuple(found[a] for a in range(len(self.shape)))

    def result_index(self, kept: Index) -> Index:
        """The index of a result element."""
        if not self.keep:
            return kept
        found = dict(zip(self.kept, kept, strict=True))
        return tuple(found.get(a, as_index(0)) for a in range(len(self.shape)))

    def sizes(self, axes: tuple[int, ...] | list[int]) -> Shape:
        """The sizes of some axes."""
        return tuple(self.shape[a] for a in axes)

    def prologue(self) -> tuple[Node, ...]:
        """The nodes that the reductions need, operands first."""
        roots = tuple(n.inputs[0] for n in self.group.reductions)
        return Graph("reduce", self.body.inputs, roots).nodes

    def accumulators(self, *shape: AnySize) -> dict[Node, Buffer]:
        """A local of `shape` for each reduction."""
        return {
            n: self.nest.local(f"acc{k}", n.dtype, *shape)
            for k, n in enumerate(self.group.reductions)
        }

    def combine(self, sums: dict[Node, Buffer], place: Index, index: Index) -> None:
        """Add the operands' elements at `index` into the accumulators."""
        self.pull.ahead(self.prologue(), index, self.shape)
        for n, buffer in sums.items():
            combine = n.op.combine  # type: ignore[attr-defined]
            self.nest.accumulate(buffer, place, combine, self.pull(n.inputs[0], index))

    def clear(self, sums: dict[Node, Buffer], place: Index) -> None:
        """Set accumulators to the identity."""
        for n, buffer in sums.items():
            identity = n.op.identity(n.dtype)  # type: ignore[attr-defined]
            self.nest.store(buffer, place, Const(identity, n.dtype))

    def finish(self, sums: dict[Node, Buffer], place: Index, kept: Index) -> None:
        """Run the epilogue on the sums and store the outputs."""
        for n, buffer in sums.items():
            self.pull.give(n, self.nest.let(self.nest.load(buffer, *place), here=True))
        index = self.result_index(kept)
        for buffer, node in zip(self.outputs, self.body.outputs, strict=True):
            self.nest.store(buffer, index, self.pull(node, index))


def reduce_kernel(body: Graph, name: str, target: Target) -> Lowered:
    """The kernel of a reduce body."""
    r = _Reduce(body, classify(body), target)
    r.write_to(body.output_types)
    last_kept = bool(r.kept) and r.kept[-1] == len(r.shape) - 1 and r.shape[-1] != 1
    if last_kept:
        _columns(r)
    else:
        _lanes(r)
    return lowered(r.nest, r.pull, name)


def _columns(r: _Reduce) -> None:
    """The last axis stays: a block of columns for each parallel iteration."""
    nest = r.nest
    lanes = r.target.lanes(r.group.reductions[0].dtype)
    size = r.shape[-1]
    most = lanes * max(1, min(BLOCK, 1 << (SUMS // len(r.group.reductions)).bit_length() >> 1))
    block = most if not isinstance(size, int) else max(lanes, min(most, _up(size, lanes)))
    outer = r.sizes(r.kept[:-1])
    count = blocks(size, block)
    sums = r.accumulators(block)
    with nest.loop("p", size_expr(product(outer)) * count, "parallel") as p:
        at = unflatten(p // count, outer)
        start = nest.let((p % count if outer else p) * block)
        with nest.loop("c", block, "vector", block) as j:
            r.clear(sums, (j,))
        even = is_multiple(size, block)
        whole = Const(block, t.i64)
        extent = whole if even else nest.let(minimum(size_expr(size) - start, whole))
        with nest.loop("r", product(r.sizes(r.axes))) as row:
            with nest.loop("j", extent, "vector", block) as j:
                index = r.operand_index((*at, start + j), unflatten(row, r.sizes(r.axes)))
                r.combine(sums, (j,), index)
        with nest.loop("k", extent, "vector", block) as j:
            r.finish(sums, (j,), (*at, start + j))


def _up(size: int, lanes: int) -> int:
    return (size + lanes - 1) // lanes * lanes


def _lanes(r: _Reduce) -> None:
    """The last axis goes: it runs in lanes, the other reduced axes in order."""
    nest = r.nest
    kept = r.sizes(r.kept)
    inner = r.sizes(r.axes[:-1])
    size = r.shape[r.axes[-1]]
    width = lane_width(size, r.target.lanes(r.group.reductions[0].dtype), True)
    sums = r.accumulators(1)
    zero = (as_index(0),)

    def all_of(at: Index) -> None:
        r.clear(sums, zero)
        with nest.loop("r", product(inner)) as row:
            with nest.loop("j", size, "vector", width) as j:
                r.combine(sums, zero, r.operand_index(at, (*unflatten(row, inner), j)))
        r.finish(sums, zero, at)

    if kept:
        with nest.loop("p", product(kept), "parallel") as p:
            all_of(unflatten(p, kept))
    else:
        all_of(())


# Two steps


def takes_parts(group: Group) -> bool:
    """Whether a reduction is a large sum over rows, or over all elements."""
    first, *_ = group.reductions
    shape, axes = first.inputs[0].shape, first.attrs["axes"]
    many, size = product(shape[:-1]), product(shape)
    if len(shape) < 2 or not (isinstance(many, int) and isinstance(size, int)):
        return False
    wide = all(n.op.name == "sum" and n.dtype in (t.f32, t.f64) for n in group.reductions)
    rows = axes in (tuple(range(len(shape) - 1)), tuple(range(len(shape))))
    return wide and rows and many > ROWS and size >= LARGE


def parts_of(group: Group) -> tuple[Node, ...]:
    """What the first step writes, as leaves that the second one reads."""
    count = -(-product(group.reductions[0].inputs[0].shape[:-1]) // ROWS)
    return tuple(
        input_(name=f"parts{k}", type=n.type.with_shape((count, *n.shape)))
        for k, n in enumerate(group.reductions)
    )


def parts_kernel(body: Graph, name: str, target: Target) -> Lowered:
    """The first step: the sums of each block of rows."""
    r = _Reduce(body, classify(body), target)
    r.write_to(x.type for x in parts_of(r.group))
    nest, size, total = r.nest, r.shape[-1], product(r.shape[:-1])
    even = is_multiple(total, ROWS)
    lanes = lane_width(size, target.lanes(r.group.reductions[0].dtype), True)
    columns: AnySize = size if r.kept else 1
    sums = r.accumulators(columns)
    with nest.loop("p", r.outputs[0].shape[0], "parallel") as p:
        with nest.loop("c", columns, "vector", lanes) as j:
            r.clear(sums, (j,))
        start = nest.let(p * ROWS)
        rest = minimum(size_expr(total) - start, as_index(ROWS))
        with nest.loop("r", ROWS if even else nest.let(rest)) as row:
            with nest.loop("j", size, "vector", lanes) as j:
                index = (*unflatten(start + row, r.shape[:-1]), j)
                r.combine(sums, (j if r.kept else as_index(0),), index)
        with nest.loop("k", columns, "vector", lanes) as j:
            for out, (n, buffer) in zip(r.outputs, sums.items(), strict=True):
                zeros = (as_index(0),) * (n.type.rank - len(r.kept))
                nest.store(out, (p, *zeros, *(j,)[: len(r.kept)]), nest.load(buffer, j))
    return lowered(nest, r.pull, f"{name}_parts")


def total_of(body: Graph, group: Group, parts: tuple[Node, ...]) -> Graph:
    """The body of the second step, whose inputs are those of `body` and the parts."""
    place = dict(zip(group.reductions, parts, strict=True))
    total = body.map(lambda n: OPS["sum"](place[n], axes=(0,)) if n in place else n)
    return replace(total, inputs=(*body.inputs, *parts))
