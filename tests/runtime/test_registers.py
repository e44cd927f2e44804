"""Register tiles stay in registers: by the instructions of the machine code."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.loops import For, Kernel, Let, Store, Var, scalar
from planish.runtime.codegen.trips import FILLED, SHORT
from planish.runtime.llvm import optimised_text
from planish.runtime.target import Target
from tests.ir.nests import K, buffer, f, n, over
from tests.runtime.native import assembly, check, module_text

RNG = np.random.default_rng(0)


def rand(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def vec(var: Var, extent: int, *body: object, width: int = 16) -> For:
    return For(var, n(extent), "vector", body, width)  # type: ignore[arg-type]


def kernel(params: tuple, *body: object, local: tuple) -> Kernel:
    return Kernel("test", params, (params[-1].name,), local, body)  # type: ignore[arg-type]


def gemm_tile(m: int, width: int, depth: int) -> Kernel:
    """C[m, width] = A[m, depth] B[depth, width] in registers."""
    a, b, c = buffer("a", m, depth), buffer("b", depth, width), buffer("c", m, width)
    acc = buffer("acc", m, width, space="local")
    i, j = Var("i"), Var("j")

    def tile(body: object) -> For:
        return For(i, n(m), "unroll", (vec(j, width, body, width=width),))

    product = scalar("fma", a[i, K], b[K, j], acc[i, j])
    return kernel(
        (a, b, c),
        tile(Store(acc, (i, j), f(0.0))),
        over(K, depth, tile(Store(acc, (i, j), product))),
        tile(Store(c, (i, j), acc[i, j])),
        local=(acc,),
    )


@pytest.mark.isa("avx512f")
def test_a_tile_of_six_by_four_registers_does_not_spill() -> None:
    lines = assembly(gemm_tile(6, 64, 384), Target.host())
    assert sum("vfmadd" in line and "zmm" in line for line in lines) == 24
    assert not any("rsp" in line or "rbp" in line for line in lines)
    assert not any(line.startswith("call") for line in lines)


def test_a_tile_is_right() -> None:
    check(gemm_tile(3, 32, 50), rand(3, 50), rand(50, 32), rand(3, 32), rtol=1e-4)


@pytest.mark.isa("avx512f")
def test_constants_of_an_epilogue_do_not_push_a_tile_out_of_its_registers() -> None:
    plain = gemm_tile(6, 64, 128)
    out = buffer("out", 8, 6, 64)
    p, row, j, x = Var("p"), Var("row"), Var("column"), Var("x", t.f32)
    tile = buffer("tile", 6, 64, space="local")
    inner = x * (x * x * 0.0713548 + 1.5957691)
    gelu = vec(j, 64, Let(x, tile[row, j]), Store(out, (p, row, j), x * scalar("sigmoid", inner)))
    *fill, _ = plain.body
    i = Var("i")
    copy = vec(j, 64, Store(tile, (i, j), plain.locals[0][i, j]), width=64)
    keep = over(i, 6, copy, kind="unroll")
    body = over(p, 8, *fill, keep, over(row, 6, gelu), kind="parallel")
    k = kernel((*plain.params[:2], out), body, local=(*plain.locals, tile))
    text = module_text(k, Target.host())
    assert '!{!"branch_weights", i32 127, i32 1}' in text  # of the inner loop: it counts most
    lines = assembly(k, Target.host())
    first = next(i for i, line in enumerate(lines) if "vfmadd" in line)
    end = next(i for i in range(first, len(lines)) if lines[i].startswith("j"))
    assert not any("rsp" in line for line in lines[first:end])


def unrolled(lanes: int, body: For) -> int:
    """How many products of a loop there are in LLVM's code."""
    x, y = buffer("x", 64, lanes), buffer("y", 64, lanes)
    text = module_text(kernel((x, y), body, local=()), Target.host())
    return optimised_text(text, Target.host()).count("fmul")


@pytest.mark.parametrize(("trips", "width", "stays"), [
    (SHORT, FILLED, False), (SHORT + 1, FILLED, True), (64, FILLED, True), (64, 1, False),
])  # fmt: skip
def test_llvm_unrolls_loops_that_are_short_or_narrow(trips: int, width: int, stays: bool) -> None:
    lanes = width * Target.host().lanes(t.f32)
    x, y, i, j = buffer("x", 64, lanes), buffer("y", 64, lanes), Var("i"), Var("j")
    row = vec(j, lanes, Store(y, (i, j), x[i, j] * 3.0), width=lanes)
    assert (unrolled(lanes, over(i, trips, row)) == 1) == stays


def test_llvm_does_not_unroll_loops_over_vectors() -> None:
    lanes, j = Target.host().lanes(t.f32), Var("j")
    x, y = buffer("x", 64, 64 * lanes), buffer("y", 64, 64 * lanes)
    assert unrolled(64 * lanes, vec(j, 64 * lanes, Store(y, (n(0), j), x[n(0), j] * 3.0),
                                    width=lanes)) == 1  # fmt: skip
