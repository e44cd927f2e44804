"""Graphs as text. The form is canonical and `planish.ir.parse` reads it back.

    graph mlp[T<=256](%x: f32[T, 8], %w: f32[8, 3] donate=0) -> (loss, acc) {
      %bias = param : f32[3]
      %c0 = const 0.5 : f32[]
      %0 = matmul(%x, %w) : f32[T, 3]           # tinygpt.py:41 h.0.mlp
      %1 = fused @add_tanh(%0, %bias) : f32[T, 3]
      return %1, %c0
    }

Values are numbered in topological order; inputs and parameters keep their names, quoted where
they are not words. `[T<=256]` declares the symbolic sizes and their maxima, `donate=0` says that
the input's storage becomes that of output 0, `-> (loss, acc)` holds the keys of the outputs.
Bodies of fused nodes print once each, as graphs above their caller. Arrays of parameters stay
outside: they are named. This file uses nothing of a graph but its attributes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from planish.ir.dims import Size, Symbol, symbols
from planish.ir.types import DTYPES, DType, TensorType, TupleType, Type

if TYPE_CHECKING:
    from planish.ir.graph import Graph
    from planish.ir.node import Loc, Node

WIDTH = 100  # a longer header or return is broken into lines
LOC_COLUMN = 46

# Words that mean a value in attributes; a size that uses one as a name prints as size(...)
KEYWORDS = {"True": True, "False": False, "None": None, "nan": float("nan"), "inf": float("inf")}
RESERVED = frozenset(KEYWORDS) | frozenset(DTYPES) | {"size"}

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def graph_text(graph: Graph, locs: bool = False) -> str:
    """The text of a graph and of the bodies it calls; `locs` adds the lines of the user's model."""
    printer = _Printer(locs)
    printer.taken.add(graph.name)
    rest = printer.graph(graph)
    return "\n\n".join([*printer.bodies, f"graph {name_text(graph.name)}{rest}"])


def name_text(name: str) -> str:
    """A name as it prints: quoted unless it is a word, with every odd character escaped."""
    return name if _WORD.fullmatch(name) else json.dumps(name)


def key_text(key: str) -> str:
    """The key of an output: a word, a place in a tuple, or quoted."""
    return key if re.fullmatch("[0-9]+", key) else name_text(key)


def value_text(value: Any) -> str:
    """An attribute value as it prints; floats print exactly."""
    if type(value) is int:
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, Size):
        odd = any(symbol.name in RESERVED for symbol in symbols(value))
        return f"size({value})" if odd else str(value)
    if isinstance(value, tuple):
        return _tuple_text([value_text(item) for item in value])
    if hasattr(value, "outputs"):
        return f"@{name_text(value.name)}"
    return str(value) if isinstance(value, DType) else repr(value)


