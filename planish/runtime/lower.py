"""Lowering: a graph of kernels becomes a plan, one step for each kernel.

Every node that is not a leaf is a group: a fused node is its body, any other node a body of itself.
`classify` says of which kind a body is, and `KERNELS` has a function for each kind, so this file
knows no op but for one visible table, `SPECIAL`, of those with a hand-shaped kernel.

A reshape of stored data is the same memory. A node that is an output is written where the output
lies; a donated input and its output are one memory (see `order_writes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from planish.ir import types as t
from planish.ir.dims import AnySize, Shape, Size, product, upper
from planish.ir.errors import UnsupportedError
from planish.ir.graph import Graph
from planish.ir.groups import UPDATES, Group, body_of, classify, content_of
from planish.ir.node import Node
from planish.ir.ops.leaf import input_
from planish.ir.order import run_order
from planish.ir.types import TensorType
from planish.runtime.draft import Packed, is_inline, label, source
from planish.runtime.kernels.any_size import of_maps, of_sums
from planish.runtime.kernels.attention import attention_kernel
from planish.runtime.kernels.attention_grad import attention_grad_kernel
from planish.runtime.kernels.attention_parts import (
    is_long,
    part_kernel,
    parts_type,
    sum_kernel,
)
from planish.runtime.kernels.beside import gemm_kernel
from planish.runtime.kernels.blocks import block_kernel
from planish.runtime.kernels.gemm import Roles
from planish.runtime.kernels.nest import Lowered
from planish.runtime.kernels.pointwise import map_kernel
from planish.runtime.kernels.reduce import (
    ROWS,
    parts_kernel,
    parts_of,
    reduce_kernel,
    takes_parts,
    total_of,
)
from planish.runtime.kernels.row_blocks import makes_rows
from planish.runtime.kernels.rows import row_kernel
from planish.runtime.kernels.scaled import scaled_kernel
from planish.runtime.kernels.scatter import scatter_add_kernel, write_kernel
from planish.runtime.kernels.search import arg_kernel, threshold_kernel
from planish.runtime.kernels.sparse import sparse_kernel
from planish.runtime.kernels.strides import whole
from planish.runtime.nests import Nests
from planish.runtime.operands import Form, Operands
from planish.runtime.order import order_writes
from planish.runtime.packing import Panels
from planish.runtime.plan import Plan, Step
from planish.runtime.slots import Limit, Slot
from planish.runtime.target import Target


def product_kernel(
    body: Graph, anchor: Node, roles: Roles, name: str, target: Target,
    form: Form, panels: tuple[TensorType, ...], heads: tuple[int, int] | None,
    before: Graph | None,
) -> Lowered:  # fmt: skip
    """A matmul that reads B so: as it lies, in panels, a bitmap's, or rows that are not all 0."""
    given = body, anchor, roles, name, target
    if form.kind == "bitmap":
        return sparse_kernel(*given, kept_in(panels))
    if form.kind == "blocks":
        return block_kernel(*given, kept_in(panels), form.nr)
    return gemm_kernel(*given, form.kind == "panels", heads, before)


def kept_in(panels: tuple[TensorType, ...]) -> int:
    """How many values, or rows of them, panels without zeros have room for."""
    return int(panels[2].shape[0])  # type: ignore[arg-type]


def copy_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """The kernel of `after`: the order of steps is all else."""
    return map_kernel(replace(body, outputs=anchor.inputs[:1]), name, target)


SPECIAL: Mapping[str, Callable[[Graph, Node, str, Target], Lowered]] = {
    "after": copy_kernel,
    "attention": attention_kernel,
    "attention_grad": attention_grad_kernel,
    "argmax": arg_kernel,
    "argmin": arg_kernel,
    "scatter_add": scatter_add_kernel,
    "kth_largest": threshold_kernel,
    "nucleus": threshold_kernel,
}


