"""Pictures of graphs: DOT text, and SVG or PNG where Graphviz is at hand.

Boxes are ops, coloured by kind; edges carry shapes (and dtypes other than f32). Ops of one layer
stand in a frame, after the scopes of their source locations ("h.0", in it "attn"), and the ops of
a fused kernel in a frame with the kernel's name. Constants are written into their users, weights
are small notes beside them. The tooltip of an op in an SVG is its line of IR text.

`dot` needs nothing installed. This file uses nothing of a graph but its attributes.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planish.ir.errors import PlanishError, UnsupportedError
from planish.ir.text import labels, place, value_text

if TYPE_CHECKING:
    import os

    from planish.ir.graph import Graph
    from planish.ir.node import Node

COLOURS = {
    "elementwise": "#e9eff7",
    "reduction": "#fbe6d2",
    "contraction": "#d5e8cf",
    "composite": "#e8def3",
    "special": "#e8def3",
    "view": "#f4f4f4",
    "indexing": "#fdf3cf",
    "random": "#f8dfe5",
}
DEPTH = 2  # frames of scopes nest this deep: a layer, and what is in it
LIMIT = 120  # seconds that Graphviz may take
HIDDEN = {"shape", "dtype", "body", "what"}  # the edges show them, or they are for messages

_STYLE = """  bgcolor=white; fontname="Helvetica"; fontsize=14; labelloc=t; labeljust=l
  newrank=true; nodesep=0.25; ranksep=0.35
  node [fontname="Helvetica", fontsize=11, shape=box, style="rounded,filled", color="#8a8f98",
        fillcolor=white, height=0.3, margin="0.12,0.05", penwidth=0.8]
  edge [fontname="Helvetica", fontsize=8, fontcolor="#666a70", color="#8a8f98", arrowsize=0.6,
        penwidth=0.8]
"""


def draw(graph: Graph, path: str | os.PathLike[str], after: Any = None) -> None:
    """Write a picture to a .dot, .svg or .png file; `after` is a pass or pipeline to run first."""
    target = Path(path)
    kind = target.suffix.lower()
    if kind not in (".dot", ".svg", ".png"):
        raise UnsupportedError(f"a picture is a .dot, .svg or .png file, not {target.name!r}")
    title = ""
    if after is not None:
        run = getattr(after, "run", after)
        if not callable(run):
            raise UnsupportedError(f"after= is a pass or a pipeline, not {after!r}")
        title = f"after {getattr(after, '__name__', after)}"
        graph = run(graph)
    text = dot(graph, title)
    target.write_bytes(text.encode() if kind == ".dot" else render(text, kind[1:]))


def render(text: str, kind: str) -> bytes:
    """DOT text as "svg" or "png", by `dot` or by `graphviz-pure`."""
    here = sysconfig.get_path("scripts")  # of this Python, which need not be on the path
    found = [shutil.which("dot"), *(shutil.which("graphviz-pure", path=p) for p in (None, here))]
    command = next((x for x in found if x), None)
    if command is None:
        raise UnsupportedError(
            f"a .{kind} picture needs Graphviz: pip install graphviz-pure (or install dot), "
            "or draw a .dot file"
        )
    try:
        done = subprocess.run(
            [command, f"-T{kind}"], input=text.encode(), capture_output=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        raise PlanishError(
            f"{command} took more than {LIMIT} s; draw a .dot file, or a part of the graph"
        ) from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()[-300:]
        raise PlanishError(f"{command} failed ({done.returncode}): {reason}")
    return done.stdout


def dot(graph: Graph, title: str = "") -> str:
    """The graph as DOT text."""
    return _Drawing().text(graph, title)


def quoted(text: str) -> str:
    """A DOT string: quotes, backslashes and entities escaped, odd characters made visible."""
    seen = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    seen = seen.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    return '"' + seen.replace("\n", "\\n") + '"'


def scope_path(scope: str) -> tuple[str, ...]:
    """The frames of a scope: "h.0.attn.proj" is in "attn" in "h.0"."""
    parts: list[str] = []
    for part in scope.split(".") if scope else ():
        if parts and part.isdigit():
            parts[-1] += f".{part}"
        else:
            parts.append(part)
    return tuple(parts[:DEPTH])


@dataclass
class _Frame:
    """A frame with what stands in it."""

    label: str = ""
    kernel: bool = False
    ops: int = 0
    lines: list[str] = field(default_factory=list)
    inner: dict[str, _Frame] = field(default_factory=dict)

    def text(self, indent: str, count: Iterator[int]) -> list[str]:
        """The lines of this frame; a scope around a single op or frame is not drawn."""
        single = self.total() < 2 or (not self.ops and len(self.inner) == 1)
        framed = self.kernel or not single
        inner = [
            line
            for frame in self.inner.values()
            for line in frame.text(indent + "  " * framed, count)
        ]
        if not framed:
            return [*(indent + line for line in self.lines), *inner]
        fill, edge = ("#fafafa", "#5b6470") if self.kernel else ("none", "#c3c7cd")
        style = "filled" if self.kernel else "rounded"
        head = (
            f"subgraph cluster_{next(count)} {{ label={quoted(self.label)}; style={style}; "
            f'color="{edge}"; fillcolor="{fill}"; fontsize=10; fontcolor="#40464f"'
        )
        body = [f"{indent}  {line}" for line in self.lines]
        return [indent + head, *body, *inner, indent + "}"]

    def total(self) -> int:
        """How many ops are inside."""
        return self.ops + sum(frame.total() for frame in self.inner.values())


@dataclass(frozen=True)
class _Value:
    """What an operand is in the picture: a box, a constant's text, or a weight with views."""

    box: str = ""
    depth: int = 0  # the longest path of boxes to it
    const: str = ""
    weight: Node | None = None
    views: tuple[str, ...] = ()


