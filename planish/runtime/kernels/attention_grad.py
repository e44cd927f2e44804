"""The gradient of attention: dq, dk and dv of softmax(scale * q . k) . v, given dy.

    q [B, H, T, D]   k [B, G, S, D]   v [B, G, S, E]   dy [B, H, T, E]
    query head h reads key head h // (H / G)

For one query this is what happens, with the weights computed again from q and k:

    pass 1  score[j] = scale * q . k[j],  error[j] = dy . v[j] after dropout
    pass 2  p[j] = exp(score[j] - maximum) / sum,  mean = sum over j of p[j] * error[j]
    pass 3  error[j] = p[j] * (error[j] - mean),  p[j] after dropout
    pass 4  dq = scale * sum over j of error[j] * k[j]
    pass 5  dk[j] += scale * error[j] * q,  dv[j] += p[j] * dy

(FlashAttention-2, Dao 2023, without its log-sum-exp from the forward pass: all scores of a query
are at hand, so that their sum is an addition for each, and nothing need be kept.) QUERIES of them
at a time run as matrix products with register tiles; keys that none of a tile sees are never read.
A key head and the query heads that share it are one parallel iteration, where dk and dv are summed
in order. Operands are read through their views, of any float dtype, and copied once into scratch
memory, in the dtype of the sums; scratch memory is linear in S.
"""

from __future__ import annotations

from collections.abc import Callable

from planish.ir.dims import AnySize, product
from planish.ir.errors import UnsupportedError
from planish.ir.graph import Graph
from planish.ir.loops import Buffer, Const, Expr, as_index, cast, scalar, select, size_expr
from planish.ir.node import Node
from planish.ir.ops.linalg import sums_in
from planish.runtime.kernels.nest import Index, Lowered, Nest, Pull, lowered, minimum, unflatten
from planish.runtime.kernels.tiles import HIGHEST, quickest, tiles
from planish.runtime.kernels.visible import before, share, survives, visible
from planish.runtime.target import Target

QUERIES = 48  # of a block: dk and dv are loaded and stored once a block
BEYOND = 32  # keys after the last that a query sees which weigh nothing: at least rows of a tile

Element = Callable[[Expr, Expr], Expr]
Put = Callable[[Expr, Expr, Expr], None]


def attention_grad_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """The kernel of an attention_grad node; `body` holds its operands' views."""
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    heads, groups = (x.shape[1] for x in anchor.inputs[:2])
    shared = heads // groups
    with nest.loop("p", product(anchor.inputs[1].shape[:2]), "parallel") as p:
        b, group = unflatten(p, anchor.inputs[1].shape[:2])
        work = _Heads(nest, pull, anchor, (b, group), target)
        work.begin()
        with nest.loop("n", shared) as n:
            h = group * shared + n
            blocks = (size_expr(work.queries) + (QUERIES - 1)) // QUERIES
            with nest.loop("t", blocks) as block:
                work.run(h, nest.let(block * QUERIES))
        work.finish()
    return lowered(nest, pull, name)


def _swapped(read: Element) -> Element:
    return lambda i, j: read(j, i)


def _up(size: Expr | int, step: int) -> Expr:
    return (as_index(size) + (step - 1)) // step


