"""Round weights while they are trained, so that training makes up for what rounding costs.

    %0 = matmul(%x, %w) : f32[2, 8]
becomes
    %0 = fake_quantize(%w, %scale_of_each_column_of_w, dtype=i8) : f32[4, 8]
    %1 = matmul(%x, %0) : f32[2, 8]

The numbers are those that the pass `quantize` with the same options makes of the trained weights.
The gradient of `fake_quantize` is that of its operand, as if nothing was rounded (the
straight-through estimator of Bengio, Leonard and Courville, 2013; Jacob et al., 2018), so weights
move until the nearest step is a better one. With `activations`, what they multiply is rounded to 8
bits, too, a scale for each row. It runs before `grad`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node, viewed_of
from planish.ir.ops.linalg import matmul, swap_last
from planish.ir.ops.quantize import fake_quantize, group_scale_of, scale_of
from planish.passes.quantize import Quantize
from planish.passes.readers import is_product, products
from planish.passes.rewrite import rewritten
from planish.passes.skip import with_skipped


@dataclass(frozen=True)
class FakeQuantize:
    """Options mean what they mean for `quantize`; products by weights are all that changes."""

    bits: int = 8
    group: int = 0
    skip: str = ""
    activations: bool = False

    def __post_init__(self) -> None:
        _ = self.options

    @property
    def options(self) -> Quantize:
        """The pass for which weights are made ready, all of them."""
        return Quantize(bits=self.bits, group=self.group)

    def reasons(self, graph: Graph) -> dict[str, str]:
        """For each weight why it stays as it is; "" where it does not."""
        found = self.options.reasons(graph)
        read = {name for name, _ in products(graph, set(found))}
        found = {n: why or ("" if n in read else "no product reads it") for n, why in found.items()}
        return with_skipped("fake_quantize", found, self.skip, graph)

    def __call__(self, graph: Graph) -> Graph:
        chosen = {name for name, reason in self.reasons(graph).items() if not reason}
        work = _Faking(self, chosen)
        return rewritten(graph, work.step) if chosen else graph


@dataclass
class _Faking:
    """The rounded values made so far, each once."""

    options: FakeQuantize
    chosen: set[str]
    made: dict[Node, Node] = field(default_factory=dict)

    def step(self, node: Node) -> Node:
        """A product by a rounded weight; other nodes as they are."""
        if not is_product(node) or viewed_of(node.inputs[1]).attrs["name"] not in self.chosen:
            return node
        a, b = node.inputs
        make = self.grouped if self.options.bits == 4 else self.columns
        if b not in self.made:
            self.made[b] = make(b)
        if self.options.activations and a not in self.made:
            self.made[a] = fake(a, a.type.rank - 1)
        return matmul(self.made[a] if self.options.activations else a, self.made[b])

    def columns(self, b: Node) -> Node:
        """A scale for each column."""
        return fake(b, 0)

    def grouped(self, b: Node) -> Node:
        """A scale for each group along k."""
        k, n = b.shape
        size = self.options.options.group_size
        groups = OPS["reshape"](swap_last(b), shape=(n, k // size, size))
        made = fake_quantize(groups, group_scale_of(groups, 2), dtype=t.i4)
        return swap_last(OPS["reshape"](made, shape=(n, k)))


def fake(x: Node, axis: int) -> Node:
    """`x` rounded to 8 bits, with a scale along `axis`."""
    return fake_quantize(x, scale_of(x, (axis,)), dtype=t.i8)
