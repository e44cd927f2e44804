"""Compute only the part of a value that is read: move slices up through what made it.

    %0 = matmul(%x, %w) : f32[64, 65]
    %1 = tanh(%0) : f32[64, 65]
    %2 = slice(%1, starts=(63, 0), stops=(64, 65), steps=(1, 1)) : f32[1, 65]
becomes
    %0 = slice(%x, starts=(63, 0), stops=(64, 8), steps=(1, 1)) : f32[1, 8]
    %1 = matmul(%0, %w) : f32[1, 65]
    %2 = tanh(%1) : f32[1, 65]

So the logits of the last token cost one row: the head, the last norm and the last MLP run on that
row alone. It ends at attention, whose queries are independent of each other but need all keys.

One walk from the outputs finds what is demanded of each node, one walk back builds it. A node is
cut only where all who read it want the same part, so that nothing is ever computed twice.
"""

from __future__ import annotations

from typing import TypeAlias

from planish.ir import types as t
from planish.ir.dims import AnySize, Shape
from planish.ir.errors import IRError
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.ops.base import as_node, const, make
from planish.ir.ops.view import segments
from planish.passes.rewrite import placed

Cut: TypeAlias = tuple[tuple[AnySize, AnySize] | None, ...]  # start and stop per axis; None: all
Demand: TypeAlias = Cut | None  # None: all of it


def pushup(graph: Graph) -> Graph:
    """Move slices with steps of 1 towards the inputs."""
    wanted = demands(graph)
    if not any(wanted.values()):
        return graph
    built: dict[Node, Node] = {}
    cuts: dict[tuple[Node, Demand], Node] = {}
    known: set[Node] = set()

    def read(x: Node, demand: Demand) -> Node:
        if demand == wanted[x]:
            return built[x]
        return cuts.setdefault((x, demand), cut_by(built[x], demand))  # type: ignore[arg-type]

    for node in graph.nodes:
        demand = wanted[node]
        parts = pulled(node, demand)
        inputs = tuple(map(read, node.inputs, parts))  # type: ignore[arg-type]
        if is_cut(node):
            new = node if built[node.inputs[0]] is node.inputs[0] and not demand else inputs[0]
        elif demand is None:
            new = node.with_inputs(inputs)
        else:
            new = rebuilt(node, demand, inputs)
        (built[node],) = placed((new,), known, node.loc)
    return graph.with_outputs(tuple(built[x] for x in graph.outputs))


def demands(graph: Graph) -> dict[Node, Demand]:
    """Which part of each node is computed: that which all its readers want, else all of it."""
    wanted: dict[Node, Demand] = dict.fromkeys(graph.outputs)
    for node in reversed(graph.nodes):
        parts = pulled(node, wanted.setdefault(node, None))
        if parts is None:
            wanted[node] = None
            parts = pulled(node, None)
        for x, part in zip(node.inputs, parts, strict=True):  # type: ignore[arg-type]
            wanted[x] = part if wanted.get(x, part) == part else None
    return wanted


def is_cut(node: Node) -> bool:
    """Whether `node` is a slice that can move."""
    return node.op.name == "slice" and set(node.attrs["steps"]) <= {1}


def cut_by(x: Node, demand: Cut) -> Node:
    """The slice of `x`."""
    starts = tuple(0 if c is None else c[0] for c in demand)
    stops = tuple(s if c is None else c[1] for c, s in zip(demand, x.shape, strict=True))
    return OPS["slice"](x, starts=starts, stops=stops, steps=(1,) * len(demand))


def cut_shape(shape: Shape, demand: Cut) -> Shape:
    """The shape of that part of an array of `shape`."""
    return tuple(s if c is None else c[1] - c[0] for s, c in zip(shape, demand, strict=True))


def pulled(node: Node, demand: Demand) -> tuple[Demand, ...] | None:
    """The parts of the operands that this part of `node` needs; None where it cannot be cut."""
    if is_cut(node):
        return (normal(sliced(node, demand)),)
    if demand is None:
        return (None,) * len(node.inputs)
    rule = PULL.get(node.op.name) or PULL.get(node.op.kind)
    parts = rule(node, demand) if rule else None
    return None if parts is None else tuple(map(normal, parts))


def normal(cut: Cut) -> Demand:
    """None for a cut that takes everything."""
    return cut if any(c is not None for c in cut) else None


def sliced(node: Node, demand: Demand) -> Cut:
    """The part of its operand that a part of a slice is."""
    bounds = zip(node.attrs["starts"], node.attrs["stops"], node.inputs[0].shape, strict=True)
    own = [None if (a, b) == (0, size) else (a, b) for a, b, size in bounds]
    if demand is not None:
        for axis, c in enumerate(demand):
            start = node.attrs["starts"][axis]
            own[axis] = own[axis] if c is None else (start + c[0], start + c[1])
    return tuple(own)


def stretched(cut: Cut, shape: Shape, operand: Shape) -> Cut:
    """The cut of an operand that broadcasts to `shape`."""
    extra = len(shape) - len(operand)
    pairs = zip(cut[extra:], shape[extra:], operand, strict=True)
    return tuple(None if small == 1 != large else c for c, large, small in pairs)


