"""Attention: softmax(scale * q . k) . v over the keys that each query may see.

    q [B, H, T, D]   k [B, G, S, D]   v [B, G, S, E]   out [B, H, T, E] or [B, T, H, E]
    query head h reads key head h // (H / G)

Scores of a few queries live in scratch, so memory is linear in S; keys beyond the causal limit are
never read. Operands are read through their views: the fused QKV product is read in place. For one
query (`row_kernel`), which is also the plain statement of what happens (`attention_parts` shares
out a long cache):

    pass 1  score[j] = scale * sum over d of q[d] * k[j, d], and their maximum
    pass 2  score[j] = exp(score[j] - maximum), and their sum; then dropout, where there is any
    pass 3  out[d]   = (sum over j of score[j] * v[j, d]) / sum

For many (`tile_kernel`), a head at a time: k is transposed into scratch once, then MR queries at a
time run pass 1 and pass 3 as matrix products with register tiles.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from planish.ir.dims import AnySize, product
from planish.ir.graph import Graph
from planish.ir.loops import Buffer, Const, Expr, as_index, cast, scalar, select, size_expr
from planish.ir.node import Node
from planish.ir.ops.linalg import sums_in
from planish.runtime.kernels.attention_matrix import matrix_kernel, takes_matrix
from planish.runtime.kernels.nest import Index, Lowered, Nest, Pull, lowered, minimum, unflatten
from planish.runtime.kernels.rows import lane_width
from planish.runtime.kernels.visible import heads_in, kept, queries_of, visible
from planish.runtime.target import Target

SUMS = 2  # of values of one query: each add waits for the one before, some four cycles
FEW = 4  # queries for which transposing the keys does not pay
# vector registers -> (MR, registers of keys or values in a row of a tile)
TILES = {32: (6, 4), 16: (6, 2)}


def attention_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """The kernel of an attention node; `body` holds its operands' views."""
    queries = anchor.inputs[0].shape[2]
    if isinstance(queries, int) and queries < FEW and not anchor.attrs.get("ragged"):
        return row_kernel(body, anchor, name, target)
    if takes_matrix(body, anchor, target):
        return matrix_kernel(body, anchor, name, target)
    return tile_kernel(body, anchor, name, target)


def row_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """One query at a time; queries in parallel."""
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    out = nest.output("out0", anchor.type)
    q, v = anchor.inputs[0], anchor.inputs[2]
    with nest.loop("p", product(q.shape[:-1]), "parallel") as p:
        b, h, row = unflatten(p, q.shape[:-1])
        seen = nest.let(visible(anchor, pull, b, row))
        acc, _, total = attend(nest, pull, anchor, (b, h, row), as_index(0), seen, target)
        zero, one = (Const(x, acc.dtype) for x in (0.0, 1.0))
        factor = nest.let(select(scalar("gt", total, zero), one / total, zero), here=True)
        place = (b, row, h) if anchor.attrs.get("time_first") else (b, h, row)
        wide = lane_width(v.shape[3], target.lanes(acc.dtype), True)
        with nest.loop("d2", v.shape[3], "vector", wide) as d:
            nest.store(out, (*place, d), cast(nest.load(acc, d) * factor, out.dtype))
    return lowered(nest, pull, name)


