"""How large the buffers of a kernel are, and how much work it is, given its dimensions."""

from __future__ import annotations

from collections.abc import Mapping

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.loops import (
    Buffer,
    Const,
    Expr,
    For,
    If,
    Kernel,
    Load,
    Scalar,
    Stmt,
    Var,
    children,
    scalar,
)

Sizes = tuple[tuple[str, int], ...]  # what names mean that a kernel has instead of numbers

# Scalar operations below which a step stays on one thread: about 1 us, where a meeting of two
# threads costs 0.1 us and the other thread has to fetch the operands from this one's cache.
PARALLEL_WORK = 20_000

LINE = 64  # bytes of a cache line

_FUNCTION_WORK = 20  # operations of an exp, tanh ...
_MATRIX_SPEED = 16  # times that of vectors
_UNKNOWN_EXTENT = 64  # of a loop whose extent is data
_SLOW = {"exp", "exp2", "expm1", "log", "log2", "log1p", "tanh", "erf", "sin", "cos"} | {
    "sigmoid",
    "rsqrt",
    "pow",
    "div",
    "sqrt",
}


def element_count(buffer: Buffer, binding: Mapping[str, int]) -> int:
    """Elements of a buffer, whose sizes are expressions over dimensions."""
    env: dict[str, Expr] = {name: Const(number, t.i64) for name, number in binding.items()}
    count = 1
    for extent in buffer.shape:
        number = bounded(extent, env)
        if not isinstance(number, Const):
            raise IRError(f"the size of {buffer.name} is not known")
        count *= int(number.value)
    return count


def work(kernel: Kernel, env: Mapping[str, Expr]) -> Expr:
    """About how many scalar operations a kernel makes, whose dimensions are `env`."""
    return _block_work(kernel.body, dict(env))


def is_small(amount: Expr) -> bool:
    """Whether it is too little work to share, whatever the sizes."""
    return isinstance(amount, Const) and amount.value < PARALLEL_WORK


def bounded(expr: Expr, env: Mapping[str, Expr]) -> Expr:
    """An extent with variables at their bound, and what depends on data guessed."""
    match expr:
        case Const():
            return expr
        case Var(name) if name in env:
            return env[name]
        case Scalar("add" | "sub" | "mul" | "floor_div" | "mod" | "min" | "max" as op, (a, b)):
            return scalar(op, bounded(a, env), bounded(b, env))
    return Const(_UNKNOWN_EXTENT, t.i64)


def _block_work(body: tuple[Stmt, ...], env: dict[str, Expr]) -> Expr:
    total: Expr = Const(0, t.i64)
    for stmt in body:
        match stmt:
            case For(var, extent, kind, inner):
                count = bounded(extent, env)
                inside = _block_work(inner, {**env, var.name: count})
                whole = count * inside
                total = total + (whole // _MATRIX_SPEED if kind == "matrix" else whole)
            case If(_, inner):
                total = total + _block_work(inner, env)
            case _:
                total = total + _operations(stmt)
    return total


def _operations(stmt: Stmt) -> int:
    count, stack = 1, list(children(stmt))
    seen: set[int] = set()
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Scalar) and item.dtype != t.i64:
            count += _FUNCTION_WORK if item.op in _SLOW else 1
        elif isinstance(item, Load):
            count += 1
        stack.extend(children(item))
    return count
