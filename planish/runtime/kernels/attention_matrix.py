"""Attention on the matrix unit: operands of bf16, 32 queries and 32 keys at a time.

    pass 1  score[i, j] = q[i] . k[j]          a matrix loop over words of d, for each block of keys
    pass 2  e[i, j]     = exp(scale * score[i, j] - maximum), and their sum, in f32
    pass 3  out[i, e]   = (sum over j of e[i, j] * v[j, e]) / sum   a matrix loop over words of j

Heads run in parallel. Words of q are in memory, words of k are turned into panels once a head. A
word of e, rounded to bf16, holds keys j and j + 16 of a block, as does one of v: any pairs will do,
and these are made of whole vectors.
"""

from __future__ import annotations

from dataclasses import replace

from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.loop_matrix import SIDE, matrix_step
from planish.ir.loops import Buffer, Const, Expr, as_index, cast, scalar, select, size_expr
from planish.ir.node import Node
from planish.runtime.kernels.nest import Index, Lowered, Nest, Pull, lowered, minimum
from planish.runtime.kernels.strides import strides
from planish.runtime.kernels.visible import heads_in, queries_of, visible
from planish.runtime.kernels.words import as_words, seen_through, word, words_in
from planish.runtime.target import Target

BLOCK = 2 * SIDE  # queries, keys, and columns of a product
ZERO = Const(0.0, t.f32)


def takes_matrix(body: Graph, anchor: Node, target: Target) -> bool:
    """Whether an attention can run on the matrix unit: whole words of q and k lie in memory."""
    q, k, v = anchor.inputs[:3]
    if not target.has_matrix or q.dtype != t.bf16 or not isinstance(v.shape[3], int):
        return False
    if anchor.attrs.get("dropout"):
        return False  # only training drops weights
    whole = isinstance(q.shape[3], int) and q.shape[3] % BLOCK == 0
    return whole and words_in(k) is not None and words_in(q) is not None and _even(body, q)


def _even(body: Graph, q: Node) -> bool:
    """Whether queries lie evenly spaced."""
    wide, (words,) = _with_words(body, (q,))
    return strides(wide, words)[2] is not None


def _with_words(body: Graph, operands: tuple[Node, ...]) -> tuple[Graph, tuple[Node, ...]]:
    """A body with more inputs, and operands read from them as words."""
    leaves = tuple(as_words(words_in(x)) for x in operands)  # type: ignore[arg-type]
    seen = tuple(map(seen_through, operands, leaves))
    return replace(body, inputs=(*body.inputs, *leaves)), seen


