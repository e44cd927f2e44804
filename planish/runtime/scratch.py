"""Bytes of scratch memory that a kernel needs on each thread."""

from __future__ import annotations

from collections.abc import Mapping

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.loops import Const, Expr, Kernel
from planish.runtime.codegen.kernel import scratch_buffers
from planish.runtime.codegen.steps import bounded
from planish.runtime.memory import ALIGN


def scratch_bytes(kernel: Kernel, binding: Mapping[str, int]) -> int:
    """Bytes of the kernel's large locals, each on a cache line of its own."""
    env: dict[str, Expr] = {name: Const(number, t.i64) for name, number in binding.items()}
    total = 0
    for buffer in scratch_buffers(kernel):
        size = buffer.dtype.itemsize
        for extent in buffer.shape:
            number = bounded(extent, env)
            if not isinstance(number, Const):
                raise IRError(f"{kernel.name}: the size of {buffer.name} is not known")
            size *= int(number.value)
        total += -(-size // ALIGN) * ALIGN
    return total
