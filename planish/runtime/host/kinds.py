"""Types of host code: what their names mean, and how LLVM spells them."""

from __future__ import annotations

import ast
from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A type; `text` is LLVM's. Records and pointers are both addresses."""

    name: str
    text: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Int(Kind):
    """An integer of so many bits."""

    bits: int
    signed: bool


class Float(Kind):
    """A floating-point number."""


@dataclass(frozen=True, slots=True)
class Pointer(Kind):
    """The address of elements."""

    element: Kind


class Struct(Kind):
    """The address of a record."""


@dataclass(frozen=True, slots=True)
class Function(Kind):
    """The address of a function; one that is `open` takes more arguments, as C's printf."""

    params: tuple[Kind, ...]
    result: Kind
    open: bool = False


VOID, BOOL = Kind("None", "void"), Kind("bool", "i1")
NUMBER = Kind("a number", "")  # a literal, before its type is known
NULL = Kind("null", "ptr")
F64 = Float("f64", "double")
INTS = {
    f"{'i' if signed else 'u'}{bits}": Int(
        f"{'i' if signed else 'u'}{bits}", f"i{bits}", bits, signed
    )
    for bits in (8, 16, 32, 64)
    for signed in (True, False)
}
I64 = INTS["i64"]
PLAIN: dict[str, Kind] = {
    **INTS, "f32": Float("f32", "float"), "f64": F64, "bool": BOOL, "None": VOID,
}  # fmt: skip
ALIASES = {"Text": INTS["u8"], "Memory": VOID}  # pointers to these
ADDRESSES = (Pointer, Struct, Function)


def pointer(element: Kind) -> Pointer:
    """The address of elements of this type."""
    return Pointer(f"Ptr[{element}]", "ptr", element)


def function(params: tuple[Kind, ...], result: Kind, open: bool = False) -> Function:
    """The address of a function."""
    names = ", ".join(map(str, params))
    return Function(f"Callable[[{names}], {result}]", "ptr", params, result, open)


def kind_of(node: ast.expr | None, records: Container[str]) -> Kind:
    """The type that an annotation names; ValueError where it names none."""
    match node:
        case ast.Name(name) if name in PLAIN:
            return PLAIN[name]
        case ast.Name(name) | ast.Constant(str(name)) if name in records:
            return Struct(name, "ptr")
        case ast.Constant(None):
            return VOID
        case ast.Subscript(ast.Name("Ptr" | "Const"), element):
            return pointer(kind_of(element, records))
        case ast.Name(name) if name in ALIASES:
            return pointer(ALIASES[name])
        case ast.Subscript(ast.Name("Callable"), ast.Tuple([ast.List(params), result])):
            taken = tuple(kind_of(x, records) for x in params)
            return function(taken, kind_of(result, records))
    shown = "nothing" if node is None else ast.unparse(node)
    raise ValueError(f"a type of host code is expected, not {shown}")
