"""Multiply by weights in bf16: half the bytes, and more products in one instruction.

    %w = param : f32[4, 8]
    %0 = matmul(%x, %w) : f32[2, 8]
becomes
    %0 = cast(%x, dtype=bf16) : bf16[2, 4]
    %w = param : f32[4, 8]
    %1 = cast(%w, dtype=bf16) : bf16[4, 8]
    %2 = matmul(%0, %1, out=f32) : f32[2, 8]

Sums stay f32, as does all that is neither a product with a weight nor attention without a cache.
`fold` then stores the weight as bf16, `simplify` lets attention, and fusion any other kernel, write
an activation as bf16. Where rows are
taken from such a weight (a token table that is the head, too), they are taken from the bf16 array,
so that the other one need not be kept.

A rounded operand is off by at most 2^-9 of its value, so a product by 2^-8; errors of a sum grow
with the root of its length, as the sum itself does.
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.groups import UPDATES
from planish.ir.node import Node, viewed_of
from planish.ir.ops.arithmetic import cast
from planish.ir.ops.attention import attention
from planish.ir.ops.linalg import matmul
from planish.passes.rewrite import rewritten
from planish.passes.skip import with_skipped

STORED = ("input", "param", *UPDATES)  # rounding these would pass over them in every run


class Rounding(dict[Node, Node]):
    """Values as bf16, each cast once."""

    def __call__(self, x: Node) -> Node:
        """`x` as bf16; what is viewed is cast, not the view."""
        if x not in self:
            viewed = x.op.kind == "view"
            source = (self(x.inputs[0]),) if viewed else (x,)
            self[x] = x.with_inputs(source) if viewed else cast(x, dtype=t.bf16)
        return self[x]


@dataclass(frozen=True)
class Bf16:
    """Cast both operands of each f32 matmul by a weight; those whose name matches `skip` stay."""

    skip: str = ""

    def __call__(self, graph: Graph) -> Graph:
        nodes = graph.param_nodes
        wanted = {nodes[name] for name, reason in self.reasons(graph).items() if not reason}
        rounded = Rounding()

        def step(node: Node) -> Node:
            if weight_of(node) in wanted:
                return matmul(*map(rounded, node.inputs), out=t.f32)
            if is_computed_attention(node):
                operands = (*map(rounded, node.inputs[:3]), *node.inputs[3:])
                return attention(*operands, **{**node.attrs, "out": t.f32})
            if node.op.name == "take" and weight(node.inputs[0]) in wanted:
                table, places = node.inputs
                return cast(node.with_inputs((rounded(table), places)), dtype=t.f32)
            return node

        return rewritten(graph, step) if wanted else graph

    def reasons(self, graph: Graph) -> dict[str, str]:
        """For each weight of a product why it stays as it is; "" where it does not."""
        found = {x.attrs["name"]: "" for node in graph.nodes if (x := weight_of(node)) is not None}
        return with_skipped("bf16", found, self.skip, graph)


def weight_of(node: Node) -> Node | None:
    """The weight by which `node` multiplies in f32."""
    if node.op.name != "matmul" or node.dtype != t.f32 or node.inputs[1].dtype != t.f32:
        return None
    return weight(node.inputs[1])


def weight(x: Node) -> Node | None:
    """The weight that `x` is a view of."""
    found = viewed_of(x)
    return found if found.op.name == "param" else None


def is_computed_attention(node: Node) -> bool:
    """Whether `node` is attention in f32 whose keys and values are not kept in a cache."""
    if node.op.name != "attention" or {x.dtype for x in (node, *node.inputs[:3])} != {t.f32}:
        return False
    return {viewed_of(x).op.name for x in node.inputs[:3]}.isdisjoint(STORED)
