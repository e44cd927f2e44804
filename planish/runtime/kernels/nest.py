"""Writing loop nests: loops are opened and closed, values are named where they can be hoisted.

`Nest` keeps the stack of open loops. `let` places a value at the outermost loop on which it
depends, so that what a row shares is computed once a row. `Pull` computes elements of the nodes of
a fused body by composing the ops' `element` functions: that composition is what fusion is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from planish.ir import types as t
from planish.ir.dims import AnySize, Shape, is_multiple
from planish.ir.graph import Graph
from planish.ir.index import divided_by, has_division, linear_index, simplify_index
from planish.ir.loops import (
    Accumulate,
    Buffer,
    Const,
    Expr,
    Fetch,
    For,
    If,
    Kernel,
    Let,
    Load,
    Stmt,
    Store,
    Var,
    as_index,
    scalar,
    size_expr,
    walk,
)
from planish.ir.node import Node
from planish.ir.types import DType, TensorType
from planish.runtime.kernels.tidy import tidy
from planish.runtime.sizes import Sizes

Index = tuple[Expr, ...]

PARTS = 4  # arrays that panels may consist of


@dataclass
class Level:
    """An open block: its statements so far, and the pulled values that it names."""

    body: list[Stmt] = field(default_factory=list)
    memo: dict[tuple, Expr] = field(default_factory=dict)


class Nest:
    """A kernel being written: `loop` opens loops, `let`, `store`, `accumulate` fill them."""

    def __init__(self) -> None:
        self.params: list[Buffer] = []
        self.locals: list[Buffer] = []
        self.writes: list[str] = []
        self.ranges: dict[str, Expr] = {}
        self.levels = [Level()]
        self._level_of: dict[str, int] = {}
        self._lets = 0
        self._simple: dict[int, Expr] = {}  # indices that `simple` has made, by identity
        self.divisions: dict[str, int] = {}  # loop variable -> divisor left in an index

    def param(self, name: str, type: TensorType, shape: Shape | None = None) -> Buffer:
        """A new param buffer."""
        sizes = tuple(size_expr(s) for s in (type.shape if shape is None else shape))
        buffer = Buffer(name, type.dtype, sizes)
        self.params.append(buffer)
        return buffer

    def output(self, name: str, type: TensorType, shape: Shape | None = None) -> Buffer:
        """A new param buffer that the kernel writes."""
        self.writes.append(name)
        return self.param(name, type, shape)

    def local(self, name: str, dtype: DType, *shape: AnySize) -> Buffer:
        """A new buffer private to a thread."""
        buffer = Buffer(name, dtype, tuple(size_expr(s) for s in shape), "local")
        self.locals.append(buffer)
        return buffer

    @contextmanager
    def loop(
        self, name: str, extent: Expr | AnySize, kind: str = "serial", width: int = 1
    ) -> Iterator[Expr]:
        """Open a loop; gives its variable, or 0 where the extent is 1 (no loop is made)."""
        extent = extent if isinstance(extent, Expr) else size_expr(extent)
        if extent == Const(1, t.i64) and kind != "parallel":
            yield Const(0, t.i64)
            return
        self.ranges[name] = extent
        self._level_of[name] = len(self.levels)
        self.levels.append(Level())
        yield Var(name)
        body = tuple(self.levels.pop().body)
        self.emit(For(Var(name), extent, kind, body, width))
        del self.ranges[name]

    @contextmanager
    def when(self, cond: Expr) -> Iterator[None]:
        """Open a block that runs where `cond` holds."""
        self.levels.append(Level())
        yield
        body = tuple(self.levels.pop().body)
        self.emit(If(cond, body))

    def emit(self, stmt: Stmt) -> None:
        """Add a statement to the innermost open block."""
        self.levels[-1].body.append(stmt)

    def let(self, value: Expr, here: bool = False) -> Expr:
        """Name a value in the outermost block that has all it needs (`here`: the innermost)."""
        if isinstance(value, (Const, Var)):
            return value
        level = len(self.levels) - 1 if here or self._reads_written(value) else self.level(value)
        name = f"t{self._lets}"
        self._lets += 1
        self._level_of[name] = level
        var = Var(name, value.type)
        self.levels[level].body.append(Let(var, value))
        return var

    def known(self, key: tuple) -> Expr | None:
        """What an open block has `named` so."""
        blocks = (level.memo for level in reversed(self.levels))
        return next((memo[key] for memo in blocks if key in memo), None)

    def named(self, key: tuple, value: Expr) -> Expr:
        """`let`, and `known` by `key` wherever that is seen."""
        found = self.let(value)
        self.levels[self.level(found) if isinstance(found, Var) else 0].memo[key] = found
        return found

    def level(self, value: Expr) -> int:
        """The innermost loop on whose variable `value` depends."""
        names = (x.name for x in walk((value,)) if isinstance(x, Var))  # type: ignore[arg-type]
        return max((self._level_of.get(name, 0) for name in names), default=0)

    def _reads_written(self, value: Expr) -> bool:
        changing = {*self.writes, *(b.name for b in self.locals)}
        loads = (x for x in walk((value,)) if isinstance(x, Load))  # type: ignore[arg-type]
        return any(x.buffer.name in changing for x in loads)

    def simple(self, index: Expr) -> Expr:
        """An index simplified; what was simplified before is known to be so."""
        if isinstance(index, (Const, Var)) or id(index) in self._simple:
            return index
        found = simplify_index(index, self.ranges)
        self._simple[id(found)] = found
        return found

    def load(self, buffer: Buffer, *index: object) -> Load:
        """An element of a buffer, its index simplified; divisions that stay are recorded."""
        found = tuple(self.simple(as_index(i)) for i in index)
        for i in found:
            self.divisions.update(divided_by(i))
        return Load(buffer, found)

    def store(self, buffer: Buffer, index: Index, value: Expr) -> None:
        """Write one element."""
        self.emit(Store(buffer, tuple(map(self.simple, index)), value))

    def accumulate(self, buffer: Buffer, index: Index, op: str, value: Expr) -> None:
        """Combine into one element."""
        self.emit(Accumulate(buffer, index, op, value))

    def fetch(self, buffer: Buffer, *index: object) -> None:
        """Ask for the line of an element."""
        self.emit(Fetch(buffer, self.load(buffer, *index).index))

    def kernel(self, name: str) -> Kernel:
        """What was written, tidied."""
        body = tuple(self.levels[0].body)
        return tidy(Kernel(name, tuple(self.params), tuple(self.writes), tuple(self.locals), body))


def unflatten(position: Expr, shape: Shape) -> Index:
    """The index tuple at a row-major `position` in `shape`."""
    index: list[Expr] = []
    for axis, size in enumerate(shape):
        inner: AnySize = 1
        for s in shape[axis + 1 :]:
            inner = inner * s
        value = position // size_expr(inner)
        whole = all(s == 1 for s in shape[:axis])
        index.append(as_index(0) if size == 1 else value if whole else value % size_expr(size))
    return tuple(index)


class Pull:
    """Elements of a body's nodes. `bound` maps a node to how its elements are had."""

    def __init__(self, nest: Nest, body: Graph):
        self.nest = nest
        self.body = body
        self.buffers: dict[Node, Buffer] = {}
        self.flat: dict[Node, Buffer] = {}
        self.bound: dict[Node, Callable[[Index], Expr]] = {}
        self.arguments: list[int] = []  # for each param made, the body input that it reads

    def declare(self) -> None:
        """Make a param for every input of the body."""
        for position, node in enumerate(self.body.inputs):
            self.buffers[node] = self.nest.param(f"p{position}", node.type)
            self.arguments.append(position)

    def give(self, node: Node, value: Expr) -> None:
        """Say that every element of `node` is `value`."""
        self.bound[node] = lambda _index: value

    def __call__(self, node: Node, index: Index) -> Expr:
        """The element of `node` at `index`."""
        index = tuple(map(self.nest.simple, index))
        if node in self.bound:
            return self.bound[node](index)
        if node in self.buffers:
            return self._load(node, index)
        if (found := self.nest.known((node, index))) is not None:
            return found
        reads = [_reader(self, x) for x in node.inputs]
        types = [x.type for x in node.inputs]
        value = node.op.element(index, reads, types, node.type, **node.attrs)
        if node.op.kind == "view":
            return value
        return self.nest.named((node, index), value)

    def ahead(self, nodes: tuple[Node, ...], index: Index, shape: Shape) -> None:
        """Compute `nodes` in order where they broadcast to `index`: keeps recursion shallow."""
        for node in nodes:
            if node.op.kind in ("elementwise", "random") and _broadcasts(node.shape, shape):
                kept = index[len(index) - len(node.shape) :]
                zero = as_index(0)
                self(
                    node,
                    tuple(zero if s == 1 else i for i, s in zip(kept, node.shape, strict=True)),
                )

    def _load(self, node: Node, index: Index) -> Expr:
        """A load from an input; through a flat view of it where only the whole index is simple."""
        if not any(has_division(i) for i in index):
            return self.nest.load(self.buffers[node], *index)
        whole = linear_index(index, node.shape, self.nest.ranges)
        if node not in self.flat:
            position = self.body.inputs.index(node)
            name = f"p{position}_flat"
            self.flat[node] = self.nest.param(name, node.type, (node.type.size,))
            self.arguments.append(position)
        return self.nest.load(self.flat[node], whole)


