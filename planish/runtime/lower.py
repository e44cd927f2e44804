"""Lowering: a graph of kernels becomes a plan, one step for each kernel.

Every node that is not a leaf is a group: a fused node is its body, any other node a body of itself.
`classify` says of which kind a body is, and `KERNELS` has a function for each kind, so this file
knows no op but for one visible table, `SPECIAL`, of those with a hand-shaped kernel.

A reshape of stored data is the same memory. A node that is an output is written where the output
lies; a donated input and its output are one memory (see `order_writes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from planish.ir.dims import AnySize, Size, product, upper
from planish.ir.errors import IRError, UnsupportedError
from planish.ir.graph import Graph
from planish.ir.groups import Group, body_of, classify
from planish.ir.node import Node
from planish.ir.ops.leaf import input_
from planish.ir.ops.linalg import sums_in
from planish.ir.order import run_order
from planish.ir.text import graph_text
from planish.ir.types import TensorType
from planish.runtime.kernels.attention import attention_kernel
from planish.runtime.kernels.attention_grad import attention_grad_kernel
from planish.runtime.kernels.gemm import (
    Roles,
    choose_tile,
    gemm_kernel,
    is_direct,
    pack_kernel,
)
from planish.runtime.kernels.nest import Lowered
from planish.runtime.kernels.pointwise import map_kernel
from planish.runtime.kernels.reduce import reduce_kernel
from planish.runtime.kernels.rows import row_kernel
from planish.runtime.kernels.scatter import scatter_add_kernel, write_slice_kernel
from planish.runtime.kernels.search import arg_kernel, threshold_kernel
from planish.runtime.kernels.tidy import number_sites
from planish.runtime.kernels.words import (
    as_words,
    column_words,
    padded,
    seen_through,
    takes_words,
    words_in,
)
from planish.runtime.memory import Room
from planish.runtime.order import order_writes
from planish.runtime.packing import computed, packed
from planish.runtime.plan import Limit, Plan, Slot, Step
from planish.runtime.target import Target

SPECIAL: Mapping[str, Callable[[Graph, Node, str, Target], Lowered]] = {
    "attention": attention_kernel,
    "attention_grad": attention_grad_kernel,
    "argmax": arg_kernel,
    "argmin": arg_kernel,
    "scatter_add": scatter_add_kernel,
    "kth_largest": threshold_kernel,
    "nucleus": threshold_kernel,
}


def lower(graph: Graph, target: Target) -> Plan:
    """The plan of a graph whose composites have been expanded (but for those of `SPECIAL`)."""
    work = Lowering(graph, target)
    for node in run_order(graph):
        if node.op.kind not in ("leaf", "get"):
            work.add(node)
    work.finish_outputs()
    inputs = tuple(work.input_slot(i) for i in range(len(graph.inputs)))
    return Plan(
        name=graph.name,
        inputs=inputs,
        outputs=tuple(work.output_slot(j) for j in range(len(graph.outputs))),
        temps=tuple(work.temps),
        params=tuple(work.params),
        steps=order_writes(tuple(work.steps), graph.aliases),
        aliases=graph.aliases,
        limits=tuple(limits(graph)),
        sites=tuple(work.sites),
    )


@dataclass
class Lowering:
    """A plan being made: where each value lies, and the steps so far."""

    graph: Graph
    target: Target
    slots: dict[tuple[Node, int], Slot] = field(default_factory=dict)
    temps: list[Slot] = field(default_factory=list)
    params: list[np.ndarray] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    sites: list[str] = field(default_factory=list)
    packed: dict[tuple, Slot] = field(default_factory=dict)
    room: Room = field(default_factory=Room)
    made: dict[tuple, Lowered] = field(default_factory=dict)  # equal bodies are lowered once

    def __post_init__(self) -> None:
        self.home: dict[tuple[Node, int], int] = {}  # result -> the output that it is written to
        for j, node in enumerate(self.graph.outputs):
            root = source(node)
            if root[0].op.kind != "leaf":
                self.home.setdefault(root, j)

    def input_slot(self, i: int) -> Slot:
        """The slot of an input."""
        node = self.graph.inputs[i]
        return Slot("input", i, node.type, node.attrs["name"])

    def output_slot(self, j: int) -> Slot:
        """The slot of an output."""
        return Slot("output", j, self.graph.outputs[j].type, f"output {j}")

    def slot(self, node: Node) -> Slot:
        """Where the value of `node` lies."""
        root = source(node)
        if root not in self.slots:
            self.slots[root] = self._leaf(root[0])
        return self.slots[root]

    def _leaf(self, node: Node) -> Slot:
        if node.op.name == "input":
            return self.input_slot(self.graph.inputs.index(node))
        if node.op.name == "param":
            name = node.attrs["name"]
            if name not in self.graph.params:
                raise IRError(f"graph {self.graph.name}: the array of param {name!r} is missing")
            return self.constant(self.graph.params[name], node.type, name)
        raise IRError(f"{node!r} is read before it is computed")

    def constant(self, array: np.ndarray, type: TensorType, name: str) -> Slot:
        """A param slot that holds `array`."""
        self.params.append(array)
        return Slot("param", len(self.params) - 1, type, name)

    def temp(self, type: TensorType, name: str) -> Slot:
        """A new temporary."""
        self.temps.append(Slot("temp", len(self.temps), type, name))
        return self.temps[-1]

    def result(self, node: Node, index: int, type: TensorType) -> Slot:
        """The slot for a result: an output's where it is one, else a temporary."""
        j = self.home.get((node, index))
        made = self.temp(type, label(node)) if j is None else self.output_slot(j)
        self.slots[node, index] = made
        return made

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
            raise UnsupportedError(f"no kernel for {label(node)}: {group.reason}")
        types = body.output_types
        outs = tuple(self.result(node, k, x) for k, x in enumerate(types))
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
        in_place = self.writes_in_place(body, operands, outs)
        extra = flops = None
        if group.kind == "contraction" and group.anchor is not None:
            flops = 2 * product(group.anchor.shape) * group.anchor.inputs[0].shape[-1]
            body, operands, group = self.of_words(node, body, operands, group)
            extra = self.panels_for(node, body, operands, group.anchor)  # type: ignore[arg-type]
        key = (graph_text(replace(body, name="body")), in_place, extra is not None)
        if key not in self.made:
            self.made[key] = self.kernel(body, group, in_place, extra is not None)
        self.enter(self.made[key], operands, outs, label(node), extra, flops)

    def kernel(self, body: Graph, group: Group, in_place: bool, packed: bool) -> Lowered:
        """The kernel of a body, by its kind."""
        name, anchor = kernel_name(body.name), group.anchor
        if group.kind == "contraction" and anchor is not None:
            return gemm_kernel(body, anchor, name, self.target, packed)
        if group.kind == "special" and anchor is not None:
            return SPECIAL[anchor.op.name](body, anchor, name, self.target)
        if group.kind == "row":
            return row_kernel(body, group, name, self.target)
        if group.kind == "reduce":
            return reduce_kernel(body, group, name, self.target)
        if in_place:
            return write_slice_kernel(body, body.outputs[0], name, self.target)
        return map_kernel(body, name, self.target)

    def enter(
        self, made: Lowered, operands: tuple[Node, ...], outs: tuple[Slot, ...], text: str,
        extra: Slot | None = None, flops: AnySize | None = None,
    ) -> None:  # fmt: skip
        """Add a step for a kernel."""
        args = []
        for kind, k in made.args:
            slot = (
                outs[k] if kind == "out" else extra if kind == "packed" else self.slot(operands[k])
            )
            args.append(slot)
        kernel = number_sites(made.kernel, self.sites)
        self.steps.append(Step(kernel, tuple(args), text, flops))  # type: ignore[arg-type]

    def writes_in_place(
        self, body: Graph, operands: tuple[Node, ...], outs: tuple[Slot, ...]
    ) -> bool:
        """Whether a body updates a slice of a donated input whose storage is its own result's."""
        last = body.outputs[0]
        if last.op.name != "update_slice" or len(outs) > 1 or outs[0].kind != "output":
            return False
        if last.inputs[0] not in body.inputs:
            return False
        base = self.slot(operands[body.inputs.index(last.inputs[0])])
        return base.kind == "input" and (base.index, outs[0].index) in self.graph.aliases

    def of_words(
        self, node: Node, body: Graph, operands: tuple[Node, ...], group: Group
    ) -> tuple[Graph, tuple[Node, ...], Group]:
        """A matmul of bf16 as one of words; rows that are no words in memory are copied."""
        anchor = group.anchor
        empty = anchor is not None and anchor.inputs[0].shape[-1] == 0  # sums over nothing
        if anchor is None or empty or not takes_words(anchor):
            return body, operands, group
        a, b = padded(anchor.inputs[0], -1), padded(anchor.inputs[1], -2)
        read = words_in(a)
        if read is None:
            operand = self.rows_now(node, body, operands, a)
            words = leaf = as_words(operand)
        else:
            operand, leaf = operands[body.inputs.index(read)], as_words(read)
            words = seen_through(a, leaf)
        dot = Node(anchor.op, (words, column_words(b)), anchor.attrs, anchor.type, anchor.loc)
        body = replace(body, inputs=(*body.inputs, leaf))
        body = body.map(lambda x: dot if x is anchor else x)
        return body, (*operands, operand), Group("contraction", anchor=dot)

    def rows_now(self, node: Node, body: Graph, operands: tuple[Node, ...], a: Node) -> Node:
        """A step that copies the rows of a matmul's A, as an operand to read."""
        key = (*origin(body, operands, a), "rows")
        if key not in self.packed:
            slot = self.packed[key] = self.temp(a.type, f"{label(node)} rows")
            made = map_kernel(Graph("rows", body.inputs, (a,)), "rows", self.target)
            self.enter(made, operands, (slot,), f"{label(node)} rows")
        operand = input_(name="rows", type=a.type)
        self.slots[operand, 0] = self.packed[key]
        return operand

    def panels_for(
        self, node: Node, body: Graph, operands: tuple[Node, ...], anchor: Node
    ) -> Slot | None:
        """The slot of B's panels; None where the kernel reads B as it lies."""
        roles = Roles.of(body, anchor)
        b = roles.b
        _, nr = choose_tile(body, roles, self.target, sums_in(anchor.dtype))
        slot = self.packed_param(body, operands, b, nr)
        if slot is None and not is_direct(body, roles, nr):
            slot = self.packed_now(node, body, operands, b, nr)
        return slot

    def packed_param(
        self, body: Graph, operands: tuple[Node, ...], b: Node, nr: int
    ) -> Slot | None:
        """The panels of a B that is a weight, packed here and now; None where it is computed."""
        reads = [x for x in Graph("b", (), (b,)).nodes if x.op.kind == "leaf"]
        if len(reads) != 1 or reads[0] not in body.inputs:
            return None
        weight = operands[body.inputs.index(reads[0])]
        if weight.op.name != "param":
            return None
        chain = tuple((n.op.name, n.attrs) for n in Graph("b", (), (b,)).nodes[1:])
        key = (weight.attrs["name"], chain, nr)
        if key not in self.packed:
            array = self.graph.params[weight.attrs["name"]]
            matrix = computed(b, reads[0], array)
            panels = packed(matrix, nr, self.room)
            type_ = TensorType(b.dtype, panels.shape)
            self.packed[key] = self.constant(panels, type_, f"{weight.attrs['name']} (packed)")
        return self.packed[key]

    def packed_now(
        self, node: Node, body: Graph, operands: tuple[Node, ...], b: Node, nr: int
    ) -> Slot:
        """A step that packs a computed B into panels."""
        key = (*origin(body, operands, b), nr)
        if key not in self.packed:
            made = pack_kernel(Graph("pack", body.inputs, (b,)), b, nr, "pack")
            *batch, k, n = b.shape
            type_ = TensorType(b.dtype, (product(batch) * k * (n + nr - 1),))
            slot = self.temp(type_, f"{label(node)} panels")
            self.enter(made, operands, (slot,), f"{label(node)} pack")
            self.packed[key] = slot
        return self.packed[key]

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
            body, operands = body_of((node,), (node,), "copy") if is_inline(node) else copy_of(node)
            self.enter(
                map_kernel(body, "copy", self.target), operands, (out,), f"copy to output {j}"
            )


