"""Operands of a matrix product in panels: columns side by side, as a register tile reads them."""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.dims import is_multiple, product
from planish.ir.graph import Graph
from planish.ir.loops import Buffer, Const, as_index, scalar, size_expr
from planish.runtime.kernels.gemm import Roles
from planish.runtime.kernels.nest import Lowered, Nest, Pull, blocks, lowered, minimum, unflatten
from planish.runtime.kernels.strides import strides

PACK = 64  # rows of B that one parallel iteration packs
ALIASED = 2048  # bytes: rows of B this far apart share so few sets of the L1 cache that they evict
PANEL = 1 << 16  # bytes: longer panels are read from the L2 cache
PAYING = 256  # rows of A; packing B costs as much time as some 20


def is_direct(body: Graph, roles: Roles, nr: int) -> bool:
    """Whether B is read as it lies: whole tiles, contiguous rows, spread over the cache sets.

    Many rows of A pay for packing panels that the L1 cache does not hold: in the L2 cache, too,
    rows that lie apart evict each other.
    """
    b, p = roles.b, roles.product
    if not isinstance(p.columns, int) or p.columns % nr:
        return False
    *_, down, along = strides(body, b)
    if along != {(): 1}:
        return False
    if down is None or set(down) != {()}:
        return True
    line, many = nr * b.dtype.itemsize, product(p.rows)
    long = isinstance(p.depth, int) and p.depth * line > PANEL
    pays = long and isinstance(many, int) and many >= PAYING
    return down[()] * b.dtype.itemsize % ALIASED != 0 and not pays


def pack_kernel(body: Graph, rows: bool, nr: int, name: str, flat: bool = False) -> Lowered:
    """B, the result of `body`, into panels [..., N / NR, K, NR]; its `rows` may be contiguous.

    A `flat` result is [..., K, N / NR * NR] instead.

    Blocks of one panel follow each other where columns of B are contiguous; where rows are, blocks
    of all panels do, so that a cache line is read once that has elements of several.
    """
    (b,) = body.outputs
    nest = Nest()
    pull = Pull(nest, body)
    pull.declare()
    *batch, k, n = b.shape
    count, steps = blocks(n, nr), blocks(k, PACK)
    sizes = (size_expr(k), count * nr) if flat else (count, size_expr(k), Const(nr, t.i64))
    buffer = Buffer("out0", b.dtype, (*map(size_expr, batch), *sizes))
    nest.params.append(buffer)
    nest.writes.append("out0")
    whole = is_multiple(n, nr)
    with nest.loop("p", size_expr(product(batch)) * count * steps, "parallel") as p:
        at = unflatten(p // (count * steps), tuple(batch))
        inside = p % (count * steps) if batch else p
        panel = nest.let(inside % count if rows else inside // steps)
        first = nest.let((inside // count if rows else inside % steps) * PACK)
        height = minimum(size_expr(k) - first, as_index(PACK))
        even = is_multiple(k, PACK)
        with nest.loop("k", PACK if even else nest.let(height), "turn") as r:
            with nest.loop("j", nr, "vector", nr) as j:
                column, row = panel * nr + j, first + r
                value = pull(b, (*at, row, column if whole else minimum(column, size_expr(n) - 1)))
                if not whole:
                    zero = Const(0.0 if b.dtype.is_float else 0, b.dtype)
                    value = scalar("select", scalar("lt", column, size_expr(n)), value, zero)
                place = (row, column) if flat else (panel, row, j)
                nest.store(buffer, (*at, *place), value)
    return lowered(nest, pull, name)