def _reader(pull: Pull, node: Node) -> Callable[[Index], Expr]:
    return lambda index: pull(node, index)


def _broadcasts(shape: Shape, to: Shape) -> bool:
    kept = to[len(to) - len(shape) :]
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(shape, kept, strict=True))


@dataclass(frozen=True)
class Lowered:
    """A kernel, what its params are, ("in", i) for an operand, ("out", j) for a result, and what
    names of sizes mean where it serves several."""

    kernel: Kernel
    args: tuple[tuple[str, int], ...]
    sizes: Sizes = ()


def lowered(nest: Nest, pull: Pull, name: str) -> Lowered:
    """Close a nest. Params are "out0", "out1" ... for results, "strips" for a packed A, "packed" or
    "packed0", "packed1" ... for B, else reads."""
    places: dict[str, tuple[str, int]] = {"packed": ("packed", 1), "strips": ("packed", 0)}
    places.update({f"packed{k}": ("packed", 1 + k) for k in range(PARTS)})
    places.update({out: ("out", k) for k, out in enumerate(nest.writes)})
    reads = [b.name for b in nest.params if b.name not in places]
    places.update({n: ("in", i) for n, i in zip(reads, pull.arguments, strict=True)})
    kernel = nest.kernel(name)
    return Lowered(kernel, tuple(places[b.name] for b in kernel.params))


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two sizes."""
    return scalar("min", a, b)


def blocks(size: AnySize, of: int) -> Expr:
    """How many blocks `of` so many elements there are, the last of which may have fewer."""
    if is_multiple(size, of):
        return size_expr(size // of)
    return (size_expr(size) + (of - 1)) // of
