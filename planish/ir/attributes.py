"""What an op's attributes may be: the annotations of its `infer`, checked.

Attributes come from Python calls and from parsed text, so an op's `infer` would otherwise have to
ask of each whether it is a tuple of integers before it may look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from planish.ir.dims import Size
from planish.ir.errors import DTypeError, IRError
from planish.ir.types import DType


def is_int(x: object) -> bool:
    """Whether x is an integer and no bool."""
    return isinstance(x, int) and not isinstance(x, bool)


def is_size(x: object) -> bool:
    """Whether x is an integer or a symbolic size."""
    return is_int(x) or isinstance(x, Size)


def is_float(x: object) -> bool:
    """Whether x is a Python number and no bool."""
    return isinstance(x, float) or is_int(x)


def tuple_of(member: Callable[[object], bool]) -> Callable[[object], bool]:
    """Whether x is a tuple of such members."""
    return lambda x: isinstance(x, tuple) and all(map(member, x))


# annotation -> what it means in words, and whether a value is one
MEANINGS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "int": ("an integer", is_int),
    "float": ("a number", is_float),
    "bool": ("True or False", lambda x: isinstance(x, bool)),
    "str": ("text", lambda x: isinstance(x, str)),
    "AnySize": ("a size", is_size),
    "Shape": ("a tuple of sizes", tuple_of(is_size)),
    "Axes": ("a tuple of integers", tuple_of(is_int)),
    "tuple[int, ...]": ("a tuple of integers", tuple_of(is_int)),
    "int | None": ("an integer or None", lambda x: x is None or is_int(x)),
    "DType": ("a dtype", lambda x: isinstance(x, DType)),
    "DType | None": ("a dtype", lambda x: x is None or isinstance(x, DType)),
}


def check(op: str, annotations: Mapping[str, Any], attrs: Mapping[str, Any]) -> None:
    """Refuse an attribute that is not what the annotation of its name says."""
    for name, value in attrs.items():
        meaning, holds = MEANINGS.get(annotations.get(name, ""), ("", None))
        if holds is not None and not holds(value):
            error = DTypeError if meaning == "a dtype" else IRError
            raise error(f"{op}: {name} is {meaning}, got {value!r}")


def literal(op: str, name: str, value: object, dtype: DType) -> bool | int | float:
    """A Python number as the kind of number that `dtype` has; refused where it cannot be one."""
    kind = float if dtype.is_float else int if dtype.is_int else bool
    try:
        if isinstance(value, (bool, int, float)):
            return kind(value)
    except (ValueError, OverflowError):  # of nan or inf as an integer
        pass
    raise DTypeError(f"{op}: {name} is a {dtype}, got {value!r}")


def as_float(op: str, name: str, value: object) -> float:
    """A number as a float; refused where it is none."""
    check(op, {name: "float"}, {name: value})
    return float(value)  # type: ignore[arg-type]