def lower(
    graph: Graph, target: Target, panels: Panels | None = None,
    begun: Callable[[Step], object] | None = None, nests: Nests | None = None,
) -> Plan:  # fmt: skip
    """The plan of a graph whose composites have been expanded (but for those of `SPECIAL`).

    Plans that are made with the same `panels` have the weights once that they read alike. `begun`
    sees each step as soon as it is made; their order may be another one at last. What is found out
    about kernels stands in `nests`.
    """
    order = [n for n in run_order(graph) if n.op.kind not in ("leaf", "get")]
    last = {source(x): node for node in order if not is_alias(node) for x in node.inputs}
    panels = panels or Panels()
    with panels.packing() as packing:
        work = Lowering(graph, target, packing, begun=begun, last=last)
        if panels.kernels is not None:
            work.made = panels.kernels
        for node in order:
            work.add(node)
        work.finish_outputs()
    inputs = tuple(work.input_slot(i) for i in range(len(graph.inputs)))
    return Plan(
        name=graph.name,
        inputs=inputs,
        outputs=tuple(work.output_slot(j) for j in range(len(graph.outputs))),
        temps=tuple(work.temps),
        params=tuple(work.params),
        steps=order_writes(tuple(work.steps), graph.aliases, nests or Nests()),
        aliases=graph.aliases,
        limits=tuple(limits(graph)),
        sites=tuple(work.sites),
        made=tuple(work.made_of),
    )


