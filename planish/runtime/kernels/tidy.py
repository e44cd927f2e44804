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
    body = kernel.body
    while True:
        uses, own = _uses(body)
        changing = {*kernel.writes, *(b.name for b in kernel.locals)}
        smaller = _block(body, uses, own, changing)
        if smaller == body:
            break
        body = smaller
    used = {x.buffer.name for x in walk(body) if isinstance(x, (Load, Store, Accumulate))}
    return replace(
        kernel,
        body=body,
        params=tuple(b for b in kernel.params if b.name in used),
        locals=tuple(b for b in kernel.locals if b.name in used),
    )


def _uses(body: tuple[Stmt, ...]) -> tuple[dict[str, int], dict[int, set[str]]]:
    """How often each name is used; and those used by what stands in a block itself, by its id."""
    found: dict[str, int] = {}
    own: dict[int, set[str]] = {}
    blocks = [body]
    while blocks:
        block = blocks.pop()
        here = own[id(block)] = set()
        for stmt in block:
            names = [x.name for x in walk(children(stmt)) if type(x) is Var]
            if isinstance(stmt, (For, If)):
                blocks.append(stmt.body)
            else:
                here.update(names)
            for name in names:
                found[name] = found.get(name, 0) + 1
    return found, own


def _block(
    body: tuple[Stmt, ...], uses: dict[str, int], own: dict[int, set[str]], changing: set[str]
) -> tuple[Stmt, ...]:
    """One block without unused Lets, single-use ones substituted within the block."""
    here = own[id(body)]
    values: dict[str, Expr] = {}
    result: list[Stmt] = []
    for stmt in body:
        match stmt:
            case Let(var, value) if uses.get(var.name, 0) == 0:
                continue
            case Let(var, value):
                value = _put(value, values)
                once = uses[var.name] == 1 and var.name in here
                if once and _depth(value) < MAX_DEPTH and not _reads(value, changing):
                    values[var.name] = value
                else:
                    result.append(Let(var, value))
            case For():
                inner = _block(stmt.body, uses, own, changing)
                result.append(replace(stmt, extent=_put(stmt.extent, values), body=inner))
            case If():
                inner = _block(stmt.body, uses, own, changing)
                result.append(If(_put(stmt.cond, values), inner))
            case Store() | Accumulate():
                index = tuple(_put(i, values) for i in stmt.index)
                result.append(replace(stmt, index=index, value=_put(stmt.value, values)))
            case Fetch(buffer, index):
                result.append(Fetch(buffer, tuple(_put(i, values) for i in index)))
    return tuple(result)


def _put(value: Expr, values: dict[str, Expr]) -> Expr:
    """`value` with the variables in `values` replaced; itself where nothing changes."""
    match value:
        case Var(name):
            return values.get(name, value)
        case Const():
            return value
        case Load(buffer, index):
            new = tuple(_put(i, values) for i in index)
            return value if new == index else Load(buffer, new)
        case Scalar(op, args, dtype):
            new = tuple(_put(x, values) for x in args)
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