def attend(
    nest: Nest, pull: Pull, anchor: Node, query: Index, start: Expr, count: Expr, target: Target,
    most_keys: AnySize | None = None,
) -> tuple[Buffer, Expr, Expr]:  # fmt: skip
    """The query at `query` (b, h, row) and `count` keys from `start` on, at most `most_keys`.

    Returns the weighted sum of their values, the largest score, and the sum of the weights.
    """
    q = anchor.inputs[0]
    (k, k_scale), (v, v_scale) = map(integers, anchor.inputs[1:3])
    (b, h, row), dtype = query, sums_in(q.dtype)
    heads, groups, lanes = q.shape[1], k.shape[1], target.lanes(dtype)
    group = h if groups == heads else h // (heads // groups)
    score = nest.local("score", dtype, k.shape[2] if most_keys is None else most_keys)
    most, total, dot = (nest.local(n, dtype, 1) for n in ("most", "total", "dot"))
    low, zero = Const(float("-inf"), dtype), Const(0.0, dtype)
    first = (as_index(0),)
    nest.store(most, first, low)
    nest.store(total, first, zero)

    def scaled(x: Expr, scale: Node | None, j: Expr) -> Expr:
        return x if scale is None else x * pull(scale, (b, group, start + j, as_index(0)))

    with nest.loop("j", count) as j:
        nest.store(dot, first, zero)
        with nest.loop("d", q.shape[3], "vector", lane_width(q.shape[3], lanes, True)) as d:
            key = cast(pull(k, (b, group, start + j, d)), dtype)
            nest.accumulate(dot, first, "add", cast(pull(q, (*query, d)), dtype) * key)
        nest.store(score, (j,), nest.load(dot, 0) * float(anchor.attrs["scale"]))
    with nest.loop("jm", count, "vector", lanes) as j:
        found: Expr = nest.load(score, j)
        if k_scale is not None:
            found = nest.let(scaled(found, k_scale, j), here=True)
            nest.store(score, (j,), found)
        nest.accumulate(most, first, "max", found)
    maximum = nest.let(nest.load(most, 0), here=True)
    with nest.loop("je", count, "vector", lanes) as j:
        e = nest.let(scalar("exp", nest.load(score, j) - maximum), here=True)
        weight = kept(anchor, pull, (b, h, row, start + j), e)
        nest.store(score, (j,), scaled(weight, v_scale, j))
        nest.accumulate(total, first, "add", e)
    acc = _values(nest, pull, v, (b, group), start, count, score, lanes)
    return acc, maximum, nest.let(nest.load(total, 0), here=True)


def integers(x: Node) -> tuple[Node, Node | None]:
    """Keys or values without the scale that each row of them has, and that scale, if any: scores
    and weights are multiplied by it, of which there is one for a whole row."""
    if x.op.name == "dequantize" and x.inputs[1].shape == (*x.shape[:-1], 1):
        return x.inputs[0], x.inputs[1]
    return x, None


