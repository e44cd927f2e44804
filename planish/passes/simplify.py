"""Rewrite nodes by local rules, each an equation, until none applies.

    %c0 = const 1.0 : f32[]
    %0 = mul(%x, %c0) : f32[4, 3]
    %1 = transpose(%0, perm=(1, 0)) : f32[3, 4]
    %2 = transpose(%1, perm=(1, 0)) : f32[4, 3]
    %3 = tanh(%2) : f32[4, 3]
becomes
    %0 = tanh(%x) : f32[4, 3]

Every rule meets the requirements that head LuaJIT's fold rules (lj_opt_fold.c): it keeps the type,
it makes the graph smaller or more canonical, and it never undoes another rule, so that rewriting
ends. A rule is a function whose docstring is its equation; None means that it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from planish.ir.errors import IRError
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.passes.rewrite import readers, rewritten
from planish.passes.rules_layout import LAYOUT_RULES, SOLE_RULES
from planish.passes.rules_values import VALUE_RULES

Rule: TypeAlias = Callable[[Node], Node | None]

ROUNDS = 64  # a sweep rewrites whole chains; more rounds than this mean that two rules quarrel

RULES: dict[str, tuple[Rule, ...]] = {
    name: (
        *LAYOUT_RULES.get(op.kind, ()),
        *VALUE_RULES.get(name, ()),
        *LAYOUT_RULES.get(name, ()),
    )
    for name, op in OPS.items()
}


def simplify(graph: Graph) -> Graph:
    """Apply all rules everywhere until the graph no longer changes."""
    settled: set[Node] = set()
    for _ in range(ROUNDS):
        after = sweep(graph, settled)
        if after is graph:
            break
        graph = after
    return graph


def sweep(graph: Graph, settled: set[Node]) -> Graph:
    """Rewrite every node once, operands before users.

    `settled` are the nodes that rules leave alone, whoever reads them; a sweep adds to it.
    """
    reads = readers(graph)
    left = iter(graph.nodes[len(graph.inputs) :])  # `step` sees them in this order

    def step(node: Node) -> Node:
        old = next(left)
        for _ in range(ROUNDS):
            found = rewrite(node, reads, settled)
            if found is None:
                break
            node = found
        if node is not old:  # those who read the old one will read it
            reads[node] = reads.get(node, 0) + reads[old]
        return node

    return rewritten(graph, step)


def rewrite(node: Node, reads: Mapping[Node, int], settled: set[Node]) -> Node | None:
    """What the first rule that applies makes of `node`."""
    if node not in settled:
        for rule in RULES.get(node.op.name, LAYOUT_RULES.get(node.op.kind, ())):
            if (found := rule(node)) is not None:
                return kept_type(rule, node, found)
        settled.add(node)
    for rule in SOLE_RULES.get(node.op.name, ()):
        if reads.get(node.inputs[0]) == 1 and (found := rule(node)) is not None:
            return kept_type(rule, node, found)
    return None


def kept_type(rule: Rule, node: Node, found: Node) -> Node:
    """`found`, which must have the type of `node`."""
    if found.type != node.type:
        name = getattr(rule, "__name__", str(rule))
        raise IRError(f"rule {name} changes the type of {node!r} to {found.type}")
    return found
