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
FAR = 40  # an edge over more boxes than this is a reference, as in circuit diagrams
LIMIT = 120  # seconds that Graphviz may take
HIDDEN = {"shape", "dtype", "body", "what"}  # the edges show them, or they are for messages

_STYLE = """  bgcolor=white; fontname="Helvetica"; fontsize=14; labelloc=t; labeljust=l
  nodesep=0.25; ranksep=0.35
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
            raise UnsupportedError(
                f"after= is a pass or a pipeline, such as pl.PIPELINES['O2'], not {after!r}"
            )
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
    """The frames of a scope, a layer and what is in it: "h.0.attn.proj" is in "attn" in "h.0"."""
    parts: list[str] = []
    for part in scope.split(".") if scope else ():
        if parts and part.isdigit():
            parts[-1] += f".{part}"
        else:
            parts.append(part)
    return tuple(parts[:2])


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
    name: str = ""  # what a reference to it says
    const: str = ""
    weight: Node | None = None
    views: tuple[str, ...] = ()


class _Drawing:
    """One picture in the making."""

    def __init__(self) -> None:
        self.root = _Frame()
        self.edges: list[str] = []
        self.boxes = 0
        self.notes: dict[tuple[Any, int], str] = {}
        self.layers, self.sublayers = _Parts(), _Parts()

    def text(self, graph: Graph, title: str) -> str:
        """The whole picture."""
        given: list[_Value] = []
        donated = dict(graph.aliases)
        for i, node in enumerate(graph.inputs):
            more = f"\ndonated to output {donated[i]}" if i in donated else ""
            label = f"%{node.attrs['name']}\n{node.type}{more}"
            box = self.box(self.root, label, 'fillcolor="#ffffff", penwidth=1.6')
            given.append(_Value(box, name=f"%{node.attrs['name']}"))
        results = self.body(graph, given, self.root, ())
        keys = graph.treedef or tuple(f"output {i}" for i in range(len(results)))
        for key, node, value in zip(keys, graph.outputs, results, strict=False):
            what = f"\n{value.const}" if value.const else ""
            box = self.box(
                self.root, f"{key}\n{node.type}{what}", 'shape=box, style="filled", penwidth=1.6'
            )
            self.edge(value, node, box, self.root, value.depth)
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

    def edge(self, value: _Value, node: Node, to: str, frame: _Frame, deepest: int) -> None:
        """An edge from an operand, with its shape; `deepest` is the depth of the reader's operands.

        The longest chain of ops stands straight; residual edges go beside it. Weights and
        references stand beside their reader, one in each frame.
        """
        if value.const:
            return
        label = ", ".join(map(str, node.shape))
        label = f"{'' if str(node.dtype) == 'f32' else node.dtype}[{label}]"
        if value.weight is not None:
            name = str(value.weight.attrs["name"])
            short = ".".join(name.split(".")[-2:])  # the frame says the rest
            short = short if len(short) <= 40 else "..." + short[-37:]
            start = self.note(value.weight, f"{short}\n{value.weight.type}", "note", name, frame)
            label, style = " ".join(value.views), "minlen=0"
        elif deepest - value.depth > FAR:
            start = self.note(value.box, value.name, "plaintext", "", frame)
            style = "weight=0, style=dashed"
        else:
            start, style = value.box, f"weight={50 if value.depth == deepest else 1}"
        self.edges.append(f"  {start} -> {to} [label={quoted(label)}, {style}]")

    def note(self, key: Any, label: str, shape: str, tip: str, frame: _Frame) -> str:
        """The note of a weight or the reference to a box, one in each frame."""
        if (key, id(frame)) not in self.notes:
            style = f'shape={shape}, style=filled, fillcolor="#ffffff", fontsize=8, color="#b5bac2"'
            self.notes[key, id(frame)] = self.box(frame, label, style, tip)
        return self.notes[key, id(frame)]

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
            inside = frame
            if not frame.kernel:
                inside = self.inside(node, frames[node])
            found[node] = self.node(node, values, inside, frames[node], names)
        return [found[x] for x in graph.outputs]

    def inside(self, node: Node, path: tuple[str, ...]) -> _Frame:
        """The frame of a node with this scope."""
        outer, inner = (*path, "", "")[:2]
        layer = self.layers.place(node, outer)
        # the newline keeps apart what is called alike in two layers; labels start behind it
        both = self.sublayers.place(node, f"{layer}\n{inner}" if inner else "")
        frame = self.root
        for name in (layer, both):
            if name:
                frame = frame.inner.setdefault(name, _Frame(name.partition("\n")[2] or name))
        return frame

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
            self.edge(value, x, box, frame, deepest)
        return _Value(box, deepest + 1, " ".join([".".join(scope), names[node], op]).strip())


class _Parts:
    """Splits frames into parts such that the parts depend on each other without circles.

    The forward and the backward ops of a layer have one scope; drawn in one frame, every layer
    would stand both above and below the next. Sets of parts are bits of an int.
    """

    def __init__(self) -> None:
        self.bits: dict[str, int] = {}
        self.reads: dict[int, int] = {}  # part -> the parts that it reads from
        self.home: dict[Node, int] = {}  # the part a node is in, 0 for none
        self.behind: dict[Node, int] = {}  # for a node in no part: the parts it reads from

    def place(self, node: Node, name: str) -> str:
        """The first part of the frame called `name` that the node can be in."""
        part, number = name, 1
        while True:
            home = self.bits.setdefault(part, 1 << len(self.bits)) if name else 0
            sources = 0
            for x in node.inputs:
                sources |= (self.home.get(x, 0) & ~home) | self.behind.get(x, 0)
            if not home & self.closure(sources):
                break
            number += 1
            part = f"{name} ({number})"
        self.home[node] = home
        if home:
            self.reads[home] = self.reads.get(home, 0) | sources
        else:
            self.behind[node] = sources
        return part

    def closure(self, parts: int) -> int:
        """These parts and all that they depend on."""
        seen, todo = parts, parts
        while todo:
            part = todo & -todo
            new = self.reads.get(part, 0) & ~seen
            seen |= new
            todo = (todo | new) & ~part
        return seen


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
