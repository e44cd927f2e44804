"""Matrix multiplication: C[m, n] = epilogue(sum over k of A[m, k] * B[k, n]).

A register tile of MR rows by NR columns stays in registers over the whole of k; each step loads NR
elements of B as vectors and broadcasts MR elements of A, which may lie anywhere. B is read as rows
of NR contiguous elements: either B as it is, or *panels* [N / NR, K, NR] with zeros at the end,
packed when the program is compiled (weights) or by a kernel of its own. A large transposed A, of
which a cache line has few elements for a tile, is packed likewise into *strips* [M / MR, K, MR],
panels of its transpose; for a matrix unit, into rows. The tile then goes through a small scratch
tile to the epilogue, where row and column tails are cut; the sum over k runs in order, so a row's
bits do not depend on its place.

Operands of bf16 and i8 come as words, two or four steps of k in each: see `words`. A matrix unit,
where there is one, takes tiles of those of bf16. Processors that multiply unsigned by signed bytes
get an A with 128 added to each; what that adds to the sums, 128 times the sum of a column of B, is
taken away beforehand: sums start with the first row of a panel, which is made for that. So is what
is missing where pairs are added in 16 bits: see `STARTS`.

Leading axes of A beyond B's batch are rows: x[B, T, K] @ w[K, N] has M = B * T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import gcd

from planish.ir import types as t
from planish.ir.dims import AnySize, Shape, product
from planish.ir.graph import Graph
from planish.ir.loop_matrix import SIDE, matrix_step
from planish.ir.loops import Buffer, Const, Expr, as_index, bitcast, cast, scalar, size_expr
from planish.ir.node import OPS, Node
from planish.ir.ops.base import broadcast_shapes
from planish.ir.ops.linalg import sums_in, swap_last
from planish.ir.types import DType, TensorType
from planish.runtime.kernels.nest import Index, Nest, Pull, minimum, unflatten
from planish.runtime.kernels.strides import is_turned, strides, whole
from planish.runtime.kernels.tiles import HIGHEST, WIDTHS, quickest
from planish.runtime.kernels.updates import write_runs
from planish.runtime.kernels.walk import Walk, fetch_late
from planish.runtime.kernels.words import STARTS, row_starts
from planish.runtime.target import Target

STRIPS = 1 << 17  # bytes: of a smaller A that is transposed the L2 cache keeps what is near
OFTEN = 64  # columns of B; packing A costs as much time as some 15
SWAPPED = 512  # steps of k, at least: a swapped product writes its columns, an element to a line
UNSIGNED = 0x80808080  # the sign bits of four bytes: each becomes 128 more, unsigned
NARROW = 2  # vectors of a panel: with fewer, loads take longer than what they are for
SPLIT_K = 64  # a divisor of k up to this splits its loop, so that merged heads need no division

Along = Callable[[Expr], Expr]  # a row of A: its element at k


@dataclass(frozen=True)
class Product:
    """The sizes of a matmul: batch axes, rows (several axes taken as one), columns, depth."""

    batch: Shape
    rows: Shape
    columns: AnySize
    depth: AnySize

    @staticmethod
    def of(a: TensorType, b: TensorType, out: TensorType) -> Product:
        """With a matrix B all leading axes are rows; otherwise they are batch axes."""
        split = 0 if b.rank == 2 else out.rank - 2
        return Product(out.shape[:split], out.shape[split:-1], out.shape[-1], a.shape[-1])


@dataclass(frozen=True)
class Roles:
    """Which operand is A and which is B: C = A @ B, or C^T = A @ B where `swapped`."""

    a: Node
    b: Node
    swapped: bool = False
    dot: str | None = None  # the scalar that multiplies words
    strips: bool = False  # A is packed, too
    own: int = 0  # columns next to each other that one thread reads of a token: panels have no more

    @staticmethod
    def of(body: Graph, anchor: Node, ready: bool = False) -> Roles:
        """Where A is the transpose of a stored matrix with more columns than B, they swap.

        Neighbours of such an A along k lie a whole row of memory apart. As B it is read in rows, or
        packed; the smaller matrix is easier to bear as A, or to pack into strips. A B that is
        `ready`, packed when the program is compiled, stays what it is.
        """
        a, b = anchor.inputs
        b = narrow(b) if ready else b
        if a.type.rank != 2 or b.type.rank != 2 or not is_turned(body, a):
            return Roles(a, b)
        plain = all(x.shape == anchor.shape for x in body.outputs)
        taller = plain and not ready and all(isinstance(s, int) for s in (*a.shape, *b.shape))
        swapped = taller and a.shape[0] > b.shape[1] and b.shape[0] >= SWAPPED
        if swapped:
            a, b = swap_last(b), swap_last(a)
        return Roles(a, b, swapped, strips=is_turned(body, a) and pays_strips(a, b))

    @property
    def product(self) -> Product:
        """The sizes of the product of A and B."""
        a, b = self.a.type, self.b.type
        batch = broadcast_shapes("matmul", a.shape[:-2], b.shape[:-2])
        return Product.of(a, b, a.with_shape((*batch, a.shape[-2], b.shape[-1])))


def narrow(b: Node) -> Node:
    """What `b` was before a cast that widened it: panels are stored so, and cast when read."""
    widened = b.op.name == "cast" and b.inputs[0].dtype.bits < b.dtype.bits
    return b.inputs[0] if widened else b


def pays_strips(a: Node, b: Node) -> bool:
    """Whether a transposed A is worth packing: read often, and too large to be read as it lies."""
    size, columns = product(a.shape), b.shape[1]
    small = isinstance(size, int) and size * a.dtype.itemsize < STRIPS
    return not small and not (isinstance(columns, int) and columns < OFTEN)


def choose_tile(body: Graph, roles: Roles, target: Target, dtype: DType) -> tuple[int, int]:
    """(MR, NR): the quickest tile; of equal ones, a transposed A wants a high one, as a line of it
    holds MR useful elements."""
    a, b, p = roles.a, roles.b, roles.product
    lanes, rows = target.lanes(dtype), product(p.rows)
    if takes_matrix(body, roles, target, dtype):
        return (min(rows, 2 * SIDE) if isinstance(rows, int) else 2 * SIDE), 2 * SIDE
    turned = a.type.rank == b.type.rank == 2 and not roles.strips and is_turned(body, a)
    most = HIGHEST if turned else None
    signs, own = roles.dot == "dpflip", gcd(roles.own, WIDTHS[0] * lanes) // lanes
    widest = own if own >= NARROW else WIDTHS[0]
    sizes = rows, p.columns, lanes
    vectors, height = quickest(target, *sizes, most, turned, signs, widest, p.depth)
    return height, vectors * lanes


def takes_matrix(body: Graph, roles: Roles, target: Target, dtype: DType) -> bool:
    """Whether a matmul of words is one for the matrix unit: its rows lie evenly spaced, or will."""
    depth, words = roles.product.depth, (roles.a.dtype, dtype) == (t.u32, t.f32)
    deep = words and isinstance(depth, int) and depth >= SIDE
    if not (target.has_matrix and deep):
        return False
    return roles.strips or (not roles.swapped and are_even(body, roles))


def are_even(body: Graph, roles: Roles) -> bool:
    """Whether rows of A, over all their axes, lie evenly spaced, and words side by side."""
    p, rank = roles.product, roles.a.type.rank
    if p.batch and (1 in p.batch or roles.a.shape[:-2] != p.batch):
        return False
    merged = OPS["reshape"](roles.a, shape=(*p.batch, product(p.rows), p.depth))
    *_, down, along = strides(body, merged)
    return rank > 1 and down is not None and along == {(): 1}


class Gemm:
    """A matmul kernel being written. `panel` is the packed B, or None to read B itself."""

    def __init__(
        self, body: Graph, anchor: Node, roles: Roles, target: Target, packed: bool, split: int
    ):
        self.anchor = anchor
        self.a, self.b, self.swapped, self.product = roles.a, roles.b, roles.swapped, roles.product
        self.dtype = sums_in(anchor.dtype)
        self.mr, self.nr = choose_tile(body, roles, target, self.dtype)
        self.matrix = takes_matrix(body, roles, target, self.dtype)
        self.dot, self.ahead = roles.dot, roles.dot in STARTS
        self.target, self.body, self.split = target, body, split
        self.nest = Nest()
        self.pull = Pull(self.nest, body)
        self.pull.declare()
        early = {anchor, *Graph("operands", body.inputs, anchor.inputs).nodes}
        self.late = tuple(n for n in body.nodes if n not in early)  # nodes of the epilogue
        self.outputs = [self.nest.output(f"out{k}", n.type) for k, n in enumerate(body.outputs)]
        self.panel: Buffer | None = None
        self.strips: Buffer | None = None
        self.fetch: Callable[[Expr], None] | None = None
        self.line = 0  # steps for which a line is fetched
        if roles.strips:
            shape = self._strips(size_expr(product(self.product.rows)), self.product.depth)
            self.strips = Buffer("strips", self.a.dtype, shape)
            self.nest.params.append(self.strips)
        if packed:
            *batch, k, n = whole(self.b).shape
            count = (size_expr(n) + (self.nr - 1)) // self.nr
            deep = size_expr(k) + int(self.ahead)
            sizes = (*(size_expr(s) for s in batch), count, deep, Const(self.nr, t.i64))
            self.panel = Buffer("packed", self.b.dtype, sizes)
            self.nest.params.append(self.panel)

    def _strips(self, rows: Expr, depth: AnySize) -> Index:
        """The shape of a packed A: strips, or rows of whole blocks for the matrix unit."""
        if self.matrix:
            return rows, (size_expr(depth) + (SIDE - 1)) // SIDE * SIDE
        return (rows + (self.mr - 1)) // self.mr, size_expr(depth), as_index(self.mr)

    def write(self) -> None:
        """One parallel iteration for each tile, in the order of `Walk`."""
        nest, p = self.nest, self.product
        rows, columns = size_expr(product(p.rows)), size_expr(p.columns)
        down = (rows + (self.mr - 1)) // self.mr
        across, walk = (columns + (self.nr - 1)) // self.nr, Walk.of(self)
        with nest.loop("p", size_expr(product(p.batch)) * across * down, "parallel") as tile:
            # named, as a matrix loop wants places that are linear in its variables
            batch = tuple(map(nest.let, unflatten(nest.let(tile // (across * down)), p.batch)))
            inside = tile % (across * down) if p.batch else tile
            panel, block, row = map(nest.let, walk.place(nest, inside, down, across))
            self.fetch, self.line = self._fetched(panel, row, walk), walk.fetch
            first = nest.let(block * self.mr)
            fetch_late(self, batch, panel, first)
            if self.matrix:
                self.multiply(batch, panel, first, rows)
            else:
                self.accumulate(batch, panel, self._rows_of_a(batch, block, first, rows))
            self.finish(batch, panel, first, rows, columns)

    def _fetched(self, panel: Expr, row: Expr, walk: Walk) -> Callable[[Expr], None] | None:
        """What fetches the next panel, step after step: each row block of a part a piece of it."""
        if not walk.fetch or self.panel is None:
            return None
        lanes, depth = self.target.lanes(self.dtype), int(self.product.depth)  # type: ignore
        first, buffer = self.nest.let(row * -(-depth // walk.fetch)), self.panel
        return lambda k: self.nest.fetch(buffer, panel + 1, 0, (first + k // walk.fetch) * lanes)

    def row_index(self, batch: Index, row: Expr) -> Index:
        """The index of row `row` without its last axis."""
        return (*batch, *unflatten(row, self.product.rows))

    def _rows_of_a(self, batch: Index, block: Expr, first: Expr, rows: Expr) -> list[Along]:
        """The rows of a tile; those beyond the last repeat it, and are not stored."""
        nest, strips = self.nest, self.strips
        if strips is not None:
            return [partial(self._in_strip, block, i) for i in range(self.mr)]
        places = [nest.let(minimum(first + i, rows - 1)) for i in range(self.mr)]
        return [partial(self._in_a, batch, row) for row in (places if self.mr > 1 else [first])]

    def _in_strip(self, block: Expr, i: int, k: Expr) -> Expr:
        return self.nest.load(self.strips, block, k, i)  # type: ignore[arg-type]

    def _in_a(self, batch: Index, row: Expr, k: Expr) -> Expr:
        if self.strips is not None:
            return self.nest.load(self.strips, row, k)
        return self.pull(self.a, self._a_index(batch, row, k))

    def accumulate(self, batch: Index, panel: Expr, of_a: list[Along]) -> None:
        """tile[i, j] = sum over k, of rows of A that are read along k."""
        nest, dtype = self.nest, self.dtype
        acc = nest.local("acc", dtype, self.mr, self.nr)
        self.tile = nest.local("tile", dtype, self.mr, self.nr)
        start = partial(self._starts(batch, of_a), panel)
        self._tile(lambda i, j: nest.store(acc, (i, j), start(i, j)))
        self._over_k(lambda k: self._step(acc, of_a, batch, panel, k))
        self._tile(lambda i, j: nest.store(self.tile, (i, j), nest.load(acc, i, j)))

    def _starts(self, batch: Index, of_a: list[Along]) -> Callable[[Expr, Expr, Expr], Expr]:
        """What the sums of a panel, a row of the tile and a column start with."""
        if not self.flips_a:
            return lambda panel, i, j: self._start(batch, panel, j)
        lanes = self.target.lanes(self.dtype)
        rows = row_starts(self.nest, of_a, self.product.depth, lanes)
        return lambda panel, i, j: self.nest.load(rows, i)

    @property
    def flips_a(self) -> bool:
        """Whether dpflip takes magnitudes of A, of which there are fewer vectors than of B."""
        return self.dot == "dpflip" and self.mr * self.target.lanes(self.dtype) < self.nr

    def _over_k(self, step: Callable[[Expr], None]) -> None:
        """All steps of k, in order, and what is fetched meanwhile."""
        nest, depth, split = self.nest, self.product.depth, self.split
        if split > 1 and isinstance(depth, int):
            once = split == self.line
            with nest.loop("k", depth // split) as k1:
                self._fetch(k1 * split, once)
                with nest.loop("kk", split) as k2:
                    self._fetch(k1 * split + k2, not once)
                    step(k1 * split + k2)
            return
        with nest.loop("k", depth) as k:
            self._fetch(k, True)
            step(k)

    def _fetch(self, k: Expr, here: bool) -> None:
        if here and self.fetch is not None:
            self.fetch(k)

    def multiply(self, batch: Index, panel: Expr, first: Expr, rows: Expr) -> None:
        """tile[i, j] = sum over k, by the matrix unit but for the last words."""
        nest, depth = self.nest, int(self.product.depth)  # type: ignore[arg-type]
        self.tile = nest.local("tile", self.dtype, self.mr, self.nr)
        height = self.height(first, rows)
        whole = depth // SIDE * SIDE
        for start, count, kind in ((0, whole, "matrix"), (whole, depth - whole, "serial")):
            if not count:
                continue
            with nest.loop(f"k{start}", count, kind) as k, nest.loop("i", height) as i:
                a = self._in_a(batch, first + i, k + start)
                with nest.loop("j", self.nr, "vector", self.nr) as j:
                    b, total = self._b(batch, panel, k + start, j), nest.load(self.tile, i, j)
                    value = self._sum(a, b, total) if start else matrix_step(k, total, a, b)
                    nest.store(self.tile, (i, j), value)

    def height(self, first: Expr, rows: Expr) -> Expr:
        """Rows of the tile at `first`."""
        static = product(self.product.rows)
        if isinstance(static, int) and static % self.mr == 0:
            return as_index(self.mr)
        return self.nest.let(minimum(rows - first, as_index(self.mr)))

    def _tile(self, act: Callable[[Expr, Expr], None]) -> None:
        with self.nest.loop("i", self.mr, "unroll") as i:
            with self.nest.loop("j", self.nr, "vector", self.nr) as j:
                act(i, j)

    def _step(self, acc: Buffer, of_a: list[Along], batch: Index, panel: Expr, k: Expr) -> None:
        nest = self.nest
        for i, along in enumerate(of_a):
            a = along(k)
            a = a ^ UNSIGNED if self.dot == "dpbusd" else a
            with nest.loop("j", self.nr, "vector", self.nr) as j:
                b = self._b(batch, panel, k, j)
                nest.store(acc, (as_index(i), j), self._sum(a, b, nest.load(acc, i, j)))

    def _sum(self, a: Expr, b: Expr, total: Expr) -> Expr:
        if self.dot == "dpflip" and not self.flips_a:
            return scalar(self.dot, total, b, a)
        if self.dot is not None:
            return scalar(self.dot, total, a, b)
        return scalar("fma", cast(a, self.dtype), cast(b, self.dtype), total)

    def _a_index(self, batch: Index, row: Expr, k: Expr) -> Index:
        index = (*self.row_index(batch, row), k)
        kept = index[len(index) - self.a.type.rank :]
        zero = as_index(0)
        return tuple(zero if s == 1 else i for i, s in zip(kept, self.a.shape, strict=True))

    def _start(self, batch: Index, panel: Expr, j: Expr) -> Expr:
        if self.ahead and self.panel is not None:
            first = self.nest.load(self.panel, *self._lead(batch), panel, 0, j)
            return bitcast(first, self.dtype)
        return Const(0.0 if self.dtype.is_float else 0, self.dtype)

    def _b(self, batch: Index, panel: Expr, k: Expr, j: Expr) -> Expr:
        if self.panel is not None:
            row, lead = k + int(self.ahead), self._lead(batch)
            if lead and len(self.panel.shape) == 3:  # of a whole matrix
                row, lead = lead[0] * size_expr(self.product.depth) + row, ()
            return self.nest.load(self.panel, *lead, panel, row, j)
        return self.pull(self.b, (*self._lead(batch), k, panel * self.nr + j))

    def _lead(self, batch: Index) -> Index:
        """The index of B without its last two axes."""
        kept = batch[len(batch) - (self.b.type.rank - 2) :] if self.b.type.rank > 2 else ()
        return tuple(
            as_index(0) if s == 1 else i for i, s in zip(kept, self.b.shape[:-2], strict=True)
        )

    def finish(
        self, batch: Index, panel: Expr, first: Expr, rows: Expr, columns: Expr,
        among: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        """Epilogue and stores, from the scratch tile, without what lies outside.

        The panel is `among` these columns, begin and end, by default all.
        """
        nest, p = self.nest, self.product
        start = nest.let(panel * self.nr)
        whole_n = isinstance(p.columns, int) and p.columns % self.nr == 0
        height, width = self.height(first, rows), as_index(self.nr)
        width = width if whole_n else nest.let(minimum(columns - start, width))
        lanes = self.target.lanes(self.dtype)
        outputs = [*zip(self.outputs, self.body.outputs, strict=True)]
        updates = [(x, node) for x, node in outputs if node.op.name == "update_slice"]
        stored = [x for x in outputs if x not in updates]
        with nest.loop("i", height) as i:
            row = self.row_index(batch, first + i)
            if stored:
                with nest.loop("j", width, "vector", lanes) as j:
                    index = (*row, start + j)
                    index = index[::-1] if self.swapped else index
                    self._epilogue(i, j, index)
                    for buffer, node in stored:
                        nest.store(buffer, index, self.pull(node, index))
            for buffer, update in updates:
                element = partial(self._element, i, row, start)
                tile = start, self.nr
                write_runs(self.pull, buffer, update, tile, among, row, element, lanes)

    def _element(self, i: Expr, row: Index, start: Expr, value: Node, j: Expr) -> Expr:
        """The element of a value of the epilogue at (i, j) in the tile."""
        index = (*row, start + j)
        self._epilogue(i, j, index)
        return self.pull(value, index)

    def _epilogue(self, i: Expr, j: Expr, index: Index) -> None:
        """The element of the tile at (i, j), and the nodes after the matmul that are made of it."""
        tile = cast(self.nest.load(self.tile, i, j), self.anchor.dtype)
        self.pull.give(self.anchor, self.nest.let(tile, here=True))
        self.pull.ahead(self.late, index, self.anchor.shape)
