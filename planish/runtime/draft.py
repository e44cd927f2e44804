"""A plan being written: where each value lies, and the steps so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from planish.ir.dims import AnySize
from planish.ir.errors import IRError
from planish.ir.graph import Graph
from planish.ir.loops import Kernel
from planish.ir.node import Node
from planish.ir.types import TensorType
from planish.runtime.kernels.nest import Lowered
from planish.runtime.kernels.tidy import number_sites
from planish.runtime.packing import Packing
from planish.runtime.plan import Step
from planish.runtime.slots import Made, Slot
from planish.runtime.target import Target

Packed = tuple[Slot | None, ...]  # of a matmul: the strips of A, the panels of B or their parts


@dataclass
class Draft:
    """A plan being made: where each value lies, and the steps so far, of which `begun` is told."""

    graph: Graph
    target: Target
    packing: Packing
    begun: Callable[[Step], object] | None = None
    slots: dict[tuple[Node, int], Slot] = field(default_factory=dict)
    temps: list[Slot] = field(default_factory=list)
    params: list[np.ndarray] = field(default_factory=list)
    made_of: list[Made] = field(default_factory=list)  # the params
    steps: list[Step] = field(default_factory=list)
    sites: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbered: dict[int, tuple[Kernel, Kernel]] = {}  # by the id of a kernel
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
            array = self.packing.plain(name, self.graph.params[name])
            return self.constant(array, node.type, name, Made((name,)))
        raise IRError(f"{node!r} is read before it is computed")

    def constant(self, array: np.ndarray, type: TensorType, name: str, made: Made) -> Slot:
        """A param slot that holds `array`."""
        self.params.append(array)
        self.made_of.append(made)
        return Slot("param", len(self.params) - 1, type, name)

    def temp(self, type: TensorType, name: str) -> Slot:
        """A new temporary."""
        self.temps.append(Slot("temp", len(self.temps), type, name))
        return self.temps[-1]

    def result(self, node: Node, index: int, type: TensorType, over: Slot | None = None) -> Slot:
        """The slot for a result: an output's where it is one, else `over` or a new temporary."""
        j = self.home.get((node, index))
        made = (over or self.temp(type, label(node))) if j is None else self.output_slot(j)
        self.slots[node, index] = made
        return made

    def enter(
        self, made: Lowered, operands: tuple[Node, ...], outs: tuple[Slot, ...], text: str,
        packed: Packed = (), flops: AnySize | None = None,
    ) -> None:  # fmt: skip
        """Add a step for a kernel."""
        args = []
        for kind, k in made.args:
            known = {"out": outs, "packed": packed}.get(kind)
            args.append(self.slot(operands[k]) if known is None else known[k])
        if id(made.kernel) not in self.numbered:
            numbered = made.kernel, number_sites(made.kernel, self.sites)
            self.numbered[id(made.kernel)] = numbered
        kernel = self.numbered[id(made.kernel)][1]
        given = tuple(args)
        self.steps.append(Step(kernel, given, text, made.sizes, flops))  # type: ignore[arg-type]
        if self.begun is not None:
            self.begun(self.steps[-1])


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


def label(node: Node, name: str = "") -> str:
    """A name a person knows: the module path and the op, or the kernel or what is left of it."""
    what = (name or node.attrs["body"].name) if node.op.kind == "fused" else node.op.name
    scope = node.loc.scope if node.loc is not None else ""
    return f"{scope}.{what}" if scope else what
