"""What kernels cost: counts that are known, on nests and on what lowering makes."""

from __future__ import annotations

import pytest

import planish as pl
import planish.numpy as pnp
from planish.frontend.nn import functional as F
from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.loops import Accumulate, Const, Expr, For, If, Kernel, Let, Store, Var, cast, scalar
from planish.passes.pipelines import PIPELINES
from planish.runtime.cost import Cost, kernel_cost, step_bytes, step_flops
from planish.runtime.lower import lower
from planish.runtime.plan import Plan
from planish.runtime.target import Target
from tests.ir.nests import I, J, K, T, buffer, f, kernel, n


def plan(graph: Graph, pipeline: str = "O2") -> Plan:
    return lower(PIPELINES[pipeline].run(graph), Target.host())


def costs(plan: Plan, **dims: int) -> list[tuple[int, int]]:
    """(operations, bytes) of each step."""
    found = []
    for step in plan.steps:
        cost = kernel_cost(step.kernel, step.known(dims))
        found.append((step_flops(step, cost, dims), sum(step_bytes(step, cost, dims).values())))
    return found


@pytest.mark.parametrize("shape", [(1, 64, 64), (5, 7, 9), (33, 65, 31)])
def test_a_product_is_two_operations_for_each_of_m_n_k(shape: tuple[int, int, int]) -> None:
    m, k, n_ = shape
    graph = pl.trace(lambda a, b: a @ b, pl.spec((m, k)), pl.spec((k, n_)))
    *_, (flops, size) = costs(plan(graph))
    assert flops == 2 * m * n_ * k
    assert size >= 4 * (m * k + k * n_ + m * n_)  # panels of B may be padded
    rows = pl.trace(lambda a, b: a @ b, pl.spec(("M", k)), pl.spec((k, n_)))
    assert costs(plan(rows), M=m)[-1][0] == flops


def test_elementwise_and_rows() -> None:
    graph = pl.trace(lambda x, y: pnp.exp(x) * y + 1.0, pl.spec((8, 100)), pl.spec((100,)))
    assert costs(plan(graph)) == [(3 * 800, 4 * (800 + 100 + 800))]
    mean = pl.trace(lambda x: x.mean(axis=-1), pl.spec(("B", 100)))
    assert costs(plan(mean), B=8) == [(8 * 101, 4 * (800 + 8))]


def test_a_table_counts_with_the_rows_that_are_read() -> None:
    graph = pl.trace(pnp.take, pl.spec((50, 20)), pl.spec((3,), "i32"))
    assert costs(plan(graph)) == [(0, 4 * (2 * 3 * 20 + 3))]


def counted(body: tuple, *params: object, **dims: int) -> Cost:
    return kernel_cost(Kernel("k", params, ("y",), (), body), dims)  # type: ignore[arg-type]


X, Y = buffer("x", 64, 64), buffer("y", 64)


def test_a_triangle_is_added_up() -> None:
    inner = For(J, I + n(1), "serial", (Accumulate(Y, (I,), "add", X[I, J]),))
    found = counted((For(I, T, "parallel", (inner,)),), X, Y, T=64)
    assert found.flops == found.reads["x"] == found.writes["y"] == 64 * 65 // 2
    blocks = Let(Var("b"), I % n(16))  # the extent depends on the loop through a name
    inner = For(J, scalar("min", Var("b") + n(1), n(99)), "serial", inner.body)
    found = counted((For(I, n(6400), "parallel", (blocks, inner)),), X, Y)
    assert found.flops == pytest.approx(6400 * 8.5, rel=0.02)


def test_conditions_and_functions() -> None:
    store = Store(Y, (I,), scalar("fma", X[I, I], scalar("exp", X[I, I]), f(1.0)))
    found = counted((For(I, n(64), "serial", (If(scalar("lt", I, n(10)), (store,)),)),), X, Y)
    assert found.flops == 10 * 3 and found.writes == {"y": 10}
    words = buffer("w", 64, dtype=t.u32)
    dot = Store(Y, (I,), scalar("dpbf16", Y[I], words[I], words[I]))
    found = counted((For(I, n(64), "vector", (dot,), 16),), words, Y)
    assert found.flops == found.dots == 4 * 64 and found.byte_dots == 0
    dot = Store(Y, (I,), cast(scalar("dpbusd", Const(0, t.i32), words[I], words[I]), t.f32))
    found = counted((For(I, n(64), "vector", (dot,), 16),), words, Y)
    assert found.flops == found.byte_dots == 8 * 64 and found.dots == 0


def test_extents_that_are_data() -> None:
    length = buffer("x", dtype=t.i32)
    extent: Expr = cast(length[()], t.i64) + n(1)
    body = (For(K, extent, "serial", (Accumulate(Y, (n(0),), "add", f(1.0)),)),)
    nest = kernel((length, Y), *body)
    assert kernel_cost(nest, {}, lambda name, index: 41).flops == 42
    assert kernel_cost(nest, {}).flops == 64


def test_attention_costs_half_where_it_is_causal() -> None:
    head, length, heads = 16, 256, 3
    specs = [pl.spec((1, heads, length, head))] * 3
    found = {}
    for causal in (False, True):
        graph = pl.trace(
            lambda q, k, v, c=causal: F.scaled_dot_product_attention(q, k, v, causal=c),
            *specs,
        )
        found[causal] = sum(flops for flops, _ in costs(plan(graph)))
    products = 4 * heads * length * length * head
    assert products <= found[False] <= 1.2 * products
    assert 0.45 * found[False] <= found[True] <= 0.75 * found[False]
