"""Loop IR: its text and its meaning."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.loop_eval import run_kernel
from planish.ir.loop_text import expr_text, kernel_text
from planish.ir.loop_verify import verify_kernel
from planish.ir.loops import (
    Accumulate,
    Const,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    Stmt,
    Store,
    Var,
    bitcast,
    cast,
    scalar,
    select,
    size_expr,
)
from planish.ir.types import DType
from tests.ir.nests import I, J, K, T, buffer, f, kernel, n, over, softmax, vector

SOFTMAX = """\
kernel f(x: f32[4, T], out: f32[4, T]) -> out:
  local total: f32[1]
  parallel i in 4:
    total[0] = 0.0
    vector[8] j in T:
      let e: f32 = exp(x[i, j])
      out[i, j] = e
      total[0] += e
    vector[8] k in T:
      out[i, k] = out[i, k] / total[0]"""


# ------------------------------------------------------------------------------------- text


def test_a_kernel_prints_as_pseudo_code() -> None:
    assert kernel_text(softmax()) == SOFTMAX
    assert kernel_text(softmax(), "other").startswith("kernel other(")


A, B, C = Var("a", t.f32), Var("b", t.f32), Var("c", t.f32)


@pytest.mark.parametrize(
    "expr, text",
    [
        (A + B + C, "a + b + c"),
        (A + (B + C), "a + (b + c)"),
        (A * (B - C), "a * (b - c)"),
        (A - B * C, "a - b * c"),
        (-(A * B), "-(a * b)"),
        (-A * B, "-a * b"),
        (-f(1.0), "-(1.0)"),
        (A + -1, "a + -1.0"),
        (select(A < B, A, f(float("-inf"))), "select(a < b, a, -inf)"),
        ((A < B) & (B < C), "(a < b) & (b < c)"),
        (cast(A, t.f16) * 0.5, "f16(a) * 0.5:f16"),
        (bitcast(A, t.i32) >> 3, "bits_i32(a) >> 3:i32"),
        (scalar("fma", A, B, C), "fma(a, b, c)"),
        (I * 4 // 3 % J, "i * 4 // 3 % j"),
        (Const(True, t.boolean), "true"),
        (buffer("p q", 3)[I + 1], '"p q"[i + 1]'),
    ],
)
def test_expressions_print_with_few_parentheses(expr: Expr, text: str) -> None:
    assert expr_text(expr) == text


def test_all_that_matters_is_in_the_text() -> None:
    x, out = buffer("x", 4), buffer("out", 4)
    variants = [
        kernel((x, out), over(I, 4, Store(out, (I,), x[I]))),
        kernel((x, out), over(I, 4, Store(out, (I,), x[I] + 0.0))),
        kernel((x, out), over(I, 4, Store(out, (I,), x[I] + -0.0))),
        kernel((x, out), over(I, 4, Accumulate(out, (I,), "add", x[I]))),
        kernel((x, out), over(I, 4, Accumulate(out, (I,), "max", x[I]))),
        kernel((x, out), over(I, 4, Store(out, (I,), x[I]), kind="unroll")),
        kernel((x, out), vector(I, 4, Store(out, (I,), x[I]))),
        kernel((x, out), For(I, n(4), "vector", (Store(out, (I,), x[I]),), 16)),
        kernel((x, out), over(I, 4, Store(out, (I,), x[I])), local=(buffer("y", 2),)),
    ]
    assert len({kernel_text(k) for k in variants}) == len(variants)


# ---------------------------------------------------------------------------------- meaning


def run(k: Kernel, *arrays: np.ndarray, dims: dict[str, int] | None = None) -> np.ndarray:
    """Verify, run, and give back the last array."""
    run_kernel(verify_kernel(k), list(arrays), dims or {})
    return arrays[-1]


@pytest.mark.parametrize("length", (0, 1, 7, 8, 9, 100))
def test_softmax_of_symbolic_length(length: int) -> None:
    x = np.random.default_rng(0).normal(size=(4, length)).astype(np.float32)
    got = run(softmax(), x, np.full_like(x, np.nan), dims={"T": length})
    np.testing.assert_allclose(got, np.exp(x) / np.exp(x).sum(1, keepdims=True), rtol=1e-5)


def test_matmul_with_a_register_tile() -> None:
    a, b, out = buffer("a", 6, 5), buffer("b", 5, 8), buffer("out", 6, 8)
    tile = buffer("tile", 6, 8, space="local")
    r, s, u, v = Var("r"), Var("s"), Var("u"), Var("v")
    nest = (
        over(r, 6, vector(s, 8, Store(tile, (r, s), f(0.0))), kind="unroll"),
        over(
            K, 5, over(I, 6, vector(J, 8, Accumulate(tile, (I, J), "add", a[I, K] * b[K, J])),
            kind="unroll"),
        ),
        over(u, 6, vector(v, 8, Store(out, (u, v), tile[u, v])), kind="unroll"),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 5)).astype(np.float32), rng.normal(size=(5, 8)).astype(np.float32)
    got = run(kernel((a, b, out), *nest, local=(tile,)), x, y, np.empty((6, 8), np.float32))
    np.testing.assert_allclose(got, x @ y, rtol=1e-5)


def test_a_loop_whose_iterations_see_each_other_runs_in_order() -> None:
    """A running sum; on lanes it would read what is not yet written."""
    x = buffer("x", 9)
    body = Store(x, (I + 1,), x[I] + x[I + 1])
    got = run(kernel((x,), vector(I, 8, body)), np.arange(9, dtype=np.float32))
    assert got.tolist() == np.cumsum(np.arange(9)).tolist()


def test_in_place_arguments_that_share_memory_run_in_order() -> None:
    x, out = buffer("x", 8), buffer("out", 8)
    memory = np.arange(9, dtype=np.float32)
    run_kernel(kernel((x, out), vector(I, 8, Store(out, (I,), x[I]))), [memory[:8], memory[1:]], {})
    assert memory.tolist() == [0.0] * 9


def test_a_scratch_scalar_inside_a_vector_loop_belongs_to_each_iteration() -> None:
    x, out, y = buffer("x", 5), buffer("out", 5), buffer("y", 1, space="local")
    body = (Store(y, (n(0),), x[I] * 2), Store(out, (I,), y[0] + 1))
    k = kernel((x, out), vector(I, 5, *body), local=(y,))
    got = run(k, np.arange(5, dtype=np.float32), np.zeros(5, np.float32))
    assert got.tolist() == [1, 3, 5, 7, 9]


def test_lanes_collect_values_that_are_the_same_for_all() -> None:
    out = buffer("out", 2)
    nest = vector(I, 5, Accumulate(out, (n(1),), "add", f(2.0)))
    assert run(kernel((out,), nest), np.zeros(2, np.float32)).tolist() == [0, 10]


@pytest.mark.parametrize("op, wanted", [("max", 6), ("min", -6), ("mul", 0), ("add", 0)])
def test_reductions_over_lanes(op: str, wanted: float) -> None:
    x, out = buffer("x", 13), buffer("out", 1)
    nest = vector(I, 13, Accumulate(out, (n(0),), op, x[I]))
    got = run(kernel((x, out), nest), np.arange(-6, 7, dtype=np.float32), np.zeros(1, np.float32))
    assert got[0] == wanted


def test_branches_and_triangular_loops() -> None:
    out = buffer("out", 4, 4)
    nest = over(
        I, 4, over(J, I + 1, Store(out, (I, J), f(1.0))),
        If(scalar("eq", I, 2), (Store(out, (I, n(3)), f(5.0)),)),
    )  # fmt: skip
    wanted = np.tri(4)
    wanted[2, 3] = 5
    assert np.array_equal(run(kernel((out,), nest), np.zeros((4, 4), np.float32)), wanted)


def one(value: Expr, *arrays: np.ndarray) -> np.ndarray:
    """`value` over params x0, x1 ... [i], as a vector loop and one by one, which must agree."""
    shape = arrays[0].shape
    params = tuple(buffer(f"x{i}", *shape, dtype=t.dtype(a.dtype)) for i, a in enumerate(arrays))
    out = buffer("out", *shape, dtype=value.type)
    results = []
    for kind in ("vector", "serial"):
        nest = over(I, shape[0], Store(out, (I,), value), kind=kind)
        results.append(run(kernel((*params, out), nest), *arrays, np.empty(shape, out.dtype.numpy)))
    assert results[0].tobytes() == results[1].tobytes()
    return results[0]


def x(i: int, size: int, dtype: DType = t.f32) -> Load:
    return buffer(f"x{i}", size, dtype=dtype)[I]


def test_integers_wrap_and_divide_to_minus_infinity() -> None:
    a = np.array([2**31 - 1, -7, 7, 5, -(2**31)], np.int32)
    b = np.array([1, 2, -2, 0, -1], np.int32)
    p, q = x(0, 5, t.i32), x(1, 5, t.i32)
    assert one(p + q, a, b).tolist() == [-(2**31), -5, 5, 5, 2**31 - 1]
    assert one(p // q, a, b).tolist() == [2**31 - 1, -4, -4, 0, -(2**31)]
    assert one(p % q, a, b).tolist() == [0, 1, -1, 0, 0]


def test_casts_truncate_and_saturate() -> None:
    a = np.array([1.9, -1.9, np.nan, 1e10, -np.inf, 300.0], np.float32)
    assert one(cast(x(0, 6), t.i32), a).tolist() == [1, -1, 0, 2**31 - 1, -(2**31), 300]
    assert one(cast(x(0, 6), t.u8), a).tolist() == [1, 0, 0, 255, 0, 255]
    assert one(cast(x(0, 6), t.i64), a).tolist()[3:5] == [10**10, -(2**63)]
    assert one(cast(x(0, 6), t.boolean), a).all()
    wide = np.array([257, -1], np.int32)
    assert one(cast(x(0, 2, t.i32), t.i8), wide).tolist() == [1, -1]


def test_fma_rounds_once() -> None:
    a = np.array([1 + 2**-12, 3.0, np.inf, 1e30], np.float32)
    c = np.array([-1 - 2**-11, 0.1, 1.0, -np.inf], np.float32)
    p, q = x(0, 4), x(1, 4)
    assert one(scalar("fma", p, p, q), a, c).tolist()[::2] == [2**-24, np.inf]
    assert one(p * p + q, a, c)[0] == 0
    wide, small = np.array([1 + 2**-30]), np.array([-1 - 2**-29])
    p, q = x(0, 1, t.f64), x(1, 1, t.f64)
    assert one(scalar("fma", p, p, q), wide, small).tolist() == [2**-60]


def test_minimum_and_maximum_keep_nan() -> None:
    a, b = np.array([np.nan, 1, 2], np.float32), np.array([1, np.nan, 3], np.float32)
    assert np.array_equal(one(scalar("min", x(0, 3), x(1, 3)), a, b), [np.nan, np.nan, 2], True)


def test_bits() -> None:
    a = np.array([-8, 2**31 - 1, 3], np.int32)
    assert one(x(0, 3, t.i32) >> 1, a).tolist() == [-4, 2**30 - 1, 1]
    assert one(x(0, 3, t.i32) << 31, a).tolist() == [0, -(2**31), -(2**31)]
    high = scalar("umulhi", x(0, 3, t.i32), x(0, 3, t.i32))
    assert one(high, a).tolist() == [-16, 2**30 - 1, 0]
    wide = np.array([-1, 2**40], np.int64)
    assert one(scalar("umulhi", x(0, 2, t.i64), x(0, 2, t.i64)), wide).tolist() == [-2, 2**16]
    assert one(bitcast(x(0, 1), t.u32), np.ones(1, np.float32)).tolist() == [0x3F800000]
    assert one(scalar("popcount", x(0, 3, t.i32)), np.array([-1, 0, 6], np.int32)).tolist() == [
        32,
        0,
        2,
    ]
    assert one(scalar("popcount", x(0, 2, t.i64)), wide).tolist() == [64, 1]


def test_narrow_floats_round_at_every_step() -> None:
    for dtype in (t.f16, t.bf16):
        a = np.array([0.1, 200], dtype.numpy)
        got = one(x(0, 2, dtype) * x(0, 2, dtype) + 1, a)
        assert got.dtype == dtype.numpy and got.tobytes() == (a * a + np.ones(2, a.dtype)).tobytes()


def test_functions_are_the_definitions_unless_told_otherwise() -> None:
    a = np.linspace(-3, 3, 50, dtype=np.float32)
    out = buffer("out", 50)
    k = kernel((buffer("x0", 50), out), vector(I, 50, Store(out, (I,), scalar("tanh", x(0, 50)))))
    ours, numpys = np.empty_like(a), np.empty_like(a)
    run_kernel(k, [a, ours], {})
    run_kernel(k, [a, numpys], {}, definitions=False)
    assert np.array_equal(numpys, np.tanh(a))
    np.testing.assert_allclose(ours, numpys, rtol=3e-7)


def test_guard_reports_and_reads_element_zero() -> None:
    ids, out = buffer("ids", 4, dtype=t.i64), buffer("out", 4)
    table = buffer("table", 3)
    safe = scalar("guard", ids[I], n(3), n(7))
    for kind in ("vector", "serial"):
        nest = over(I, 4, Store(out, (I,), table[safe]), kind=kind)
        status: list = []
        got = np.zeros(4, np.float32)
        values = [np.array([2, 3, -1, 0]), np.array([5, 6, 7], np.float32), got]
        run_kernel(verify_kernel(kernel((ids, table, out), nest)), values, {}, status)
        assert got.tolist() == [7, 5, 5, 5]
        assert status == [(7, 3, 3), (7, -1, 3)]


@pytest.mark.parametrize("kind", ("vector", "serial"))
def test_an_index_outside_its_buffer_is_found(kind: str) -> None:
    a, out = buffer("a", 4), buffer("out", 4)
    arrays = [np.zeros(4, np.float32), np.zeros(4, np.float32)]
    with pytest.raises(
        IRError, match=r"index 4 is outside axis 0 of a, whose size is 4: a\[i \+ 1"
    ):
        run_kernel(kernel((a, out), over(I, 4, Store(out, (I,), a[I + 1]), kind=kind)), arrays, {})
    with pytest.raises(IRError, match=r"index -1 is outside axis 0 of out, .*: out\[i - 1\] = 0.0"):
        run_kernel(
            kernel((a, out), over(I, 4, Store(out, (I - 1,), f(0.0)), kind=kind)), arrays, {}
        )


def test_scratch_memory_read_before_it_is_written_shows() -> None:
    out, y = buffer("out", 2), buffer("y", 2, space="local")
    got = run(kernel((out,), over(I, 2, Store(out, (I,), y[I])), local=(y,)), np.zeros(2, "f4"))
    assert np.isnan(got).all()


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros(3, np.float32), r"out is float32\[4\], got float32\[3\]"),
        (np.zeros(4, np.float64), r"got float64\[4\]"),
        (np.zeros(8, np.float32)[::2], "not contiguous"),
    ],
)
def test_wrong_arguments_are_refused(array: np.ndarray, message: str) -> None:
    out = buffer("out", 4)
    with pytest.raises(IRError, match=message):
        run_kernel(kernel((out,), over(I, 4, Store(out, (I,), f(0.0)))), [array], {})


def test_five_thousand_lets_and_a_deep_expression() -> None:
    a, out = buffer("a", 3), buffer("out", 3)
    lets: list[Stmt] = [Let(Var("v0", t.f32), a[I])]
    for i in range(5000):
        lets.append(Let(Var(f"v{i + 1}", t.f32), Var(f"v{i}", t.f32) + 1.0))
    deep: Expr = Var("v5000", t.f32)
    for _ in range(5000):
        deep = deep + 1.0
    k = kernel((a, out), vector(I, 3, *lets, Store(out, (I,), deep)))
    assert kernel_text(k).count("\n") == 5003
    got = run(k, np.zeros(3, np.float32), np.zeros(3, np.float32))
    assert got.tolist() == [10_000] * 3


def test_sizes_may_be_products_of_dimensions() -> None:
    total = size_expr(6) * T * Var("B")
    out = buffer("out", total)
    k = kernel((out,), vector(I, total, Store(out, (I,), cast(I, t.f32))))
    assert k.dims == ("B", "T")
    assert run(k, np.zeros(36, np.float32), dims={"T": 2, "B": 3}).tolist() == list(range(36))