def _tuple_text(items: list[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def labels(graph: Graph) -> dict[Node, str]:
    """Node -> its name in the text, such as %0, %c0 or %h.0.weight."""
    found: dict[Node, str] = {}
    taken: set[str] = set()
    copies: dict[str, int] = {}
    own = ("input", "param")
    for node in (*graph.inputs, *(x for x in graph.nodes if x.op.name in own)):
        if node not in found:
            name = str(node.attrs["name"])
            label = "%" + name_text(name)
            while label in taken:  # a second node that reads the same parameter
                copies[name] = copies.get(name, 0) + 1
                label = "%" + name_text(f"{name}.{copies[name]}")
            taken.add(label)
            found[node] = label
    values = consts = 0
    for node in graph.nodes:
        if node in found:
            continue
        if node.op.name == "const":
            while f"%c{consts}" in taken:
                consts += 1
            found[node] = f"%c{consts}"
            consts += 1
        else:
            found[node] = f"%{values}"
            values += 1
    return found


def line_of(graph: Graph, node: Node) -> str:
    """The line of a node between its neighbours, marked, with the user's source line."""
    printer, names = _Printer(locs=False), labels(graph)
    names.setdefault(node, "%?")
    mark = "<-- here" + (f"  ({place(node.loc)})" if node.loc else "")
    if node in graph.inputs:
        return f"    {names[node]}: {node.type}     {mark}"
    shown = [x for x in graph.nodes if x not in graph.inputs]
    at = shown.index(node) if node in shown else None
    rows = [node] if at is None else shown[max(at - 1, 0) : at + 2]
    lines = ["    " + printer.line(x, names, call=value_text) for x in rows]
    width = max(map(len, lines))
    return "\n".join(
        f"{line:{width}}     {mark}" if x is node else line
        for x, line in zip(rows, lines, strict=True)
    )


def place(loc: Loc) -> str:
    """A location as a comment: one line, whatever is in its names."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in str(loc))


class _Printer:
    """One printing: which bodies have been printed, and under what name."""

    def __init__(self, locs: bool):
        self.locs = locs
        self.bodies: list[str] = []
        self.taken: set[str] = set()
        self.names: dict[Graph, str] = {}
        self.known: dict[tuple[str, str], str] = {}

    def body(self, graph: Graph) -> str:
        """The reference to a body, which prints unless an equal one has."""
        if graph not in self.names:
            rest = self.graph(graph)
            name, copies = graph.name, 0
            if (name, rest) not in self.known:
                while name in self.taken:
                    copies += 1
                    name = f"{graph.name}_{copies}"
                self.taken.add(name)
                self.known[graph.name, rest] = name
                self.bodies.append(f"graph {name_text(name)}{rest}")
            self.names[graph] = self.known[graph.name, rest]
        return "@" + name_text(self.names[graph])

    def graph(self, graph: Graph) -> str:
        """Everything after the name."""
        names, inputs = labels(graph), set(graph.inputs)
        lines = [
            self.located("  " + self.line(node, names, self.call), node.loc)
            for node in graph.nodes
            if node not in inputs
        ]
        results = [names[x] for x in graph.outputs]
        closing = _filled("  return ", results) if results else "  return"
        return "\n".join([_header(graph, names), *lines, closing, "}"])

    def call(self, value: Any) -> str:
        """An attribute value; bodies print above."""
        return self.body(value) if hasattr(value, "outputs") else value_text(value)

    def line(self, node: Node, names: dict[Node, str], call: Any) -> str:
        """`%0 = add(%x, %y) : f32[2]`."""
        label, op, attrs = names[node], node.op.name, node.attrs
        if op == "const":
            what = f"const {call(attrs['value'])}"
        elif op in ("param", "input"):
            own = label == "%" + name_text(str(attrs["name"]))
            what = op if own else f"{op}(name={json.dumps(attrs['name'])})"
        else:
            items = [names.get(x, "%?") for x in node.inputs]
            items += [f"{n}={call(attrs[n])}" for n in self.order(node) if n != "body"]
            called = f" {call(attrs['body'])}" if "body" in attrs else ""
            what = f"{op}{called}({', '.join(items)})"
        return f"{label} = {what} : {node.type}"

    def order(self, node: Node) -> Iterable[str]:
        """The names of a node's attributes, in the order of the op's `infer`."""
        known = node.op.attr_names
        return [n for n in known if n in node.attrs] + [n for n in node.attrs if n not in known]

    def located(self, line: str, loc: Loc | None) -> str:
        """The line with its source line, where that is wanted and known."""
        return f"{line:{LOC_COLUMN}} # {place(loc)}" if self.locs and loc else line


def _header(graph: Graph, names: dict[Node, str]) -> str:
    donated = dict(graph.aliases)
    inputs = [
        f"{names[x]}: {x.type}" + (f" donate={donated[i]}" if i in donated else "")
        for i, x in enumerate(graph.inputs)
    ]
    sizes = [s.name + (f"<={s.max}" if s.max is not None else "") for s in used_symbols(graph)]
    opening = f"[{', '.join(sizes)}]" if sizes else ""
    keys = graph.treedef
    closing = " {" if keys is None else f" -> {_tuple_text([key_text(k) for k in keys])} {{"
    line = f"{opening}({', '.join(inputs)}){closing}"
    if len(line) + len(graph.name) + 6 <= WIDTH:
        return line
    return f"{opening}(\n  " + ",\n  ".join(inputs) + f"\n){closing}"


def used_symbols(graph: Graph) -> list[Symbol]:
    """The symbols in the types and attributes of a graph, sorted; bodies declare their own."""
    sizes: set[Size] = set()
    types = {id(node.type): node.type for node in graph.nodes}  # most are those of many nodes
    values = {x for node in graph.nodes for x in node.attrs.values() if type(x) not in _PLAIN}
    for value in (*types.values(), *values):
        sizes.update(_sizes(value))
    found = {s for size in sizes for monomial, _ in size.terms for s in monomial}
    return sorted(found, key=lambda s: (s.name, s.max is not None, s.max or 0))


_PLAIN = frozenset((int, float, bool, str, type(None), DType))  # values without sizes


def _sizes(value: Type | Any) -> list[Size]:
    """The symbolic sizes inside a type or an attribute value."""
    if isinstance(value, Size):
        return [value]
    items = value if isinstance(value, tuple) else ()
    if isinstance(value, (TensorType, TupleType)):
        items = value.shape if isinstance(value, TensorType) else value.items
    return [size for item in items if type(item) is not int for size in _sizes(item)]


def _filled(start: str, items: list[str]) -> str:
    """`start` and the items, broken into lines of at most `WIDTH`."""
    lines, line = [], start
    for i, item in enumerate(items):
        piece = item + ("," if i + 1 < len(items) else "")
        if len(line) + len(piece) > WIDTH and line.strip() and line != start:
            lines.append(line.rstrip())
            line = " " * len(start)
        line += piece + " "
    return "\n".join([*lines, line.rstrip()])
