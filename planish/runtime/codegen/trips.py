"""How often a loop runs, and whether LLVM may make several trips one."""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.loops import For, walk
from planish.runtime.codegen.value import Linear
from planish.runtime.target import Target

SHORT = 8  # trips that may become none: sums in small arrays find their registers
FILLED = 4  # vector registers of a trip from which on several at once gain nothing


def trips(begin: Linear, end: Linear, step: int) -> int | None:
    """How often a loop over begin, begin + step ... below end runs, where that is known."""
    if begin.constant is None or end.constant is None:
        return None
    return -(-(end.constant - begin.constant) // step)


def stays(loop: For, count: int | None, target: Target) -> bool:
    """Whether a loop of `count` trips, without others inside, is left as it is.

    Vectors say already how much is done at once. A fifth of LLVM's time would go into unrolling
    them (`benchmarks/compile_time.py`), for code that is no faster.
    """
    if count is not None and count <= SHORT:
        return False
    widths = (x.width for x in walk(loop.body) if isinstance(x, For) and x.kind == "vector")
    return loop.kind == "vector" or max(widths, default=1) >= FILLED * target.lanes(t.f32)
