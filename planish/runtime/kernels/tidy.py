"""Tidying a written kernel: unused values and params go, values used once move to their use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planish.ir.loops import (
    Accumulate,
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
    children,
    walk,
)

MAX_DEPTH = 8  # of an expression: deeper ones do not read well, and recursion stays bounded


def tidy(kernel: Kernel) -> Kernel:
    """Drop Lets and params that nothing uses; put a Let used once, in its own block, at its use."""
    changing = {*kernel.writes, *(b.name for b in kernel.locals)}
    body = _block(kernel.body, _uses(kernel.body), changing)
    used = {x.buffer.name for x in walk(body) if isinstance(x, (Load, Store, Accumulate))}
    return replace(
        kernel,
        body=body,
        params=tuple(b for b in kernel.params if b.name in used),
        locals=tuple(b for b in kernel.locals if b.name in used),
    )


def _uses(body: tuple[Stmt, ...]) -> dict[str, list[int]]:
    """For each use of a name the id of the block of which a statement uses it; 0 for those in an
    extent or a condition. What only unused Lets use is unused."""
    found: dict[str, list[int]] = {}
    lets: dict[str, tuple[int, list[str]]] = {}  # the block of each, and what it uses
    blocks = [body]
    while blocks:
        block = blocks.pop()
        for stmt in block:
            names = [x.name for x in walk(children(stmt)) if type(x) is Var]
            here = id(block)
            if isinstance(stmt, (For, If)):
                blocks.append(stmt.body)
                here = 0
            elif isinstance(stmt, Let):
                lets[stmt.var.name] = here, names
            for name in names:
                found.setdefault(name, []).append(here)
    unused = [name for name in lets if name not in found]
    while unused:
        here, names = lets[unused.pop()]
        for name in names:
            found[name].remove(here)
            if not found[name] and name in lets:
                unused.append(name)
    return found


def _block(
    body: tuple[Stmt, ...], uses: dict[str, list[int]], changing: set[str]
) -> tuple[Stmt, ...]:
    """One block without unused Lets, single-use ones substituted within the block."""
    values: dict[str, Expr] = {}
    result: list[Stmt] = []
    for stmt in body:
        match stmt:
            case Let(var, value) if uses.get(var.name):
                value = _put(value, values)
                once = uses[var.name] == [id(body)]
                if once and _depth(value) < MAX_DEPTH and not _reads(value, changing):
                    values[var.name] = value
                else:
                    result.append(Let(var, value))
            case For(var, extent, kind, inner, width):
                block = _block(inner, uses, changing)
                result.append(For(var, _put(extent, values), kind, block, width))
            case If(cond, inner):
                result.append(If(_put(cond, values), _block(inner, uses, changing)))
            case Store(buffer, index, value):
                index = tuple([_put(i, values) for i in index])
                result.append(Store(buffer, index, _put(value, values)))
            case Accumulate(buffer, index, op, value):
                index = tuple([_put(i, values) for i in index])
                result.append(Accumulate(buffer, index, op, _put(value, values)))
            case Fetch(buffer, index):
                result.append(Fetch(buffer, tuple([_put(i, values) for i in index])))
    return tuple(result)


def _put(value: Expr, values: dict[str, Expr]) -> Expr:
    """`value` with the variables in `values` replaced; itself where nothing changes."""
    if not values:
        return value
    match value:
        case Var(name):
            return values.get(name, value)
        case Const():
            return value
        case Load(buffer, index):
            new = tuple([_put(i, values) for i in index])
            return value if new == index else Load(buffer, new)
        case Scalar(op, args, dtype):
            new = tuple([_put(x, values) for x in args])
            return value if new == args else Scalar(op, new, dtype)
    return value


def _depth(value: Expr) -> int:
    match value:
        case Load(_, index):
            return 1 + max(map(_depth, index), default=0)
        case Scalar(_, args):
            return 1 + max(map(_depth, args), default=0)
    return 0


def _reads(value: Expr, changing: set[str]) -> bool:
    return any(
        isinstance(x, Load) and x.buffer.name in changing
        for x in walk((value,))  # type: ignore[arg-type]
    )


def number_sites(kernel: Kernel, sites: list[str]) -> Kernel:
    """Replace the text of each guard by its number in `sites`, which grows as needed."""

    def numbered(value: Expr) -> Expr:
        match value:
            case Scalar("guard", (i, n, Const(site)), dtype) if isinstance(site, str):
                if site not in sites:
                    sites.append(site)
                return Scalar(
                    "guard", (numbered(i), numbered(n), Const(sites.index(site), dtype)), dtype
                )
            case Load(buffer, index):
                return Load(buffer, tuple(map(numbered, index)))
            case Scalar(op, args, dtype):
                return Scalar(op, tuple(map(numbered, args)), dtype)
        return value

    if not any(isinstance(x, Scalar) and x.op == "guard" for x in walk(kernel.body)):
        return kernel
    return replace(kernel, body=map_values(kernel.body, numbered))


def map_values(body: tuple[Stmt, ...], fn: Callable[[Expr], Expr]) -> tuple[Stmt, ...]:
    """A block with `fn` applied to each expression of each statement."""
    result: list[Stmt] = []
    for stmt in body:
        match stmt:
            case Let(var, value):
                result.append(Let(var, fn(value)))
            case For():
                inner = map_values(stmt.body, fn)
                result.append(replace(stmt, extent=fn(stmt.extent), body=inner))
            case If():
                result.append(If(fn(stmt.cond), map_values(stmt.body, fn)))
            case Store() | Accumulate():
                result.append(replace(stmt, index=tuple(map(fn, stmt.index)), value=fn(stmt.value)))
            case Fetch(buffer, index):
                result.append(Fetch(buffer, tuple(map(fn, index))))
    return tuple(result)