@dataclass
class Lowering(Operands):
    """A plan being made from a graph, node by node. `last` reads a value last."""

    last: dict[tuple[Node, int], Node] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        """Add the step(s) that compute `node`."""
        if is_alias(node):
            return
        if node.op.kind == "fused":
            body, operands = node.attrs["body"], node.inputs
        else:
            body, operands = body_of((node,), (node,), node.op.name)
        group = classify(body)
        if group.kind is None:
            raise UnsupportedError(
                f"no kernel for {label(node)}: {group.reason}; groups that the pass fuse makes "
                "have one, and so has every op by itself"
            )
        types = body.output_types
        over = self.overwritten(node, body, operands, group)
        outs = tuple(self.result(node, k, x, over) for k, x in enumerate(types))
        if all(x.size == 0 for x in types):
            return  # nothing to write
        self.step(node, body, operands, group, outs)

    def step(
        self,
        node: Node,
        body: Graph,
        operands: tuple[Node, ...],
        group: Group,
        outs: tuple[Slot, ...],
    ) -> None:
        """Make the kernel of a group and enter it."""
        in_place = self.writes_in_place(node, body, operands, group, outs)
        packed: Packed = ()
        flops = roles = form = heads = before = None
        if group.prologue is not None:
            body, operands, before = self.rows_apart(body, operands, group.prologue)
            group = classify(body)
        if group.kind == "contraction" and (anchor := group.anchor) is not None:
            body, operands, anchor = self.sides_apart(body, operands, anchor)
            flops = 2 * product(anchor.shape) * anchor.inputs[0].shape[-1]
            if anchor.op.name == "scaled_matmul":
                self.scaled(node, body, operands, anchor, outs, flops)
                return
            ready = bool(self.weights_of(body, operands, anchor.inputs[1]))
            own = own_columns(self.graph, node, anchor, ready)
            roles = replace(Roles.of(body, anchor, ready), own=own)
            body, operands, anchor, roles = self.of_words(node, body, operands, anchor, roles)
            packed, form = self.panels_for(node, body, operands, roles, anchor)
            group = replace(group, anchor=anchor)
            panels = form.kind == "panels"
            if before and not makes_rows(body, anchor, roles, panels, self.target):
                body, before = self.rows_first(before, body, operands), None
            heads = heads_of(self.graph, node, anchor.shape)
        if group.kind == "special" and group.anchor is not None and is_long(group.anchor):
            self.in_parts(node, body, operands, group.anchor, outs)
            return
        if group.kind == "reduce" and takes_parts(group):
            self.tall(node, body, operands, group, outs)
            return
        options = in_place, form, tuple(x.type for x in packed[1:] if x is not None), heads
        chosen = roles and (roles.swapped, roles.dot, roles.strips, roles.own)
        write = partial(self.kernel, body, group, roles, *options, before)
        made = self.once(body, write, *options, chosen, before and content_of(before))
        text = label(node, body.name) + (form.note if form is not None else "")
        self.enter(made, operands, outs, text, packed, flops)

    def scaled(
        self, node: Node, body: Graph, operands: tuple[Node, ...], anchor: Node,
        outs: tuple[Slot, ...], flops: AnySize,
    ) -> None:  # fmt: skip
        """A product by integers in groups."""
        body, operands, anchor, panels = self.in_groups(node, body, operands, anchor)
        name, packed = kernel_name(body.name), panels is not None
        made = self.once(
            body, lambda: scaled_kernel(body, anchor, name, self.target, packed), packed
        )
        self.enter(made, operands, outs, label(node), (None, panels), flops)

    def in_parts(
        self, node: Node, body: Graph, operands: tuple[Node, ...], anchor: Node,
        outs: tuple[Slot, ...],
    ) -> None:  # fmt: skip
        """Attention to a long cache in two steps: pieces of it, then their sum."""
        name, text, type_ = kernel_name(body.name), label(node), parts_type(anchor)
        parts = input_(name="parts", type=type_)
        self.slots[parts, 0] = self.temp(type_, f"{text} parts")
        pieces = part_kernel(body, anchor, name, self.target)
        self.enter(pieces, operands, (self.slots[parts, 0],), f"{text} parts")
        self.enter(sum_kernel(parts, anchor, name, self.target), (parts,), outs, f"{text} sum")

    def tall(
        self, node: Node, body: Graph, operands: tuple[Node, ...], group: Group,
        outs: tuple[Slot, ...],
    ) -> None:  # fmt: skip
        """A sum over many rows in two steps: blocks of them, then their sums."""
        name, text, parts = kernel_name(body.name), label(node), parts_of(group)
        for x in parts:
            self.slots[x, 0] = self.temp(x.type, f"{text} parts")
        slots = tuple(self.slots[x, 0] for x in parts)
        made = self.once(body, lambda: self.parts_kernel(body, group, name), "parts")
        self.enter(made, operands, slots, f"{text} parts")
        total = total_of(body, group, parts)
        self.step(node, total, (*operands, *parts), classify(total), outs)

    def parts_kernel(self, body: Graph, group: Group, name: str) -> Lowered:
        """The kernel of the first step of a sum over many rows."""
        write = partial(parts_kernel, name=name, target=self.target)
        return self.general(body, of_sums(body, group, self.target, ROWS), write, "parts")

    def kernel(
        self, body: Graph, group: Group, roles: Roles | None, in_place: bool, form: Form | None,
        panels: tuple[TensorType, ...], heads: tuple[int, int] | None, before: Graph | None,
    ) -> Lowered:  # fmt: skip
        """The kernel of a body, by its kind."""
        name, anchor = kernel_name(body.name), group.anchor
        if roles is not None and form is not None and anchor is not None:
            given = body, anchor, roles, name, self.target
            return product_kernel(*given, form, panels, heads, before)
        if group.kind == "special" and anchor is not None:
            return SPECIAL[anchor.op.name](body, anchor, name, self.target)
        if group.kind == "row":
            return row_kernel(body, group, name, self.target)
        if group.kind == "reduce":
            sums = of_sums(body, group, self.target)
            return self.general(body, sums, partial(reduce_kernel, name=name, target=self.target))
        if in_place and len(body.outputs) == 1:
            return write_kernel(body, body.outputs[0], name, self.target)
        rows = of_maps(body, self.target)
        return self.general(body, rows, partial(map_kernel, name=name, target=self.target))

    def overwritten(
        self, node: Node, body: Graph, operands: tuple[Node, ...], group: Group
    ) -> Slot | None:
        """The memory of what a product is added to, and nobody reads later: the sum may lie there.

        An element is read where it is written, just before.
        """
        if group.kind != "contraction" or len(body.outputs) > 1 or group.anchor is None:
            return None
        made_of = set(Graph("operands", (), group.anchor.inputs).nodes)
        roots = list(map(source, operands))
        for x, root in zip(body.inputs, roots, strict=True):
            late = x not in made_of and all(u.op.kind == "elementwise" for u in body.users[x])
            dies = self.last.get(root) is node and roots.count(root) == 1 and root in self.slots
            if late and dies and x.type == body.outputs[0].type and self.slots[root].kind == "temp":
                return self.slots[root]
        return None

    def writes_in_place(
        self, node: Node, body: Graph, operands: tuple[Node, ...], group: Group,
        outs: tuple[Slot, ...],
    ) -> bool:  # fmt: skip
        """Whether a body updates slices of donated inputs whose storage is its own results'."""
        found = [
            x.inputs[0] in body.inputs
            and out.kind == "output"
            and (base := self.slot(operands[body.inputs.index(x.inputs[0])])).kind == "input"
            and (base.index, out.index) in self.graph.aliases
            for x, out in zip(body.outputs, outs, strict=True)
            if x.op.name in UPDATES
        ]
        if group.kind == "contraction" and not all(found):
            raise UnsupportedError(
                f"no kernel for {label(node)}: a product writes slices of donated inputs only"
            )
        return bool(found) and all(found)

    def finish_outputs(self) -> None:
        """Copy what no step wrote into an output: inputs, weights, and results asked for twice."""
        for j, node in enumerate(self.graph.outputs):
            root = source(node)
            if self.home.get(root) == j:
                continue
            out = self.output_slot(j)
            if root[0].op.name == "input":
                i = self.graph.inputs.index(root[0])
                if (i, j) in self.graph.aliases:
                    continue
            body, operands = body_of((node,) if is_inline(node) else (), (node,), "copy")
            self.enter(
                map_kernel(body, "copy", self.target), operands, (out,), f"copy to output {j}"
            )


