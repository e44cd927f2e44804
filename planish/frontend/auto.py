"""The smallest mix of 32, 16, 8 and 4 bits whose perplexity stays within a budget, or the fastest.

    found = pl.auto_recipe(model, tokens, budget=1.01)
    print(found)                                bits of each weight, and the recipe
    pl.compile(model, ..., pipeline=found.pipeline)

The recipe is a pipeline like any other: its text, written down, makes the same model again.

Each weight is judged alone with fewer bits (`sensitivity`), on the first half of the text: 8, 4 in
groups, and 16 (bf16) where the processor multiplies them. Steps down are put in the order of the
divergence that they cost for each byte that they save; for the fastest mix, for each second that
the products by the weight then take less, and without those that save none. How many of them the
budget allows is found by bisection, measuring the mix itself on the second half: effects of layers
are not assumed to add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from planish.frontend.clock import layer_clock
from planish.frontend.judge import Judge, Judgement, halves
from planish.frontend.progress import Report, progress_bar
from planish.frontend.quantize import stored
from planish.frontend.sensitivity import PIECES, Row, alone
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.passes.bf16 import Bf16
from planish.passes.choices import Choices
from planish.passes.compare import show_bytes
from planish.passes.layers import times_of
from planish.passes.measure import weight_bytes
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import CLEAN, FAST, PIPELINES, SMALL
from planish.passes.quantize import GROUP, Quantize
from planish.passes.registry import Pass
from planish.passes.skip import pattern_of
from planish.passes.speed import RULES, Clock, Speed
from planish.passes.table import table_text
from planish.runtime.target import Target

BUDGET = 1.01  # of the perplexity of the model as it is
NAMES = {16: "bf16", 8: "int8", 4: "int4"}  # the pipeline that all weights have so many bits in
Step = tuple[Quantize | Bf16, int, Mapping[str, str]]  # a pass, its bits, why weights stay


@dataclass(frozen=True)
class Auto:
    """A mix: the bits of each weight, and what was measured of it.

    `ratio` is that of its perplexity to that of the model as it is, on text that the search did not
    order layers by; `tried` are the mixes that were measured. `faster` is the rule of the fastest
    mix, "" for the smallest; `considered` says what bits there were to choose from.
    """

    pipeline: Pipeline
    bits: Mapping[str, int]
    budget: float
    ratio: float
    kl: float
    bytes: int
    bytes_before: int
    tried: int
    faster: str = ""
    considered: str = ""

    def __str__(self) -> str:
        rows = [("layer", "bits"), *((name, str(bits)) for name, bits in self.bits.items())]
        return (
            f"{table_text(rows)}\n"
            f"{show_bytes(self.bytes)} of {show_bytes(self.bytes_before)}, perplexity "
            f"{self.ratio:.5f} of that without (budget {self.budget:g}), KL {self.kl:.6f}, "
            f"{self.tried} mixes measured of {self.considered}\n{self.pipeline}"
        )


@dataclass(frozen=True)
class Move:
    """A weight made smaller: what that costs (nats) and saves (bytes, or seconds)."""

    name: str
    bits: int
    cost: float
    saved: float

    @property
    def rate(self) -> float:
        """What a byte, or a second, costs."""
        return self.cost / self.saved


class Mixes:
    """The mixes after the first so many moves, each measured once."""

    def __init__(
        self, judge: Judge, steps: Sequence[Step], moves: Sequence[Move], names: Sequence[str]
    ) -> None:
        self.judge, self.steps, self.moves, self.names = judge, steps, moves, names
        self.tried: dict[int, Judgement] = {0: judge.exact}

    def ratio(self, count: int) -> float:
        """The perplexity after so many moves over that of the model as it is."""
        if count not in self.tried:
            self.tried[count] = self.judge(self.pipeline(count))
        return self.tried[count].perplexity / self.judge.exact.perplexity

    def most(self, budget: float, report: Report) -> int:
        """The most moves within a budget, if each costs something; by bisection."""
        low, high = 0, len(self.moves) + 1  # low is within it, high is not, or is too many
        middle = len(self.moves)
        while high - low > 1:
            report(len(self.tried) - 1, f"{middle} of {len(self.moves)} steps")
            low, high = (middle, high) if self.ratio(middle) <= budget else (low, middle)
            middle = (low + high) // 2
        return low

    def bits(self, count: int) -> dict[str, int]:
        """Of each weight."""
        after = {move.name: move.bits for move in self.moves[:count]}
        return {name: after.get(name, 32) for name in self.names}

    def pipeline(self, count: int) -> Pipeline:
        """The recipe of a mix."""
        bits = self.bits(count)
        passes: list[Pass] = []
        for step, own, reasons in self.steps:
            left = [x for x in reasons if not isinstance(step, Bf16) or bits[x] >= own]
            others = [x for x in left if x in bits and bits[x] > own]
            if any(bits[x] <= own for x in left if x in bits):
                passes.append(replace(step, skip=pattern_of(others, left)))
        return CLEAN + Pipeline(*passes, *SMALL.passes[1:]) + FAST  # what follows `quantize`


def auto_recipe(
    model: Any, tokens: Any, budget: float = BUDGET, *, faster: str = "", pieces: int = PIECES,
    threads: int | None = None, progress: bool | None = None,
) -> Auto:  # fmt: skip
    """The smallest mix whose perplexity is at most `budget` times that of the model as it is.

    With `faster` ("decode", "prefill", "both") it is the fastest: products by each weight are
    timed, of one row, of a context, or both. `tokens` is a text of at least twice the context, of
    which at most `pieces` contexts of each half are read. A bar shows progress, if standard error
    is a terminal.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not budget >= 1:
        raise DataError(f"budget is a ratio of perplexities of at least 1, got {budget!r}")
    if faster not in RULES:
        raise DataError(f"faster is one of {', '.join(RULES[1:])}, got {faster!r}")
    seen, kept = halves(model, tokens)
    judge = Judge(model, seen, pieces, threads)
    levels = {x: Choices.of(PIPELINES[NAMES[x]], judge.graph) for x in widths(Target.parse())}
    steps = steps_of(levels)
    names = {own: [n for n, why in reasons.items() if not why] for _, own, reasons in steps}
    names[8] = levels[8].changed
    rows = {x: alone(model, judge, levels[x], names[x], progress) for x in levels}
    gains = bytes_of(rows)
    if faster:
        clock = layer_clock(model, threads)
        gains = seconds_of(judge.graph, clock, faster, [step for step, _, _ in steps])
    moves = ordered(rows, gains)
    mixes = Mixes(Judge(model, kept, pieces, threads), steps, moves, names[8])
    with progress_bar("mixes", len(moves).bit_length() + 1, progress) as report:
        count = mixes.most(budget, report)
    pipeline, found = mixes.pipeline(count), mixes.tried[count]
    size, before = (weight_bytes(x) for x in (stored(model, pipeline), judge.graph))
    tried, ratio = len(mixes.tried) - 1, mixes.ratio(count)
    told = considered(Target.parse())
    bits = mixes.bits(count)
    return Auto(pipeline, bits, budget, ratio, found.kl, size, before, tried, faster, told)


