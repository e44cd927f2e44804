"""Compute the logits of a few rows at a time, with all that is made of them.

    graph f(%x: f32[4, 8], %w: f32[8, 50]) {
      %0 = matmul(%x, %w) : f32[4, 50]
      %1 = exp(%0) : f32[4, 50]
      %2 = sum(%1, axes=(0, 1), keep=False) : f32[]
      return %2
    }
becomes, where `limit` holds the products of two rows,
    graph f(%x: f32[4, 8], %w: f32[8, 50]) {
      %0 = slice(%x, starts=(0, 0), stops=(2, 8), steps=(1, 1)) : f32[2, 8]
      %1 = after(%0) : f32[2, 8]
      %2 = matmul(%1, %w) : f32[2, 50]
      %3 = exp(%2) : f32[2, 50]
      %4 = sum(%3, axes=(0, 1), keep=False) : f32[]
      %5 = slice(%x, starts=(2, 0), stops=(4, 8), steps=(1, 1)) : f32[2, 8]
      %6 = after(%5, %4) : f32[2, 8]
      %7 = matmul(%6, %w) : f32[2, 50]
      %8 = exp(%7) : f32[2, 50]
      %9 = sum(%8, axes=(0, 1), keep=False) : f32[]
      %10 = add(%4, %9) : f32[]
      return %10
    }

The product of the head of a language model has a row for each token and a column for each word: of
2,048 tokens and 50,257 words, 412 MB, and as much again for its gradient. What each row of it needs
is that row alone: softmax, the loss, the gradients of logits and of activations. Only sums over
rows, those of the loss and of the weight's gradient, need them all, and are formed chunk by chunk.
Nothing is computed twice. Chunks come one after the other, each in the memory of the one before.

A product is left whole where it is small, where its rows are needed as a whole, or where they are
not independent. The price of a chunk is that the sums over rows are read and written once more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from planish.ir.dims import Shape, product
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.ops.linalg import swap_last
from planish.ir.types import TensorType
from planish.passes.measure import nbytes
from planish.passes.rewrite import rewritten

LIMIT = 1 << 26  # bytes of a chunk: 333 rows of 50,257 words. Far more than a cache holds
LEAST = 2  # chunks; a product that would need fewer stays whole
SMALLER = 8  # what is needed as a whole is so many times smaller than the product


@dataclass(frozen=True)
class Chunk:
    """Split products by a matrix that are larger than `limit` bytes, with what reads them."""

    limit: int = LIMIT

    def __call__(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            if by_matrix(node) and nbytes(node) >= LEAST * self.limit:
                region = Region(graph, node)
                if region.grow():
                    return self(split(region, -(-nbytes(node) // self.limit)))
        return graph


def by_matrix(node: Node) -> bool:
    """Whether a node is a product of rows, of a known number, by a matrix."""
    if node.op.name != "matmul" or node.inputs[1].type.rank != 2:
        return False
    return all(isinstance(s, int) for s in node.shape)


def unturned(node: Node) -> tuple[Node, ...]:
    """The operands of a node, the first of a product without its transposition."""
    if node.op.name != "matmul":
        return node.inputs
    a, b = node.inputs
    turned = a.op.name == "transpose" and a.type.rank == 2
    return (a.inputs[0], b) if turned else node.inputs


@dataclass
class Region:
    """What can be computed of a few rows of `root` at a time.

    Its nodes have the rows of `root` as first axes, or merged into one. `sums` are sums over rows,
    `ends` results that are needed as a whole.
    """

    graph: Graph
    root: Node
    nodes: dict[Node, None] = field(default_factory=dict)
    sums: list[Node] = field(default_factory=list)
    ends: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lead = self.root.shape[:-1]
        self.rows = int(product(self.lead))  # type: ignore[arg-type]

    def grow(self) -> bool:
        """Find all that depends on `root` row by row; whether that may be split, and is worth it.

        What follows a further product is not followed: there, rows are small again.
        """
        self.nodes[self.root] = None
        below = {self.root}
        for node in self.graph.nodes:
            if node is self.root or below.isdisjoint(node.inputs):
                continue
            below.add(node)
            if not any(map(self._leads_on, unturned(node))):
                continue
            if self.adds_rows(node):
                self.sums.append(node)
            elif self.by_rows(node):
                self.nodes[node] = None
        inside = {*self.nodes, *self.sums}
        self.ends = [x for x in self.nodes if x in self.graph.outputs or self._users(x) - inside]
        outside = {x for node in inside for x in unturned(node)} - self.nodes.keys()
        small = all(nbytes(x) * SMALLER <= nbytes(self.root) for x in self.ends)
        return small and bool(self.sums) and below.isdisjoint(outside)

    def _leads_on(self, x: Node) -> bool:
        return x in self.nodes and (x is self.root or x.op.kind != "contraction")

    def _users(self, x: Node) -> set[Node]:
        """Who reads `x`; of a transposition those who read that."""
        found: set[Node] = set()
        for user in self.graph.users[x]:
            turned = user.op.name == "transpose" and user not in self.graph.outputs
            readers = self.graph.users[user] if turned else ()
            through = bool(readers) and all(x in unturned(reader) for reader in readers)
            found.update(readers if through else (user,))
        return found

    def tail(self, x: Node) -> Shape | None:
        """The shape of a row of `x`; None where its first axes are not the rows."""
        for lead in (self.lead, (self.rows,)) if isinstance(x.type, TensorType) else ():
            if x.shape[: len(lead)] == lead:
                return x.shape[len(lead) :]
        return None

    def front(self, x: Node) -> int:
        """How many axes of `x` are rows."""
        return x.type.rank - len(self.tail(x) or ())

    def by_rows(self, node: Node) -> bool:
        """Whether a row of `node` needs only the same row of its operands."""
        tail = self.tail(node)
        if tail is None or not node.inputs:
            return False
        x = node.inputs[0]
        row = self.tail(x)
        if node.op.kind == "elementwise" or node.op.name == "broadcast":
            return all(self.is_shared(y, node) or self.fits(y, node) for y in node.inputs)
        if row is None:
            return False
        if node.op.kind == "reduction":
            return min(node.attrs["axes"], default=0) >= self.front(x)
        if node.op.name == "take_along":
            return node.attrs["axis"] >= self.front(x) and self.tail(node.inputs[1]) is not None
        if node.op.kind == "contraction":
            return len(row) == 1 and node.inputs[1].type.rank == 2
        return node.op.name == "reshape" and product(row) == product(tail)

    def is_shared(self, x: Node, node: Node) -> bool:
        """Whether all rows of `node` take the same of `x`, which broadcasts to it."""
        over = x.type.rank - len(self.tail(node) or ())
        return all(s == 1 for s in x.shape[: max(over, 0)])

    def fits(self, x: Node, node: Node) -> bool:
        """Whether each row of `node` takes its row of `x`."""
        front = self.front(node)
        return x.type.rank == node.type.rank and x.shape[:front] == node.shape[:front]

    def is_column(self, x: Node) -> bool:
        """Whether `x` has one value for each row."""
        tail = self.tail(x)
        return tail is not None and product(tail) == 1

    def is_light(self, x: Node) -> bool:
        """Whether `x` is made of a value for each row and of places: a copy would be larger."""
        if x.op.name == "iota":
            return self.tail(x) is not None and x.attrs["axis"] >= self.front(x)
        if x.op.kind != "elementwise" and x.op.name not in ("reshape", "broadcast"):
            return False
        return self.by_rows(x) and all(
            self.is_shared(y, x) or self.is_column(y) or self.is_light(y) for y in x.inputs
        )

    def adds_rows(self, node: Node) -> bool:
        """Whether `node` is a sum over all rows."""
        if node.op.name == "sum":
            (x,) = node.inputs
            return self.tail(x) is not None and {*range(self.front(x))} <= {*node.attrs["axes"]}
        sides = unturned(node)
        if node.op.name != "matmul" or sides is node.inputs or node.inputs[1].type.rank != 2:
            return False
        return all(x.shape[0] == self.rows for x in sides)


def split(region: Region, least: int) -> Graph:
    """The graph with the region computed in at least so many chunks, of equal size if possible."""
    rows = region.rows
    even = (n for n in range(least, min(2 * least, rows) + 1) if rows % n == 0)
    count = -(-rows // next(even, min(least, rows)))
    totals: dict[Node, Node] = {}
    parts: dict[Node, list[Node]] = {x: [] for x in region.ends}
    waits: tuple[Node, ...] = ()
    for start in range(0, rows, count):
        rows_of = Rows(region, start, min(start + count, rows), waits)
        for x in region.ends:
            parts[x].append(rows_of(x))
        for x in region.sums:
            found = rows_of.total(x)
            totals[x] = (totals[x] + found).at(x.loc) if x in totals else found
        waits = (*totals.values(), *(p[-1] for p in parts.values()))
    made = {x: OPS["concat"](*p, axis=0) for x, p in parts.items()} | totals
    whole = {x: shaped(y, x.shape) for x, y in made.items()}
    return rewritten(region.graph, lambda node: whole.get(node, node))


def shaped(x: Node, shape: Shape) -> Node:
    """`x` reshaped, where that is anything."""
    return x if x.shape == shape else OPS["reshape"](x, shape=shape)


@dataclass
class Rows:
    """Rows `start` to `stop` of the nodes of a region, with the rows as one axis.

    What comes from outside is copied when `waits` have been computed; so equal chunks are equal
    kernels, whichever rows they take.
    """

    region: Region
    start: int
    stop: int
    waits: tuple[Node, ...]
    made: dict[Node, Node] = field(default_factory=dict)

    def __call__(self, x: Node) -> Node:
        """These rows of `x`."""
        if x not in self.made:
            self.made[x] = self._rows(x).at(x.loc)
        return self.made[x]

    def _rows(self, x: Node) -> Node:
        region, tail = self.region, self.region.tail(x) or ()
        shape = (self.stop - self.start, *tail)
        if x not in region.nodes and not region.is_light(x):
            return self._copied(x, shape)
        if x.op.name == "iota":
            axis = x.attrs["axis"] - region.front(x) + 1
            return x.op(shape=shape, axis=axis, dtype=x.dtype)
        if x.op.kind == "contraction":
            return x.op(self(x.inputs[0]), x.inputs[1], **x.attrs)
        if x.op.kind == "elementwise":
            return x.op(*(self._operand(y, x) for y in x.inputs), **x.attrs)
        if x.op.name == "broadcast":
            return x.op(self._operand(x.inputs[0], x), shape=shape)
        if x.op.name == "reshape":
            return shaped(self(x.inputs[0]), shape)
        by = region.front(x.inputs[0]) - 1
        operands = map(self, x.inputs)
        if x.op.name == "take_along":
            return x.op(*operands, **{**x.attrs, "axis": x.attrs["axis"] - by})
        return x.op(*operands, **{**x.attrs, "axes": tuple(a - by for a in x.attrs["axes"])})

    def _operand(self, x: Node, node: Node) -> Node:
        """What these rows of `node` take of its operand `x`."""
        region = self.region
        if not region.is_shared(x, node):
            return self(x)
        return shaped(x, x.shape[max(0, x.type.rank - len(region.tail(node) or ())) :])

    def _copied(self, x: Node, shape: Shape) -> Node:
        while x.op.name == "reshape" and self.region.tail(x.inputs[0]) == shape[1:]:
            x = x.inputs[0]
        if x in self.made:
            return self.made[x]
        flat = shaped(x, (self.region.rows, *shape[1:]))
        starts, stops = (self.start, *(0 for _ in shape[1:])), (self.stop, *shape[1:])
        piece = OPS["slice"](flat, starts=starts, stops=stops, steps=(1,) * len(shape))
        self.made[x] = OPS["after"](piece, *self.waits)
        return self.made[x]

    def total(self, x: Node) -> Node:
        """What these rows add to a sum over rows."""
        if x.op.name == "matmul":
            a, b = map(self, unturned(x))
            return x.op(swap_last(a), b, **x.attrs).at(x.loc)
        by = self.region.front(x.inputs[0]) - 1
        axes = (0, *(a - by for a in x.attrs["axes"] if a > by))
        return x.op(self(x.inputs[0]), axes=axes).at(x.loc)