def _values(
    nest: Nest, pull: Pull, v: Node, head: Index, start: Expr, count: Expr, score: Buffer,
    lanes: int,
) -> Buffer:  # fmt: skip
    """Pass 3: the weighted sum of rows of v, in registers: those of even keys, plus the others."""
    depth, dtype = v.shape[-1], score.dtype
    wide = lane_width(depth, lanes, True)
    first, *others = (nest.local(f"acc{i}", dtype, depth) for i in range(SUMS))
    for acc in (first, *others):
        with nest.loop("d0", depth, "vector", wide) as d:
            nest.store(acc, (d,), Const(0.0, dtype))

    def add(acc: Buffer, j: Expr) -> None:
        weight = nest.let(nest.load(score, j), here=True)
        with nest.loop("d1", depth, "vector", wide) as d:
            x = cast(pull(v, (*head, start + j, d)), dtype)
            nest.store(acc, (d,), scalar("fma", weight, x, nest.load(acc, d)))

    with nest.loop("jv", count // SUMS) as j:
        for i, acc in enumerate((first, *others)):
            add(acc, j * SUMS + i)
    even = nest.let(count - count % SUMS)
    with nest.loop("jr", count - even) as j:
        add(first, even + j)
    for acc in others:
        with nest.loop("d3", depth, "vector", wide) as d:
            nest.store(first, (d,), nest.load(first, d) + nest.load(acc, d))
    return first


def tile_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """A head at a time, MR queries at a time; heads in parallel."""
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    out = nest.output("out0", anchor.type)
    with nest.loop("p", anchor.inputs[0].shape[1] * anchor.inputs[1].shape[0], "parallel") as p:
        tile = _Tile(nest, pull, anchor, *heads_in(anchor, p), target)
        tile.transpose_keys()
        with nest.loop("t", (tile.queries + (tile.mr - 1)) // tile.mr) as t_:
            tile.run(nest.let(t_ * tile.mr), out)
    return lowered(nest, pull, name)


class _Tile:
    """MR queries of one head."""

    def __init__(
        self, nest: Nest, pull: Pull, anchor: Node, query: Index, head: Index, target: Target
    ):
        self.nest, self.pull, self.anchor, self.query, self.head = nest, pull, anchor, query, head
        self.q, self.k, self.v = anchor.inputs[:3]
        self.dtype = sums_in(self.q.dtype)
        self.first, self.queries = queries_of(anchor, pull, head[0])
        self.depth = self.q.shape[3]
        self.keys, self.width = self.k.shape[2], self.v.shape[3]
        self.lanes = target.lanes(self.dtype)
        self.mr, vectors = TILES[target.vector_registers]
        self.block = vectors * self.lanes
        blocks = (size_expr(self.keys) + (self.block - 1)) // self.block
        padded = blocks * self.block
        self.kt = self._scratch("kt", blocks, size_expr(self.depth), as_index(self.block))
        self.score = self._scratch("score", as_index(self.mr), padded)

    def _scratch(self, name: str, *sizes: Expr) -> Buffer:
        buffer = Buffer(name, self.dtype, sizes, "local")
        self.nest.locals.append(buffer)
        return buffer

    def seen(self, row: Expr) -> Expr:
        """How many keys query `row` sees; that of the last one beyond the end."""
        return visible(self.anchor, self.pull, self.head[0], self.clamp(row))

    def clamp(self, row: Expr) -> Expr:
        """`row`, or the last one."""
        return minimum(row, self.queries - 1)

    def transpose_keys(self) -> None:
        """kt[d, j] = k[j, d] for all keys that any query sees, in whole blocks."""
        nest = self.nest
        most = nest.let(self.seen(self.queries - 1))
        if self.anchor.attrs.get("ragged"):  # a row without queries needs no keys
            most = nest.let(select(self.queries > 0, most, as_index(0)))
        blocks = nest.let((most + (self.block - 1)) // self.block)
        last = size_expr(self.keys) - 1
        even = isinstance(self.keys, int) and self.keys % self.block == 0
        with nest.loop("kb", blocks) as kb, nest.loop("kd", self.depth, "turn") as d:
            with nest.loop("kj", self.block, "vector", self.block) as j:
                key = kb * self.block + j if even else minimum(kb * self.block + j, last)
                value = cast(self.pull(self.k, (*self.head, key, d)), self.dtype)
                nest.store(self.kt, (kb, d, j), value)

    def run(self, first: Expr, out: Buffer) -> None:
        """The queries first .. first + MR - 1."""
        nest = self.nest
        rows = [nest.let(self.first + self.clamp(first + i)) for i in range(self.mr)]
        seen = [nest.let(self.seen(first + i)) for i in range(self.mr)]
        most = seen[-1]
        self.scores(rows, most)
        factors = self.softmax(first, seen)
        self.values(most)
        with nest.loop("o", minimum(self.queries - first, as_index(self.mr))) as i:
            with nest.loop("e", self.width, "vector", self.lanes) as e:
                value = nest.load(self.tile, i, e) * nest.load(factors, i)
                (b, h), row = self.query, self.first + first + i
                place = (b, row, h) if self.anchor.attrs.get("time_first") else (b, h, row)
                nest.store(out, (*place, e), cast(value, out.dtype))

    def scores(self, rows: list[Expr], most: Expr) -> None:
        """Pass 1: score[i, j] = scale * q[i] . k[j], a block of keys at a time, in registers.

        Of the last block often only the first half is wanted.
        """
        nest, half = self.nest, self.block // 2
        whole = nest.let((most + (half - 1)) // self.block)
        with nest.loop("jb", whole) as jb:
            self._scores(rows, jb, self.block)
        with nest.when(scalar("gt", most, whole * self.block)):
            self._scores(rows, whole, half)

    def _scores(self, rows: list[Expr], jb: Expr, count: int) -> None:
        """So many keys of block `jb`."""
        nest, scale = self.nest, float(self.anchor.attrs["scale"])
        acc = nest.local(f"acc{count}", self.dtype, self.mr, count)

        def keys() -> AbstractContextManager[Expr]:
            return nest.loop("j", count, "vector", count)

        with nest.loop("i0", self.mr, "unroll") as i, keys() as j:
            nest.store(acc, (i, j), Const(0.0, self.dtype))
        with nest.loop("d", self.depth) as d:
            for r, row in enumerate(rows):
                q = cast(self.pull(self.q, (*self.query, row, d)), self.dtype)
                with keys() as j:
                    k = nest.load(self.kt, jb, d, j)
                    nest.store(acc, (as_index(r), j), scalar("fma", q, k, nest.load(acc, r, j)))
        with nest.loop("i1", self.mr, "unroll") as i, keys() as j:
            nest.store(self.score, (i, jb * self.block + j), nest.load(acc, i, j) * scale)

    def softmax(self, first: Expr, seen: list[Expr]) -> Buffer:
        """Pass 2, of all rows side by side: one by one, each waits for its largest score.

        Returns what the weights of each row are still to be multiplied by.
        """
        nest, zero, lanes = self.nest, Const(0.0, self.dtype), self.lanes
        low = Const(float("-inf"), self.dtype)
        total, factor = (nest.local(n, self.dtype, self.mr) for n in ("total", "factor"))
        tops = self._tops(seen, low)
        rows = [(as_index(i), top) for i, top in enumerate(tops)]
        for i, _ in rows:
            nest.store(total, (i,), zero)
        with nest.loop("je", self._whole(seen[-1]) * lanes, "vector", lanes) as j:
            for i, top in rows:
                e = nest.let(scalar("exp", nest.load(self.score, i, j) - top), here=True)
                place = (*self.query, first + i, j)
                nest.store(self.score, (i, j), kept(self.anchor, self.pull, place, e))
                nest.accumulate(total, (i,), "add", e)
        for i, _ in rows:
            s = nest.let(nest.load(total, i), here=True)
            one = Const(1.0, self.dtype)
            nest.store(factor, (i,), select(scalar("gt", s, zero), one / s, zero))
        return factor

    def _tops(self, seen: list[Expr], low: Expr) -> list[Expr]:
        """The largest score of each row, not NaN; scores that it does not see become the lowest.

        A row that sees nothing has 0, as then no score, less that, is NaN.
        """
        nest, lanes = self.nest, self.lanes
        most = nest.local("most", self.dtype, self.mr)
        top = nest.local("top", self.dtype, self.mr, lanes)
        with nest.loop("it", self.mr, "unroll") as i:
            nest.store(most, (i,), low)
            with nest.loop("jt", lanes, "vector", lanes) as j:
                nest.store(top, (i, j), low)
        vectors = self._whole(seen[-1])
        full = nest.let(seen[0] // lanes)  # vectors that the first row, and so each, sees whole
        with nest.loop("z", vectors - full) as z, nest.loop("jz", lanes, "vector", lanes) as j:
            for r, end in enumerate(seen):
                at = (full + z) * lanes + j
                x = select(scalar("lt", at, end), nest.load(self.score, r, at), low)
                nest.store(self.score, (as_index(r), at), x)
        with nest.loop("v", vectors) as v, nest.loop("jm", lanes, "vector", lanes) as j:
            for r in range(self.mr):
                x = nest.let(nest.load(self.score, r, v * lanes + j), here=True)
                before = nest.load(top, r, j)
                nest.store(top, (as_index(r), j), select(scalar("gt", x, before), x, before))
        with nest.loop("ir", self.mr, "unroll") as i:
            with nest.loop("jr", lanes, "vector", lanes) as j:
                nest.accumulate(most, (i,), "max", nest.load(top, i, j))
        none = as_index(0)
        return [
            nest.let(select(scalar("gt", end, none), nest.load(most, r), Const(0.0, self.dtype)))
            for r, end in enumerate(seen)
        ]

    def _whole(self, count: Expr) -> Expr:
        """How many vectors hold so many scores."""
        return self.nest.let((count + (self.lanes - 1)) // self.lanes)

    def values(self, most: Expr) -> None:
        """Pass 3: tile[i] = sum over j of score[i, j] * v[j], a block of it at a time."""
        self.tile = self.nest.local("tile", self.dtype, self.mr, self.width)
        wide = self.width if isinstance(self.width, int) else self.block
        for n, start in enumerate(range(0, wide, self.block)):
            size = min(self.block, wide - start) if wide == self.width else self.width
            self._values(n, start, size, most)

    def _values(self, n: int, start: int, size: AnySize, most: Expr) -> None:
        """Block n: `size` columns of the tile from `start` on, in registers."""
        nest, rows = self.nest, self.mr
        acc = nest.local(f"sum{n}", self.dtype, rows, size)

        def columns() -> AbstractContextManager[Expr]:
            vector = _power(size) if isinstance(size, int) else self.lanes
            return nest.loop("e", size, "vector", vector)

        with nest.loop("i2", rows, "unroll") as i, columns() as e:
            nest.store(acc, (i, e), Const(0.0, self.dtype))
        with nest.loop("jv", most) as j:
            for r in range(rows):
                weight = nest.let(nest.load(self.score, r, j), here=True)
                with columns() as e:
                    v = cast(self.pull(self.v, (*self.head, j, e + start)), self.dtype)
                    total = scalar("fma", weight, v, nest.load(acc, r, e))
                    nest.store(acc, (as_index(r), e), total)
        with nest.loop("i3", rows, "unroll") as i, columns() as e:
            nest.store(self.tile, (i, e + start), nest.load(acc, i, e))


def _power(width: int) -> int:
    """The least power of two at or above `width`: one vector for a whole row."""
    return 1 << max(0, width - 1).bit_length()
