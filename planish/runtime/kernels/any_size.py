"""Bodies whose sizes are names: kernels that differ in sizes only become one, which is told them.

    update(p1: f32[1152, 384], p2: f32[])
    update(p1: f32[384, 1536], p2: f32[])

both become

    update(x0: f32[rows, 16*columns], x1: f32[])

with rows 1152, columns 24, or rows 384, columns 96. A size is written as a multiple of what its
kernel takes at once, so that nothing is left over in one kernel, and something may be in another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from planish.ir.dims import AnySize, Dim, Shape, is_multiple, product
from planish.ir.graph import Graph
from planish.ir.groups import Group
from planish.ir.node import Attrs, Node
from planish.ir.ops.leaf import input_
from planish.ir.ops.linalg import swap_last
from planish.ir.text import used_symbols
from planish.runtime.kernels.nest import Lowered
from planish.runtime.kernels.pointwise import lanes_of
from planish.runtime.kernels.reduce import BLOCK
from planish.runtime.kernels.strides import strides
from planish.runtime.kernels.words import before_words, column_words, in_word
from planish.runtime.sizes import Sizes
from planish.runtime.target import Target

NAMES = ("rows", "columns")


class General(NamedTuple):
    """A body with names for sizes, what those are, and which inputs of the other body it reads."""

    body: Graph
    sizes: Sizes
    reads: tuple[int, ...]

    def lowered(self, made: Lowered) -> Lowered:
        """The kernel of this body as that of the other one."""
        args = [("in", self.reads[k]) if kind == "in" else (kind, k) for kind, k in made.args]
        return replace(made, args=tuple(args), sizes=self.sizes)


def of_rows(body: Graph, shape: Shape, units: tuple[int, int]) -> General | None:
    """A body of what is elementwise in `shape`, and of sums of that, of which all axes but the last
    become one. None where that is another kernel."""
    if not all(isinstance(n, int) and n for n in shape) or product(shape) == 1:
        return None
    if used_symbols(body):  # whose names may be ours
        return None
    sizes = (product(shape[:-1]), shape[-1])
    names, known = _named(sizes, units)
    new: dict[Node, Node] = {}
    for node in Graph(body.name, (), body.outputs).nodes:
        flat = _flat(node.shape, shape, names)
        axes = _axes(node, len(shape))
        if flat is None or axes is None:
            return None
        if node in body.inputs:
            new[node] = input_(name=f"x{len(new)}", type=node.type.with_shape(flat))
        else:
            attrs = Attrs({**node.attrs, "axes": axes}) if axes else node.attrs
            changed = Node(node.op, node.inputs, attrs, node.type, node.loc)
            new[node] = changed.with_inputs(tuple(new[x] for x in node.inputs))
    return _general(body, tuple(new[x] for x in body.outputs), new, known)


def of_maps(body: Graph, target: Target) -> General | None:
    """A body of what is elementwise."""
    return of_rows(body, body.outputs[0].shape, (1, lanes_of(body, target)))


def of_sums(body: Graph, group: Group, target: Target, unit: int = 1) -> General | None:
    """A body of sums over rows, which come in blocks of so many; columns come in whole ones."""
    first = group.reductions[0].inputs[0]
    (*rows, columns), block = first.shape, BLOCK * target.lanes(first.dtype)
    if not is_multiple(product(rows), unit) or not is_multiple(columns, block):
        return None
    return of_rows(body, first.shape, (unit, block))


def of_matrix(body: Graph, b: Node, units: tuple[int, int]) -> General | None:
    """A body of which `b` is all of a stored matrix, or of its transpose, or casts of that, or the
    words of those; None where it is not."""
    matrix = before_words(b)
    whole = Graph("b", body.inputs, (b if matrix is None else matrix,))
    (plain,) = whole.map(lambda x: x.inputs[0] if x.op.name == "cast" else x).outputs
    reads = [x for x in Graph("b", (), (plain,)).nodes if x in body.inputs]
    if plain.type.rank != 2 or len(reads) != 1 or reads[0].type.size != plain.type.size:
        return None
    if not all(isinstance(n, int) and n > 1 for n in plain.shape):
        return None
    (k, n), down, along = plain.shape, *strides(body, plain)
    turned = (down, along) == ({(): 1}, {(): k})
    if not turned and (down, along) != ({(): n}, {(): 1}):
        return None
    deep, wide = units if matrix is None else (units[0] * in_word(matrix.dtype), units[1])
    if matrix is not None and k % deep:
        return None
    (rows, columns), known = _named((k, n), (deep, wide))
    stored = (columns, rows) if turned else (rows, columns)
    leaf = input_(name="x0", type=reads[0].type.with_shape(stored))
    found = swap_last(leaf) if turned else leaf
    for cast in (x for x in whole.nodes if x.op.name == "cast"):
        found = cast.with_inputs((found,))
    return _general(
        body, (found if matrix is None else column_words(found),), {reads[0]: leaf}, known
    )


def _named(sizes: Shape, units: tuple[int, int]) -> tuple[Shape, Sizes]:
    """Names for sizes, each times its unit where that divides it, and what the names are."""
    shape: list[AnySize] = []
    known = []
    for size, unit, name in zip(sizes, units, NAMES, strict=True):
        unit = unit if size % unit == 0 else 1  # type: ignore[operator]
        shape.append(size if size == 1 else Dim(name) * unit)
        known.append((name, size // unit))
    return tuple(shape), tuple(known)  # type: ignore[arg-type]


def _flat(shape: Shape, whole: Shape, names: Shape) -> Shape | None:
    """A shape that broadcasts to `whole`, by names; None where it has some of its rows."""
    *rows, last = (*(1,) * (len(whole) - len(shape)), *shape) or (1,)
    if last not in (1, *whole[-1:]) or not (set(rows) <= {1} or tuple(rows) == whole[:-1]):
        return None
    flat = (1 if set(rows) <= {1} else names[0], 1 if last == 1 else names[1])
    return flat[2 - min(len(shape), 2) :]


def _axes(node: Node, rank: int) -> tuple[int, ...] | None:
    """The axes of a reduction when the first ones are one; () of what is elementwise, None of
    other ops."""
    if node.op.kind != "reduction":
        return () if node.op.kind in ("leaf", "elementwise") else None
    axes, every = node.attrs["axes"], tuple(range(rank))
    if node.inputs[0].type.rank != rank or axes not in (every, every[:-1]):
        return None
    return tuple(range(min(len(axes), 1 + (axes == every))))


def _general(body: Graph, outputs: Iterable[Node], new: dict[Node, Node], sizes: Sizes) -> General:
    """A body that has no input but what it reads."""
    found = Graph(body.name, (), tuple(outputs))
    reads = [k for k, x in enumerate(body.inputs) if x in new and new[x] in found.nodes]
    inputs = tuple(new[body.inputs[k]] for k in reads)
    return General(replace(found, inputs=inputs), sizes, tuple(reads))
