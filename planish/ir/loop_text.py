"""Print loop IR.

    kernel add_tanh(p0: f32[4, 3], p1: f32[3], out: f32[4, 3]) -> out:
      parallel i0 in 4:
        vector[16] i1 in 3:
          let s: f32 = p0[i0, i1] + p1[i1]
          out[i0, i1] = tanh(s)

Equal text means equal kernels: every dtype, width and local is there, so the text is the key under
which equal kernels of repeated layers are compiled once. Literals are i64 and f32 (or bool)
unless they carry another dtype, as in `1.5:f64`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias, Union

from planish.ir import types as t
from planish.ir.loops import (
    Accumulate,
    Buffer,
    Const,
    Expr,
    Fetch,
    For,
    If,
    Kernel,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
)

# op -> (sign, precedence); all associate to the left.
INFIX = {
    "eq": ("==", 1), "ne": ("!=", 1), "lt": ("<", 1), "le": ("<=", 1), "gt": (">", 1),
    "ge": (">=", 1), "or": ("|", 2), "xor": ("^", 3), "and": ("&", 4), "shl": ("<<", 5),
    "shr": (">>", 5), "add": ("+", 6), "sub": ("-", 6), "mul": ("*", 7), "div": ("/", 7),
    "floor_div": ("//", 7), "mod": ("%", 7),
}  # fmt: skip
_ATOM = 9
_ASSIGN = {"add": "+=", "mul": "*=", "max": "max=", "min": "min=", "and": "&=", "or": "|="}

_Piece: TypeAlias = Union[str, tuple[Expr, int]]


def kernel_text(kernel: Kernel, name: str | None = None) -> str:
    """The kernel as text, under its own name or another one."""
    params = ", ".join(map(buffer_text, kernel.params))
    writes = ", ".join(map(_name, kernel.writes))
    title = _name(kernel.name if name is None else name)
    lines = [f"kernel {title}({params}) -> {writes}:"]
    lines += [f"  local {buffer_text(x)}" for x in kernel.locals]
    lines += (line for line, _ in body_lines(kernel.body))
    return "\n".join(lines)


def body_lines(body: tuple[Stmt, ...], depth: int = 1) -> Iterator[tuple[str, Stmt]]:
    """Each line of a block with the statement that it belongs to, in order."""
    stack = [(stmt, depth) for stmt in reversed(body)]
    while stack:
        stmt, level = stack.pop()
        yield "  " * level + line_text(stmt), stmt
        if isinstance(stmt, (For, If)):
            stack.extend((inner, level + 1) for inner in reversed(stmt.body))


def line_text(stmt: Stmt) -> str:
    """A statement without the block inside it."""
    match stmt:
        case For(var, extent, kind, _, width):
            lanes = f"[{width}]" if kind == "vector" or width != 1 else ""
            return f"{kind}{lanes} {_name(var.name)}{_dtype(var)} in {expr_text(extent)}:"
        case If(cond):
            return f"if {expr_text(cond)}:"
        case Let(var, value):
            return f"let {_name(var.name)}: {var.dtype} = {expr_text(value)}"
        case Store(buffer, index, value):
            return f"{expr_text(Load(buffer, index))} = {expr_text(value)}"
        case Accumulate(buffer, index, op, value):
            sign = _ASSIGN.get(op, f"{op}=")
            return f"{expr_text(Load(buffer, index))} {sign} {expr_text(value)}"
        case Fetch(buffer, index):
            return f"fetch {expr_text(Load(buffer, index))}"
    return repr(stmt)


def buffer_text(buffer: Buffer) -> str:
    """name: f32[4, 3]"""
    sizes = ", ".join(map(expr_text, buffer.shape))
    return f"{_name(buffer.name)}: {buffer.dtype}[{sizes}]"


def expr_text(expr: Expr) -> str:
    """An expression on one line, with the fewest parentheses that keep its shape."""
    out: list[str] = []
    stack: list[_Piece] = [(expr, 0)]
    while stack:
        piece = stack.pop()
        if isinstance(piece, str):
            out.append(piece)
        elif type(piece[0]) is Var:
            out.append(_name(piece[0].name))
        else:
            stack.extend(reversed(_pieces(*piece)))
    return "".join(out)


def _pieces(expr: Expr, level: int) -> list[_Piece]:
    """The text of `expr` with its operands still to print; parenthesised if it binds weaker."""
    match expr:
        case Const():
            return [_literal(expr)]
        case Load(buffer, index):
            return [_name(buffer.name), "[", *_list(index), "]"]
        case Scalar(op, (a, b)) if op in INFIX:
            sign, mine = INFIX[op]
            pieces: list[_Piece] = [(a, mine), f" {sign} ", (b, mine + 1)]
            return pieces if mine >= level else ["(", *pieces, ")"]
        case Scalar("neg", (a,)):
            return ["-(", (a, 0), ")"] if isinstance(a, Const) else ["-", (a, _ATOM)]
        case Scalar("cast", (a,), dtype):
            return [f"{dtype}(", (a, 0), ")"]
        case Scalar("bitcast", (a,), dtype):
            return [f"bits_{dtype}(", (a, 0), ")"]
        case Scalar(op, args):
            return [f"{op}(", *_list(args), ")"]
    return [repr(expr)]


def _list(items: tuple[Expr, ...]) -> list[_Piece]:
    pieces: list[_Piece] = []
    for item in items:
        pieces += [", ", (item, 0)] if pieces else [(item, 0)]
    return pieces


def _literal(const: Const) -> str:
    value, dtype = const.value, const.dtype
    if dtype == t.boolean:
        return "true" if value else "false"
    text = repr(float(value)) if dtype.is_float else repr(value)
    return text if dtype in (t.f32, t.i64) else f"{text}:{dtype}"


def _dtype(var: Var) -> str:
    return "" if var.dtype == t.i64 else f": {var.dtype}"


@lru_cache(maxsize=1 << 10)
def _name(name: str) -> str:
    """A name as it is, or quoted where it would break the line or be taken for something else."""
    return name if re.fullmatch(r"[\w.+@%$-]+", name) else json.dumps(name)
