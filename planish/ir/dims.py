"""Sizes of arrays: Python ints, or polynomials over named symbolic dimensions.

`Dim("T", max=256)` is a size that is known only when the program runs. `T + 1`, `2 * T` and
`B * T` are sizes too. One compiled program then serves every length up to the maximum, which
sizes the memory plan.

    size ::= int | Size            Size ::= sum of coefficient * product of symbols
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import NamedTuple, TypeAlias, Union

from planish.ir.errors import ShapeError


class Symbol(NamedTuple):
    """A named size. `max` is the largest value it may take, or None where nobody said."""

    name: str
    max: int | None = None


Monomial = tuple[Symbol, ...]  # sorted, with repetition: (B, T) is B*T


@dataclass(frozen=True, slots=True)
class Size:
    """A polynomial with integer coefficients over symbols; `terms` is sorted and has no zeros."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: AnySize) -> AnySize:
        return _normal(_terms(self) + _terms(other))

    __radd__ = __add__

    def __neg__(self) -> AnySize:
        return self * -1

    def __sub__(self, other: AnySize) -> AnySize:
        return self + -1 * other

    def __rsub__(self, other: AnySize) -> AnySize:
        return other + self * -1

    def __mul__(self, other: AnySize) -> AnySize:
        if isinstance(other, int) and other:  # the order of the terms stays
            return self if other == 1 else Size(tuple([(m, c * other) for m, c in self.terms]))
        return _normal(
            (tuple(sorted(m + n)), c * d) for m, c in _terms(self) for n, d in _terms(other)
        )

    __rmul__ = __mul__

    def __floordiv__(self, other: AnySize) -> AnySize:
        return divide(self, other)

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return "+".join(map(_term_text, self.terms)).replace("+-", "-")

    __repr__ = __str__


AnySize: TypeAlias = Union[int, Size]
Shape: TypeAlias = tuple[AnySize, ...]


def Dim(name: str, max: int | None = None) -> Size:
    """A symbolic size called `name`, at most `max`."""
    if not name.isidentifier():
        raise ShapeError(f"dimension name {name!r} is not an identifier, such as 'T'")
    if max is not None and max < 1:
        raise ShapeError(f"dimension {name}: max must be at least 1, got {max}")
    return Size((((Symbol(name, max),), 1),))


def _terms(size: AnySize) -> tuple[tuple[Monomial, int], ...]:
    return size.terms if isinstance(size, Size) else (((), size),)


def _normal(terms: Iterable[tuple[Monomial, int]]) -> AnySize:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    kept = {m: c for m, c in total.items() if c}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return Size(tuple(sorted(kept.items(), key=lambda item: (-len(item[0]), item))))


def _term_text(term: tuple[Monomial, int]) -> str:
    monomial, coefficient = term
    names = "*".join(symbol.name for symbol in monomial)
    if not names:
        return str(coefficient)
    return (
        names
        if coefficient == 1
        else f"-{names}"
        if coefficient == -1
        else f"{coefficient}*{names}"
    )


def divide(size: AnySize, by: AnySize) -> AnySize:
    """Exact quotient; ShapeError where `by` does not divide `size` for every value."""
    if isinstance(size, int) and isinstance(by, int):
        if by and size % by == 0:
            return size // by
        raise ShapeError(f"{size} is not a multiple of {by}")
    if size == by:
        return 1
    quotient: AnySize = 0
    rest = size
    lead_m, lead_c = _terms(by)[0]
    while rest != 0:
        monomial, coefficient = _terms(rest)[0]
        left = list(monomial)
        for symbol in lead_m:
            if symbol not in left:
                raise ShapeError(f"{size} is not a multiple of {by}")
            left.remove(symbol)
        if coefficient % lead_c:
            raise ShapeError(f"{size} is not a multiple of {by}")
        term = _normal([(tuple(left), coefficient // lead_c)])
        quotient = quotient + term
        rest = rest - term * by
    return quotient


def is_multiple(size: AnySize, of: int) -> bool:
    """Whether `of` divides `size`, whatever its symbols are."""
    return all(coefficient % of == 0 for _, coefficient in _terms(size))


def product(sizes: Iterable[AnySize]) -> AnySize:
    """The product of sizes; 1 for none."""
    total, named = 1, []
    for size in sizes:
        if isinstance(size, int):
            total *= size
        else:
            named.append(size)
    return reduce(mul, named, total) if named else total


def symbols(*sizes: AnySize) -> tuple[Symbol, ...]:
    """The symbols that occur in `sizes`, sorted by name."""
    return tuple(sorted({s for size in sizes for monomial, _ in _terms(size) for s in monomial}))


def value(size: AnySize, binding: Mapping[str, int]) -> int:
    """The number that `size` is when each symbol has its value in `binding` (name -> int)."""
    if isinstance(size, int):
        return size
    total = 0
    for monomial, coefficient in size.terms:
        for symbol in monomial:
            coefficient *= binding[symbol.name]
        total += coefficient
    return total


def upper(size: AnySize) -> int | None:
    """The largest value of `size`, or None where a symbol has no maximum."""
    if isinstance(size, int):
        return size
    total = 0
    for monomial, coefficient in size.terms:
        for symbol in monomial:
            if coefficient > 0 and symbol.max is None:
                return None
            coefficient *= symbol.max if coefficient > 0 else 1  # type: ignore[operator]
        total += coefficient
    return total


def lower(size: AnySize) -> int | None:
    """The smallest value of `size`, or None where a symbol has no maximum. No symbol is below 1."""
    if isinstance(size, int):
        return size
    total = 0
    for monomial, coefficient in size.terms:
        for symbol in monomial:
            if coefficient < 0 and symbol.max is None:
                return None
            coefficient *= symbol.max if coefficient < 0 else 1  # type: ignore[operator]
        total += coefficient
    return total


def bind(pattern: Iterable[AnySize], actual: Iterable[int], binding: dict[str, int]) -> None:
    """Match actual sizes against a shape, adding single symbols to `binding`; ShapeError if not.

    Compound sizes (`T+1`) are checked by the caller once all symbols are known.
    """
    for size, found in zip(pattern, actual, strict=True):
        if isinstance(size, int):
            if size != found:
                raise ShapeError(f"expected size {size}, got {found}")
            continue
        monomial, coefficient = size.terms[0]
        if len(size.terms) == 1 and len(monomial) == 1 and coefficient == 1:
            symbol = monomial[0]
            if found < 1:
                raise ShapeError(f"{symbol.name} is {found}, a symbolic size is at least 1")
            if symbol.max is not None and found > symbol.max:
                raise ShapeError(f"{symbol.name} is {found}, its maximum is {symbol.max}")
            if binding.setdefault(symbol.name, found) != found:
                raise ShapeError(
                    f"{symbol.name} is {binding[symbol.name]} in one argument, {found} in another"
                )
