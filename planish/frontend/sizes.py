"""Symbolic sizes as users see them: numbers known only when the program runs.

`B, T = x.shape` gives ints and `SymbolicSize`s. They add, multiply and divide exactly, and can be
used wherever a shape, a slice or `arange` wants a number. Comparing them answers where the answer
is the same for every size in range (sizes are at least 1, at most the maximum of their `Dim`) and
is refused otherwise: a branch would freeze into the program one answer out of several.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from planish.ir.dims import AnySize, Size, divide, upper
from planish.ir.errors import TraceError


class SymbolicSize:
    """A size such as T or 2*T+1 of a traced array."""

    __slots__ = ("size",)

    def __init__(self, size: Size):
        self.size = size

    def __repr__(self) -> str:
        return str(self.size)

    def __hash__(self) -> int:
        return hash(self.size)

    def __add__(self, other: object) -> Any:
        return _arithmetic(other, lambda o: self.size + o)

    __radd__ = __add__

    def __mul__(self, other: object) -> Any:
        return _arithmetic(other, lambda o: self.size * o)

    __rmul__ = __mul__

    def __sub__(self, other: object) -> Any:
        return _arithmetic(other, lambda o: self.size - o)

    def __rsub__(self, other: object) -> Any:
        return _arithmetic(other, lambda o: o - self.size)

    def __floordiv__(self, other: object) -> Any:
        return _arithmetic(other, lambda o: divide(self.size, o))

    def __neg__(self) -> Any:
        return shown(-self.size)

    def __mod__(self, other: object) -> int:
        raise TraceError(
            f"{self} % {other} is not known while tracing; make the size a multiple by "
            f"construction, as in pl.spec((2 * pl.Dim('T'),))"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (int, SymbolicSize, Size)):
            return NotImplemented
        low, high = _range(self - other)
        if low == high == 0:
            return True
        if (low is not None and low > 0) or (high is not None and high < 0):
            return False
        raise _undecided(f"{self} == {other}")

    def __ne__(self, other: object) -> bool:
        same = self.__eq__(other)
        return NotImplemented if same is NotImplemented else not same

    def __lt__(self, other: Any) -> bool:
        low, high = _range(self - other)
        if high is not None and high < 0:
            return True
        if low is not None and low >= 0:
            return False
        raise _undecided(f"{self} < {other}")

    def __ge__(self, other: Any) -> bool:
        return not self < other

    def __gt__(self, other: Any) -> bool:
        low, high = _range(self - other)
        if low is not None and low > 0:
            return True
        if high is not None and high <= 0:
            return False
        raise _undecided(f"{self} > {other}")

    def __le__(self, other: Any) -> bool:
        return not self > other

    def __bool__(self) -> bool:
        return self != 0

    def __index__(self) -> int:
        raise TraceError(
            f"the size {self} is symbolic, it has no number while tracing; use it in shapes, "
            "slices, pnp.arange or arithmetic with tensors, or fix the axis's size in pl.spec"
        )

    __int__ = __float__ = __index__


def _arithmetic(other: object, combine: Any) -> Any:
    """`combine` with the partner as a plain size; partners that are no sizes take over."""
    if isinstance(other, bool) or not isinstance(other, (int, np.integer, Size, SymbolicSize)):
        return NotImplemented
    return shown(combine(plain_size(other)))


def _range(size: Any) -> tuple[int | None, int | None]:
    """Least and greatest value of a size, None where unbounded."""
    size = plain_size(size)
    below = upper(-1 * size)
    return None if below is None else -below, upper(size)


def _undecided(question: str) -> TraceError:
    return TraceError(
        f"`{question}` is true for some sizes and false for others, so a traced program cannot "
        "branch on it; give pl.Dim a max that decides it, or give the axis a fixed size in pl.spec"
    )


def shown(size: AnySize) -> Any:
    """A size of the IR as the user sees it."""
    return SymbolicSize(size) if isinstance(size, Size) else size


def plain_size(size: Any) -> AnySize:
    """A size as the IR keeps it; TraceError for what is no size."""
    if isinstance(size, SymbolicSize):
        return size.size
    if isinstance(size, Size) or (isinstance(size, int) and not isinstance(size, bool)):
        return size
    if isinstance(size, np.integer) or (isinstance(size, np.ndarray) and _counts(size)):
        return int(size)
    raise TraceError(
        f"a size is an integer or comes from x.shape, got {type(size).__name__} {size!r:.40}"
    )


def _counts(array: np.ndarray) -> bool:
    return array.ndim == 0 and array.dtype.kind in "iu"


def plain_shape(shape: Any) -> tuple[AnySize, ...]:
    """A shape given as one size or several, as the IR keeps it."""
    if isinstance(shape, Iterable) and not isinstance(shape, (np.ndarray, str)):
        return tuple(plain_size(size) for size in shape)
    return (plain_size(shape),)
