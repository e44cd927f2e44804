"""What reads a weight: products by it, rows taken from it, or what keeps it from being integers."""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.node import Node, viewed_of
from planish.passes.bf16 import weight

ROWS = ("take", "slice", "add")  # what reads rows of a table: some of them, or all of them


def why_not(param: Node, graph: Graph) -> str:
    """Why a weight cannot become integers."""
    if param.dtype != t.f32:
        return f"it is {param.dtype}, not f32"
    if param.type.rank != 2:
        return f"it has {param.type.rank} axes, not 2"
    products = False
    for x in readers(param, graph):
        if x.op.name == "matmul":
            products |= is_product(x) and viewed_of(x.inputs[1]) is param
            if not is_product(x) or viewed_of(x.inputs[0]) is param:
                return "a product other than of activations by this weight reads it"
        elif any(u.op.name == "dequantize" and x in u.inputs[1:] for u in graph.users[x]):
            return "it holds the scales of another"
        elif x in graph.outputs or not reads_rows(x):
            return f"{x.op.name} reads it, too"
    parts = any(x.op.name in ("slice", "add") for x in graph.users[param])
    return "a part of it is a weight, or it is added, too" if products and parts else ""


def readers(param: Node, graph: Graph) -> list[Node]:
    """What reads a weight, directly or through views of it all; rows of it count as they are."""
    found, stack = [], [param]
    while stack:
        x = stack.pop()
        if x in graph.outputs:
            found.append(x)
        for user in graph.users[x]:
            if user.op.kind == "view" and not reads_rows(user):
                stack.append(user)
            else:
                found.append(user)
    return found


def products(graph: Graph, chosen: set[str]) -> list[tuple[str, Node]]:
    """The products by chosen weights, with the names of those."""
    found = ((viewed_of(x.inputs[1]).attrs.get("name"), x) for x in graph.nodes if is_product(x))
    return [(name, x) for name, x in found if name in chosen]


def is_product(node: Node) -> bool:
    """Whether a node multiplies f32 by a matrix that is a view of a weight."""
    if node.op.name != "matmul" or {x.dtype for x in (node, *node.inputs)} != {t.f32}:
        return False
    return node.inputs[1].type.rank == 2 and weight(node.inputs[1]) is not None


def reads_rows(node: Node) -> bool:
    """Whether a node takes whole rows of a stored table."""
    if node.op.name == "add":
        return True
    if node.op.name not in ROWS or node.inputs[0].op.name != "param":
        return False
    if node.op.name == "take":
        return node.attrs["axis"] == 0
    return (node.attrs["starts"][1], node.attrs["stops"][1]) == (0, node.inputs[0].shape[1])
