"""Row kernels: reductions over the last axis, and what is elementwise around them.

    softmax, a row at a time:
      m = max_j x[j]                      phase 0
      e[j] = exp(x[j] - m); s = sum e     phase 1, e kept in a scratch row
      out[j] = e[j] / s                   phase 2

The phase of a node is the number of reductions that it waits for. Rows run in parallel; within a
row each phase is one vector loop. A value that a later phase needs again is kept in a scratch row
if it is dear, computed again if it is cheap.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from planish.ir.dims import AnySize, lower, product
from planish.ir.graph import Graph
from planish.ir.groups import Group, classify
from planish.ir.loops import Buffer, Const, Expr, as_index
from planish.ir.node import Node
from planish.runtime.kernels.nest import Index, Lowered, Nest, Pull, lowered, unflatten
from planish.runtime.target import Target

# fmt: off
DEAR = frozenset({
    "exp", "exp2", "expm1", "log", "log2", "log1p", "tanh", "erf", "sin", "cos", "sigmoid",
    "pow", "div", "sqrt", "rsqrt", "reciprocal", "take", "take_along", "random_bits",
})
# fmt: on
KEEP_COST = 6  # operations; a scratch row costs a store and a load, both in the L1 cache


@dataclass
class Rows:
    """The plan of a row kernel."""

    body: Graph
    group: Group
    phase: dict[Node, int] = field(default_factory=dict)
    kept: dict[Node, Buffer] = field(
        default_factory=dict
    )  # rows computed once, read in later phases
    place: Index | None = None  # of a row in its result, where that is not the row's own

    def __post_init__(self) -> None:
        for node in self.body.nodes:
            waits = max((self.phase[x] for x in node.inputs), default=0)
            self.phase[node] = waits + (node.op.kind == "reduction")

    def is_row(self, node: Node) -> bool:
        """Whether the node has a whole row of elements for each row of the row space."""
        rank = len(self.group.rows)
        return (
            node.type.rank == rank + 1
            and node.shape[:rank] == self.group.rows
            and node.shape[-1] != 1
        )


def row_kernel(body: Graph, group: Group, name: str, target: Target) -> Lowered:
    """The kernel of a row body."""
    rows = Rows(body, group)
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    outputs = {node: nest.output(f"out{k}", node.type) for k, node in enumerate(body.outputs)}
    _choose_kept(rows, nest, outputs)
    with nest.loop("p", product(group.rows), "parallel") as p:
        at = unflatten(p, group.rows)
        _phases(rows, nest, pull, outputs, at, target)
        for node, buffer in outputs.items():
            if not rows.is_row(node):
                index = (*at, as_index(0))[: node.type.rank]
                nest.store(buffer, index, pull(node, index))
    return lowered(nest, pull, name)


def row_into(
    buffer: Buffer, place: Expr, body: Graph, row: Expr, nest: Nest, pull: Pull, target: Target
) -> None:
    """Make buffer[place], a row of what a row body makes, within another kernel."""
    rows, outputs = Rows(body, classify(body), place=(place,)), {body.outputs[0]: buffer}
    _choose_kept(rows, nest, outputs)
    _phases(rows, nest, pull, outputs, unflatten(row, rows.group.rows), target)


def _choose_kept(rows: Rows, nest: Nest, outputs: dict[Node, Buffer]) -> None:
    """Find rows that a later phase reads and that are dear; outputs serve as their own scratch."""
    for node in rows.body.nodes:
        for x in node.inputs:
            late = rows.phase[node] > rows.phase[x] and node.op.kind != "reduction"
            made = x.inputs and x.op.kind != "reduction" and rows.is_row(x)
            if late and made and x not in rows.kept and (x in outputs or _cost(x) >= KEEP_COST):
                scratch = f"row{len(rows.kept)}"
                rows.kept[x] = outputs.get(x) or nest.local(scratch, x.dtype, x.shape[-1])


def _cost(node: Node) -> int:
    """Operations to compute an element anew; bounded, since only the threshold matters."""
    total, stack = 0, [node]
    while stack and total < KEEP_COST:
        item = stack.pop()
        if item.op.kind != "leaf" and item.op.kind != "reduction":
            total += KEEP_COST if item.op.name in DEAR else item.op.kind != "view"
            stack.extend(item.inputs)
    return total


def _phases(
    rows: Rows, nest: Nest, pull: Pull, outputs: dict[Node, Buffer], at: Index, target: Target
) -> None:
    """The loops of a row."""
    for phase in range(max(rows.phase.values()) + 1):
        _phase(rows, nest, pull, outputs, at, phase, target)


def _phase(
    rows: Rows,
    nest: Nest,
    pull: Pull,
    outputs: dict[Node, Buffer],
    at: Index,
    phase: int,
    target: Target,
) -> None:
    """The loops of one phase, one for each row length."""
    work = [
        n
        for n in rows.body.nodes
        if (n.op.kind == "reduction" and rows.phase[n.inputs[0]] == phase)
        or (rows.phase[n] == phase and rows.is_row(n) and (n in outputs or n in rows.kept))
    ]
    for size in dict.fromkeys(_length(n) for n in work):
        _loop(rows, nest, pull, outputs, at, [n for n in work if _length(n) == size], size, target)


def _length(node: Node) -> AnySize:
    return node.inputs[0].shape[-1] if node.op.kind == "reduction" else node.shape[-1]


def _loop(
    rows: Rows, nest: Nest, pull: Pull, outputs: dict[Node, Buffer], at: Index, work: list[Node],
    size: AnySize, target: Target,
) -> None:  # fmt: skip
    sums = {n: _accumulator(nest, n) for n in work if n.op.kind == "reduction"}
    width = lane_width(size, target.lanes(work[0].dtype), bool(sums))
    with nest.loop("j", size, "vector", width) as j:
        index = (*at, j)
        shape = (*rows.group.rows, size)
        reached = _reached(rows, work)
        pull.ahead(reached, index, shape)
        for n in work:
            if n in sums:
                combine = n.op.combine  # type: ignore[attr-defined]
                nest.accumulate(sums[n], (as_index(0),), combine, pull(n.inputs[0], index))
        for n in work:
            if n not in sums:
                _keep(rows, nest, pull, outputs, n, index)
    for n, buffer in sums.items():
        pull.give(n, nest.let(nest.load(buffer, 0), here=True))
    for n in work:
        if n in rows.kept:
            pull.bound[n] = _from_row(nest, rows.kept[n])


def _reached(rows: Rows, work: list[Node]) -> tuple[Node, ...]:
    """The nodes that `work` needs, operands first."""
    roots = tuple(n.inputs[0] if n.op.kind == "reduction" else n for n in work)
    return Graph("row", rows.body.inputs, roots).nodes


def _keep(
    rows: Rows, nest: Nest, pull: Pull, outputs: dict[Node, Buffer], node: Node, index: Index
) -> None:
    value = pull(node, index)
    if node in outputs:
        place = index[:-1] if rows.place is None else rows.place
        nest.store(outputs[node], (*place, index[-1]), value)
    elif node in rows.kept:
        nest.store(rows.kept[node], index[-1:], value)


def _from_row(nest: Nest, buffer: Buffer):
    rank = len(buffer.shape)
    return lambda index: nest.load(buffer, *index[len(index) - rank :])


def _accumulator(nest: Nest, node: Node) -> Buffer:
    buffer = nest.local(f"acc{len(nest.locals)}", node.dtype, 1)
    identity = node.op.identity(node.dtype)  # type: ignore[attr-defined]
    nest.store(buffer, (as_index(0),), Const(identity, node.dtype))
    return buffer


def lane_width(size: AnySize, lanes: int, reduces: bool) -> int:
    """Lanes of a row loop: a reduction takes up to four registers, to hide the adder's latency."""
    if not reduces:
        return lanes
    return lanes * max(1, min(4, (lower(size) or 1) // lanes))