def heads_of(graph: Graph, node: Node, made: Shape, gates: bool = True) -> tuple[int, int] | None:
    """How many heads of attention, or parts of a product's sum, read a value `made` by a product,
    and the size of each; None where others do."""
    for user, x in readers(graph, node):
        if x.op.name == "attention" and x.inputs[0].shape[1] == x.inputs[1].shape[1]:
            return x.inputs[0].shape[1], x.inputs[0].shape[3]
        if x.op.name == "matmul" and whole(x.inputs[1]) is not x.inputs[1]:
            return x.inputs[0].shape[0], x.inputs[0].shape[2]
        if gates and x.op.name == "matmul" and x.shape == made:  # this is a gate of that
            return heads_of(graph, user, made, gates=False)
    return None


def readers(graph: Graph, node: Node) -> Iterator[tuple[Node, Node]]:
    """The nodes that read results of `node`, with each node in their bodies."""
    for user in graph.users[node]:
        if user.op.kind == "get":
            yield from readers(graph, user)
        else:
            inside = user.attrs["body"].nodes if user.op.kind == "fused" else (user,)
            yield from ((user, x) for x in inside)


def own_columns(graph: Graph, node: Node, anchor: Node, ready: bool) -> int:
    """How many columns of a head a product by a weight makes for attention; 0 where it does not.

    A thread multiplies a token for its heads alone, and reads panels on, not parts of their rows.
    Panels of bf16, half as long and sooner in the L2 cache, gain nothing by it.
    """
    heads = [x.inputs[0].shape for _, x in readers(graph, node) if x.op.name == "attention"]
    if not (ready and heads) or anchor.inputs[1].dtype != t.f32:
        return 0
    _, count, _, size = heads[0]
    even = all(isinstance(x, int) for x in (count, size)) and anchor.shape[-1] % (2 * size) == 0
    return int(size) if even else 0


def is_alias(node: Node) -> bool:
    """Whether a node is the same memory as its operand."""
    return node.op.name == "reshape" and not is_inline(source(node)[0])


def kernel_name(text: str) -> str:
    """An identifier."""
    return "".join(c if c.isalnum() or c == "_" else "_" for c in text) or "kernel"


def limits(graph: Graph) -> list[Limit]:
    """What static tables ask of symbolic sizes: a slice up to T needs that many rows."""
    found: dict[tuple, Limit] = {}
    for node in with_bodies(graph):
        if node.op.name != "slice":
            continue
        for stop, size in zip(node.attrs["stops"], node.inputs[0].shape, strict=True):
            if isinstance(stop, Size) and isinstance(size, int):
                most = upper(stop)
                if most is None or most > size:
                    reason = f"{label(node)} has {size} rows"
                    found.setdefault((stop, size), Limit(stop, size, reason))
    return list(found.values())


def with_bodies(graph: Graph) -> list[Node]:
    """All nodes, those inside of fused nodes included."""
    found = []
    for node in graph.nodes:
        found.append(node)
        if node.op.kind == "fused":
            found.extend(node.attrs["body"].nodes)
    return found
