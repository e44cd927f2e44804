"""Matrix loops: by the interpreter, on tiles, and refused where they have another shape."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.loop_matrix import matrix_step
from planish.ir.loop_verify import verify_kernel
from planish.ir.loops import Const, Expr, For, Kernel, Store, Var, scalar
from planish.runtime.target import Target
from tests.ir.nests import I, J, K, T, buffer, n, over
from tests.runtime.native import assembly, check

RNG = np.random.default_rng(0)
P = Var("p")


def words(*shape: int) -> np.ndarray:
    """Pairs of bf16."""
    return RNG.standard_normal((*shape, 2)).astype(t.bf16.numpy).view(np.uint32)[..., 0]


def product(rows: Expr | int, depth: int, columns: int, room: int = 40) -> Kernel:
    """Two panels of b, by rows of a that lie 3 words further apart than they are long."""
    a = buffer("a", room, depth + 3, dtype=t.u32)
    b, c = buffer("b", 2, depth, columns, dtype=t.u32), buffer("c", 2, room, columns)
    step = matrix_step(K, c[P, I, J], a[I, K], b[P, K, J])
    vector = For(J, n(columns), "vector", (Store(c, (P, I, J), step),), columns)
    inner = over(I, rows, vector)
    loop = For(K, n(depth), "matrix", (inner,))
    return Kernel("test", (a, b, c), ("c",), (), (over(P, 2, loop, kind="parallel"),))


def arrays(depth: int, columns: int, room: int = 40) -> tuple[np.ndarray, ...]:
    left = np.full((2, room, columns), 7.0, np.float32)
    return words(room, depth + 3), words(2, depth, columns), left


@pytest.mark.parametrize("columns", [16, 32])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 32])
def test_tiles_of_all_heights(rows: int, columns: int) -> None:
    """What lies beyond the rows is left as it is."""
    k = verify_kernel(product(rows, 48, columns))
    check(k, *arrays(48, columns), rtol=1e-5, threads=2)


@pytest.mark.parametrize("rows", [1, 16, 17, 32])
def test_a_height_known_at_run_time(rows: int) -> None:
    check(product(T, 16, 32), *arrays(16, 32), dims={"T": rows}, rtol=1e-5)


def test_tiles_where_there_are_some() -> None:
    k = product(32, 64, 32)
    for name, wanted in (("sapphirerapids", True), ("znver4", False)):
        lines = assembly(k, Target.parse(name))
        assert any("tdpbf16ps" in line for line in lines) == wanted
        assert any("tilerelease" in line for line in lines) == wanted


def test_another_shape_is_refused() -> None:
    k = product(8, 32, 16)
    (outer,) = k.body
    (loop,) = outer.body  # type: ignore[union-attr]
    plain = scalar("dpbf16", Const(0.0, t.f32), *loop.body[0].body[0].body[0].value.args[1:])
    store = Store(k.params[2], (P, I, J), plain)
    odd = For(K, n(32), "matrix", (over(I, 8, For(J, n(16), "vector", (store,), 16)),))
    for bad in (For(K, n(24), "matrix", loop.body), odd, For(K, n(32), "matrix", ())):
        with pytest.raises(IRError, match="matrix loop has not the one shape"):
            verify_kernel(Kernel("f", k.params, ("c",), (), (over(P, 2, bad, kind="parallel"),)))
