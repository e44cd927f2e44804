"""The functions of kernels, each once, gathered into modules.

    functions = Functions(target, modules.append)
    symbol = functions.symbol(kernel, aliased=frozenset(), alone=False)
    functions.flush()

A module is handed on as soon as it is full. Names of functions come from their texts, whatever the
order in which they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from planish.ir.loops import Kernel
from planish.runtime.cache import digest
from planish.runtime.codegen.kernel import kernel_function
from planish.runtime.codegen.sync import FAIL
from planish.runtime.codegen.text import KERNELS
from planish.runtime.codegen.turn import TURN, turn_module
from planish.runtime.memo import Memo
from planish.runtime.nests import Nest, Nests
from planish.runtime.plan import Step
from planish.runtime.schedule import Storage, overlap
from planish.runtime.slots import Slot
from planish.runtime.target import Target

# Characters of a module: some kernels, 20 to 100 ms of LLVM's time. Smaller ones would share the
# work among cores more evenly, and each takes 1 ms more.
MODULE_TEXT = 32_000
# Characters of a function that gets a module of its own: other programs of a process, such as those
# of a generator, find its code.
LONG_TEXT = 16_000

NAME = "k_"  # of a function that no module has taken in yet

# Functions of kernels, and what they declare, by all that they depend on; limited by characters
FUNCTIONS: Memo[tuple[str, dict[str, str]]] = Memo(32 << 20, lambda found: len(found[0]))


class Functions:
    """The functions that were asked for so far. `begin` gets each module when it is full."""

    def __init__(self, target: Target, begin: Callable[[str], object]) -> None:
        self.target, self.begin = target, begin
        self.nests = Nests()
        self._symbols: dict[object, str] = {}  # by kernel, and how it is called
        self._known: dict[str, str] = {}  # function -> symbol; kernels of one may differ in names
        self._shared: set[str] = set()  # what modules of their own have
        self._pending: list[str] = []
        self._declared: dict[str, str] = {}

    def symbol(self, kernel: Kernel, aliased: frozenset[int], alone: bool) -> str:
        """The name of a kernel's function, for which see `kernel_function`."""
        nest = self.nests.of(kernel)
        key = (nest.text, aliased, alone)
        if key not in self._symbols:
            self._symbols[key] = self._added(nest, *self._function(nest, aliased, alone))
        return self._symbols[key]

    def _function(
        self, nest: Nest, aliased: frozenset[int], alone: bool
    ) -> tuple[str, dict[str, str]]:
        """Its LLVM text, called `NAME` there, and what that declares."""
        key = (self.target, digest(nest.text), nest.dims, aliased, alone)
        known = FUNCTIONS.get(key)
        if known is None:
            needs: dict[str, str] = {}
            given = nest.dims, NAME, self.target, needs, aliased, alone
            known = FUNCTIONS.put(key, (kernel_function(nest.kernel, *given), needs))
        return known

    def _added(self, nest: Nest, function: str, needs: dict[str, str]) -> str:
        """The name of a function, which goes into a module if it is new."""
        if function in self._known:
            return self._known[function]
        number = int(digest(function)[:16], 16)
        plain = re.sub(r"\W+", "_", nest.kernel.name, flags=re.ASCII)
        symbol = f"k{number % 100_000}_{plain}"
        if symbol in self._known.values():
            symbol = f"k{number}_{plain}"
        self._known[function] = symbol
        for name in sorted(x for x in needs if x.startswith(TURN)):
            if name not in self._shared:
                self._shared.add(name)
                self.begin(KERNELS + turn_module(name))
        text = function.replace(f"@{NAME}(", f"@{symbol}(", 1)
        if len(text) >= LONG_TEXT:
            self.begin(_module([text], needs))
            return symbol
        self._pending.append(text)
        self._declared.update(needs)
        if sum(map(len, self._pending)) >= MODULE_TEXT:
            self.flush()
        return symbol

    def flush(self) -> None:
        """Hand on the functions that wait for more."""
        if self._pending:
            self.begin(_module(self._pending, self._declared))
            self._pending, self._declared = [], {}


def _module(functions: list[str], declarations: dict[str, str]) -> str:
    """Functions of kernels as a module."""
    text = "\n".join(functions)
    fails = [FAIL] if "@planish.fail(" in text or "!prof !0" in text else []
    return KERNELS + "\n".join([text, *declarations.values(), *fails])


class Ahead:
    """Guesses, as steps are made, how each will be called: its function is made before the plan is.

    A step calls another function where the guess was wrong, which is then made later.
    """

    def __init__(self, functions: Functions, aliases: Sequence[tuple[int, int]]) -> None:
        self._functions = functions
        self._storage = {("output", j): ("input", i) for i, j in aliases}

    def add(self, step: Step) -> None:
        """Make the function of a step: all memory lies apart but for what is updated in place."""
        nest = self._functions.nests.of(step.kernel, step.sizes)
        alone = not step.sizes and (nest.loop is None or nest.small)
        self._functions.symbol(step.kernel, aliased(step, self._place), alone)

    def _place(self, slot: Slot) -> tuple[str, int, int]:
        kind, index = self._storage.get((slot.kind, slot.index), (slot.kind, slot.index))
        return f"{kind} {index}", 0, 1


def aliased(step: Step, storage: Storage) -> frozenset[int]:
    """Numbers of the params that share memory with another one, of which one is written."""
    places = [storage(slot) for slot in step.args]
    names = [b.name in step.kernel.writes for b in step.kernel.params]
    pairs = [
        (i, j)
        for i in range(len(places))
        for j in range(i)
        if (names[i] or names[j]) and overlap(places[i], places[j])
    ]
    return frozenset(x for pair in pairs for x in pair)
