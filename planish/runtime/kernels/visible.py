"""Which keys a query of an attention sees."""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.loops import Expr, as_index, cast, scalar, size_expr
from planish.ir.node import Node
from planish.runtime.kernels.nest import Pull, minimum


def visible(anchor: Node, pull: Pull, row: Expr) -> Expr:
    """How many keys query `row` sees: all, or those up to its own position, at most S."""
    t_, s = anchor.inputs[0].shape[2], anchor.inputs[1].shape[2]
    keys = size_expr(s)
    if not anchor.attrs["causal"]:
        return keys
    if len(anchor.inputs) > 3:
        offset = cast(pull(anchor.inputs[3], ()), t.i64)
    else:
        offset = size_expr(s - t_)
    # a query before the first key sees none
    return scalar("max", minimum(offset + row + 1, keys), as_index(0))
