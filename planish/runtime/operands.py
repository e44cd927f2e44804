"""How a matmul reads its operands: where they lie, as words, or from panels packed for it.

Weights are packed when the program is compiled. What is computed is packed by a step of its own,
once for all matmuls that read it the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from planish.ir import types as t
from planish.ir.dims import product
from planish.ir.graph import Graph
from planish.ir.groups import classify, content_of, recomputed
from planish.ir.loop_matrix import SIDE
from planish.ir.node import Node
from planish.ir.ops.leaf import input_
from planish.ir.ops.linalg import sums_in, swap_last
from planish.ir.text import graph_text
from planish.ir.types import TensorType
from planish.runtime.bitmaps import kept_rows
from planish.runtime.draft import Draft, Packed, label, source
from planish.runtime.kernels.any_size import General, of_matrix
from planish.runtime.kernels.blocks import may_skip, quickest_width
from planish.runtime.kernels.gemm import (
    Roles,
    choose_tile,
    takes_matrix,
)
from planish.runtime.kernels.nest import Lowered
from planish.runtime.kernels.pack import PACK, is_direct, pack_kernel
from planish.runtime.kernels.pointwise import map_kernel
from planish.runtime.kernels.rows import row_kernel
from planish.runtime.kernels.scaled import is_nibbles, tile_of
from planish.runtime.kernels.sparse import COLUMNS, bitmap_of, why_zeros
from planish.runtime.kernels.strides import is_turned, strides, whole
from planish.runtime.kernels.tiles import WIDTHS
from planish.runtime.kernels.words import (
    STARTS,
    as_words,
    column_words,
    dot_of,
    padded,
    seen_through,
    takes_words,
    words_in,
)
from planish.runtime.packing import Given, computed
from planish.runtime.slots import Made, Slot


@dataclass(frozen=True)
class Form:
    """How a matmul reads its B: "direct", as it lies, or as what the method of `Packing` of that
    name makes, `nr` columns wide; and a note for people."""

    kind: str
    nr: int
    note: str = ""


@dataclass
class Operands(Draft):
    """Adds the steps that operands of matmuls need."""

    packed: dict[tuple, Slot] = field(default_factory=dict)
    packed_weights: dict[Made, tuple[Slot, ...]] = field(default_factory=dict)
    made: dict[tuple, Lowered] = field(default_factory=dict)  # equal bodies are lowered once
    contents: dict[tuple, tuple] = field(default_factory=dict)  # by inputs and outputs of bodies
    # of bodies that layers share: see `sides_of`
    apart: dict[Graph, tuple[Graph, Node, tuple[Graph, ...]]] = field(default_factory=dict)
    # what products recompute -> how, and of what; until a step has made it
    waits: dict[Node, tuple[Graph, tuple[Node, ...]]] = field(default_factory=dict)

    def once(self, body: Graph, make: Callable[[], Lowered], *rest: object) -> Lowered:
        """The kernel of a body; that of an equal one, where there was one."""
        same = (body.inputs, body.outputs)
        if same not in self.contents:
            self.contents[same] = content_of(body)
        key = (self.target, self.contents[same], *rest)
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def general(
        self, body: Graph, found: General | None, write: Callable[[Graph], Lowered], *rest: object
    ) -> Lowered:
        """The kernel of a body, or of all that are like it but for sizes, where that was found."""
        if found is None:
            return write(body)
        return found.lowered(self.once(found.body, lambda: write(found.body), *rest))

    def slot(self, node: Node) -> Slot:
        """Where the value of `node` lies; one that waits is computed now."""
        if node in self.waits:
            self.first(*self.waits.pop(node), node)
        return super().slot(node)

    def first(self, before: Graph, operands: tuple[Node, ...], leaf: Node) -> None:
        """Enter a step that makes what a product reads as `leaf`."""
        (made,), name, group = before.outputs, before.name, classify(before)
        text = f"{made.loc.scope}.{name}" if made.loc is not None and made.loc.scope else name
        slot = self.temp(made.type, text)
        if group.kind == "row":
            write = partial(row_kernel, before, group, before.name, self.target)
        else:
            write = partial(map_kernel, before, before.name, self.target)
        self.enter(self.once(before, write), operands, (slot,), text)
        self.slots[leaf, 0] = slot

    def sides_apart(
        self, body: Graph, operands: tuple[Node, ...], anchor: Node
    ) -> tuple[Graph, tuple[Node, ...], Node]:
        """A product that reads what it recomputes of its matrices as more inputs. Those wait: who
        packs them computes them, or a step does where they are read as they lie."""
        if body not in self.apart:
            self.apart[body] = sides_of(body, anchor)
        body, anchor, sides = self.apart[body]
        leaves = tuple(input_(name="operand", type=x.outputs[0].type) for x in sides)
        self.waits.update(zip(leaves, ((x, operands) for x in sides), strict=True))
        return body, (*operands, *leaves), anchor

    def composed(
        self, name: str, body: Graph, operands: tuple[Node, ...], x: Node
    ) -> tuple[Graph, tuple[Node, ...]]:
        """A body that makes `x` of what a product reads, and computes what waits."""
        pairs = [*zip(body.inputs, operands, strict=True)]
        values = {a: self.waits[b][0].outputs[0] for a, b in pairs if b in self.waits}
        kept = [(a, b) for a, b in pairs if a not in values]
        found = Graph(name, tuple(a for a, _ in kept), (x,)).map(partial(standing, values))
        return found, tuple(b for _, b in kept)

    def rows_apart(
        self, body: Graph, operands: tuple[Node, ...], prologue: Node
    ) -> tuple[Graph, tuple[Node, ...], Graph | None]:
        """A body that reads the rows of its prologue, its last input; and what is to make those,
        where they are floats of 32 bits: a step has made others."""
        leaf = input_(name="rows", type=prologue.type)
        before = Graph(body.name.split("_matmul")[0], body.inputs, (prologue,))
        body = replace(body, inputs=(*body.inputs, leaf))
        body, operands = body.map(lambda x: leaf if x is prologue else x), (*operands, leaf)
        if prologue.dtype != t.f32:
            return self.rows_first(before, body, operands), operands, None
        return body, operands, before

    def rows_first(self, before: Graph, body: Graph, operands: tuple[Node, ...]) -> Graph:
        """Enter a step that makes all rows of a prologue; returns what is left, named so."""
        self.first(before, operands[:-1], operands[-1])
        return replace(body, name=body.name.removeprefix(f"{before.name}_"))

    def of_words(
        self, node: Node, body: Graph, operands: tuple[Node, ...], anchor: Node, roles: Roles
    ) -> tuple[Graph, tuple[Node, ...], Node, Roles]:
        """A matmul of bf16 or i8 as one of words; rows that are no words in memory are copied.

        Of an A that is the transpose of a stored matrix, rows of that become one of words.
        """
        empty = anchor.inputs[0].shape[-1] == 0  # sums over nothing
        if empty or not takes_words(anchor):
            return body, operands, anchor, roles
        words, leaf, operand = self.row_words(node, body, operands, padded(roles.a, -1))
        b = column_words(padded(roles.b, -2))
        sides = (swap_last(b), swap_last(words)) if roles.swapped else (words, b)
        body, dot = with_sides(body, anchor, sides, leaf)
        weights = bool(self.weights_of(body, operands, b))
        roles = replace(roles, a=words, b=b, dot=dot_of(anchor, self.target, weights))
        return body, (*operands, operand), dot, roles

    def row_words(
        self, node: Node, body: Graph, operands: tuple[Node, ...], a: Node
    ) -> tuple[Node, Node, Node]:
        """The rows of `a` as words, the leaf that those are read from, and the operand it is."""
        read = words_in(a)
        if read is not None:
            leaf = as_words(read)
            return seen_through(a, leaf), leaf, operands[body.inputs.index(read)]
        if a.type.rank == 2 and is_turned(body, a):
            operand = self.rows_now(node, body, operands, column_words(swap_last(a)))
            leaf = input_(name="words", type=operand.type)
            return swap_last(leaf), leaf, operand
        operand = self.rows_now(node, body, operands, a)
        leaf = as_words(operand)
        return leaf, leaf, operand

    def in_groups(
        self, node: Node, body: Graph, operands: tuple[Node, ...], anchor: Node
    ) -> tuple[Graph, tuple[Node, ...], Node, Slot | None]:
        """A `scaled_matmul` by weights of 4 bits, with their panels, its bytes of A as words."""
        slot = self.nibbles(body, operands, anchor)
        a, b, scale = anchor.inputs
        if slot is None or a.dtype != t.i8:
            return body, operands, anchor, slot
        words, leaf, operand = self.row_words(node, body, operands, a)
        body, dot = with_sides(body, anchor, (words, b, scale), leaf)
        return body, (*operands, operand), dot, slot

    def nibbles(self, body: Graph, operands: tuple[Node, ...], anchor: Node) -> Slot | None:
        """The panels of weights of 4 bits and their scales; None where those are no weights."""
        given = [self.weights_of(body, operands, x) for x in anchor.inputs[1:]]
        if any(len(x) != 1 for x in given) or not is_nibbles(anchor):
            return None
        rows, lanes = product(anchor.shape[:-1]), self.target.lanes(t.f32)
        _, nr = tile_of(self.target, rows, anchor.shape[-1], lanes)
        names = tuple(name for x in given for name in x.values())
        leaves = tuple(leaf for x in given for leaf in x)
        arrays = dict(zip(leaves, (self.graph.params[x] for x in names), strict=True))
        made = Made(names, "nibbles", view_text(anchor.inputs[1:], leaves), nr)
        return self.packed_param(made, anchor.inputs[1:], arrays, f"{names[0]} (packed)")[0]

    def rows_now(self, node: Node, body: Graph, operands: tuple[Node, ...], a: Node) -> Node:
        """A step that copies the rows of a matmul's A, as an operand to read."""
        key = (*origin(body, operands, a), "rows")
        if key not in self.packed:
            slot = self.packed[key] = self.temp(a.type, f"{label(node)} rows")
            rows, reads = self.composed("rows", body, operands, a)
            made = self.once(rows, lambda: map_kernel(rows, "rows", self.target), "rows")
            self.enter(made, reads, (slot,), f"{label(node)} rows")
        operand = input_(name="rows", type=a.type)
        self.slots[operand, 0] = self.packed[key]
        return operand

    def panels_for(
        self, node: Node, body: Graph, operands: tuple[Node, ...], roles: Roles, anchor: Node
    ) -> tuple[Packed, Form]:
        """The slots of A's strips, None where it is read as it lies, and of B's panels or their
        parts, none where that is; and how B is read."""
        dtype = sums_in(anchor.dtype)
        mr, nr = choose_tile(body, roles, self.target, dtype)
        panels: tuple[Slot, ...] = ()
        form = Form("direct", nr)
        if names := self.weights_of(body, operands, roles.b):
            given = {leaf: self.graph.params[name] for leaf, name in names.items()}
            form = self.form(body, roles, anchor, given, nr)
            found = tuple(names.values())
            b = whole(roles.b) if form.kind == "panels" else roles.b
            view = view_text((b,), tuple(given))
            before = roles.dot if roles.dot in STARTS else ""
            made = Made(found, form.kind, view, form.nr, before)
            text = f"{found[0]} (packed{form.note})"
            panels = self.packed_param(made, (b,), given, text)
        elif not is_direct(body, roles, nr):
            form = Form("panels", nr)
            panels = (self.packed_now(node, body, operands, whole(roles.b), nr),)
        if not roles.strips:
            return (None, *panels), form
        if takes_matrix(body, roles, self.target, dtype):
            strips = self.packed_now(node, body, operands, roles.a, SIDE, flat=True)
        else:
            strips = self.packed_now(node, body, operands, swap_last(roles.a), mr)
        return (strips, *panels), form

    def form(self, body: Graph, roles: Roles, anchor: Node, given: Given, nr: int) -> Form:
        """How the panels of a weight are kept: a bitmap loses its zeros if kernels gain by it."""
        if (bitmap := bitmap_of(roles.b)) is None:
            return Form("panels", nr)
        if may_skip(body, roles, anchor, self.target):
            matrix, lanes = computed(roles.b, given), self.target.lanes(sums_in(anchor.dtype))
            kept = {v: kept_rows(matrix, v * lanes) for v in WIDTHS}
            rows = product(roles.product.rows)
            if v := quickest_width(self.target, rows, kept, roles.dot == "dpflip"):
                return Form("blocks", v * lanes, " without blocks of zeros")
        weights = sum(x.nbytes for x in self.graph.params.values())
        if why := why_zeros(body, roles, anchor, bitmap, self.target, weights):
            return Form("panels", nr, f" with zeros: {why}")
        return Form("bitmap", COLUMNS, " without zeros")

    def packed_param(
        self, made: Made, view: tuple[Node, ...], given: Given, text: str
    ) -> tuple[Slot, ...]:
        """The panels of a B that is a weight, packed here and now."""
        if made not in self.packed_weights:
            self.packed_weights[made] = tuple(
                self.constant(x, TensorType(t.dtype(x.dtype), x.shape), text, made._replace(part=i))
                for i, x in enumerate(self.packing.packed(made, view, given))
            )
        return self.packed_weights[made]

    def weights_of(self, body: Graph, operands: tuple[Node, ...], b: Node) -> dict[Node, str]:
        """The leaves that `b` is made of with their names, where all are weights; else nothing.

        There may be one, or the three of a bitmap.
        """
        reads = [x for x in Graph("b", (), (b,)).nodes if x.op.kind == "leaf"]
        if not all(x in body.inputs for x in reads):
            return {}
        given = [operands[body.inputs.index(x)] for x in reads]
        if not reads or any(x.op.name != "param" for x in given):
            return {}
        return {x: y.attrs["name"] for x, y in zip(reads, given, strict=True)}

    def pack_kernel(self, body: Graph, seen: Graph, nr: int, flat: bool) -> Lowered:
        """The kernel that packs what a body makes: views of what is `seen`, if it is stored."""
        rows = strides(seen, *seen.outputs)[-1] == {(): 1}
        found = of_matrix(body, body.outputs[0], (PACK, nr))
        write = partial(pack_kernel, rows=rows, nr=nr, name="pack", flat=flat)
        return self.general(body, found, write, "pack", nr, flat, rows)

    def packed_now(
        self, node: Node, body: Graph, operands: tuple[Node, ...], b: Node, nr: int,
        flat: bool = False,
    ) -> Slot:  # fmt: skip
        """A step that packs a computed B into panels."""
        key = (*origin(body, operands, b), nr, flat)
        if key not in self.packed:
            pack, reads = self.composed("pack", body, operands, b)
            write = partial(self.pack_kernel, pack, replace(body, outputs=(b,)), nr, flat)
            made = self.once(pack, write, "pack", nr, flat)
            *batch, k, n = b.shape
            type_ = TensorType(b.dtype, (product(batch) * k * (n + nr - 1),))
            slot = self.temp(type_, f"{label(node)} panels")
            self.enter(made, reads, (slot,), f"{label(node)} pack")
            self.packed[key] = slot
        return self.packed[key]


