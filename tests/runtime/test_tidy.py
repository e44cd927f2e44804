"""Tidying: what a kernel looks like when it was written."""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.loop_text import kernel_text
from planish.ir.loops import Let, Stmt, Store, Var, scalar
from planish.runtime.kernels.tidy import tidy
from tests.ir.nests import I, J, buffer, kernel, over

A, B, OUT = buffer("a", 4), buffer("b", 4), buffer("out", 4)
X, Y, Z = (Var(name, t.f32) for name in "xyz")


def lines(*body: Stmt) -> list[str]:
    """A kernel of one loop over i, tidied: its header, and what the loop holds."""
    head, _, *inside = kernel_text(tidy(kernel((A, B, OUT), over(I, 4, *body)))).split("\n")
    return [head, *(line.strip() for line in inside)]


def test_what_only_unused_values_use_is_unused_at_once() -> None:
    """x is read by y too, which only z reads, which nobody does: so x moves to its one use, and the
    array that y reads is no param."""
    head, *inside = lines(
        Let(X, scalar("exp", A[I])),
        Let(Y, scalar("mul", X, B[I])),
        Let(Z, scalar("neg", Y)),
        Store(OUT, (I,), scalar("add", X, 1.0)),
    )
    assert inside == ["out[i] = exp(a[i]) + 1.0"]
    assert head == "kernel f(a: f32[4], out: f32[4]) -> out:"


def test_a_value_used_in_a_loop_inside_is_made_before_it() -> None:
    """Though y, unused, reads it in its own block."""
    _, *inside = lines(
        Let(X, scalar("exp", A[I])),
        Let(Y, scalar("neg", X)),
        over(J, 4, Store(OUT, (J,), X)),
    )
    assert inside == ["let x: f32 = exp(a[i])", "serial j in 4:", "out[j] = x"]


def test_a_value_used_twice_or_of_what_changes_stays() -> None:
    """Of an array that the kernel writes, it may be another one later."""
    _, *inside = lines(
        Let(X, scalar("exp", A[I])),
        Let(Y, OUT[I]),
        Store(OUT, (I,), scalar("mul", X, X)),
        Store(OUT, (I,), Y),
    )
    kept = ["let x: f32 = exp(a[i])", "let y: f32 = out[i]"]
    assert inside == [*kept, "out[i] = x * x", "out[i] = y"]
