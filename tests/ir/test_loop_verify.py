"""The verifier of loop IR refuses what breaks a rule, and shows the line."""

from __future__ import annotations

import pytest

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.loop_verify import verify_kernel
from planish.ir.loops import (
    Accumulate,
    Buffer,
    Expr,
    Fetch,
    If,
    Kernel,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
    cast,
)
from tests.ir.nests import I, J, K, T, buffer, f, kernel, n, over, softmax, vector

X, OUT = buffer("x", 4, 3), buffer("out", 4, 3)
V = Var("v", t.f32)


def good(value: Expr = f(0.0), *extra: Stmt) -> tuple[Stmt, ...]:
    return (over(I, 4, over(J, 3, *extra, Store(OUT, (I, J), value))),)


def refuse(*body: Stmt, params: tuple[Buffer, ...] = (X, OUT), **options: object) -> str:
    with pytest.raises(IRError) as caught:
        verify_kernel(kernel(params, *body, **options))  # type: ignore[arg-type]
    return str(caught.value)


def test_a_refusal_shows_the_line_and_its_neighbours() -> None:
    assert (
        refuse(*good(cast(X[I, J], t.f16)))
        == """\
kernel f: out: f32[4, 3] is f32, got f16 from f16(x[i, j])
    serial j in 3:
      out[i, j] = f16(x[i, j])    <-- here"""
    )


@pytest.mark.parametrize(
    "body, message",
    [
        (good(V), "v is used before it is bound"),
        (good(cast(J, t.f32), Let(J, n(1))), "j is already bound"),
        (good(V, Let(V, f(1.0)), Let(V, f(2.0))), "v is already bound"),
        (good(V, Let(V, n(1))), "v is f32, got i64"),
        (good(Load(X, (I,))), "1 indexes into x: f32[4, 3]"),
        (good(Load(X, (I, f(0.0)))), "an index into x is i64, got f32"),
        (good(buffer("z", 4)[I]), "z: f32[4] is neither a param nor a local"),
        (good(Scalar("add", (f(1.0), n(1)), t.f32)), "operands are f32, i64"),
        (good(Scalar("lt", (f(1.0), f(1.0)), t.f32)), "the result is f32, not bool"),
        (good(Scalar("select", (f(1.0), f(1.0), f(1.0)), t.f32)), "the condition is f32"),
        (good(Scalar("nope", (), t.f32)), "unknown operation 'nope'"),
        (good(Scalar("add", (f(1.0),), t.f32)), "add takes 2 operands, got 1"),
        (good(Scalar("xor", (f(1.0), f(1.0)), t.f32)), "xor is not defined on f32"),
        (good(Scalar("bitcast", (n(1),), t.f32)), "i64 and f32 have different widths"),
        (good(cast(Scalar("exp", (n(1),), t.i64), t.f32)), "exp is not defined on i64"),
        ((Store(X, (n(0), n(0)), f(0.0)),), "x is written but is not among the kernel's writes"),
        ((Accumulate(OUT, (n(0), n(0)), "sub", f(0.0)),), "cannot accumulate by 'sub'"),
        ((Fetch(OUT, (n(0),)),), "1 indexes into"),
        ((over(I, 4, over(J, 3, kind="parallel")),), "a parallel loop must be the last"),
        ((over(I, 4, kind="parallel"), over(J, 4)), "a parallel loop must be the last"),
        ((over(I, 4), over(J, 4, kind="parallel")), "only lets may stand before a parallel loop"),
        ((over(I, T, kind="unroll"),), "the extent of an unrolled loop must be a constant"),
        ((over(I, 4, kind="odd"),), "unknown kind of loop 'odd'"),
        ((over(I, 4, width=0),), "a loop of 0 lanes"),
        ((over(V, 4),), "the loop variable v is f32, not i64"),
        ((over(I, 4, over(I, 4)),), "i is already bound"),
        ((vector(I, 4, vector(J, 3)),), "a vector loop inside a vector loop"),
        ((vector(I, 4, over(J, I)),), "an extent in a vector loop depends on i"),
        ((vector(I, 4, If(I < 2, ())),), "a branch in a vector loop depends on i; use select"),
        (
            (vector(I, 4, Let(V, X[I, 0]), If(V < 2, ())),),
            "a branch in a vector loop depends on v; use select",
        ),
        ((If(n(1), ()),), "a condition is bool, got i64 from 1"),
        ((over(I, 4), Let(K, I)), "i is used before it is bound"),
    ],
)
def test_the_verifier_refuses(body: tuple[Stmt, ...], message: str) -> None:
    assert message in refuse(*body)


def test_the_verifier_refuses_wrong_signatures() -> None:
    assert "two buffers are called x" in refuse(params=(X, X))
    assert "y is a local with space 'param'" in refuse(params=(OUT,), local=(buffer("y", 1),))
    assert "v is used before it is bound" in refuse(params=(buffer("y", V),))
    with pytest.raises(IRError, match="writes z, which is not a param"):
        verify_kernel(Kernel("f", (X,), ("z",), (), ()))


def test_the_verifier_lets_sound_kernels_pass() -> None:
    assert verify_kernel(softmax()).name == "f"
    uniform = vector(I, 4, If(J < 2, (Store(OUT, (I, n(0)), f(1.0)),)))
    verify_kernel(kernel((OUT,), over(J, 3, uniform)))
    verify_kernel(kernel((OUT,), over(I, 4), over(I, 4)))  # siblings may share a name
