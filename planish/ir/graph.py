"""A graph: a signature over nodes.

    graph ::= Graph(name, inputs, outputs, params, aliases)

A graph is an immutable value. Nodes are reached from the outputs, so dead code needs no pass, and
untouched nodes are shared between a graph and its successor: the difference of two node sets is
what a pass did. Weights travel with the graph as `params` (name -> read-only array).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from planish.ir.dims import Symbol, symbols
from planish.ir.draw import draw
from planish.ir.errors import IRError
from planish.ir.node import Node
from planish.ir.text import graph_text
from planish.ir.types import TensorType


@dataclass(frozen=True, eq=False)
class Graph:
    """A function from `inputs` to `outputs`.

    `aliases` holds (input index, output index) pairs: that input is donated, its storage becomes
    the output's. `treedef` says how the outputs are handed back: None for one array, else a tuple
    of keys ("0", "1" for a tuple's places or a dict's names).

    `made` says of params that a pass computed what they are: a graph, with the arrays that it read.
    Under the name "" stands that what is compiled depends on numbers of weights: one became a
    constant, or zeros decide what is stored.
    """

    name: str
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    params: Mapping[str, np.ndarray] = field(default_factory=dict)
    aliases: tuple[tuple[int, int], ...] = ()
    treedef: tuple[str, ...] | None = None
    made: Mapping[str, Graph] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.inputs:
            if node.op.name != "input":
                raise IRError(f"graph {self.name}: input {node!r} is not an input node")
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))

    def __str__(self) -> str:
        return graph_text(self)

    def __repr__(self) -> str:
        # names its identity, which is what equality of `fused` attributes compares
        return f"<graph {self.name} at {id(self):#x}>"

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, operands before users: the inputs in order, then a walk from the outputs."""
        order: dict[Node, None] = dict.fromkeys(self.inputs)
        stack = [*reversed(self.outputs)]
        while stack:
            node = stack[-1]
            before = [x for x in node.inputs if x not in order]
            if before:
                stack += before[::-1]
            else:
                order[stack.pop()] = None
        return tuple(order)

    @cached_property
    def users(self) -> Mapping[Node, tuple[Node, ...]]:
        """Node -> the nodes that read it, once each, in order."""
        found: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for x in dict.fromkeys(node.inputs):
                found[x].append(node)
        return MappingProxyType({node: tuple(users) for node, users in found.items()})

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The symbolic dimensions of the inputs, sorted."""
        return symbols(*(size for x in self.inputs for size in x.type.shape))

    @property
    def param_nodes(self) -> dict[str, Node]:
        """Name -> the node that reads this parameter, for those that are read."""
        return {n.attrs["name"]: n for n in self.nodes if n.op.name == "param"}

    def map(self, fn: Callable[[Node], Node]) -> Graph:
        """Rebuild bottom-up: `fn` sees each node with its new inputs and returns its replacement.

        What `fn` leaves alone is shared with this graph; the inputs are never replaced.
        """
        new: dict[Node, Node] = {x: x for x in self.inputs}
        for node in self.nodes:
            if node not in new:
                new[node] = fn(node.with_inputs(tuple([new[x] for x in node.inputs])))
        return self.with_outputs(tuple([new[x] for x in self.outputs]))

    def with_outputs(self, outputs: tuple[Node, ...]) -> Graph:
        """The same signature with other outputs; itself where nothing changed."""
        if outputs == self.outputs:  # nodes are equal only to themselves
            return self
        return replace(self, outputs=outputs)

    def draw(self, path: str | os.PathLike[str], after: object = None) -> None:
        """Write a .dot, .svg or .png picture; `after` is a pass or pipeline to run first."""
        draw(self, path, after)

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        """The types of the outputs."""
        return tuple(x.type for x in self.outputs)
