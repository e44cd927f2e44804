"""Check that a graph keeps the rules of the IR. Runs after every pass; linear in the graph.

The rules: the inputs of the signature are distinct and no other input node is reached; every type
is what the op infers from its operands; attributes print; sizes are those of the inputs;
parameters have arrays of their type; an input is donated once, to an output of its type; bodies of
fused nodes keep the same rules.
"""

from __future__ import annotations

from typing import Any

from planish.ir.dims import Size, Symbol
from planish.ir.errors import IRError, PlanishError
from planish.ir.graph import Graph
from planish.ir.node import OPS, Attrs, Node
from planish.ir.text import line_of, used_symbols, value_text
from planish.ir.types import DType, TensorType, dtype

_ATTRIBUTES = (int, float, bool, str, type(None), DType, Size, TensorType, Graph)


def verify(graph: Graph, after: str = "", strict: bool = False) -> Graph:
    """The graph itself; IRError with the line and its neighbours where it breaks a rule.

    `after` names the pass to blame, as in "fuse (4 of 6)". A graph read from text may come without
    its weights; `strict` demands them.
    """
    return Verifier().verify(graph, after, strict)


class Verifier:
    """Verifies graph after graph. Nodes never change: those that it knows are not looked at again,
    and of those that differ in their operands only, of equal types, one is."""

    def __init__(self) -> None:
        self.prefix = ""
        self.known: set[Node] = set()
        self.bodies: set[Graph] = set()
        self.alike: set[tuple[int, ...]] = set()  # ids of what says all of a node, see `node`

    def verify(self, graph: Graph, after: str = "", strict: bool = False) -> Graph:
        """See the function of that name."""
        self.prefix = f"after pass {after}: " if after else ""
        self.top(graph, strict)
        return graph

    def refuse(self, graph: Graph, message: str, node: Node | None = None) -> None:
        """Raise, with the node's line and its neighbours."""
        lines = f"\n{line_of(graph, node)}" if node is not None else ""
        raise IRError(f"{self.prefix}{message}{lines}")

    def top(self, graph: Graph, strict: bool) -> None:
        """The rules for a graph that is called from outside, and those for all."""
        self.graph(graph)
        self.sizes(graph)
        self.params(graph, strict)
        self.aliases(graph)
        if graph.treedef is not None and len(graph.treedef) != len(graph.outputs):
            keys = ", ".join(map(str, graph.treedef))
            self.refuse(graph, f"{len(graph.outputs)} outputs, but the keys ({keys})")

    def graph(self, graph: Graph) -> None:
        """The rules for graphs and bodies."""
        names: set[str] = set()
        for node in graph.inputs:
            name = node.attrs["name"]
            if name in names:
                self.refuse(graph, f"two inputs of {graph.name} are called {name!r}", node)
            names.add(name)
        inputs = set(graph.inputs)
        for node in graph.nodes:
            if node.op.name == "input" and node not in inputs:
                name = node.attrs["name"]
                self.refuse(graph, f"input {name!r} is not in the signature of {graph.name}", node)
            if node not in self.known:
                self.node(graph, node)
                self.known.add(node)
        for node in graph.outputs:
            if not isinstance(node.type, TensorType):
                self.refuse(graph, "an output is a tensor; use get for a result of this node", node)

    def node(self, graph: Graph, node: Node) -> None:
        """The rules for one node, and for the bodies it holds."""
        types = tuple([x.type for x in node.inputs])
        alike = (id(node.op), id(node.attrs), id(node.type), *map(id, types))
        if alike in self.alike:
            return
        if OPS.get(node.op.name) is not node.op:
            self.refuse(graph, f"op {node.op.name!r} is not registered", node)
        if not isinstance(node.attrs, Attrs):
            self.refuse(graph, f"attributes are {type(node.attrs).__name__}, not Attrs", node)
        for name, value in node.attrs.items():
            if not _allowed(value):
                kind = type(value).__name__
                self.refuse(graph, f"attribute {name} of {node.op.name} is a {kind}", node)
            if isinstance(value, Graph) and value not in self.bodies:
                self.body(value)
        try:
            found = node.op.type_of(types, node.attrs)
        except PlanishError as error:
            raise IRError(f"{self.prefix}{error}\n{line_of(graph, node)}") from error
        if found != node.type:
            self.refuse(graph, f"{node.op.name} gives {found}, its type says {node.type}", node)
        self.alike.add(alike)

    def body(self, body: Graph) -> None:
        """A body, named in every refusal."""
        self.bodies.add(body)
        outer, self.prefix = self.prefix, f"{self.prefix}in {value_text(body)}: "
        self.graph(body)
        if body.aliases:
            self.refuse(body, "only the outermost graph donates inputs")
        self.prefix = outer

    def sizes(self, graph: Graph) -> None:
        """Every symbol has one maximum and is the size of an input's axis by itself."""
        known: dict[str, Symbol] = {}
        for symbol in used_symbols(graph):
            if known.setdefault(symbol.name, symbol) != symbol:
                maxima = f"{known[symbol.name].max} and {symbol.max}"
                self.refuse(graph, f"size {symbol.name} has two maxima, {maxima}")
        plain = {str(s) for x in graph.inputs for s in x.shape if isinstance(s, Size)}
        for name in known:
            if name not in plain:
                self.refuse(graph, f"size {name} is not the size of an input's axis by itself")

    def params(self, graph: Graph, strict: bool) -> None:
        """Parameters of one name have one type; arrays are there and fit."""
        known: dict[str, Node] = {}
        for node in graph.nodes:
            if node.op.name != "param":
                continue
            name = node.attrs["name"]
            if known.setdefault(name, node).type != node.type:
                self.refuse(graph, f"param {name!r} is also read as {known[name].type}", node)
            if name not in graph.params:
                if strict or graph.params:
                    self.refuse(graph, f"param {name!r} has no array", node)
                continue
            array = graph.params[name]
            found = TensorType(dtype(array.dtype), array.shape)
            if found != node.type:
                self.refuse(graph, f"param {name!r} has an array of type {found}", node)

    def aliases(self, graph: Graph) -> None:
        """Donated inputs."""
        donated: set[int] = set()
        filled: set[int] = set()
        for i, output in graph.aliases:
            if not (0 <= i < len(graph.inputs) and 0 <= output < len(graph.outputs)):
                self.refuse(graph, f"alias ({i}, {output}) is outside the signature")
            given, result = graph.inputs[i], graph.outputs[output]
            if i in donated or output in filled:
                what = (
                    f"input {given.attrs['name']!r} is donated"
                    if i in donated
                    else (f"output {output} is given storage")
                )
                self.refuse(graph, f"{what} twice", given)
            if given.type != result.type:
                self.refuse(
                    graph,
                    f"input {given.attrs['name']!r} of type {given.type} cannot be the storage "
                    f"of output {output} of type {result.type}",
                    result,
                )
            donated.add(i)
            filled.add(output)


def _allowed(value: Any) -> bool:
    """Whether an attribute value prints and parses (a NumPy scalar does not)."""
    if type(value) is tuple:
        return all(map(_allowed, value))
    return type(value) in _ATTRIBUTES