def pull_elementwise(node: Node, cut: Cut) -> tuple[Cut, ...]:
    """Elementwise ops and broadcast"""
    return tuple(stretched(cut, node.shape, x.shape) for x in node.inputs)


def pull_transpose(node: Node, cut: Cut) -> tuple[Cut, ...]:
    """Axis i of the result is axis perm[i] of the operand"""
    perm = node.attrs["perm"]
    return (tuple(cut[perm.index(a)] for a in range(len(perm))),)


def pull_reduction(node: Node, cut: Cut) -> tuple[Cut, ...] | None:
    """The reduced axes are needed whole"""
    axes, rest = node.attrs["axes"], iter(cut)
    if node.attrs["keep"]:
        if any(cut[a] is not None for a in axes):  # nothing of the one element that is there
            return None
        return (tuple(None if a in axes else c for a, c in enumerate(cut)),)
    return (tuple(None if a in axes else next(rest) for a in range(node.inputs[0].type.rank)),)


def pull_reshape(node: Node, cut: Cut) -> tuple[Cut, ...] | None:
    """Only axes that the operand has too can be cut"""
    (x,) = node.inputs
    found: list = [None] * x.type.rank
    if 0 in x.shape:
        return None
    for left, right in segments(x.shape, node.shape):
        if len(left) == len(right) == 1:
            found[left[0]] = cut[right[0]]
        elif any(cut[a] is not None for a in right):
            return None
    return (tuple(found),)


def pull_matmul(node: Node, cut: Cut) -> tuple[Cut, ...]:
    """Rows come from a, columns from b, the contracted axis is needed whole"""
    batch, shape = cut[:-2], node.shape[:-2]
    a, b = (stretched(batch, shape, x.shape[:-2]) for x in node.inputs)
    return (*a, cut[-2], None), (*b, None, cut[-1])


def pull_scaled_matmul(node: Node, cut: Cut) -> tuple[Cut, ...]:
    """As for matmul; the columns of the scales are those of b"""
    columns = (None, cut[-1])
    return (*cut[:-1], None), columns, columns


def pull_take(node: Node, cut: Cut) -> tuple[Cut, ...]:
    """The axes of the indices stand in place of the table's axis"""
    axis, end = node.attrs["axis"], node.attrs["axis"] + node.inputs[1].type.rank
    return (*cut[:axis], None, *cut[end:]), cut[axis:end]


def pull_concat(node: Node, cut: Cut) -> tuple[Cut, ...] | None:
    """Along any axis but that of the concatenation"""
    return None if cut[node.attrs["axis"]] is not None else (cut,) * len(node.inputs)


def pull_attention(node: Node, cut: Cut) -> tuple[Cut, ...] | None:
    """Queries are independent of each other: q is cut, keys and values are needed whole"""
    batch, heads, rows, columns = by_head(node, cut)
    if heads is not None or "dropout" in node.attrs:  # which weights drop out is a matter of place
        return None
    if node.attrs.get("ragged") and (batch, rows) != (None, None):
        return None
    offset = tuple((batch,) * x.type.rank for x in node.inputs[3:])
    q, k = (batch, None, rows, None), (batch, None, None, None)
    return q, k, (batch, None, None, columns), *offset


def by_head(node: Node, cut: Cut) -> Cut:
    """The cut of an attention's [B, H, T, E], in that order."""
    return (cut[0], cut[2], cut[1], cut[3]) if node.attrs.get("time_first") else cut


PULL = {
    "elementwise": pull_elementwise,
    "broadcast": pull_elementwise,
    "transpose": pull_transpose,
    "reduction": pull_reduction,
    "reshape": pull_reshape,
    "matmul": pull_matmul,
    "scaled_matmul": pull_scaled_matmul,
    "take": pull_take,
    "concat": pull_concat,
    "attention": pull_attention,
}


def rebuilt(node: Node, demand: Cut, inputs: tuple[Node, ...]) -> Node:
    """`node` on the parts of its operands."""
    shape = cut_shape(node.shape, demand)
    if node.op.name in ("reshape", "broadcast"):
        found = make(node.op, inputs, {"shape": shape})
    elif (
        node.op.name == "attention" and node.attrs["causal"] and (rows := by_head(node, demand)[2])
    ):
        offset = offset_of(node, inputs[3:], *rows)
        found = make(node.op, inputs[:3] + offset, dict(node.attrs))
    else:
        found = node.with_inputs(inputs)
    if found.shape != shape:
        raise IRError(f"pushup: {node!r} became {found!r}, expected shape {list(shape)}")
    return found


def offset_of(
    node: Node, given: tuple[Node, ...], start: AnySize, stop: AnySize
) -> tuple[Node, ...]:
    """The number of keys before query `start`, as an operand; none where `stop` is the last one.

    `given` is the operand that says how many there are before query 0, if there is one.
    """
    for old in given:
        first = const(start, old.dtype) if isinstance(start, int) else size(start, old.dtype)
        return (old + first,)
    queries, keys = node.inputs[0].shape[2], node.inputs[1].shape[2]
    if stop == queries:
        return ()
    total = keys - queries + start
    return (const(total, t.i64) if isinstance(total, int) else size(total, t.i64),)


def size(value: AnySize, dtype: t.DType) -> Node:
    """The value of a symbolic size at an integer dtype."""
    return as_node(OPS["size"](size=value), dtype)
