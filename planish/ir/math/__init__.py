"""Mathematical functions as loop IR: what `Scalar("exp", ...)` and its kin mean, exactly.

The same definition is run by the loop interpreter and turned into machine code, so a kernel
calls no library and gives the same bits everywhere.
"""

from __future__ import annotations

from functools import cache

from planish.ir.errors import IRError
from planish.ir.math import exponential, threefry
from planish.ir.math.build import Function
from planish.ir.types import DType

__all__ = ["Function", "definition"]

_DEFINITIONS = {"exp": exponential.exp, "threefry": threefry.threefry}


@cache
def definition(name: str, dtype: DType) -> Function:
    """The definition of `name` for operands of `dtype` (f32 or f64; u32 for threefry)."""
    if name not in _DEFINITIONS:
        raise IRError(f"no definition of {name!r}; there is {', '.join(_DEFINITIONS)}")
    return _DEFINITIONS[name](dtype)
