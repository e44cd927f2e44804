"""Run a plan on the loop interpreter: slow, without LLVM, and the judge of what is native."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from planish.ir.dims import value
from planish.ir.errors import TokenError
from planish.ir.loop_eval import Status, run_kernel
from planish.ir.loops import Buffer
from planish.runtime.arguments import bind_arguments, token_message
from planish.runtime.plan import Plan
from planish.runtime.sizes import element_count
from planish.runtime.slots import Slot


def run_plan(plan: Plan, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The outputs of `plan`; inputs are not changed, not even donated ones."""
    arguments = bind_arguments(plan, arrays)
    memory: dict[tuple[str, int], np.ndarray] = {}
    for slot, array in zip(plan.inputs, arguments.arrays, strict=True):
        memory[slot.kind, slot.index] = array.copy()
    for number, array in enumerate(plan.params):
        memory["param", number] = array
    for slot in (*plan.outputs, *plan.temps):
        memory[slot.kind, slot.index] = _empty(slot, arguments.binding)
    for i, j in plan.aliases:
        memory["output", j] = memory["input", i]
    for step in plan.steps:
        status: Status = []
        known = step.known(arguments.binding)
        dims = {name: known[name] for name in step.kernel.dims}
        given = [
            seen_as(memory[slot.kind, slot.index], buffer, dims)
            for slot, buffer in zip(step.args, step.kernel.params, strict=True)
        ]
        run_kernel(step.kernel, given, dims, status)
        if status:
            site, index, bound = status[0]
            raise TokenError(token_message(plan, site, index, bound, arguments.arrays))
    return tuple(memory[slot.kind, slot.index] for slot in plan.outputs)


def seen_as(array: np.ndarray, buffer: Buffer, dims: Mapping[str, int]) -> np.ndarray:
    """The memory of `array` as a kernel sees it, maybe at another dtype."""
    size = element_count(buffer, dims) * buffer.dtype.itemsize
    return array.reshape(-1).view(np.uint8)[:size].view(buffer.dtype.numpy)


def _empty(slot: Slot, binding: dict[str, int]) -> np.ndarray:
    shape = tuple(value(size, binding) for size in slot.type.shape)
    return np.zeros(shape, slot.type.dtype.numpy)