def origin(body: Graph, operands: tuple[Node, ...], x: Node) -> tuple:
    """What an operand within a body is made of, and how: equal ones are equal values."""
    nodes = Graph("x", (), (x,)).nodes
    reads = tuple(source(operands[body.inputs.index(n)]) for n in nodes if n in body.inputs)
    return reads, tuple((n.op.name, n.attrs) for n in nodes if n.inputs)


def is_alias(node: Node) -> bool:
    """Whether a node is the same memory as its operand."""
    return node.op.name == "reshape" and not is_inline(source(node)[0])


def is_inline(node: Node) -> bool:
    """Whether a node is a value that kernels compute where they need it: it has no memory."""
    return node.op.name in ("const", "size")


def source(node: Node) -> tuple[Node, int]:
    """The result whose memory `node` is: through reshapes; (node, which of its results)."""
    while node.op.name == "reshape":
        if is_inline(node.inputs[0]):
            break
        node = node.inputs[0]
    if node.op.kind == "get":
        return node.inputs[0], node.attrs["index"]
    return node, 0


def copy_of(node: Node) -> tuple[Graph, tuple[Node, ...]]:
    """A body that copies a stored value."""
    body, operands = body_of((), (node,), "copy")
    return body, operands


def label(node: Node) -> str:
    """A name a person knows: the module path and the op or the kernel."""
    what = node.attrs["body"].name if node.op.kind == "fused" else node.op.name
    scope = node.loc.scope if node.loc is not None else ""
    return f"{scope}.{what}" if scope else what


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
