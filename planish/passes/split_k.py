"""Split the sum of a product of one row, so that threads that share it out need not meet before it.

    graph f(%x: f32[1, 128], ...) {
      %0 = matmul(%x, %v) : f32[1, 512]
      %1 = tanh(%0) : f32[1, 512]
      %2 = matmul(%1, %w) : f32[1, 128]
      return %2
    }
becomes
    graph f(%x: f32[1, 128], ...) {
      %0 = matmul(%x, %v) : f32[1, 512]
      %1 = tanh(%0) : f32[1, 512]
      %2 = reshape(%1, shape=(4, 1, 128)) : f32[4, 1, 128]
      %3 = reshape(%w, shape=(4, 128, 128)) : f32[4, 128, 128]
      %4 = matmul(%2, %3) : f32[4, 1, 128]
      %5 = slice(%4, starts=(0, 0, 0), ...) : f32[1, 1, 128]
      ... and so on, added in this order
    }

A thread that has made some columns of %1, or some heads of attention, multiplies them by the rows
of %w that they meet; of bf16, too. What reads the sum, mostly a norm, adds the few parts on its
way. The number of parts belongs to the graph, not to the machine: results have the same bits on any
number of threads. Of larger weights, the time of a meeting is nothing to that of the product.
"""

from __future__ import annotations

from functools import reduce

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node, viewed_of
from planish.passes.rewrite import rewritten

PARTS = 4  # of a hidden layer: more threads would have less than a microsecond's work each
EVEN = 32  # columns, of which panels of weights have some: those of a part should be whole ones
FLOATS = (t.f32, t.bf16)
# Elements of weights: by fewer, one thread multiplies alone; by more, two take so long that a
# meeting is nothing beside what it costs to read weights in parts.
SIZES = range(1 << 13, (1 << 17) + 1)


def split_k(graph: Graph) -> Graph:
    """Split products of one row whose operand is made in parts."""
    return rewritten(graph, step)


def step(node: Node) -> Node:
    """A product as the sum of its parts, where that is worth it."""
    if not is_small_product(node):
        return node
    parts = parts_of(node.inputs[0])
    even = node.inputs[1].shape[0] % (parts * EVEN) == 0
    return in_parts(node, parts) if parts > 1 and even else node


def is_small_product(node: Node) -> bool:
    """Whether a node multiplies a row by weights of floats, neither very few nor many."""
    if node.op.name != "matmul" or product(node.shape[:-1]) != 1:
        return False
    weights = node.inputs[1]
    w = viewed_of(weights)
    small = w.op.name == "param" and w.type.size in SIZES
    return small and w.dtype in FLOATS and weights.type.rank == 2


def parts_of(x: Node) -> int:
    """In how many parts the last axis of `x` is made: the heads of attention, or those of a hidden
    layer, of products and leaves element by element; 1 where it is neither."""
    made = viewed_of(x) if x.op.name == "reshape" else x
    if made.op.name == "attention":
        return made.inputs[0].shape[1]
    makers, stack, seen = 0, [x], {x}
    while stack:
        node = stack.pop()
        if is_small_product(node):
            makers += 1
        elif node.op.kind == "elementwise" and node.shape == x.shape:
            stack += [y for y in node.inputs if y not in seen]
            seen.update(node.inputs)
        elif viewed_of(node).op.kind != "leaf":
            return 1
    return PARTS if makers else 1


def in_parts(node: Node, parts: int) -> Node:
    """The product, its sum over k in so many parts."""
    reshape, a, b = OPS["reshape"], *node.inputs
    deep, columns = b.shape
    rows = reshape(a, shape=(parts, 1, deep // parts))
    each = node.with_inputs((rows, reshape(b, shape=(parts, deep // parts, columns))))
    total = reduce(OPS["add"], [row_of(each, part) for part in range(parts)])
    return total if total.shape == node.shape else reshape(total, shape=node.shape)


def row_of(each: Node, part: int) -> Node:
    """The row of a part."""
    ends = {"starts": (part, 0, 0), "stops": (part + 1, *each.shape[1:]), "steps": (1, 1, 1)}
    return OPS["slice"](each, **ends)
