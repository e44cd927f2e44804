"""Turning loops: a transpose by registers leaves what a transpose by elements leaves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.loop_turn import turn_parts
from planish.ir.loops import Buffer, Const, Expr, For, Kernel, Load, Store, Var, scalar
from planish.runtime.target import Target
from tests.ir.nests import J, K, buffer, n
from tests.runtime.native import assembly, check

RNG = np.random.default_rng(0)
DEPTHS = [1, 7, 8, 15, 16, 17, 40]


def turning(
    depth: Expr, columns: int, dtype: t.DType, row: Callable[[Expr], Expr] = lambda j: j
) -> Kernel:
    """y[k, j] = x[row(j), 3 + k], whose rows have 5 elements more than are read."""
    x, y = buffer("x", columns, depth + 5, dtype=dtype), buffer("y", depth, columns, dtype=dtype)
    store = Store(y, (K, J), Load(x, (row(J), Const(3, t.i64) + K)))
    loop = For(K, depth, "turn", (For(J, n(columns), "vector", (store,), columns),))
    return Kernel("test", (x, y), ("y",), (), (loop,))


@pytest.mark.parametrize("dtype", [t.f32, t.f64, t.i32, t.bf16])
@pytest.mark.parametrize("columns", [8, 16, 64])
@pytest.mark.parametrize("depth", DEPTHS)
def test_blocks_and_what_is_left(depth: int, columns: int, dtype: t.DType) -> None:
    x = RNG.integers(-99, 99, (columns, depth + 5)).astype(dtype.numpy)
    for size, dims in ((n(depth), {}), (Var("T"), {"T": depth})):
        y = np.zeros((depth, columns), dtype.numpy)
        _, found = check(turning(size, columns, dtype), x, y, dims=dims)
        np.testing.assert_array_equal(found, x[:, 3 : 3 + depth].T)


def test_rows_may_lie_anywhere() -> None:
    x = RNG.normal(size=(16, 37)).astype(np.float32)
    kernel = turning(n(32), 16, t.f32, lambda j: scalar("min", j, 11))
    _, found = check(kernel, x, np.zeros((32, 16), np.float32))
    np.testing.assert_array_equal(found, x[np.minimum(np.arange(16), 11), 3:35].T)


def test_other_loops_are_no_turning_loops() -> None:
    (loop,) = turning(n(8), 16, t.f32).body
    assert turn_parts(loop) is not None
    inner = loop.body[0]
    x, y = inner.body[0].value.buffer, inner.body[0].buffer

    def of(place: tuple[Expr, ...], value: Expr) -> For:
        return For(K, n(8), "turn", (For(J, n(16), "vector", (Store(y, place, value),), 16),))

    for place, read in (
        ((K, J), (J, K * 2)), ((K, J), (J, K + K)), ((K, J), (K, K)), ((K, J), (J, K + J)),
        ((J, K), (J, K)), ((J, J), (J, K)), ((K, J), (J, K % 4)),
    ):  # fmt: skip
        assert turn_parts(of(place, Load(x, read))) is None, (place, read)
    assert turn_parts(of((K, J), Load(x, (J, K)) * 2.0)) is None
    assert turn_parts(of((K, J), Load(y, (J, K)))) is None


def test_transposes_in_registers() -> None:
    code = assembly(turning(n(32), 16, t.f32), Target.parse("x86-64-v4"))
    assert not any("gather" in line for line in code)


@pytest.mark.parametrize("size", [n(32), Var("T")])
def test_processors_without_vectors_go_row_by_row(size: Expr) -> None:
    code = assembly(turning(size, 16, t.f32), Target.parse("riscv64"))
    assert any("fsw" in line for line in code)


def test_a_buffer_of_scalars_has_no_rows() -> None:
    x, y = Buffer("x", t.f32, (n(8),)), Buffer("y", t.f32, (n(8),))
    loop = For(K, n(8), "turn", (For(J, n(1), "vector", (Store(y, (J,), Load(x, (K,))),), 1),))
    assert turn_parts(loop) is not None
    check(Kernel("test", (x, y), ("y",), (), (loop,)), *np.zeros((2, 8), np.float32))
