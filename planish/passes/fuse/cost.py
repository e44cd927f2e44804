"""What recomputing costs: why a value that is read in several places may stay a kernel's output."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from planish.ir.dims import upper
from planish.ir.groups import dependents, is_pull
from planish.ir.node import Node

# Polynomials of 10 to 30 instructions: worth a store and a load.
FUNCTIONS = frozenset(
    {"exp", "exp2", "expm1", "log", "log2", "log1p", "sin", "cos", "tan", "tanh", "erf", "sigmoid"}
    | {"pow", "atan2", "random_bits", "fold_in"}
)
# Not pipelined: cheap once, not once per element of a larger array.
SLOW = FUNCTIONS | frozenset({"div", "floor_div", "mod", "sqrt", "rsqrt", "reciprocal"})

# Ops computed again for each element of a larger array; a small kernel costs a barrier, about 1 us.
MOST_REPEATED = 6
# Places at which one value is computed in one kernel; x + x.T + ... would double with each step.
MOST_WAYS = 4
UNKNOWN_SIZE = 256  # taken for a symbolic size without a maximum

_SAME_PLACE = frozenset({"tril", "triu"})
_MOVED = frozenset({"reshape", "transpose", "slice", "flip"})


def bytes_of(node: Node) -> int:
    """The size of a value, the largest where it is symbolic."""
    total = node.dtype.itemsize
    for size in node.shape:
        total *= upper(size) or UNKNOWN_SIZE
    return total


def repeats(nodes: Sequence[Node], outputs: Collection[Node]) -> str | None:
    """Why this body computes something expensive more than once; None where it does not.

    Going from outputs to operands, each value collects the *ways* it is reached: reads at the
    element's own place keep the reader's ways, any other read is a way of its own. What depends on
    a reduction or matmul is kept by the kernel, so ways start anew there.
    """
    late = dependents(nodes, [n for n in nodes if not is_pull(n.op)])
    ways: dict[Node, dict[object, bool]] = {n: {} for n in nodes}  # way -> repeats elements
    for n in outputs:
        ways[n][()] = False
    repeated = 0
    for n in reversed(nodes):
        own: dict[object, bool] = {(): False} if n in late else ways[n]
        if n not in late and n.op.kind not in ("view", "leaf"):
            again = any(own.values())
            if n.op.name in (SLOW if again else FUNCTIONS) and (again or len(own) > 1):
                return f"{n.op.name} : {n.type} would be computed more than once per element"
            repeated += again
        if repeated > MOST_REPEATED or len(own) > MOST_WAYS:
            return f"{n.op.name} : {n.type} and what it reads would be computed many times"
        if n.op.kind != "contraction":
            for x in n.inputs:
                if x in ways and x not in late:
                    _reach(n, x, own, ways[x])
    return None


def _reach(n: Node, x: Node, own: dict[object, bool], ways: dict[object, bool]) -> None:
    """Add the ways in which `n` reads `x`."""
    if n.op.kind == "reduction":
        ways.setdefault((), False)
    elif n.op.name in _SAME_PLACE or (n.op.kind == "elementwise" and _squeezed(x, n)):
        ways.update(own)
    else:
        more = n.op.name not in _MOVED and not (n.op.name == "broadcast" and _squeezed(x, n))
        for way, again in own.items():
            ways[(n, way)] = again or more


def _squeezed(x: Node, n: Node) -> bool:
    """Whether two shapes differ by axes of size 1 only."""
    if x.shape == n.shape:
        return True
    return [s for s in x.shape if s != 1] == [s for s in n.shape if s != 1]
