"""Kernels as machine code, against the loop interpreter and by their instructions."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import IRError, TargetError
from planish.ir.loops import (
    Accumulate,
    Buffer,
    Const,
    Expr,
    Fetch,
    For,
    If,
    Kernel,
    Let,
    Store,
    Var,
    bitcast,
    cast,
    scalar,
    select,
)
from planish.runtime.codegen.kernel import kernel_function
from planish.runtime.target import Target
from tests.ir.nests import I, J, K, T, buffer, f, n, over
from tests.runtime.native import assembly, check

RNG = np.random.default_rng(0)
FLOATS = (t.f64, t.f32, t.f16, t.bf16)
DTYPES = (*FLOATS, t.i64, t.i32, t.i8, t.i4, t.u32, t.u8, t.boolean)


def rand(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def vec(var: Var, extent: int | Expr, *body: object, width: int = 16) -> For:
    size = n(extent) if isinstance(extent, int) else extent
    return For(var, size, "vector", body, width)  # type: ignore[arg-type]


def kernel(params: tuple[Buffer, ...], *body: object, local: tuple[Buffer, ...] = ()) -> Kernel:
    return Kernel("test", params, (params[-1].name,), local, body)  # type: ignore[arg-type]


def rows(extent: int | Expr, *body: object) -> For:
    return over(I, extent, *body, kind="parallel")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100])
def test_elementwise_of_symbolic_length_with_a_tail(size: int) -> None:
    x, y = buffer("x", 3, T), buffer("y", 3, T)
    value = select(x[I, J] > 0.0, scalar("exp", x[I, J]), x[I, J] * 2.0 + 1.0)
    k = kernel((x, y), rows(3, vec(J, T, Store(y, (I, J), value))))
    check(k, rand(3, size), rand(3, size), dims={"T": size}, threads=2)


@pytest.mark.parametrize("size", [1, 5, 16, 31, 64, 70, 200])
@pytest.mark.parametrize("op", ["add", "mul", "max", "min"])
def test_reduction_over_lanes(size: int, op: str) -> None:
    x, total = buffer("x", size), buffer("total", 1)
    k = kernel((x, total), vec(J, size, Accumulate(total, (n(0),), op, x[J]), width=64))
    check(k, rand(size), rand(1), rtol=1e-4)


def test_reduction_gives_nan_for_nan() -> None:
    x, total = buffer("x", 40), buffer("total", 1)
    array = rand(40)
    array[33] = np.nan
    k = kernel((x, total), vec(J, 40, Accumulate(total, (n(0),), "max", x[J])))
    assert np.isnan(check(k, array, rand(1))[1][0])


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100])
def test_partial_sums_of_several_rows_at_once(size: int) -> None:
    a, x, y = buffer("a", 8, T), buffer("x", T), buffer("y", 8)
    acc = buffer("acc", 4, space="local")
    u = Var("u")
    k = kernel(
        (a, x, y),
        rows(
            2,
            over(u, 4, Store(acc, (u,), f(0.0)), kind="unroll"),
            vec(
                J,
                T,
                over(K, 4, Accumulate(acc, (K,), "add", a[I * 4 + K, J] * x[J]), kind="unroll"),
            ),
            over(Var("w"), 4, Store(y, (I * 4 + Var("w"),), acc[Var("w")]), kind="unroll"),
        ),
        local=(acc,),
    )
    check(k, rand(8, size), rand(size), rand(8), dims={"T": size}, rtol=1e-4)


def test_the_sum_has_the_same_bits_at_any_thread_count() -> None:
    x, y = buffer("x", 7, T), buffer("y", 7)
    body = vec(J, T, Accumulate(y, (I,), "add", x[I, J]), width=64)
    k = kernel((x, y), rows(7, body))
    arrays = rand(7, 1000), np.zeros(7, np.float32)
    check(k, *arrays, dims={"T": 1000}, threads=3, rtol=1e-4)


@pytest.mark.parametrize("dtype", [t.i64, t.i32])
@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize("vectorised", [False, True])
def test_guarded_rows_of_a_table(dtype: t.DType, bad: bool, vectorised: bool) -> None:
    tokens, table, out = (
        buffer("tokens", 10, dtype=dtype),
        buffer("table", 50, 20),
        buffer("o", 10, 20),
    )
    token = scalar("guard", tokens[I], Const(50, dtype), Const(3, dtype))
    store = Store(out, (I, J), table[cast(token, t.i64), J])
    loops = (
        over(J, 20, vec(I, 10, store), kind="parallel")
        if vectorised
        else rows(10, vec(J, 20, store))
    )
    ids = RNG.integers(0, 50, 10).astype(dtype.numpy)
    if bad:
        ids[4] = -1
    check(kernel((tokens, table, out), loops), ids, rand(50, 20), rand(10, 20))


def test_guard_reports_index_and_bound() -> None:
    tokens, out = buffer("tokens", 20, dtype=t.i64), buffer("out", 20, dtype=t.i64)
    token = scalar("guard", tokens[J], Const(50, t.i64), Const(7, t.i64))
    ids = np.arange(20)
    ids[18] = -(2**63)
    want = check(
        kernel((tokens, out), vec(J, 20, Store(out, (J,), token))), ids, np.zeros(20, np.int64)
    )
    assert want[1][18] == 0


def test_scatter_to_colliding_places() -> None:
    ids, out = buffer("ids", 10, dtype=t.i32), buffer("out", 5)
    x = buffer("x", 10)
    k = kernel((ids, x, out), vec(I, 10, Accumulate(out, (cast(ids[I], t.i64),), "add", x[I])))
    check(k, RNG.integers(0, 3, 10).astype(np.int32), rand(10), rand(5), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 16, 20, 40])
def test_masks_by_position(size: int) -> None:
    s, out = buffer("s", T, T), buffer("out", T, T)
    value = select(scalar("le", J, I), s[I, J], f(float("-inf")))
    check(
        kernel((s, out), rows(T, vec(J, T, Store(out, (I, J), value)))),
        rand(size, size), rand(size, size), dims={"T": size}, threads=2,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 16, 20, 40])
def test_conditions_inside_vector_loops(size: int) -> None:
    s, out = buffer("s", T, T), buffer("out", T, T)
    body = vec(
        J,
        T,
        If(scalar("lt", I, J), (Store(out, (I, J), s[J, I]),)),
        If(scalar("lt", I, n(5)), (Store(out, (I, J), s[I, J] * s[n(0), n(0)]),)),
    )
    check(kernel((s, out), rows(T, body)), rand(size, size), rand(size, size), dims={"T": size})


@pytest.mark.parametrize("size", [1, 16, 20])
def test_strided_reads_and_writes(size: int) -> None:
    s, out = buffer("s", T, T), buffer("out", T, T)
    k = kernel((s, out), rows(T, vec(J, T, Store(out, (J, I), s[I, J] + s[T - 1 - I, T - 1 - J]))))
    check(k, rand(size, size), rand(size, size), dims={"T": size})


def test_reads_with_a_constant_step() -> None:
    x, out = buffer("x", 20, 40), buffer("out", 20, 10)
    k = kernel((x, out), rows(20, vec(J, 10, Store(out, (I, J), x[n(19) - I, n(39) - J * 4]))))
    check(k, rand(20, 40), rand(20, 10))


def test_large_locals_are_scratch_memory() -> None:
    x, y = buffer("x", T), buffer("y", T)
    a, b = buffer("a", T, space="local"), buffer("b", 5000, space="local")
    fill = over(I, T, Store(a, (I,), x[I] * 2.0), Store(b, (I,), x[I]))
    k = kernel((x, y), fill, vec(J, T, Store(y, (J,), a[J] + b[T - 1 - J])), local=(a, b))
    check(k, rand(77), rand(77), dims={"T": 77})


@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_conversions_between_all_dtypes(source: t.DType) -> None:
    values = RNG.standard_normal(40) * 10.0 ** RNG.integers(-5, 13, 40)
    values[:3] = [np.nan, np.inf, -np.inf]
    with np.errstate(all="ignore"):
        if source.is_float:
            array = values.astype(source.numpy)
        elif source in (t.i4, t.boolean):
            array = RNG.integers(0, 2, 40).astype(source.numpy) * (-3 if source == t.i4 else 1)
            array = array.astype(source.numpy)
        else:
            array = RNG.integers(0, 2**62, 40).astype(source.numpy)
    x = buffer("x", 40, dtype=source)
    outs = [buffer(f"y{d}", 40, dtype=d) for d in DTYPES]
    stores = [Store(y, (J,), cast(x[J], y.dtype)) for y in outs]
    k = Kernel("cast", (x, *outs), tuple(y.name for y in outs), (), (vec(J, 40, *stores),))
    check(k, array, *[np.zeros(40, y.dtype.numpy) for y in outs])


@pytest.mark.isa("f16c")
def test_half_precision_converts() -> None:
    x, y = buffer("x", 40, dtype=t.f16), buffer("y", 40)
    for target in (Target.host(), Target.parse("x86-64-v3")):
        declarations: dict[str, str] = {}
        k = kernel((x, y), vec(J, 40, Store(y, (J,), cast(x[J], t.f32))))
        assert "fpext" in kernel_function(k, k.dims, "k0_", target, declarations)
    with pytest.raises(TargetError, match="f16 needs the feature f16c, which target x86-64-v2"):
        kernel_function(k, k.dims, "k0_", Target.parse("x86-64-v2"), {})


@pytest.mark.parametrize("dtype", [t.i64, t.i32, t.i8, t.u32, t.u8], ids=str)
@pytest.mark.parametrize("by", [None, 7, 8, -3, 0, -1])
def test_integer_division_is_numpys_and_never_traps(dtype: t.DType, by: int | None) -> None:
    if by is not None and by < 0 and dtype.kind == "u":
        pytest.skip("unsigned")
    info = np.iinfo(dtype.numpy)
    edges = np.array([info.min, info.max, 0, 1, info.max - 1, info.min + 1], dtype.numpy)
    a = np.repeat(np.concatenate([edges, RNG.integers(0, 99, 10).astype(dtype.numpy)]), 16)
    b = np.tile(
        np.concatenate([edges, np.arange(10).astype(dtype.numpy) - (dtype.kind == "i")]), 16
    )
    x, y = buffer("x", len(a), dtype=dtype), buffer("y", len(a), dtype=dtype)
    outs = [buffer(f"o{i}", len(a), dtype=dtype) for i in range(2)]
    divisor = y[J] if by is None else Const(by, dtype)
    stores = [
        Store(o, (J,), scalar(op, x[J], divisor))
        for o, op in zip(outs, ("floor_div", "mod"), strict=True)
    ]
    k = Kernel("divide", (x, y, *outs), ("o0", "o1"), (), (vec(J, len(a), *stores),))
    check(k, a, b, np.zeros_like(a), np.zeros_like(a))


@pytest.mark.parametrize("dtype", [t.f32, t.f64], ids=str)
def test_float_division_rounds_down(dtype: t.DType) -> None:
    values = [7.0, -7.0, 0.0, 2.5, -2.5, 1e-3, 5.0, np.inf, np.nan]
    a = np.repeat(np.array(values, dtype.numpy), len(values))
    b = np.tile(np.array([2.0, -2.0, 0.5, -0.3, 3.0, 1e3, np.nan, np.inf, -np.inf], dtype.numpy), 9)
    keep = np.isfinite(a)
    a, b = a[keep], b[keep]
    x, y, q, r = (buffer(name, len(a), dtype=dtype) for name in "xyqr")
    body = vec(
        J,
        len(a),
        *(Store(o, (J,), scalar(op, x[J], y[J])) for o, op in ((q, "floor_div"), (r, "mod"))),
    )
    check(Kernel("divide", (x, y, q, r), ("q", "r"), (), (body,)), a, b, a.copy(), a.copy())


@pytest.mark.parametrize("dtype", [t.i32, t.u32, t.i64], ids=str)
def test_shifts_by_any_amount(dtype: t.DType) -> None:
    a = np.array([1, -1, 123456789, -123456789, 5, 7], np.int64).astype(dtype.numpy)
    b = np.array([0, 1, 31, 33, 64, 63], np.int64).astype(dtype.numpy)
    x, y = buffer("x", 36, dtype=dtype), buffer("y", 36, dtype=dtype)
    outs = [buffer(f"o{i}", 36, dtype=dtype) for i in range(3)]
    values = [
        scalar("shl", x[J], y[J]),
        scalar("shr", x[J], y[J]),
        scalar("shr", x[J], Const(3, dtype)),
    ]
    body = vec(J, 36, *(Store(o, (J,), v) for o, v in zip(outs, values, strict=True)))
    arrays = np.repeat(a, 6), np.tile(b, 6), *(np.zeros(36, dtype.numpy) for _ in outs)
    check(Kernel("shift", (x, y, *outs), ("o0", "o1", "o2"), (), (body,)), *arrays)


@pytest.mark.parametrize("dtype", [t.u32, t.i32, t.i64], ids=str)
def test_upper_half_of_a_product(dtype: t.DType) -> None:
    x, y, out = (buffer(name, 33, dtype=dtype) for name in ("x", "y", "out"))
    arrays = [RNG.integers(0, 2**63, 33).astype(dtype.numpy) for _ in range(2)]
    k = kernel((x, y, out), vec(J, 33, Store(out, (J,), scalar("umulhi", x[J], y[J]))))
    check(k, *arrays, arrays[0] * 0)


@pytest.mark.parametrize("dtype", [t.u8, t.u32, t.i32, t.i64], ids=str)
def test_bits_are_counted(dtype: t.DType) -> None:
    x, out = (buffer(name, 33, dtype=dtype) for name in ("x", "out"))
    array = RNG.integers(0, 2**63, 33).astype(dtype.numpy)
    k = kernel((x, out), vec(J, 33, Store(out, (J,), scalar("popcount", x[J]))))
    check(k, array, array * 0)


UNARY = (
    "neg",
    "abs",
    "sign",
    "sqrt",
    "floor",
    "ceil",
    "trunc",
    "round",
    "exp",
    "tanh",
    "erf",
    "log",
)


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_unary_operations(op: str, dtype: t.DType) -> None:
    special = [0.0, -0.0, 1.5, 2.5, -1.5, np.inf, -np.inf, np.nan, 1e-3, 100.0]
    a = np.concatenate([np.array(special), RNG.standard_normal(30) * 3]).astype(dtype.numpy)
    x, y = buffer("x", 40, dtype=dtype), buffer("y", 40, dtype=dtype)
    k = kernel((x, y), vec(J, 40, Store(y, (J,), scalar(op, x[J]))))
    check(k, a, np.zeros_like(a), rtol=1e-6 if dtype != t.f64 else 1e-13)


def test_bits_and_logic() -> None:
    x, y = buffer("x", 20), buffer("y", 20, dtype=t.boolean)
    mask = scalar("and", x[J] > 0.0, scalar("not", x[J] > 1.0))
    odd = scalar("eq", bitcast(x[J], t.i32) & 1, Const(1, t.i32))
    check(
        kernel((x, y), vec(J, 20, Store(y, (J,), scalar("xor", mask, odd)))),
        rand(20),
        np.zeros(20, bool),
    )


def test_a_block_of_five_thousand_lets() -> None:
    x, y = buffer("x", 16), buffer("y", 16)
    lets = [Let(Var("v0", t.f32), x[J])]
    for i in range(1, 5000):
        lets.append(Let(Var(f"v{i}", t.f32), Var(f"v{i - 1}", t.f32) + 1.0))
    k = kernel((x, y), vec(J, 16, *lets, Store(y, (J,), Var("v4999", t.f32))))
    target = Target.host()
    assert kernel_function(k, k.dims, "k0_", target, {}).count("fadd") == 4999


def test_shared_parts_are_made_once() -> None:
    x, y = buffer("x", 16), buffer("y", 16)
    value: Expr = x[J]
    for _ in range(10):
        value = value + value  # 2^10 paths
    k = kernel((x, y), vec(J, 16, Store(y, (J,), value)))
    assert kernel_function(k, k.dims, "k0_", Target.host(), {}).count("fadd") == 10


def test_functions_are_inline() -> None:
    x, y = buffer("x", T), buffer("y", T)
    k = kernel((x, y), vec(J, T, Store(y, (J,), scalar("tanh", x[J]) + scalar("exp", x[J]))))
    assert not any(line.startswith("call") for line in assembly(k, Target.host()))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            vec(J, 16, Store(buffer("y", 16), (n(0),), buffer("x", 16)[J])),
            "all lanes write one element",
        ),
        (
            over(J, T, Store(buffer("y", 16), (J,), f(0.0)), kind="unroll"),
            "needs a constant extent",
        ),
    ],
)
def test_impossible_kernels_are_refused(body: object, message: str) -> None:
    k = kernel((buffer("x", 16), buffer("y", 16)), body)
    with pytest.raises(IRError, match=message):
        kernel_function(k, k.dims, "k0_", Target.host(), {})


def test_a_loop_over_nothing_writes_nothing() -> None:
    nothing = Buffer("out", t.f32, (Const(0, t.i64),))
    store = Store(nothing, (Var("p"),), Const(1.0, t.f32))
    loop = For(Var("p"), Const(0, t.i64), "parallel", (store,))
    kernel = Kernel("nothing", (nothing,), ("out",), (), (loop,))
    for alone in (False, True):
        text = kernel_function(kernel, (), "k", Target.host(), {}, alone=alone)
        assert "store" not in text


def test_lines_that_are_fetched_change_nothing_wherever_they_are() -> None:
    x, y = buffer("x", 4, 32), buffer("y", 4, 32)
    far = n(1 << 40)
    body = vec(J, 32, Fetch(x, (I + 1, J)), Store(y, (I, J), x[I, J] + 1.0))
    k = kernel((x, y), rows(4, Fetch(y, (far, n(-1))), body))
    check(k, rand(4, 32), rand(4, 32), threads=2)
    if Target.host().arch == "x86_64":
        assert sum("prefetcht0" in line for line in assembly(k, Target.host())) >= 2
