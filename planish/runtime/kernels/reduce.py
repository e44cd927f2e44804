"""Reduce kernels: reductions over any axes, as for the gradients of biases and norm weights.

    out[j] = sum over i of f(x[i, j])      columns: blocks of j in parallel, i in order, j in lanes
    out[i] = sum over j of f(x[i, j])      rows: i in parallel, j in lanes
    out    = sum over i, j                 one thread, the last axis in lanes

The order of summation depends on the shape only, never on the number of threads.
"""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.dims import Shape, product
from planish.ir.graph import Graph
from planish.ir.groups import Group
from planish.ir.loops import Buffer, Const, as_index, size_expr
from planish.ir.node import Node
from planish.runtime.kernels.nest import Index, Lowered, Nest, Pull, lowered, minimum, unflatten
from planish.runtime.kernels.rows import lane_width
from planish.runtime.target import Target

BLOCK = 4  # registers of columns that one parallel iteration sums: enough to hide latency
SUMS = 8  # registers of sums in all: beside operands they must not spill


class _Reduce:
    """What the functions below share: the nest, the body, the axes."""

    def __init__(self, body: Graph, group: Group, target: Target):
        self.nest, self.body, self.group, self.target = Nest(), body, group, target
        self.pull = Pull(self.nest, body)
        self.pull.declare()
        self.outputs = [self.nest.output(f"out{k}", n.type) for k, n in enumerate(body.outputs)]
        first = group.reductions[0]
        self.shape: Shape = first.inputs[0].shape
        self.axes: tuple[int, ...] = first.attrs["axes"]
        self.kept = [a for a in range(len(self.shape)) if a not in self.axes]
        self.keep: bool = first.attrs["keep"]

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

    def accumulators(self, *shape: int) -> dict[Node, Buffer]:
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


def reduce_kernel(body: Graph, group: Group, name: str, target: Target) -> Lowered:
    """The kernel of a reduce body."""
    r = _Reduce(body, group, target)
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
    blocks = (size_expr(size) + (block - 1)) // block
    sums = r.accumulators(block)
    with nest.loop("p", size_expr(product(outer)) * blocks, "parallel") as p:
        at = unflatten(p // blocks, outer)
        start = nest.let((p % blocks) * block)
        with nest.loop("c", block, "vector", block) as j:
            r.clear(sums, (j,))
        even = isinstance(size, int) and size % block == 0
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
