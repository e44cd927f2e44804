"""What host code may name, and constants, which are computed while compiling."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

from planish.runtime.host.kinds import Function, Kind


@dataclass
class Names:
    """What host code may name: functions with their symbols, records, and constants."""

    functions: dict[str, tuple[Function, str]] = field(default_factory=dict)
    records: dict[str, dict[str, Kind]] = field(default_factory=dict)
    constants: dict[str, int | float | str] = field(default_factory=dict)
    strings: dict[bytes, str] = field(default_factory=dict)

    def string(self, value: str) -> str:
        """The global that holds a text."""
        data = value.encode() + b"\0"
        return self.strings.setdefault(data, f"@text.{len(self.strings)}")


def constant(node: ast.expr | None, known: Mapping[str, int | float | str]) -> int | float | str:
    """The value of an expression of numbers and constants."""
    match node:
        case ast.Constant(bool()):
            pass
        case ast.Constant(int(value) | float(value) | str(value)):
            return value
        case ast.Name(name) if name in known:
            return known[name]
        case ast.Call(ast.Name("ord"), [ast.Constant(str(letter))]) if len(letter) == 1:
            return ord(letter)
        case ast.UnaryOp(ast.USub(), operand):
            return computed("sub", 0, constant(operand, known))
        case ast.BinOp(left, op, right):
            name = type(op).__name__.lower()
            return computed(name, constant(left, known), constant(right, known))
    raise ValueError(f"{'nothing' if node is None else ast.unparse(node)} is no constant")


def computed(op: str, a: int | float | str, b: int | float | str) -> int | float:
    """An operation on numbers, while compiling."""
    if isinstance(a, str) or isinstance(b, str):
        raise ValueError("constants are computed of numbers")
    whole = isinstance(a, int) and isinstance(b, int)
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mult":
            return a * b
        case "div" if not whole and b:
            return a / b
        case "floordiv" if whole and b:
            return a // b
        case "mod" if whole and b:
            return a % b
    if not (isinstance(a, int) and isinstance(b, int)):
        raise ValueError(f"{a} and {b} have no {op}")
    match op:
        case "lshift" if 0 <= b < 64:
            return a << b
        case "rshift" if 0 <= b < 64:
            return a >> b
        case "bitand":
            return a & b
        case "bitor":
            return a | b
        case "bitxor":
            return a ^ b
    raise ValueError(f"{a} and {b} have no {op}")
