"""Recipes that are slower than the model in float32: by how much, and what to do about it.

    int8: slower than float32: prefill 1.16 times (70.330 > 81.912 ms), in 9 turns; this
    processor has no instruction for sums of four products of bytes; --faster prefill keeps ...

Programs take turns, so two times of a turn are compared with each other. Slower is what differs by
more than `NOISE` in the middle turn, and is slower in three turns of four.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from planish.passes.bf16 import Bf16
from planish.passes.bitmap import Bitmap
from planish.passes.caches import quantize_caches
from planish.passes.fuse import Fuse
from planish.passes.pipeline import Pipeline
from planish.passes.quantize import Quantize
from planish.passes.speed import NOISE, Pair
from planish.runtime.target import Target

LOAD = ("prefill", "decode")
Turns = Sequence[float]  # seconds of each


@dataclass(frozen=True)
class Slower:
    """A recipe, the seconds in float32 and by it of each workload in which it is slower, after so
    many `turns`, and what helps."""

    recipe: str
    times: Mapping[str, Pair]
    turns: int
    remedy: str

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        told = " and ".join(
            f"{what} {after / before:.2f} times ({1e3 * before:.3f} > {1e3 * after:.3f} ms)"
            for what, (before, after) in self.times.items()
        )
        turns = f"{self.turns} turn{'s' * (self.turns != 1)}"
        return f"{self.recipe}: slower than float32: {told}, in {turns}; {self.remedy}"


def slower(
    recipe: str, passes: Pipeline, before: Sequence[Turns], after: Sequence[Turns], faster: str,
    target: Target,
) -> Slower | None:  # fmt: skip
    """What is told of a recipe by the turns of prefill and decode in float32, and by it; None where
    neither is slower. `faster` is the rule that it has been made by."""
    times = {
        what: (float(np.median(a)), float(np.median(b)))
        for what, a, b in zip(LOAD, before, after, strict=True)
        if is_slower(a, b)
    }
    if not times:
        return None
    return Slower(recipe, times, len(after[0]), remedy(passes, times, faster, target))


def is_slower(before: Turns, after: Turns) -> bool:
    """Whether the second of two that took turns is slower, beyond noise."""
    ratios = np.divide(after, before)
    return bool(np.median(ratios) > NOISE and np.quantile(ratios, 0.25) > 1)


def remedy(passes: Pipeline, late: Collection[str], faster: str, target: Target) -> str:
    """Why a recipe is slower in these workloads on a processor, and what helps."""
    steps = passes.passes
    integers = [x for x in steps if isinstance(x, Quantize)]
    if not any(isinstance(x, Fuse) for x in steps):
        return "nothing is fused, for it has no pass fuse; O2, int8 and the like have"
    if any(isinstance(x, Bitmap) for x in steps):
        return ("weights without their zeros are expanded to be multiplied; more zeros, or blocks "
                "of them, help, or no bitmap; --layers says how each is stored")  # fmt: skip
    if any(x.mode == "weights" for x in integers):
        return ("mode=weights makes floats of weights again and again; mode=dynamic, as in int8, "
                "multiplies integers")  # fmt: skip
    if integers:
        return f"{_bytes(target)}{_of_integers(integers, late, faster)}"
    if quantize_caches in steps:
        return "keys and values are rounded; that gains where contexts are long, else leave it out"
    if any(isinstance(x, Bf16) for x in steps):
        has = target.has_bf16_dot or target.has_matrix
        why = "" if has else f"{target.cpu} has no products of bf16 and makes floats of them; "
        return f"{why}bf16{{skip=...}} keeps what --layers shows to be slower, int8 is smaller"
    return "no pass of it is known to cost time; --seconds for more turns, --layers for each weight"


def _bytes(target: Target) -> str:
    """What a processor lacks for integers."""
    has = target.has_byte_dot or target.has("dotprod")
    return "" if has else f"{target.cpu} has no instruction for sums of four products of bytes; "


def _of_integers(steps: Sequence[Quantize], late: Collection[str], faster: str) -> str:
    """What may be done about integers."""
    rule = "both" if len(late) > 1 or faster not in ("", *late) else next(iter(late))
    if faster != rule and not any(x.slower for x in steps):
        return f"--faster {rule} keeps in float32 the weights that lose by it"
    rest = "no product that is left loses by itself, what rounds activations takes time: "
    dynamic = any(x.mode == "dynamic" for x in steps)
    return rest + ("mode=static needs no scales of rows, " if dynamic else "") + "O2 rounds none"
