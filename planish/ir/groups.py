"""What kind of kernel a fused body is: the contract between the fusion pass and lowering.

`classify(body)` names the kind, or says in a sentence why the body is no kernel:

    map          every node is pull shaped; the outputs have one shape
    contraction  one matmul; its operands are leaves through views and casts; what depends on it is
                 elementwise of its shape, and so are the outputs; but for some that are updates of
                 leaves, by runs of the columns of such values (see `written_value`); rows of A may
                 be a row function of leaves, such as a norm: its prologue; operands may be
                 elementwise functions of what stands behind `again`: they are recomputed
    special      one op with a hand-shaped kernel, the only output; its operands are leaves through
                 views
    row          reductions over the last axis of arrays R+(n,), R the row space; what depends on
                 them is elementwise in R+(n,), R+(1,), R, or goes between those by reshape and
                 broadcast; the outputs have those shapes
    reduce       reductions of equal operand shape over equal axes, elementwise on the results; the
                 outputs have the results' shape

Where several fit, the first in this order counts, so that a lone last-axis reduction is a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planish.ir.dims import Shape
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node, Op, viewed_of

PULL_KINDS = frozenset({"leaf", "elementwise", "view", "indexing", "random"})
# composites with a hand-shaped kernel
KERNEL_COMPOSITES = frozenset({"attention", "attention_grad"})
# besides views, what a matmul can compute on the way to an operand
ON_THE_WAY = frozenset({"cast", "expand_bitmap"})
OF_CACHES = frozenset({"dequantize"})  # and attention, whose keys and values may be integers
UPDATES = frozenset({"update_slice", "update_rows"})  # in place where they may
COPIED_LEAVES = frozenset({"const", "size"})  # leaves that live inside a body; others come in


@dataclass(frozen=True)
class Group:
    """The kind of a body. `kind` is None where it is no kernel, and `reason` says why.

    `anchor` is the matmul of a contraction or the special node, `reductions` those of a row or
    reduce body in order, `rows` the row space of a row body, `prologue` the rows that a contraction
    makes before it multiplies them.
    """

    kind: str | None
    reason: str = ""
    anchor: Node | None = None
    reductions: tuple[Node, ...] = ()
    rows: Shape = ()
    prologue: Node | None = None


def is_pull(op: Op) -> bool:
    """Whether an output element is an expression of input elements, so that it composes."""
    return op.kind in PULL_KINDS


def has_kernel(op: Op) -> bool:
    """Whether the op has a hand-shaped kernel of its own."""
    return op.kind == "special" or op.name in KERNEL_COMPOSITES


def classify(body: Graph) -> Group:
    """The kind of kernel that `body` is."""
    return classify_nodes(body.nodes, body.outputs)


def classify_nodes(nodes: Sequence[Node], outputs: Sequence[Node]) -> Group:
    """`classify` of nodes in topological order; what they read from elsewhere are inputs."""
    hard = [n for n in nodes if not is_pull(n.op)]
    if not hard:
        return _map(outputs)
    for n in hard:
        if n.op.kind not in ("reduction", "contraction") and not has_kernel(n.op):
            return Group(None, f"{_text(n)} is {_NOT_A_KERNEL.get(n.op.kind, n.op.kind)}")
    if any(n.op.kind == "contraction" for n in hard):
        return _contraction(nodes, outputs, hard)
    if any(has_kernel(n.op) for n in hard):
        return _special(nodes, outputs, hard)
    row = _row(nodes, outputs, hard)
    if row.kind:
        return row
    reduce = _reduce(nodes, outputs, hard)
    last = all(n.attrs["axes"] == (n.inputs[0].type.rank - 1,) for n in hard)
    return row if last and not reduce.kind else reduce


_NOT_A_KERNEL = {
    "composite": "a composite without a kernel of its own; it must be expanded first: end "
    "your passes with a pipeline that does so, as in 'prune{ratio=0.5},O2'",
    "fused": "already a kernel",
    "get": "a result of another kernel",
}


def _text(node: Node) -> str:
    return f"{node.op.name} : {node.type}"


def _map(outputs: Sequence[Node]) -> Group:
    for other in outputs[1:]:
        if other.shape != outputs[0].shape:
            return Group(None, f"outputs {_text(outputs[0])} and {_text(other)} differ in shape")
    return Group("map")


def dependents(nodes: Sequence[Node], roots: Iterable[Node]) -> set[Node]:
    """The nodes that read `roots` directly or indirectly, and the roots; `nodes` in order."""
    found = set(roots)
    for n in nodes:
        if n not in found and not found.isdisjoint(n.inputs):
            found.add(n)
    return found


def _contraction(nodes: Sequence[Node], outputs: Sequence[Node], hard: list[Node]) -> Group:
    anchor = next(n for n in hard if n.op.kind == "contraction")
    a, *others = anchor.inputs
    prologue = rows_before(anchor) if len(hard) > 1 else None
    early = set(Graph("early", (), () if prologue is None else (prologue,)).nodes)
    for n in hard:
        if n is not anchor and not (n in early and n.op.kind == "reduction"):
            return Group(None, f"{_text(n)} does not fit beside {_text(anchor)}")
    if prologue is not None:
        row = _row([n for n in nodes if n in early], (prologue,), [n for n in hard if n in early])
        if row.kind is None or prologue.shape[:-1] != row.rows:
            return Group(None, f"{_text(prologue)} is no row of {_text(anchor)}; {row.reason}")
    again = dependents(nodes, [n for n in nodes if n.op.name == "again"])
    again = {n for n in again if n.op.kind == "elementwise"}
    bad = _not_through(others if prologue else (a, *others), set(nodes) - again, ON_THE_WAY)
    if bad is not None:
        return Group(None, f"{_text(bad)} stands before an operand of {_text(anchor)}")
    late = dependents(nodes, (anchor,))
    made = dependents(nodes, hard) - late
    for n in late - {anchor}:
        if not made.isdisjoint(n.inputs):
            return Group(None, f"{_text(n)} reads rows that {_text(anchor)} makes for itself")
    updates = [n for n in outputs if _is_update(n, nodes, late)]
    moved = {n for update in updates for n in (update, *views_of(update)[:-1])}
    for n in late - moved:
        if n is not anchor and (n.op.kind != "elementwise" or n.shape != anchor.shape):
            return Group(None, f"{_text(n)} is not elementwise of the shape of {_text(anchor)}")
    for n in outputs:
        if (n.shape != anchor.shape or n in made) and n not in updates:
            return Group(None, f"output {_text(n)} has not the shape of {_text(anchor)}")
    return Group("contraction", anchor=anchor, prologue=prologue)


def rows_before(anchor: Node) -> Node | None:
    """What a product by a matrix reads row by row; None where it does not."""
    x = anchor.inputs[0]
    while x.op.name == "reshape" and x.shape[-1:] == x.inputs[0].shape[-1:]:
        x = x.inputs[0]
    matrix = anchor.op.name == "matmul" and anchor.inputs[1].type.rank == 2
    return x if matrix and x.type.rank > 1 else None


def recomputed(x: Node) -> Node | None:
    """What a body computes again of an operand of its product, before views; None where nothing."""
    value = viewed_of(x)
    made_of = Graph("operand", (), (value,)).nodes
    return value if any(n.op.name == "again" for n in made_of) else None


def written_value(update: Node) -> Node | None:
    """What an `update_slice` writes some columns of; None where runs of them do not stay runs.

    They do where views cut the last axis first, and then make parts of it, whose sizes are known,
    or move other axes: so the columns of q, k and v become heads.
    """
    *views, value = views_of(update)
    cut = [x for x in views if x.op.name == "slice"]
    moves = views[: len(views) - len(cut)]
    whole = all(isinstance(x.shape[-1], int) for x in (*views, value) if x.shape)
    good = whole and value.shape and all(map(_cuts_columns, views[len(moves) :]))
    return value if good and all(map(_keeps_runs, moves)) else None


def views_of(update: Node) -> list[Node]:
    """What an `update_slice` writes: views, the last one first, and the value that they are of."""
    found = [update.inputs[1]]
    while found[-1].op.kind == "view":
        found.append(found[-1].inputs[0])
    return found


def _cuts_columns(view: Node) -> bool:
    """Whether a view is a slice of the last axis alone."""
    if view.op.name != "slice" or any(step != 1 for step in view.attrs["steps"]):
        return False
    known = isinstance(view.attrs["starts"][-1], int)
    return known and view.shape[:-1] == view.inputs[0].shape[:-1]


def _keeps_runs(view: Node) -> bool:
    """Whether neighbours along the last axis stay so, but at the ends of its parts."""
    before, after = view.inputs[0].shape, view.shape
    if view.op.name == "transpose":
        return view.attrs["perm"][-1] == len(after) - 1
    if view.op.name != "reshape" or not (before and after and before[-1] and after[-1]):
        return False
    return before[-1] % after[-1] == 0 or after[-1] % before[-1] == 0


def _is_update(n: Node, nodes: Sequence[Node], late: set[Node]) -> bool:
    """Whether `n` writes what a kernel has made into a leaf that it does not read otherwise."""
    if n.op.name != "update_slice" or written_value(n) not in late:
        return False
    x, _, *starts = n.inputs
    reads = sum(y is x for other in nodes for y in other.inputs)
    return x.op.kind == "leaf" and reads == 1 and late.isdisjoint(starts)


def _special(nodes: Sequence[Node], outputs: Sequence[Node], hard: list[Node]) -> Group:
    anchor = next(n for n in hard if has_kernel(n.op))
    for n in hard:
        if n is not anchor:
            return Group(None, f"{_text(n)} does not fit beside {_text(anchor)}")
    besides = OF_CACHES if anchor.op.name == "attention" else frozenset()
    bad = _not_through(anchor.inputs, set(nodes), besides)
    if bad is not None:
        return Group(None, f"{_text(bad)} stands before an operand of {_text(anchor)}")
    if len(outputs) != 1 or outputs[0] is not anchor:
        return Group(None, f"{_text(anchor)} is not the only output")
    return Group("special", anchor=anchor)


def _not_through(
    operands: Sequence[Node], inside: set[Node], besides: frozenset[str]
) -> Node | None:
    """The first node from operands back to the leaves that is no view, and none of `besides`."""
    stack = list(reversed(operands))
    while stack:
        n = stack.pop()
        if n not in inside or n.op.kind == "leaf":
            continue
        if n.op.kind != "view" and n.op.name not in besides:
            return n
        stack.extend(reversed(n.inputs))
    return None


def _row(nodes: Sequence[Node], outputs: Sequence[Node], hard: list[Node]) -> Group:
    rows = hard[0].inputs[0].shape[:-1]
    for n in hard:
        x = n.inputs[0]
        if n.attrs["axes"] != (x.type.rank - 1,):
            return Group(None, f"{_text(n)} is not over the last axis of {_text(x)}")
        if x.shape[:-1] != rows:
            return Group(None, f"{_text(n)} and {_text(hard[0])} have different rows")
    late = dependents(nodes, hard)
    for n in nodes:
        if n in late and n.op.kind != "reduction" and not _stays_in_row(n, rows, late):
            return Group(None, f"{_text(n)} leaves the rows {list(rows)} of {_text(hard[0])}")
    for n in outputs:
        if not _is_row_shape(n.shape, rows):
            return Group(None, f"output {_text(n)} has not the rows {list(rows)}")
    return Group("row", reductions=tuple(hard), rows=rows)


def _is_row_shape(shape: Shape, rows: Shape) -> bool:
    """R or R+(n,)."""
    return shape == rows or (len(shape) == len(rows) + 1 and shape[:-1] == rows)


def _stays_in_row(n: Node, rows: Shape, late: set[Node]) -> bool:
    """Whether each row of `n` needs only the same row of those operands that depend on reductions.

    An operand of shape R beside R+(n,) would be read along the last axis, across rows: only the
    empty R has none to cross.
    """
    if not _is_row_shape(n.shape, rows):
        return False
    operands = [x.shape for x in n.inputs if x in late]
    if n.op.name == "reshape":
        return operands[0] == n.shape or {operands[0], n.shape} == {rows, (*rows, 1)}
    if n.op.kind != "elementwise" and n.op.name != "broadcast":
        return False
    return all(
        _is_row_shape(shape, rows) and (len(shape) == len(n.shape) or not rows)
        for shape in operands
    )


def _reduce(nodes: Sequence[Node], outputs: Sequence[Node], hard: list[Node]) -> Group:
    first = hard[0]
    for n in hard[1:]:
        same = n.attrs["axes"] == first.attrs["axes"] and n.shape == first.shape
        if not same or n.inputs[0].shape != first.inputs[0].shape:
            return Group(None, f"{_text(n)} and {_text(first)} reduce different shapes or axes")
    late = dependents(nodes, hard)
    for n in hard:
        if not late.isdisjoint(n.inputs):
            return Group(None, f"{_text(n)} reads another reduction, over axes {n.attrs['axes']}")
    for n in nodes:
        if n in late and n not in hard and (n.op.kind != "elementwise" or n.shape != first.shape):
            return Group(None, f"{_text(n)} is not elementwise of the shape of {_text(first)}")
    for n in outputs:
        if n.shape != first.shape:
            return Group(None, f"output {_text(n)} has not the shape of {_text(first)}")
    return Group("reduce", reductions=tuple(hard))


def body_of(
    nodes: Iterable[Node], outputs: Sequence[Node], name: str
) -> tuple[Graph, tuple[Node, ...]]:
    """A body that computes `outputs` by those of `nodes` that they need, and its operands.

    What they read from elsewhere becomes inputs p0, p1, ... in order of first use; constants and
    sizes go inside.
    """
    inside = {n for n in nodes if n.op.kind != "leaf"}
    new: dict[Node, Node] = {}
    operands: dict[Node, Node] = {}
    stack = list(reversed(outputs))
    while stack:
        n = stack.pop()
        if n in new:
            continue
        if n in inside:
            waiting = [x for x in n.inputs if x not in new]
            if waiting:
                stack += (n, *reversed(waiting))
                continue
            read = tuple(new[x] for x in n.inputs)
            new[n] = Node(n.op, read, n.attrs, n.type, n.loc)  # equal types in, equal type out
        elif n.op.name in COPIED_LEAVES:
            new[n] = n
        else:
            new[n] = operands[n] = OPS["input"](name=f"p{len(operands)}", type=n.type)
    body = Graph(name, tuple(operands.values()), tuple(new[x] for x in outputs))
    return body, tuple(operands)


def content_of(body: Graph) -> tuple:
    """What bodies that compute the same have in common: all but their names, and where nodes come
    from."""
    place = {x: i for i, x in enumerate(body.nodes)}
    lines = [(x.op.name, x.attrs, tuple([place[y] for y in x.inputs])) for x in body.nodes]
    inputs, outputs = (tuple([place[x] for x in nodes]) for nodes in (body.inputs, body.outputs))
    return inputs, tuple(lines), outputs