def widths(target: Target) -> tuple[int, ...]:
    """The bits that weights may have beside 32; 16 where there are products of bf16."""
    return (16, 8, 4) if target.has_bf16_dot or target.has_matrix else (8, 4)


def considered(target: Target) -> str:
    """What bits weights may have, and why not others."""
    half = 16 in widths(target)
    none = "" if half else f"; not 16, for {target.cpu} has no products of bf16"
    return f"32, {'16 (bf16), ' * half}8 and 4 bits (groups of {GROUP}){none}"


def steps_of(levels: Mapping[int, Choices]) -> list[Step]:
    """The passes of a mix, in the order in which they run."""
    four, eight = (x for x in levels[4].reasons if x)
    found: list[Step] = [(Quantize(bits=4), 4, four), (Quantize(), 8, eight)]
    if 16 in levels:
        found.append((Bf16(), 16, next(x for x in levels[16].reasons if x)))
    return found


Gains = Mapping[tuple[str, int], float]  # what a weight of so many bits saves, beside float32


def bytes_of(rows: Mapping[int, Sequence[Row]]) -> Gains:
    """Bytes, of weights changed alone to so many bits."""
    return {(x.layer, bits): x.saved for bits, found in rows.items() for x in found}


def seconds_of(graph: Graph, clock: Clock, rule: str, steps: Sequence[Quantize | Bf16]) -> Gains:
    """Seconds that products by each weight take less; those that a clock cannot tell are none."""
    times: dict[tuple[str, int], Speed] = {}
    for step in steps:
        bits = 16 if isinstance(step, Bf16) else step.bits
        found = times_of(graph, step, clock)
        times.update({(name, bits): speed for name, speed in found.items()})
    return {key: 0.0 if x.slower(rule) else x.saved(rule) for key, x in times.items()}


def ordered(rows: Mapping[int, Sequence[Row]], gains: Gains) -> list[Move]:
    """The moves that save something, the cheapest for what it saves first; no weight has 4 bits
    before it has 8, if it is to have those, nor 8 before 16."""
    wanted = ([(row, bits) for row in rows[bits]] for bits in sorted(rows, reverse=True))
    moves: dict[str, Move] = {}
    found = []
    for row, bits in chain(*wanted):
        before = moves.get(row.layer, Move(row.layer, 32, 0.0, 0.0))
        saved = gains.get((row.layer, bits), 0.0) - before.saved
        if saved > 0:
            move = Move(row.layer, bits, row.kl - before.cost, saved)
            rate = move.rate if before.bits == 32 else max(move.rate, before.rate)
            moves[row.layer] = move
            found.append((rate, -bits, move))
    return [move for _, _, move in sorted(found, key=lambda x: x[:2])]
