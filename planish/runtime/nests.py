"""What follows from kernels, each of which may be that of many steps: found once, when asked.

nests = Nests()
nests.of(step.kernel, step.sizes).work
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from planish.ir import types as t
from planish.ir.loop_text import kernel_text
from planish.ir.loops import Const, Expr, For, Kernel, Var
from planish.runtime.pieces import in_full, in_pieces
from planish.runtime.sizes import Sizes, is_small, work


class Nest:
    """A kernel, and what follows from it and from `sizes`, which some of its dimensions have."""

    def __init__(self, kernel: Kernel, sizes: Sizes = ()) -> None:
        self.kernel = kernel
        self.sizes = {name: Const(size, t.i64) for name, size in sizes}
        self.loop, self.trips = parallel_loop(kernel, self.sizes)

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
        return work(self.kernel, {**{name: Var(name) for name in self.dims}, **self.sizes})

    @property
    def small(self) -> bool:
        """Whether it is too little work to share, whatever the sizes."""
        return is_small(self.work)

    @cached_property
    def apart(self) -> dict[str, int]:
        """The params of which iteration p touches its own pieces alone: see `in_pieces`."""
        return in_pieces(self.kernel, self.loop, self.sizes) if self.loop else {}


class Nests:
    """The kernels of a plan."""

    def __init__(self) -> None:
        # by the id of a kernel, which they keep alive
        self._found: dict[tuple[int, Sizes], Nest] = {}

    def of(self, kernel: Kernel, sizes: Sizes = ()) -> Nest:
        """What there is to know of a kernel."""
        key = id(kernel), sizes
        if key not in self._found:
            self._found[key] = Nest(kernel, sizes)
        return self._found[key]


def parallel_loop(kernel: Kernel, sizes: Mapping[str, Expr]) -> tuple[For | None, Expr]:
    """The loop whose iterations threads can share, if there are several, and how many."""
    loops = (s for s in kernel.body if isinstance(s, For) and s.kind == "parallel")
    found = ((s, in_full(s.extent, sizes)) for s in loops)
    one = Const(1, t.i64)
    return next((x for x in found if x[1] != one), (None, one))
