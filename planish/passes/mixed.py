"""Train in mixed precision: products of bf16, everything else f32.

    graph f(%x: f32[6, 4], %dy: f32[6, 8]) {
      %0 = transpose(%x, perm=(1, 0)) : f32[4, 6]
      %1 = matmul(%0, %dy) : f32[4, 8]
      %2 = sum(%dy, axes=(0,), keep=False) : f32[8]
      return %1, %2
    }
becomes
    graph f(%x: f32[6, 4], %dy: f32[6, 8]) {
      %0 = cast(%x, dtype=bf16) : bf16[6, 4]
      %1 = transpose(%0, perm=(1, 0)) : bf16[4, 6]
      %2 = cast(%dy, dtype=bf16) : bf16[6, 8]
      %3 = matmul(%1, %2, out=f32) : f32[4, 8]
      %4 = cast(%2, dtype=f32) : f32[6, 8]
      %5 = sum(%4, axes=(0,), keep=False) : f32[8]
      return %3, %5
    }

Weights and the optimiser's state stay f32, as do sums, norms, softmax and the loss; so gradients
need no scaling, bf16 having the exponents of f32. Operands of products by a matrix are rounded,
those of the backward pass too: activations are rounded once, where they are made, and kept as bf16
if products are all that read them. Products of batches of matrices, as in attention, stay.

What is summed over rows beside being an operand (the gradient of a bias) is summed as rounded, so
that it need not be kept twice: errors of 2^-9 that point anywhere, in sums over all tokens.
"""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.ir.ops.arithmetic import cast
from planish.ir.ops.linalg import matmul
from planish.passes.bf16 import Rounding
from planish.passes.rewrite import rewritten


def mixed(graph: Graph) -> Graph:
    """Round the operands of all f32 products by a matrix."""
    rounded = Rounding()

    def multiply(node: Node) -> Node:
        return matmul(*map(rounded, node.inputs), out=t.f32) if by_matrix(node) else node

    def add_up(node: Node) -> Node:
        if not over_rows(node) or node.inputs[0] not in rounded:
            return node
        return node.with_inputs((cast(rounded[node.inputs[0]], dtype=t.f32),))

    return rewritten(rewritten(graph, multiply), add_up)


def by_matrix(node: Node) -> bool:
    """Whether a node is a product of f32 by a matrix."""
    if node.op.name != "matmul" or node.inputs[1].type.rank != 2:
        return False
    return {x.dtype for x in (node, *node.inputs)} == {t.f32}


def over_rows(node: Node) -> bool:
    """Whether a node is a sum over rows, and not within them."""
    return node.op.name == "sum" and node.inputs[0].type.rank - 1 not in node.attrs["axes"]
