"""What a program is handed and keeps: pieces of memory, limits of sizes, how weights are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from planish.ir.dims import AnySize
from planish.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of memory: `kind` is "input", "param", "output" or "temp", `index` counts in it."""

    kind: str
    index: int
    type: TensorType
    name: str


class Limit(NamedTuple):
    """What must hold of the symbolic dimensions of a call: size <= limit (else `reason`)."""

    size: AnySize
    limit: int
    reason: str


class Made(NamedTuple):
    """How a param of a plan is made of the graph's params called `names`.

    "plain": one as it is. Else what a method of `Packing` makes of a view of them, the text of a
    graph: panels `width` columns wide, `before` them a row that a dot product of that name starts
    with, if any (see `STARTS`). Some make several arrays; `part` is which.
    """

    names: tuple[str, ...]
    kind: str = "plain"
    view: str = ""
    width: int = 0
    before: str = ""
    part: int = 0
