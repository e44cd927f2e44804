"""When the iterations of a loop may run side by side: index arithmetic over one loop variable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from planish.ir.loops import Accumulate, Const, Expr, For, If, Let, Load, Scalar, Store, Var, walk


def mentions(expr: Expr, names: set[str]) -> bool:
    """Whether an expression reads one of the names."""
    return any(isinstance(x, Var) and x.name in names for x in walk((expr,)))  # type: ignore


def varying(loop: For, loads: bool = True) -> set[str]:
    """Names that may differ from one iteration of `loop` to the next.

    `loads` counts every value read from memory as one of them.
    """
    names = {loop.var.name}
    for item in walk(loop.body):
        if isinstance(item, Let) and (
            mentions(item.value, names) or (loads and _loads(item.value))
        ):
            names.add(item.var.name)
    return names


def _loads(expr: Expr) -> bool:
    return any(isinstance(x, Load) for x in walk((expr,)))  # type: ignore[arg-type]


def stride(expr: Expr, var: str) -> int | None:
    """c where expr is c * var + (something without var), c a number; None where it is not so."""
    match expr:
        case Var(name):
            return int(name == var)
        case Const():
            return 0
        case Scalar("add" | "sub" as op, (a, b)):
            x, y = stride(a, var), stride(b, var)
            if x is None or y is None:
                return None
            return x + y if op == "add" else x - y
        case Scalar("mul", (a, Const(c))) | Scalar("mul", (Const(c), a)):
            x = stride(a, var)
            return None if x is None else x * int(c)
    return None if mentions(expr, {var}) else 0


def lanes_independent(loop: For, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether every iteration of `loop` has its own share of what the loop writes.

    So it is where each buffer written either is touched through one common index that moves with
    the loop variable and with nothing else inside the loop, or only collects a reduction.
    """
    items = list(walk(loop.body))
    inner = {x.var.name for x in items if isinstance(x, (For, Let))}
    changing = varying(loop)
    if any(isinstance(x, If) and _uneven(x.cond, changing) for x in items):
        return False
    if any(isinstance(x, For) and _uneven(x.extent, changing) for x in items):
        return False
    for name in {x.buffer.name for x in items if isinstance(x, (Store, Accumulate))}:
        if any(
            other != name and np.may_share_memory(arrays[name], arrays[other])
            for other in {x.buffer.name for x in items if isinstance(x, (Load, Store, Accumulate))}
        ):
            return False
        touches = [x for x in items if _touches(x, name)]
        own = own_axis([x.index for x in touches], loop.var.name, inner)  # type: ignore[union-attr]
        if not own and not _collects(touches, changing):
            return False
    return True


def own_axis(indexes: list[tuple[Expr, ...]], var: str, inner: set[str]) -> bool:
    """Whether all indexes agree on an axis that is a different place in every iteration."""
    for axes in zip(*indexes, strict=False):
        first = axes[0]
        if stride(first, var) and not mentions(first, inner) and all(x == first for x in axes):
            return True
    return False


def _touches(item: object, name: str) -> bool:
    return isinstance(item, (Load, Store, Accumulate)) and item.buffer.name == name


def _uneven(expr: Expr, changing: set[str]) -> bool:
    return mentions(expr, changing) or _loads(expr)


def _collects(touches: Iterable[object], changing: set[str]) -> bool:
    """Only `buffer[uniform index] op= value`, once: a reduction over the lanes."""
    items = list(touches)
    return len(items) == 1 and all(
        isinstance(x, Accumulate) and not any(mentions(i, changing) for i in x.index) for x in items
    )
