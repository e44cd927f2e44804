"""What follows from kernels, each of which may be that of many steps: found once, when asked.

nests = Nests()
nests.of(step.kernel).work
"""

from __future__ import annotations

from functools import cached_property

from planish.ir import types as t
from planish.ir.loop_text import kernel_text
from planish.ir.loops import Const, Expr, For, Kernel
from planish.runtime.pieces import in_pieces
from planish.runtime.sizes import is_small, work


class Nest:
    """A kernel, and what follows from it."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.loop = parallel_loop(kernel)

    @cached_property
    def dims(self) -> tuple[str, ...]:
        """The names of its dimensions."""
        return self.kernel.dims

    @cached_property
    def text(self) -> str:
        """How it prints, but for its name."""
        return kernel_text(self.kernel, "kernel")

    @cached_property
    def work(self) -> Expr:
        """About how many scalar operations it makes, over its dimensions."""
        return work(self.kernel, self.dims)

    @property
    def small(self) -> bool:
        """Whether it is too little work to share, whatever the sizes."""
        return is_small(self.work)

    @cached_property
    def apart(self) -> dict[str, int]:
        """The params of which iteration p touches its own pieces alone: see `in_pieces`."""
        return in_pieces(self.kernel, self.loop) if self.loop else {}


class Nests:
    """The kernels of a plan."""

    def __init__(self) -> None:
        self._found: dict[int, Nest] = {}  # by the id of a kernel, which they keep alive

    def of(self, kernel: Kernel) -> Nest:
        """What there is to know of a kernel."""
        if id(kernel) not in self._found:
            self._found[id(kernel)] = Nest(kernel)
        return self._found[id(kernel)]


def parallel_loop(kernel: Kernel) -> For | None:
    """The loop whose iterations threads can share, if there are several."""
    loops = (s for s in kernel.body if isinstance(s, For) and s.kind == "parallel")
    return next((s for s in loops if s.extent != Const(1, t.i64)), None)
