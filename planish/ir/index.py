"""Index algebra: integer expressions as polynomials, so that division and remainder cancel.

Composing views by composing their index functions leaves terms such as `(p // T) * T + p % T`.
Here an index becomes a polynomial over atoms (variables, and whatever is not + - *), where

    n * (x // n) + x % n      = x
    (n * q + r) // n          = q        if 0 <= r < n
    (n * q + r) %  n          = r        if 0 <= r < n

`ranges` maps a loop variable to its extent; that is what decides 0 <= r < n.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache, partial, reduce
from typing import TypeAlias

from planish.ir import types as t
from planish.ir.dims import Shape
from planish.ir.loops import Const, Expr, Scalar, Var, children, size_expr

Term: TypeAlias = tuple[Expr, ...]  # a product of atoms, in order of `_order`
Poly: TypeAlias = dict[Term, int]
Ranges: TypeAlias = Mapping[str, Expr]

_ALGEBRA = frozenset(("add", "sub", "neg", "mul", "floor_div", "mod"))


def simplify_index(index: Expr, ranges: Ranges) -> Expr:
    """The same integer, with divisions and remainders cancelled where the ranges allow."""
    if isinstance(index, (Const, Var)):
        return index
    return _simplified(index, tuple(ranges.items()))


@lru_cache(maxsize=1 << 12)
def _simplified(index: Expr, ranges: tuple[tuple[str, Expr], ...]) -> Expr:
    """The nodes of a kernel, and kernels of equal nodes, are read at the same places."""
    return to_expr(to_poly(index, dict(ranges)))


def linear_index(index: tuple[Expr, ...], shape: Shape, ranges: Ranges) -> Expr:
    """The row-major position of `index` in an array of `shape`, simplified."""
    total: Expr = Const(0, t.i64)
    for i, size in zip(index, shape, strict=True):
        total = total * size_expr(size) + i
    return simplify_index(total, ranges)


def to_poly(index: Expr, ranges: Ranges) -> Poly:
    """`index` as a polynomial over atoms, simplified."""
    if isinstance(index, Const):
        return {(): int(index.value)} if index.value else {}
    if not isinstance(index, Scalar) or index.op not in _ALGEBRA:
        return {(index,): 1}
    op, (x, *rest) = index.op, [to_poly(x, ranges) for x in index.args]
    if op == "neg":
        return _add({}, x, -1)
    (y,) = rest
    if op == "mul":
        return _mul(x, y)
    if op in ("floor_div", "mod"):
        return _divide(op, x, y, ranges)
    return _join(_add(x, y, 1 if op == "add" else -1))


def to_expr(poly: Poly) -> Expr:
    """A polynomial as an expression: terms in a fixed order, constants last."""
    total: Expr | None = None
    terms = list(poly.items())
    if len(terms) > 1:
        terms.sort(key=lambda item: (item[0] == (), _order(item[0])))
    for term, coefficient in terms:
        minus = coefficient < 0 and term != () and total is not None
        value = _product(term, -coefficient if minus else coefficient)
        total = value if total is None else _pair("sub" if minus else "add", total, value)
    return Const(0, t.i64) if total is None else total


def _product(term: Term, coefficient: int) -> Expr:
    number = Const(coefficient, t.i64)
    if not term:
        return number
    product = reduce(partial(_pair, "mul"), term)
    return product if coefficient == 1 else _pair("mul", product, number)


def _pair(op: str, a: Expr, b: Expr) -> Expr:
    return Scalar(op, (a, b), t.i64)


def has_division(index: Expr) -> bool:
    """Whether a division or remainder is left in an index (inside of data loads does not count)."""
    stack = [index]
    while stack:
        item = stack.pop()
        if isinstance(item, Scalar):
            if item.op in ("floor_div", "mod"):
                return True
            if item.op in ("add", "sub", "mul", "neg"):
                stack.extend(item.args)
    return False


def divided_by(index: Expr) -> Iterable[tuple[str, int]]:
    """(variable, constant) pairs for which `index` divides the variable by the constant."""
    stack = [index]
    while stack:
        item = stack.pop()
        match item:
            case Scalar("floor_div" | "mod", (Var(name), Const(value))):
                yield name, int(value)
            case Scalar(_, args):
                stack.extend(args)


def coefficient(poly: Poly, variable: Var) -> Poly | None:
    """What `variable` is multiplied by; None where it occurs otherwise than as a factor."""
    total: Poly = {}
    for term, c in poly.items():
        if _mentions(term, variable.name):
            rest = list(term)
            if variable not in rest:
                return None
            rest.remove(variable)
            if _mentions(tuple(rest), variable.name):
                return None
            total[tuple(rest)] = c
    return total


def _mentions(term: tuple[Expr, ...], name: str) -> bool:
    stack = list(term)
    while stack:
        item = stack.pop()
        if isinstance(item, Var) and item.name == name:
            return True
        stack.extend(children(item))
    return False


def _order(term: Term) -> str:
    return " ".join(map(repr, term))


def _add(a: Poly, b: Poly, sign: int) -> Poly:
    total = dict(a)
    for term, coefficient in b.items():
        total[term] = total.get(term, 0) + sign * coefficient
        if not total[term]:
            del total[term]
    return total


def _mul(a: Poly, b: Poly) -> Poly:
    total: Poly = {}
    for m, c in a.items():
        for n, d in b.items():
            term = _sorted(m + n)
            total[term] = total.get(term, 0) + c * d
    return _join({term: c for term, c in total.items() if c})


def _sorted(term: Term) -> Term:
    return tuple(sorted(term, key=repr)) if len(term) > 1 else term


def _join(poly: Poly) -> Poly:
    """n * (x // n) + x % n = x, for every remainder among the terms."""
    for term, coefficient in poly.items():
        for atom in term:
            if not (isinstance(atom, Scalar) and atom.op == "mod"):
                continue
            x, n = atom.args
            rest = list(term)
            rest.remove(atom)
            quotient = {_sorted((*rest, _quotient(x, n))): 1}
            partner = _mul_plain(quotient, to_poly(n, {}))
            if all(poly.get(m, 0) == coefficient * c for m, c in partner.items()):
                left = {m: c for m, c in poly.items() if m != term and m not in partner}
                whole = _mul_plain({tuple(rest): coefficient}, to_poly(x, {}))
                return _join(_add(left, whole, 1))
    return poly


def _quotient(x: Expr, n: Expr) -> Expr:
    """x // n as it appears among the terms: (y // m) // n is y // (m * n)."""
    match x, n:
        case Scalar("floor_div", (y, Const(m))), Const(k):
            return Scalar("floor_div", (y, Const(int(m) * int(k), t.i64)), t.i64)
    return Scalar("floor_div", (x, n), t.i64)


def _mul_plain(a: Poly, b: Poly) -> Poly:
    total: Poly = {}
    for m, c in a.items():
        for n, d in b.items():
            term = _sorted(m + n)
            total[term] = total.get(term, 0) + c * d
    return total


def _divide(op: str, x: Poly, n: Poly, ranges: Ranges) -> Poly:
    if n == {(): 1}:
        return x if op == "floor_div" else {}
    quotient, rest = _split(x, n)
    for q, r in ((quotient, rest), _up(quotient, rest, n)):
        if _below(r, n, ranges):
            return q if op == "floor_div" else r
    if op == "mod":  # (n*q + r) % n = r % n
        return {(Scalar("mod", (to_expr(rest), to_expr(n)), t.i64),): 1}
    inner: Poly = {(Scalar("floor_div", (to_expr(rest), to_expr(n)), t.i64),): 1}
    return _add(quotient, inner, 1)


def _split(x: Poly, n: Poly) -> tuple[Poly, Poly]:
    """q, r with x = n*q + r; q takes the terms that n divides (n of one term only)."""
    if len(n) != 1:
        whole = x == n
        return ({(): 1}, {}) if whole else ({}, x)
    (lead, factor), *_ = n.items()
    quotient: Poly = {}
    rest: Poly = {}
    for term, coefficient in x.items():
        left = list(term)
        divides = coefficient % factor == 0
        for atom in lead:
            if atom in left:
                left.remove(atom)
            else:
                divides = False
        if divides:
            quotient[tuple(left)] = coefficient // factor
        else:
            rest[term] = coefficient
    return quotient, rest


def _up(quotient: Poly, rest: Poly, n: Poly) -> tuple[Poly, Poly]:
    """The same n*q + r, so much of a number n moved to r that its constant is not negative."""
    least, size = rest.get((), 0), n.get((), 0)
    if least >= 0 or set(n) != {()} or size <= 0:
        return quotient, rest
    more = -(least // size)
    return _add(quotient, {(): more}, -1), _add(rest, {(): more * size}, 1)


def _below(rest: Poly, n: Poly, ranges: Ranges) -> bool:
    """Whether 0 <= rest < n for all values of the loop variables."""
    if not rest:
        return True
    if set(n) == {()}:
        most = largest(rest, ranges)
        return most is not None and most < n[()]
    if len(rest) == 1:  # a single variable whose extent is n itself
        (term, coefficient), *_ = rest.items()
        if coefficient == 1 and len(term) == 1:
            atom = term[0]
            if isinstance(atom, Var) and atom.name in ranges:
                return to_poly(ranges[atom.name], {}) == n
            if isinstance(atom, Scalar) and atom.op == "mod":
                return to_poly(atom.args[1], {}) == n
    return False


def largest(rest: Poly, ranges: Ranges) -> int | None:
    """The largest value of a polynomial that cannot be negative, or None where unknown."""
    total = 0
    for term, coefficient in rest.items():
        if coefficient < 0:
            return None
        for atom in term:
            most = _atom_most(atom, ranges)
            if most is None:
                return None
            coefficient *= most
        total += coefficient
    return total


def _atom_most(atom: Expr, ranges: Ranges) -> int | None:
    match atom:
        case Var(name) if name in ranges and isinstance(ranges[name], Const):
            return int(ranges[name].value) - 1  # type: ignore[attr-defined]
        case Scalar("mod", (_, Const(value))):
            return int(value) - 1
        case Scalar("floor_div", (Var(name), Const(value))):
            most = _atom_most(Var(name), ranges)
            return None if most is None else most // int(value)
    return None
