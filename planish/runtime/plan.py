"""A plan: kernels in order, and the memory that each reads and writes.

`runtime/lower.py` makes a Plan from a Graph; `runtime/memory.py` gives the temporaries offsets in
one arena; `runtime/codegen` makes native code of it. A plan prints, and `run_plan` in
`runtime/interpret.py` runs it on the loop interpreter, without LLVM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from planish.ir.dims import AnySize
from planish.ir.loops import Kernel
from planish.runtime.sizes import Sizes
from planish.runtime.slots import Limit, Made, Slot


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call: `args` are the slots for `kernel.params`, in order.

    A kernel sees its argument as a contiguous row-major buffer of the kernel's own shape, which may
    differ from the slot's (a reshape costs nothing), as may the dtype (pairs of bf16 are words);
    the number of bytes is the same. `sizes` are what dimensions of the kernel are in this call, and
    may be others in another one; all else is known when the program runs.
    """

    kernel: Kernel
    args: tuple[Slot, ...]
    label: str  # a name a person knows: "h.3.mlp.fc1+gelu"
    sizes: Sizes = ()
    flops: AnySize | None = None  # of a matrix product; None: as many as the loop nest has

    def known(self, binding: Mapping[str, int]) -> dict[str, int]:
        """What names of sizes mean in this call, where the program's are these."""
        return {**binding, **dict(self.sizes)}


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole program. `aliases` holds (input index, output index) pairs that share storage.

    `params[i]` is the array of the param slot with index i, in the layout its readers expect, and
    `made[i]` says what it is made of.
    `sites[s]` says what a failed `guard` of site s was about ("token id", ...).
    """

    name: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    temps: tuple[Slot, ...]
    params: tuple[np.ndarray, ...]
    steps: tuple[Step, ...]
    aliases: tuple[tuple[int, int], ...] = ()
    limits: tuple[Limit, ...] = ()
    sites: tuple[str, ...] = ()
    made: tuple[Made, ...] = ()

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The first and the last step that touch each temporary."""
        found: dict[int, tuple[int, int]] = {}
        for number, step in enumerate(self.steps):
            for slot in step.args:
                if slot.kind == "temp":
                    first, _ = found.get(slot.index, (number, number))
                    found[slot.index] = (first, number)
        return tuple(found.get(slot.index, (0, 0)) for slot in self.temps)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all params."""
        return sum(array.nbytes for array in self.params)