def matrix_kernel(body: Graph, anchor: Node, name: str, target: Target) -> Lowered:
    """The kernel; its inputs that are words are the memory of inputs of the body."""
    q, k = anchor.inputs[:2]
    wide, words = _with_words(body, (q, k))
    nest = Nest()
    pull = Pull(nest, wide)
    pull.declare()
    head = _Head(nest, pull, anchor, words, target)
    with nest.loop("p", q.shape[1] * k.shape[0], "parallel") as p:
        head.begin(*heads_in(anchor, p))
        with nest.loop("t", (head.queries + (BLOCK - 1)) // BLOCK) as block:
            head.run(nest.let(block * BLOCK))
    made = lowered(nest, pull, name)
    count = len(body.inputs)
    memory = [body.inputs.index(words_in(x)) for x in (q, k)]  # type: ignore[arg-type]
    args = (
        (kind, memory[i - count] if kind == "in" and i >= count else i) for kind, i in made.args
    )
    return Lowered(made.kernel, tuple(args))


class _Head:
    """One head of queries, and that of keys and values which it reads."""

    def __init__(
        self, nest: Nest, pull: Pull, anchor: Node, words: tuple[Node, ...], target: Target
    ):
        self.nest, self.pull, self.anchor = nest, pull, anchor
        (self.q, self.k), self.v = words, anchor.inputs[2]
        self.out = nest.output("out0", anchor.type)
        self.keys = size_expr(self.k.shape[2])
        self.depth, self.width = self.q.shape[3], self.v.shape[3]
        self.lanes = target.lanes(t.f32)
        blocks = (self.keys + (BLOCK - 1)) // BLOCK
        self.columns = -(-self.width // SIDE) * SIDE
        self.kt = self._scratch("kt", t.u32, blocks, self.depth, BLOCK)
        self.vw = self._scratch("vw", t.u32, blocks * SIDE, self.columns)
        self.score = self._scratch("score", t.f32, BLOCK, blocks * BLOCK)
        self.weight = self._scratch("weight", t.u32, BLOCK, blocks * SIDE)
        self.tile = self._scratch("tile", t.f32, BLOCK, self.columns)
        self.factor = self._scratch("factor", t.f32, BLOCK)

    def _scratch(self, name: str, dtype: t.DType, *sizes: object) -> Buffer:
        buffer = Buffer(name, dtype, tuple(as_index(s) for s in sizes), "local")
        self.nest.locals.append(buffer)
        return buffer

    def seen(self, row: Expr) -> Expr:
        """How many keys query `row` sees; that of the last one beyond the end."""
        return visible(self.anchor, self.pull, self.batch, minimum(row, self.queries - 1))

    def blocks(self, row: Expr) -> Expr:
        """Blocks of keys that queries up to `row` see; one at least."""
        count = (self.seen(row) + (BLOCK - 1)) // BLOCK
        return self.nest.let(scalar("max", count, as_index(1)))

    def begin(self, query: Index, head: Index) -> None:
        """Words of k and v, of all blocks that any query sees."""
        nest, last = self.nest, self.keys - 1
        self.query, self.batch = query, head[0]
        self.first, self.queries = queries_of(self.anchor, self.pull, self.batch)
        blocks = self.blocks(self.queries - 1)
        if self.anchor.attrs.get("ragged"):  # a row without queries needs no keys
            blocks = nest.let(select(self.queries > 0, blocks, as_index(0)))
        with nest.loop("kb", blocks) as block, nest.loop("kw", self.depth) as w:
            with nest.loop("kj", BLOCK, "vector", SIDE) as j:
                key = minimum(block * BLOCK + j, last)
                nest.store(self.kt, (block, w, j), self.pull(self.k, (*head, key, w)))
        with nest.loop("vb", blocks) as block, nest.loop("vr", SIDE) as r:
            keys = [minimum(block * BLOCK + half + r, last) for half in (0, SIDE)]
            with nest.loop("ve", self.width, "vector", SIDE) as e:
                pairs = (self.pull(self.v, (*head, key, e)) for key in keys)
                nest.store(self.vw, (block * SIDE + r, e), word(*pairs))

    def run(self, first: Expr) -> None:
        """The queries first .. first + 31."""
        nest = self.nest
        height = nest.let(minimum(self.queries - first, as_index(BLOCK)))
        blocks = self.blocks(first + (BLOCK - 1))
        with nest.loop("jb", blocks) as block, nest.loop("kq", self.depth, "matrix") as w:
            with nest.loop("i", height) as i, nest.loop("j", BLOCK, "vector", BLOCK) as j:
                q = self.pull(self.q, (*self.query, self.first + first + i, w))
                self._step(self.score, (i, block * BLOCK + j), w, q, (self.kt, block, w, j))
        with nest.loop("is", height) as i:
            self.softmax(i, nest.let(self.seen(first + i)), blocks)
        for start in range(0, self.columns, BLOCK):
            wide = min(BLOCK, self.columns - start)
            with nest.loop("kv", blocks * SIDE, "matrix") as w, nest.loop("i", height) as i:
                e = nest.load(self.weight, i, w)
                with nest.loop("j", wide, "vector", wide) as j:
                    self._step(self.tile, (i, j + start), w, e, (self.vw, w, j + start))
        self.finish(first, height)

    def _step(self, buffer: Buffer, place: Index, k: Expr, a: Expr, b: tuple) -> None:
        panel, *index = b
        total = self.nest.load(buffer, *place)
        self.nest.store(buffer, place, matrix_step(k, total, a, self.nest.load(panel, *index)))

    def softmax(self, i: Expr, seen: Expr, blocks: Expr) -> None:
        """Pass 2 for row i; what it does not see of the blocks weighs nothing."""
        nest, first, scale = self.nest, (as_index(0),), float(self.anchor.attrs["scale"])
        top, total = (nest.local(n, t.f32, 1) for n in ("top", "total"))
        sums = nest.local("sums", t.f32, SIDE)
        nest.store(top, first, Const(float("-inf"), t.f32))
        nest.store(total, first, ZERO)
        with nest.loop("j0", SIDE, "vector", SIDE) as j:
            nest.store(sums, (j,), ZERO)
        with nest.loop("jm", seen, "vector", self.lanes) as j:
            nest.accumulate(top, first, "max", nest.load(self.score, i, j) * scale)
        most = nest.let(nest.load(top, 0), here=True)
        with nest.loop("je", blocks) as block, nest.loop("jw", SIDE, "vector", SIDE) as j:
            pair = []
            for half in (0, SIDE):
                key = block * BLOCK + half + j
                e = scalar("exp", nest.load(self.score, i, key) * scale - most)
                pair.append(nest.let(select(scalar("lt", key, seen), e, ZERO), here=True))
            nest.store(sums, (j,), nest.load(sums, j) + (pair[0] + pair[1]))
            rounded = (cast(e, t.bf16) for e in pair)
            nest.store(self.weight, (i, block * SIDE + j), word(*rounded))
        with nest.loop("j1", SIDE, "vector", SIDE) as j:
            nest.accumulate(total, first, "add", nest.load(sums, j))
        s = nest.let(nest.load(total, 0), here=True)
        inverse = select(scalar("gt", s, ZERO), Const(1.0, t.f32) / s, ZERO)
        nest.store(self.factor, (i,), inverse)

    def finish(self, first: Expr, height: Expr) -> None:
        """Scale and store."""
        nest, (b, h) = self.nest, self.query
        with nest.loop("o", height) as i, nest.loop("e", self.width, "vector", self.lanes) as e:
            value = nest.load(self.tile, i, e) * nest.load(self.factor, i)
            row = self.first + first + i
            place = (b, row, h) if self.anchor.attrs.get("time_first") else (b, h, row)
            nest.store(self.out, (*place, e), cast(value, self.out.dtype))
