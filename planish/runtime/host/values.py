"""Values of host code: registers, literals, places in memory, and conversions between types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from planish.ir import types as t
from planish.runtime.codegen.text import literal
from planish.runtime.host.kinds import F64, Float, Function, Int, Kind, Pointer, Struct

DTYPES = {"float": t.f32, "double": t.f64}


@dataclass(frozen=True, slots=True)
class Value:
    """A register or a literal of LLVM; `ref` of a number without a type is the number."""

    kind: Kind
    ref: Any


@dataclass(frozen=True, slots=True)
class Place:
    """Memory that holds a value; `at` is its address."""

    kind: Kind
    at: str


def stored(kind: Kind) -> str:
    """The type of an element in memory: of records, the struct."""
    return f"%{kind}" if isinstance(kind, Struct) else kind.text


def number(value: int | float, kind: Kind) -> str:
    """A plain number as a literal of a type; ValueError where the type cannot hold it."""
    if isinstance(kind, Int) and isinstance(value, int):
        low = -(1 << (kind.bits - 1)) if kind.signed else 0
        if low <= value < low + (1 << kind.bits):
            return str(value)
        raise ValueError(f"{value} does not fit into {kind}")
    if isinstance(kind, Float):
        return literal(float(value), DTYPES[kind.text])
    raise ValueError(f"expected {kind}, found the number {value}")


def conversion(old: Kind, new: Kind) -> str | None:
    """The instruction that converts; "" where nothing is to do, None where there is none."""
    match old, new:
        case Int(), Int():
            if old.bits == new.bits:
                return ""
            longer = "sext" if old.signed else "zext"
            return longer if new.bits > old.bits else "trunc"
        case Kind("bool"), Int():
            return "zext"
        case Int(), Float():
            return "sitofp" if old.signed else "uitofp"
        case Float(), Int():
            return "fptosi" if new.signed else "fptoui"
        case Float(), Float():
            return "fpext" if new == F64 else "fptrunc"
        case ((Pointer() | Struct() | Function()), Int()) if new.bits == 64:
            return "ptrtoint"
        case Int(), (Pointer() | Struct() | Function()) if old.bits == 64:
            return "inttoptr"
    return None
