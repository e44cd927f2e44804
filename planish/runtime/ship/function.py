"""A compiled function as one artifact: a C program calls it on arrays of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from planish.ir.dims import symbols, upper
from planish.ir.errors import ArtifactError
from planish.runtime.host import function
from planish.runtime.image import Image
from planish.runtime.program import Program
from planish.runtime.ship.shipped import STATE, Modules, Shipped
from planish.runtime.ship.tables import Constants
from planish.runtime.slots import Slot

CALL = "call"  # the name of the only program
SIZES = 8  # most sizes of a call, which a line of memory holds


@dataclass(frozen=True, kw_only=True)
class ShippedFunction(Shipped):
    """A program with the functions of C around it.

    ArtifactError where a symbolic dimension has no maximum, by which memory is set aside.
    """

    kind = "function"
    sources: ClassVar[Modules] = (function,)

    def __post_init__(self) -> None:
        if absent := [name for name, most in self._sizes.items() if most is None]:
            raise ArtifactError(
                f"{self._call.name}: C sets memory aside for the largest sizes, and {absent[0]} "
                f"has none; give it one, as in pl.Dim({absent[0]!r}, max=256)"
            )
        if len(self._call.dims) > SIZES:
            raise ArtifactError(f"{self._call.name} has {len(self._call.dims)} sizes, at most 8")
        for limit in self._call.limits:
            if (most := upper(limit.size)) is None or most > limit.limit:
                raise ArtifactError(
                    f"{self._call.name}: {limit.size} is up to {most}, at most {limit.limit}: "
                    f"{limit.reason}; give its sizes smaller maxima"
                )

    @property
    def _call(self) -> Image:
        return self.first[CALL].image

    @cached_property
    def _sizes(self) -> dict[str, int | None]:
        """The largest of each symbolic dimension."""
        slots = (*self._call.inputs, *self._call.outputs)
        return {x.name: x.max for x in symbols(*(n for slot in slots for n in slot.type.shape))}

    @property
    def own_facts(self) -> dict[str, Any]:
        """What it takes and returns."""
        return {
            "function": self._call.name,
            "inputs": [_told(x) for x in self._call.inputs],
            "outputs": [str(x.type) for x in self._call.outputs],
            "sizes": {name: self._sizes[name] for name in self._call.dims},
        }

    @property
    def most(self) -> dict[str, int]:
        """The largest sizes."""
        return {name: most for name, most in self._sizes.items() if most is not None}

    @property
    def state_bytes(self) -> int:
        """Nothing stays from call to call."""
        return 0

    def slots(self, program: Program) -> Iterator[tuple[int, int]]:
        """Each call says where they are."""
        yield from ((STATE, 0) for _ in (*program.image.inputs, *program.image.outputs))

    def places_text(self) -> str:
        """How many arrays there are, which outputs replace inputs, and the sizes."""
        image, made = self._call, Constants()
        homes = {j: i for i, j in image.aliases}
        rows = [
            {"name": made.text(f"size.{n}", name), "most": self.most[name]}
            for n, name in enumerate(image.dims)
        ]
        values = {
            "inputs": len(image.inputs), "outputs": len(image.outputs),
            "homes": made.numbers("homes", (homes.get(n, -1) for n in range(len(image.outputs)))),
            "sizes": made.records("sizes", function.Size, rows), "size_count": len(rows),
        }  # fmt: skip
        made.told("planish_places", function.Places, values)
        return str(made)

    def header(self, title: str) -> str:
        """The C header, which says what each array is."""
        homes = {j: i for i, j in self._call.aliases}
        lines = [f"inputs[{n}]: {_told(x)}" for n, x in enumerate(self._call.inputs)]
        for n, x in enumerate(self._call.outputs):
            replaced = f", replaces inputs[{homes[n]}]" if n in homes else ""
            lines.append(f"outputs[{n}]: {x.type}{replaced}")
        lines += [f"sizes[{n}]: {x}, 1 to {self.most[x]}" for n, x in enumerate(self._call.dims)]
        text = "\n   ".join([f"{title}: {self.prefix}call computes", "", *lines])
        return super().header(text.replace("*/", "* /"))


def _told(slot: Slot) -> str:
    return f"{slot.name}: {slot.type}"
