"""Index algebra: divisions cancel where ranges allow, and only there."""

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.index import (
    coefficient,
    divided_by,
    has_division,
    linear_index,
    simplify_index,
    to_poly,
)
from planish.ir.loops import Buffer, Const, Var, size_expr

p, i, j = Var("p"), Var("i"), Var("j")


def c(n: int) -> Const:
    return Const(n, t.i64)


def test_quotient_and_remainder_join() -> None:
    assert simplify_index(p // 8 * 8 + p % 8, {}) == p
    assert simplify_index(p // 8 * 1024 + p % 8 * 128 + i, {}) == simplify_index(p * 128 + i, {})


def test_three_places_join() -> None:
    whole = p // 256 * 16384 + p // 64 % 4 * 4096 + p % 64 * 64 + i
    assert simplify_index(whole, {}) == simplify_index(p * 64 + i, {})


def test_symbolic_quotient_and_remainder_join() -> None:
    length = size_expr(Dim("T"))
    assert linear_index((p // length, p % length, i), (2, Dim("T"), 64), {}) == simplify_index(
        p * 64 + i, {}
    )


def test_division_of_a_flattened_pair_needs_the_range() -> None:
    assert simplify_index((i * 32 + j) // 32, {"j": c(32)}) == i
    assert simplify_index((i * 32 + j) % 32, {"j": c(32)}) == j
    assert has_division(simplify_index((i * 32 + j) // 32, {"j": c(33)}))


def test_a_constant_below_zero_is_no_hindrance() -> None:
    assert simplify_index((i * 32 + j - 112) // 32, {"j": c(16)}) == simplify_index(i - 4, {})
    assert simplify_index((i * 32 + j - 112) % 32, {"j": c(16)}) == simplify_index(j + 16, {})
    assert has_division(simplify_index((i * 32 + j - 112) // 32, {"j": c(17)}))


def test_terms_that_are_multiples_leave_a_division() -> None:
    assert simplify_index((i * 64 + p) // 32, {}) == simplify_index(i * 2 + p // 32, {})


def test_splits_are_found() -> None:
    assert list(divided_by(p // 32 + i * 2)) == [("p", 32)]


def test_a_variable_has_a_coefficient_where_it_is_a_factor() -> None:
    length = size_expr(Dim("T"))
    assert coefficient(to_poly((p * 8 + i) * 4 + j, {}), p) == {(): 32}
    assert coefficient(to_poly(p * length + i, {}), p) == {(length,): 1}
    assert coefficient(to_poly(i, {}), p) == {}
    assert coefficient(to_poly(p // 8 + i, {}), p) is None
    assert coefficient(to_poly(p * p, {}), p) is None
    ids = Buffer("ids", t.i64, (c(8),))
    assert coefficient(to_poly(ids[p] * 64 + i, {}), p) is None
    assert coefficient(to_poly(ids[p] * 64 + i, {}), i) == {(): 1}