class _Drawing:
    """One picture in the making."""

    def __init__(self) -> None:
        self.root = _Frame()
        self.edges: list[str] = []
        self.boxes = 0
        self.notes: dict[tuple[Node, int], str] = {}

    def text(self, graph: Graph, title: str) -> str:
        """The whole picture."""
        given: list[_Value] = []
        donated = dict(graph.aliases)
        for i, node in enumerate(graph.inputs):
            more = f"\ndonated to output {donated[i]}" if i in donated else ""
            label = f"%{node.attrs['name']}\n{node.type}{more}"
            given.append(_Value(self.box(self.root, label, 'fillcolor="#ffffff", penwidth=1.6')))
        results = self.body(graph, given, self.root, ())
        keys = graph.treedef or tuple(f"output {i}" for i in range(len(results)))
        for key, node, value in zip(keys, graph.outputs, results, strict=False):
            what = f"\n{value.const}" if value.const else ""
            box = self.box(
                self.root, f"{key}\n{node.type}{what}", 'shape=box, style="filled", penwidth=1.6'
            )
            self.edge(value, node, box, self.root)
        heading = f"{graph.name} {title}".strip()
        count = iter(range(10**9))
        lines = [
            *("  " + line for line in self.root.lines),
            *(x for frame in self.root.inner.values() for x in frame.text("  ", count)),
        ]
        return "\n".join(
            [
                f"digraph {quoted(graph.name)} {{",
                f"  label={quoted(heading)}",
                _STYLE.rstrip("\n"),
                *lines,
                *self.edges,
                "}\n",
            ]
        )

    def box(self, frame: _Frame, label: str, style: str, tip: str = "") -> str:
        """A new box in a frame; its id."""
        name = f"n{self.boxes}"
        self.boxes += 1
        tooltip = f", tooltip={quoted(tip)}" if tip else ""
        frame.lines.append(f"{name} [label={quoted(label)}, {style}{tooltip}]")
        return name

    def edge(self, value: _Value, node: Node, to: str, frame: _Frame, pull: int = 1) -> None:
        """An edge from an operand, with its shape; `pull` is how much it wants to be straight."""
        if value.const:
            return
        label = ", ".join(map(str, node.shape))
        label = f"{'' if str(node.dtype) == 'f32' else node.dtype}[{label}]"
        if value.weight is not None:
            label = " ".join(value.views)
        start = value.box or self.note(value.weight, frame, to)
        self.edges.append(f"  {start} -> {to} [label={quoted(label)}, weight={pull}]")

    def note(self, weight: Any, frame: _Frame, reader: str) -> str:
        """The note of a weight, one in each frame that reads it, beside its first reader."""
        key = (weight, id(frame))
        if key not in self.notes:
            name = str(weight.attrs["name"])
            short = ".".join(name.split(".")[-2:])  # the frame says the rest
            short = short if len(short) <= 40 else "..." + short[-37:]
            self.notes[key] = self.box(
                frame,
                f"{short}\n{weight.type}",
                'shape=note, style=filled, fillcolor="#ffffff", fontsize=8, color="#b5bac2"',
                name,
            )
            frame.lines.append(f"{{ rank=same; {self.notes[key]}; {reader} }}")
        return self.notes[key]

    def body(
        self, graph: Graph, given: list[_Value], frame: _Frame, scope: tuple[str, ...]
    ) -> list[_Value]:
        """Draw the ops of a graph or of a kernel; what its outputs are in the picture."""
        found: dict[Node, Any] = dict(zip(graph.inputs, given, strict=True))
        frames: dict[Node, tuple[str, ...]] = {}
        names = labels(graph)
        for node in graph.nodes:
            if node in found:
                continue
            values = [found[x] for x in node.inputs]
            if node.loc is not None:
                frames[node] = scope_path(node.loc.scope)
            else:  # made by a pass: beside what it reads
                known = [frames[x] for x in node.inputs if x in frames]
                frames[node] = known[-1] if known else scope
            inside = frame if frame.kernel else _descend(frame, frames[node])
            found[node] = self.node(node, values, inside, frames[node], names)
        return [found[x] for x in graph.outputs]

    def node(
        self, node: Node, values: list[Any], frame: _Frame, scope: tuple[str, ...], names: Any
    ) -> Any:
        """Draw one node; its value in the picture, a list for several results."""
        op = node.op.name
        match op:
            case "const" | "size":
                return _Value(const=value_text(node.attrs["value" if op == "const" else "size"]))
            case "param":
                return _Value(weight=node)
            case "get":
                return values[0][node.attrs["index"]]
            case "fused":
                body = node.attrs["body"]
                label = body.name + (f"  {node.loc.scope}" if node.loc else "")
                kernel = _Frame(label, kernel=True)
                frame.inner[f"kernel {len(frame.inner)}"] = kernel
                results = self.body(body, values, kernel, scope)
                return results if len(results) > 1 else results[0]
        if node.op.kind == "view" and values[0].weight is not None:
            return _Value(weight=values[0].weight, views=(*values[0].views, op))
        frame.ops += 1
        tip = f"{names[node]} = {op} : {node.type}" + (f"  {place(node.loc)}" if node.loc else "")
        colour = COLOURS.get(node.op.kind, "#ffffff")
        box = self.box(frame, _label(node, values), f'fillcolor="{colour}"', tip)
        deepest = max((value.depth for value in values), default=0)
        for value, x in zip(values, node.inputs, strict=True):
            # the longest chain of ops stands straight; weights and residual edges go beside it
            self.edge(value, x, box, frame, pull=50 if value.depth == deepest else 1)
        return _Value(box, deepest + 1)


def _descend(frame: _Frame, path: tuple[str, ...]) -> _Frame:
    for part in path:
        frame = frame.inner.setdefault(part, _Frame(part))
    return frame


def _label(node: Node, values: list[_Value]) -> str:
    """`mul(_, 0.5)`, and below it the attributes that fit."""
    head = node.op.name
    if any(value.const for value in values):
        head += f"({', '.join(value.const or '_' for value in values)})"
    shown = [
        f"{name}={value_text(value)}"
        for name, value in node.attrs.items()
        if name not in HIDDEN and value is not None and value is not False
        if not (isinstance(value, tuple) and all(item == 1 for item in value))  # steps
    ]
    line = ", ".join(shown)
    line = line if len(line) <= 36 else line[:33] + "..."
    return f"{head}\n{line}" if line else head