class _Width:
    """The last axis of some operands: its size, and the register tile (rows, columns) for it."""

    def __init__(self, size: AnySize, target: Target, lanes: int):
        if not isinstance(size, int):
            raise UnsupportedError(f"the gradient of attention takes static widths, got {size}")
        self.size = size
        vectors, self.rows = quickest(target, None, size, lanes, HIGHEST)
        self.columns = vectors * lanes
        self.padded = -(-size // self.columns) * self.columns


class _Heads:
    """One key head, and the query heads that read it."""

    def __init__(self, nest: Nest, pull: Pull, anchor: Node, head: Index, target: Target):
        self.nest, self.pull, self.anchor, self.head = nest, pull, anchor, head
        self.q, self.k, self.v, self.dy = anchor.inputs[:4]
        self.dtype = sums_in(self.q.dtype)
        self.queries, self.keys = self.q.shape[2], size_expr(self.k.shape[2])
        self.lanes = target.lanes(self.dtype)
        self.deep, self.wide = (_Width(x.shape[3], target, self.lanes) for x in (self.q, self.v))
        vectors, self.rows = next(x for x in tiles(target, HIGHEST) if x[0] == 2)
        self.block = vectors * self.lanes
        self.out = nest.output("out0", anchor.type)
        self._scratch()

    def _scratch(self) -> None:
        deep, wide = self.deep.padded, self.wide.padded
        tallest = max(self.rows, self.deep.rows, self.wide.rows)
        blocks, rows = _up(self.keys, self.block), QUERIES + tallest
        padded = blocks * self.block + tallest
        # a line more, or rows of a power of two would meet in few sets of the cache
        across = padded + (BEYOND + self.lanes)
        self.k_rows, self.v_rows = self._local("k", padded, deep), self._local("v", padded, wide)
        self.kt = self._local("kt", blocks, self.deep.size, self.block)
        self.vt = self._local("vt", blocks, self.wide.size, self.block)
        self.q_rows, self.dy_rows = self._local("q", rows, deep), self._local("dy", rows, wide)
        self.score = self._local("score", rows, across)
        self.error = self._local("error", rows, across)
        self.dk, self.dv = self._local("dk", padded, deep), self._local("dv", padded, wide)
        self.dq = self._local("dq", rows, deep)

    def _local(self, name: str, *sizes: Expr | int) -> Buffer:
        buffer = Buffer(name, self.dtype, tuple(map(as_index, sizes)), "local")
        self.nest.locals.append(buffer)
        return buffer

    def begin(self) -> None:
        """Copy and transpose keys and values, clear their gradients."""
        nest = self.nest
        parts = (
            (self.k, self.k_rows, self.kt, self.dk, self.deep),
            (self.v, self.v_rows, self.vt, self.dv, self.wide),
        )
        for x, rows, turned, sums, width in parts:
            blocks = nest.let(_up(self.keys, self.block))
            self.copy(x, self.head, as_index(0), blocks * self.block, rows, 1.0)
            with nest.loop("kb", blocks) as block, nest.loop("kd", width.size, "turn") as d:
                with nest.loop("kj", self.block, "vector", self.block) as j:
                    value = nest.load(rows, block * self.block + j, d)
                    nest.store(turned, (block, d, j), value)
            with nest.loop("j0", sums.shape[0]) as j:
                with nest.loop("d0", width.padded, "vector", self.lanes) as d:
                    nest.store(sums, (j, d), Const(0.0, self.dtype))

    def copy(
        self, x: Node, head: Index, first: Expr, count: Expr, to: Buffer, factor: float
    ) -> None:
        """Rows of `x` from `first` on times `factor`; the last one again where none is left."""
        nest = self.nest
        last = size_expr(x.shape[2]) - 1
        with nest.loop("ci", count) as i:
            row = nest.let(minimum(first + i, last))
            with nest.loop("cd", x.shape[3], "vector", self.lanes) as d:
                value = cast(self.pull(x, (*head, row, d)), self.dtype)
                nest.store(to, (i, d), value * factor if factor != 1.0 else value)

    def seen(self, row: Expr) -> Expr:
        """How many keys query `row` sees; that of the last one beyond the end."""
        last = size_expr(self.queries) - 1
        return visible(self.anchor, self.pull, self.head[0], minimum(row, last))

    def run(self, h: Expr, first: Expr) -> None:
        """The queries of head `h` from `first` on, at most QUERIES."""
        nest, scale = self.nest, float(self.anchor.attrs["scale"])
        height = nest.let(minimum(size_expr(self.queries) - first, as_index(QUERIES)))
        query = (self.head[0], h)
        for x, rows, factor in ((self.q, self.q_rows, scale), (self.dy, self.dy_rows, 1.0)):
            self.copy(x, query, first, _up(height, self.rows) * self.rows, rows, factor)
        self.products(first, height)
        with nest.loop("is", height) as i:
            self.weights(query, first, i)
        self.queries_sums(first, height)
        with nest.loop("oi", height) as i:
            with nest.loop("od", self.deep.size, "vector", self.lanes) as d:
                value = nest.load(self.dq, i, d) * scale
                nest.store(self.out, self.place(0, first + i, h, d), cast(value, self.out.dtype))
        self.keys_sums(first, height)

    def tile(
        self, rows: int, columns: int, depth: Expr, a: Element, b: Element,
        put: Put, start: Element | None = None,
    ) -> None:  # fmt: skip
        """put(i, j, start(i, j) + sum over k < depth of a(i, k) * b(k, j)), in registers."""
        nest = self.nest
        acc = nest.local(f"acc{len(nest.locals)}", self.dtype, rows, columns)
        zero = Const(0.0, self.dtype)
        with nest.loop("i0", rows, "unroll") as i, nest.loop("j", columns, "vector", columns) as j:
            nest.store(acc, (i, j), zero if start is None else start(i, j))
        with nest.loop("k", depth) as k:
            for r in range(rows):
                x = a(as_index(r), k)
                with nest.loop("j", columns, "vector", columns) as j:
                    total = scalar("fma", x, b(k, j), nest.load(acc, r, j))
                    nest.store(acc, (as_index(r), j), total)
        with nest.loop("i1", rows, "unroll") as i, nest.loop("j", columns, "vector", columns) as j:
            put(i, j, nest.load(acc, i, j))

    def reader(
        self, buffer: Buffer, row: Expr | int = 0, column: Expr | int = 0, at: Index = ()
    ) -> Element:
        """Elements of a part of a buffer, the one from (row, column) on."""
        return lambda i, j: self.nest.load(buffer, *at, i + row, j + column)

    def writer(self, buffer: Buffer, row: Expr | int, column: Expr | int) -> Put:
        """Stores to a part of a buffer."""
        return lambda i, j, x: self.nest.store(buffer, (i + row, j + column), x)

    def products(self, first: Expr, height: Expr) -> None:
        """Pass 1: q . k and dy . v."""
        nest = self.nest
        with nest.loop("ti", _up(height, self.rows)) as t_:
            top = nest.let(t_ * self.rows)
            most = nest.let(self.seen(first + top + (self.rows - 1)))
            with nest.loop("tj", _up(most, self.block)) as block:
                for rows, turned, width, to in (
                    (self.q_rows, self.kt, self.deep, self.score),
                    (self.dy_rows, self.vt, self.wide, self.error),
                ):
                    self.tile(
                        self.rows, self.block, as_index(width.size), self.reader(rows, top),
                        self.reader(turned, at=(block,)), self.writer(to, top, block * self.block),
                    )  # fmt: skip

    def weights(self, query: Index, first: Expr, i: Expr) -> None:
        """Passes 2 and 3 for row `i`; what it does not see weighs nothing."""
        nest, zero, at = self.nest, Const(0.0, self.dtype), (as_index(0),)
        seen = nest.let(self.seen(first + i))
        top, total, dot = (nest.local(n, self.dtype, 1) for n in ("top", "total", "dot"))
        for buffer, value in ((top, Const(float("-inf"), self.dtype)), (total, zero), (dot, zero)):
            nest.store(buffer, at, value)
        with nest.loop("jm", seen, "vector", 2 * self.lanes) as j:
            nest.accumulate(top, at, "max", nest.load(self.score, i, j))
        most = nest.let(nest.load(top, 0), here=True)
        with nest.loop("je", seen, "vector", self.lanes) as j:
            e = nest.let(scalar("exp", nest.load(self.score, i, j) - most), here=True)
            x: Expr = nest.load(self.error, i, j)
            stays = survives(self.anchor, self.pull, (*query, first + i, j))
            if stays is not None:
                stays = nest.let(stays, here=True)
                x = nest.let(select(stays, x * share(self.anchor), zero), here=True)
                nest.store(self.error, (i, j), x)
            # the sign says what dropped out
            nest.store(self.score, (i, j), e if stays is None else select(stays, e, -e))
            nest.accumulate(total, at, "add", e)
            nest.accumulate(dot, at, "add", e * x)
        s = nest.let(nest.load(total, 0), here=True)
        inverse = select(scalar("gt", s, zero), Const(1.0, self.dtype) / s, zero)
        inverse = nest.let(inverse, here=True)
        mean = nest.let(nest.load(dot, 0) * inverse, here=True)
        with nest.loop("jp", seen, "vector", self.lanes) as j:
            p = nest.let(nest.load(self.score, i, j) * inverse, here=True)
            slope = nest.load(self.error, i, j) - mean
            if self.anchor.attrs.get("dropout"):
                nest.store(self.error, (i, j), scalar("abs", p) * slope)
                p = scalar("max", p, zero) * share(self.anchor)
            else:
                nest.store(self.error, (i, j), p * slope)
            nest.store(self.score, (i, j), p)
        with nest.loop("jz", BEYOND, "vector", BEYOND) as j:
            nest.store(self.score, (i, seen + j), zero)
            nest.store(self.error, (i, seen + j), zero)

    def queries_sums(self, first: Expr, height: Expr) -> None:
        """Pass 4, but for the scale."""
        nest, width = self.nest, self.deep
        with nest.loop("ti", _up(height, width.rows)) as t_:
            top = nest.let(t_ * width.rows)
            most = nest.let(self.seen(first + minimum(top + width.rows, height) - 1))
            for start in range(0, width.padded, width.columns):
                self.tile(
                    width.rows, width.columns, most, self.reader(self.error, top),
                    self.reader(self.k_rows, column=start), self.writer(self.dq, top, start),
                )  # fmt: skip

    def keys_sums(self, first: Expr, height: Expr) -> None:
        """Pass 5; q has been scaled."""
        nest = self.nest
        most = nest.let(self.seen(first + height - 1))
        for weights, rows, sums, width in (
            (self.error, self.q_rows, self.dk, self.deep),
            (self.score, self.dy_rows, self.dv, self.wide),
        ):
            with nest.loop("tk", _up(most, width.rows)) as t_:
                self.keys_tile(weights, rows, sums, width, nest.let(t_ * width.rows), first, height)

    def keys_tile(
        self, weights: Buffer, rows: Buffer, sums: Buffer, width: _Width, top: Expr, first: Expr,
        height: Expr,
    ) -> None:  # fmt: skip
        """Add to the sums of the keys from `top` on."""
        nest, low = self.nest, as_index(0)
        if self.anchor.attrs["causal"]:  # the first query that sees key `top`
            low = top - before(self.anchor, self.pull, self.head[0]) - first
            low = nest.let(scalar("max", low, as_index(0)))
        for start in range(0, width.padded, width.columns):
            turned = self.reader(weights, low, top)
            self.tile(
                width.rows, width.columns, height - low, _swapped(turned),
                self.reader(rows, low, start), self.writer(sums, top, start),
                self.reader(sums, top, start),
            )  # fmt: skip

    def place(self, part: int, row: Expr, head: Expr, column: Expr) -> Index:
        """Where an element of dq, dk or dv (part 0, 1 or 2) lies in the result."""
        shapes = [x.shape for x in (self.q, self.k, self.v)]
        heads, _, width = shapes[part][1:]
        if self.anchor.attrs["merged"]:
            offset = sum(shape[1] * shape[3] for shape in shapes[:part])
            return self.head[0], row, head * width + column + offset
        whole: Expr = as_index(0)
        for shape in shapes[:part]:
            whole = whole + size_expr(shape[1] * shape[2] * shape[3])
        return self.head[0], whole + (row * heads + head) * width + column

    def finish(self) -> None:
        """Store dk and dv."""
        nest = self.nest
        for part, sums, width in ((1, self.dk, self.deep), (2, self.dv, self.wide)):
            with nest.loop("fj", self.keys) as j:
                with nest.loop("fd", width.size, "vector", self.lanes) as d:
                    value = cast(nest.load(sums, j, d), self.out.dtype)
                    nest.store(self.out, self.place(part, j, self.head[1], d), value)
