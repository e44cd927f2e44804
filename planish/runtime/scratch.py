"""Scratch memory: the large locals of kernels, whose sizes are known when a program is called.

local  ::= (name, dtype, extents)        as in the facts of an image
extent ::= number | name of a dimension | (operation, extent, extent)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias, Union

from planish.ir.types import DTYPES, DType

Extent: TypeAlias = Union[int, str, tuple]
ALIGN = 64  # a cache line, on which each local begins

# What loop IR folds numbers with, see `planish.ir.loops`
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "floor_div": lambda a, b: a // b if b else 0, "mod": lambda a, b: a % b if b else 0,
    "min": min, "max": max,
}  # fmt: skip


class Local(NamedTuple):
    """An array of a kernel that each thread has for itself."""

    name: str
    dtype: DType
    shape: tuple[Extent, ...]

    def facts(self) -> list[Any]:
        """As JSON, for `local_of`."""
        return [self.name, self.dtype.name, self.shape]


def local_of(facts: Sequence[Any]) -> Local:
    """The local that facts are of; ValueError or KeyError if they are of none."""
    name, dtype, shape = facts
    return Local(name, DTYPES[dtype], tuple(map(_extent, shape)))


def _extent(facts: Any) -> Extent:
    if isinstance(facts, (int, str)):
        return facts
    op, a, b = facts
    if op not in _OPERATIONS:
        raise ValueError(f"{op!r} is no arithmetic of sizes")
    return op, _extent(a), _extent(b)


def scratch_bytes(locals: Sequence[Local], binding: Mapping[str, int]) -> int:
    """Bytes of a kernel's large locals, each on a cache line of its own."""
    sizes = [prod(_number(n, binding) for n in x.shape) * x.dtype.itemsize for x in locals]
    return sum(-(-size // ALIGN) * ALIGN for size in sizes)


def _number(extent: Extent, binding: Mapping[str, int]) -> int:
    if isinstance(extent, int):
        return extent
    if isinstance(extent, str):
        return binding[extent]
    op, a, b = extent
    return _OPERATIONS[op](_number(a, binding), _number(b, binding))
