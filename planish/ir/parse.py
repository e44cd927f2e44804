"""Read graphs from text: the inverse of `planish.ir.text`, which describes the form.

    text   ::= graph+                                       the last one is the result
    graph  ::= "graph" name sizes? "(" input,* ")" ("->" "(" key,* ")")? "{" line* return "}"
    sizes  ::= "[" (NAME ("<=" INT)?),* "]"
    input  ::= %name ":" type ("donate" "=" INT)?
    line   ::= %name "=" value (":" type)?                  types are inferred and compared
    value  ::= "const" literal | "param" | OP ("@" name)? "(" %name,* (NAME "=" literal),* ")"
    return ::= "return" %name,*

Line breaks are spaces. A comment `# model.py:41 h.0` behind a line is where it came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from planish.ir import ops  # noqa: F401 - fills the op table
from planish.ir.dims import AnySize, Dim
from planish.ir.errors import PlanishError
from planish.ir.graph import Graph
from planish.ir.node import OPS, Loc, Node, Op
from planish.ir.ops.base import make
from planish.ir.text import KEYWORDS, name_text
from planish.ir.tokens import Reader, Token, like
from planish.ir.types import DTYPES, TensorType, TupleType, Type

DEPTH = 32  # of nested tuples in attributes

_LOC = re.compile(r"# ?(.+?):([0-9]{1,9})(?: (.*))?", re.DOTALL)


def parse(
    text: str, params: Mapping[str, np.ndarray] | None = None, more: Iterable[Op] = ()
) -> Graph:
    """The graph that `text` describes; ParseError says line, column and what was expected.

    `params` are the arrays of its parameters. Without them the graph prints, verifies and goes
    through passes; running it names the one that is missing. `more` are ops that are in no table.
    """
    reader = Reader(text)
    known = {**OPS, **{op.name: op for op in more}}
    bodies: dict[str, Graph] = {}
    while True:
        start = reader.token
        graph = _GraphParser(reader, bodies, known).graph(params or {})
        if reader.token.kind == "end":
            return graph
        if graph.name in bodies:
            reader.fail(f"graph {name_text(graph.name)} is defined twice", at=start)
        bodies[graph.name] = graph


class _GraphParser:
    """Reads one graph; `bodies` are the graphs above it."""

    def __init__(self, reader: Reader, bodies: Mapping[str, Graph], known: Mapping[str, Op]):
        self.read, self.ops = reader, known
        self.bodies = bodies
        self.sizes: dict[str, AnySize] = {}
        self.values: dict[str, Node] = {}
        self.donated: list[tuple[int, Token, int]] = []

    def graph(self, params: Mapping[str, np.ndarray]) -> Graph:
        """`graph name[sizes](inputs) -> (keys) { lines }`."""
        read = self.read
        if not read.accept("graph"):
            hint = like(read.token.text, ["graph"])
            read.fail(f"expected 'graph', got {read.token.text}{hint}")
        name = read.name()
        if read.accept("["):
            read.listed(self.size_declaration, "]")
        read.expect("(")
        inputs = tuple(read.listed(self.input, ")"))
        treedef = None
        if read.accept("->"):
            read.expect("(")
            treedef = tuple(read.listed(self.key, ")"))
        read.expect("{")
        while not read.accept("return"):
            self.line()
        outputs = tuple(read.listed(self.operand, "}"))
        for _, token, output in self.donated:
            if output >= len(outputs):
                read.fail(f"donate={output}, but there are {len(outputs)} outputs", at=token)
        aliases = tuple((i, output) for i, _, output in self.donated)
        return Graph(name, inputs, outputs, params, aliases, treedef)

    def key(self) -> str:
        """The key of an output: a place in a tuple or a name."""
        return (
            self.read.take("number").text if self.read.token.kind == "number" else self.read.name()
        )

    def size_declaration(self) -> None:
        """`T<=256` or `B`."""
        token = self.read.take("word", "the name of a size")
        most = self.read.integer() if self.read.accept("<=") else None
        self.sizes[token.text] = self.checked(token, lambda: Dim(token.text, most))

    def input(self) -> Node:
        """`%x: f32[4]`, with `donate=0`."""
        token, name = self.new_name()
        self.read.expect(":")
        node = OPS["input"](name=name, type=self.tensor_type())
        if self.read.accept("donate"):
            self.read.expect("=")
            self.donated.append((len(self.values), self.read.token, self.read.integer()))
        self.values[token] = node
        return node

    def new_name(self) -> tuple[str, str]:
        """The label of a value that is being defined, and the name in it."""
        token = self.read.take("value", "a name such as %0")
        name = self.read.unquoted(token, token.text[1:])
        label = self.label(token)
        if label in self.values:
            self.read.fail(f"{label} is defined twice", at=token)
        return label, name

    def label(self, token: Token) -> str:
        """The canonical spelling of a name: quoted only where it must be."""
        plain = not token.text.startswith('%"')
        return token.text if plain else "%" + name_text(self.read.unquoted(token, token.text[1:]))

    def operand(self) -> Node:
        """A value defined above."""
        token = self.read.take("value", "a value such as %0")
        label = self.label(token)
        if label not in self.values:
            rest = self.read.tokens[self.read.next :]
            later = any(a.text == token.text and b.text == "=" for a, b in pairwise(rest))
            why = "used before it is defined" if later else "not defined"
            hint = "" if later else like(label, self.values)
            self.read.fail(f"{label} is {why}{hint}", at=token)
        return self.values[label]

    def line(self) -> None:
        """`%0 = add(%x, %y) : f32[2]   # model.py:41`."""
        read = self.read
        if read.token.kind != "value":
            hint = like(read.token.text, ["return"])
            read.fail(f"expected a line '%0 = ...' or 'return', got {read.token.text}{hint}")
        label, name = self.new_name()
        read.expect("=")
        at = read.take("word", "an op")
        if at.text == "const":
            node = self.constant(at)
        elif at.text == "param":
            node = self.param(at, name)
        else:
            node = self.call(at)
        comment = read.tokens[read.next - 1].comment
        found = _LOC.fullmatch(comment) if comment else None
        if found:
            node = node.at(Loc(found[1], int(found[2]), "", found[3] or ""))
        self.values[label] = node

    def constant(self, at: Token) -> Node:
        """`const 0.5 : f32[]`."""
        value = self.literal()
        self.read.expect(":")
        kind = self.tensor_type()
        if kind.dtype.is_float and type(value) is int:
            value = float(value)
        if kind.shape:
            self.read.fail(f"a const is a scalar, not {kind}", at=at)
        return self.checked(
            at, lambda: make(OPS["const"], (), {"value": value, "dtype": kind.dtype})
        )

    def param(self, at: Token, name: str) -> Node:
        """`param : f32[3]`, named by its label or `param(name="w")`."""
        if self.read.accept("("):
            self.read.expect("name")
            self.read.expect("=")
            name = self.read.name()
            self.read.expect(")")
        self.read.expect(":")
        kind = self.tensor_type()
        return self.checked(at, lambda: make(OPS["param"], (), {"name": name, "type": kind}))

    def call(self, at: Token) -> Node:
        """`add(%x, %y) : f32[2]`."""
        read, op = self.read, self.ops.get(at.text)
        if op is None or at.text == "input":
            hint = like(at.text, self.ops) if op is None else ": inputs stand in the signature"
            read.fail(f"unknown op '{at.text}'{hint}", at=at)
        attrs: dict[str, Any] = {}
        if read.token.text == "@":
            attrs["body"] = self.literal()
        read.expect("(")
        operands = []
        while read.token.kind == "value":
            operands.append(self.operand())
            if not read.accept(","):
                break
        read.listed(lambda: self.attribute(at.text, attrs), ")")
        node = self.checked(at, lambda: make(op, tuple(operands), attrs))
        stated = read.ahead()
        if read.accept(":"):
            kind = self.type()
            if kind != node.type:
                read.fail(f"{at.text} gives {node.type}, the text says {kind}", at=stated)
        return node

    def attribute(self, op: str, attrs: dict[str, Any]) -> None:
        """`axes=(1,)`."""
        token = self.read.take("word", "an operand, an attribute or ')'")
        known = self.ops[op].attr_names
        if token.text in attrs:
            self.read.fail(f"'{token.text}' is given twice", at=token)
        if token.text not in known:
            hint = like(token.text, known)
            self.read.fail(f"'{token.text}' is no attribute of {op}{hint}", at=token)
        self.read.expect("=")
        attrs[token.text] = self.literal()

    def checked(self, at: Token, build: Callable[[], Any]) -> Any:
        """What `build` makes; its refusal with line and column."""
        try:
            return build()
        except PlanishError as error:
            raise self.read.error(str(error), at) from error

    def type(self) -> Type:
        """A tensor type, or several in parentheses."""
        if self.read.accept("("):
            return TupleType(tuple(self.read.listed(self.tensor_type, ")")))
        return self.tensor_type()

    def tensor_type(self) -> TensorType:
        """`f32[B, 8]`."""
        token = self.read.take("word", "a type such as f32[4, 8]")
        if token.text not in DTYPES:
            self.read.fail(f"unknown dtype '{token.text}'{like(token.text, DTYPES)}", at=token)
        self.read.expect("[")
        return TensorType(DTYPES[token.text], tuple(self.read.listed(self.size, "]")))

    def size(self) -> AnySize:
        """`2*B*T-1`."""
        total: AnySize = 0
        sign = -1 if self.read.accept("-") else 1
        while True:
            term: AnySize = sign * self.factor()
            while self.read.accept("*"):
                term = term * self.factor()
            total = total + term
            if self.read.token.text not in ("+", "-") or self.read.token.kind != "mark":
                return total
            sign = 1 if self.read.take("mark").text == "+" else -1

    def factor(self) -> AnySize:
        """A whole number or a declared size."""
        if self.read.token.kind == "number":
            return self.read.integer()
        token = self.read.take("word", "a size")
        if token.text not in self.sizes:
            hint = like(token.text, self.sizes) or f"; declare it as in graph f[{token.text}](...)"
            self.read.fail(f"size '{token.text}' is not declared{hint}", at=token)
        return self.sizes[token.text]

    def literal(self, depth: int = 0) -> Any:
        """The value of an attribute."""
        read, token = self.read, self.read.token
        if depth > DEPTH:
            read.fail(f"more than {DEPTH} nested tuples")
        if read.accept("("):
            items = read.listed(lambda: self.literal(depth + 1), ")")
            if len(items) == 1 and read.tokens[read.next - 2].text != ",":
                read.fail("a tuple of one is written (x,)", at=token)
            return tuple(items)
        if read.accept("@"):
            name = read.name()
            if name not in self.bodies:
                read.fail(f"no graph @{name_text(name)} above{like(name, self.bodies)}", at=token)
            return self.bodies[name]
        if token.kind == "string":
            return read.name()
        return self.scalar()

    def scalar(self) -> Any:
        """A number, a keyword, a dtype or a size."""
        read = self.read
        negative = read.token.text == "-"
        token = read.ahead() if negative else read.token
        if token.kind == "number" and not token.text.isdigit():
            read.step(1 + negative)
            return -float(token.text) if negative else float(token.text)
        word: Any = KEYWORDS.get(token.text) if token.kind == "word" else None
        if isinstance(word, float) or (token.text in KEYWORDS and not negative):
            read.step(1 + negative)
            return -word if negative else word
        if not negative and token.text in DTYPES:
            read.step()
            return DTYPES[token.text]
        if not negative and token.text == "size" and read.ahead().text == "(":
            read.step(2)
            found = self.size()
            read.expect(")")
            return found
        return self.size()