def sides_of(body: Graph, anchor: Node) -> tuple[Graph, Node, tuple[Graph, ...]]:
    """A product that reads what it recomputes of its matrices as more inputs; and those."""
    found, given = [], body.inputs
    for k, side in enumerate(anchor.inputs):
        if (value := recomputed(side)) is not None:
            leaf = input_(name="operand", type=value.type)
            seen = Graph("side", (), (side,)).map(partial(standing, {value: leaf})).outputs
            sides = (*anchor.inputs[:k], *seen, *anchor.inputs[k + 1 :])
            body, anchor = with_sides(body, anchor, sides, leaf)
            found.append(Graph("operand", given, (value,)))
    return body, anchor, tuple(found)


def standing(new: Mapping[Node, Node], x: Node) -> Node:
    """What stands for `x`."""
    return new.get(x, x)


def view_text(found: tuple[Node, ...], leaves: tuple[Node, ...]) -> str:
    """What is made of some arrays, as the text of a graph: equal ones are equal values."""
    new = {leaf: input_(name=f"x{i}", type=leaf.type) for i, leaf in enumerate(leaves)}
    inputs = tuple(new.values())
    for node in Graph("view", leaves, found).nodes[len(leaves) :]:
        new[node] = node.with_inputs(tuple(new[x] for x in node.inputs))
    return graph_text(Graph("view", inputs, tuple(new[x] for x in found)))


def with_sides(
    body: Graph, anchor: Node, sides: tuple[Node, ...], leaf: Node
) -> tuple[Graph, Node]:
    """A body whose anchor has other operands, made of one more input; and the new anchor."""
    dot = Node(anchor.op, sides, anchor.attrs, anchor.type, anchor.loc)
    body = replace(body, inputs=(*body.inputs, leaf))
    return body.map(lambda x: dot if x is anchor else x), dot


def origin(body: Graph, operands: tuple[Node, ...], x: Node) -> tuple:
    """What an operand within a body is made of, and how: equal ones are equal values."""
    nodes = Graph("x", (), (x,)).nodes
    reads = tuple(source(operands[body.inputs.index(n)]) for n in nodes if n in body.inputs)
    return reads, tuple((n.op.name, n.attrs) for n in nodes if n.inputs)
