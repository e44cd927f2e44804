"""Whole layers of a graph: what each adds to the stream that all of them read and add to.

    %2 = add(%x, matmul(attention(... %x ...), %h.1.attn.c_proj))
    %3 = add(%2, matmul(gelu(... %2 ...), %h.1.mlp.c_proj))

is what `h.1` adds. Without it %3 is %x, and its caches of keys and values are gone from the
signature. Additions belong to the layer that the last weight of what they add is named after, up to
the first number in its name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from planish.ir.graph import Graph
from planish.ir.groups import UPDATES
from planish.ir.node import Node, viewed_of
from planish.passes.bf16 import weight
from planish.passes.rewrite import walk

NUMBERED = re.compile(r"(?:[^.]+\.)*?\d+(?=\.)")  # h.0 of h.0.mlp.c_fc.weight


def layer_of(name: str) -> str:
    """The layer that a weight is named after, "" if none."""
    found = NUMBERED.match(name)
    return found[0] if found else ""


def blocks(graph: Graph) -> dict[str, list[Node]]:
    """The additions of each layer, those that take what comes in first, as operand 0, each reading
    the one before; layers whose additions are no such chain are left out."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op.name == "add" and (name := added(node)):
            found.setdefault(name, []).append(node)
    chains = {}
    for name, adds in found.items():
        before = [x.inputs[0] for x in adds]
        if before[1:] == adds[:-1]:
            chains[name] = adds
    return chains


def added(node: Node) -> str:
    """The layer that an addition is of: a product by one of its weights, made of what comes in."""
    x, branch = node.inputs
    if x.type != node.type or branch.type != node.type or x.type.rank < 2:
        return ""
    if branch.op.name == "add" and branch.inputs[1].op.name == "param":
        branch = branch.inputs[0]  # without its bias
    if branch.op.name != "matmul" or (by := weight(branch.inputs[1])) is None:
        return ""
    return layer_of(by.attrs["name"]) if x in set(walk([branch.inputs[0]])) else ""


def without_layers(graph: Graph, names: Collection[str]) -> Graph:
    """A graph without these layers, their weights, and their caches."""
    gone = {node for name, adds in blocks(graph).items() if name in names for node in adds}
    caches = [(i, j) for i, j in graph.aliases if cached_by(graph.outputs[j]) in names]
    new: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node not in new:
            made = node.with_inputs(tuple(new[x] for x in node.inputs))
            new[node] = new[node.inputs[0]] if node in gone else made
    ins = [i for i in range(len(graph.inputs)) if i not in {i for i, _ in caches}]
    outs = [j for j in range(len(graph.outputs)) if j not in {j for _, j in caches}]
    tree = graph.treedef and renumbered([graph.treedef[j] for j in outs])
    after = replace(
        graph,
        inputs=tuple(graph.inputs[i] for i in ins),
        outputs=tuple(new[graph.outputs[j]] for j in outs),
        aliases=tuple((ins.index(i), outs.index(j)) for i, j in graph.aliases if i in ins),
        treedef=tree,
    )
    left = after.param_nodes
    return replace(after, params={n: x for n, x in graph.params.items() if n in left})


def cached_by(node: Node) -> str:
    """The layer that writes a cache of keys or values, "" where it is none."""
    while node.op.name in (*UPDATES, "transpose", "reshape", "rope", "slice", "add"):
        node = node.inputs[1 if node.op.name in UPDATES else 0]
    by = viewed_of(node.inputs[1]) if node.op.name == "matmul" else node
    return layer_of(by.attrs["name"]) if by.op.name == "param" else ""


def renumbered(paths: Sequence[str]) -> tuple[str, ...]:
    """Paths of outputs, the numbers among neighbours without gaps."""
    known: dict[tuple[str, ...], list[str]] = {}
    split = [tuple(x.split("/")) for x in paths]
    for keys in split:
        for at, key in enumerate(keys):
            if key not in known.setdefault(keys[:at], []):
                known[keys[:at]].append(key)
    return tuple(
        "/".join(
            str(known[keys[:at]].index(key)) if key.isdigit() else key
            for at, key in enumerate(keys)
        )
        for keys in split
    )
