"""What passes of fewer bits do to each weight, and why: one line each, none left out.

    found = Layers()                        # with a clock: times, too
    pipeline.run(graph, observe=(found,))
    print(found)

`reporter` finds the same as plain values, for the facts of artifacts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.errors import ArtifactError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import Node, viewed_of
from planish.ir.ops.quantize import dequantize
from planish.passes.bf16 import Bf16
from planish.passes.gptq import Gptq
from planish.passes.pipeline import Pipeline, Step
from planish.passes.quantize import Quantize
from planish.passes.readers import products
from planish.passes.speed import Clock, Speed, micros, speeds
from planish.passes.table import table_text

VIEWS = ("transpose", "reshape")  # through which a weight is multiplied
FEWER_BITS = (Quantize, Bf16)
HEAD = ("layer", "shape", "bits", "scales", "SQNR dB", "bytes", "of f32", "why")
BOTH = "product and rows, in memory once for each"
STAYS = "stays: "  # before the reason why
SLOWER = "slower: "  # before the times that say so, of a weight that nobody asked to keep
TIMES = ("decode us", "prefill us")  # before > after


@dataclass(frozen=True)
class Layer:
    """A weight: how it is stored, and why so.

    `sqnr` is the power of the weight over that of its error, in dB; None where it is exact, or
    where the weight is not known yet. `bytes` include the scales. `speed` has the times of its
    products before and after, None where they were not taken or nothing multiplies by it.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    granularity: str
    sqnr: float | None
    bytes: int
    bytes_before: int
    reason: str
    speed: Speed | None = None

    @property
    def kept(self) -> bool:
        """Whether the weight stays as it was."""
        return self.bytes == self.bytes_before

    def cells(self) -> tuple[str, ...]:
        """As they print."""
        return (
            self.name,
            "x".join(map(str, self.shape)),
            str(self.bits),
            self.granularity,
            "-" if self.sqnr is None else f"{self.sqnr:.1f}",
            f"{self.bytes:,}",
            f"{self.bytes / max(1, self.bytes_before):.3f}",
            self.reason,
        )

    def times(self) -> tuple[str, ...]:
        """As they print."""
        return (
            tuple(map(micros, (self.speed.decode, self.speed.prefill)))
            if self.speed
            else ("-", "-")
        )


def layers(graph: Graph, options: Quantize | Bf16) -> tuple[Layer, ...]:
    """The weights of a graph, as a pass with these options will store them."""
    reasons, before = options.reasons(graph), integers(graph)
    after = options(graph)
    made = integers(after)

    def line(node: Node) -> Layer:
        name = node.attrs["name"]
        unread = "nothing multiplies by it" if node.type.rank == 2 else ""
        why = reasons.get(name, unread or f"it has {node.type.rank} axes, not 2")
        if why:
            return kept(node, why)
        if isinstance(options, Bf16):
            return rounded(graph, node)
        done, note = quantized(graph, after, node, made[name]), (options.notes or {}).get(name)
        return replace(done, reason=f"{done.reason}; {note}") if note else done

    weights = graph.param_nodes.items()
    return tuple(line(x) for name, x in weights if x.dtype.is_float and name not in before)


def times_of(graph: Graph, options: Quantize | Bf16, clock: Clock | None) -> Mapping[str, Speed]:
    """The times that a pass is bound to, else those by a clock."""
    if isinstance(options, Quantize):
        own = options if clock is None or options.times else options.timed(graph, clock)
        return own.times or {}
    chosen = {name for name, why in options.reasons(graph).items() if not why}
    return speeds(graph, products(graph, chosen), Bf16(), clock) if clock else {}


def integers(graph: Graph) -> dict[str, Node]:
    """The quantize nodes of weights, by the names of those."""
    nodes = (x for x in graph.nodes if x.op.name == "quantize")
    pairs = ((viewed_of(x.inputs[0]), x) for x in nodes)
    return {x.attrs["name"]: node for x, node in pairs if x.op.name == "param"}


def kept(node: Node, reason: str) -> Layer:
    """A weight that stays."""
    size = math.prod(node.shape) * node.dtype.itemsize
    name, bits = node.attrs["name"], node.dtype.bits
    return Layer(name, node.shape, bits, "-", None, size, size, STAYS + reason)


def quantized(graph: Graph, after: Graph, node: Node, made: Node) -> Layer:
    """A weight that becomes integers."""
    name, scale, bits = node.attrs["name"], made.inputs[1], made.dtype.bits
    size, scales = math.prod(node.shape), math.prod(scale.shape)
    kept = scale.inputs[0] if scale.op.name == "cast" else scale  # those of groups are bf16
    stored = size * bits // 8 + scales * kept.dtype.itemsize
    found = sqnr(graph, after, made) if name in graph.params else None
    granularity = "tensor" if scales == 1 else "channel"
    if made.type.rank == 3:
        granularity = f"group of {made.shape[-1]}"
    before = size * node.dtype.itemsize
    return Layer(name, node.shape, bits, granularity, found, stored, before, uses(graph, node))


def rounded(graph: Graph, node: Node) -> Layer:
    """A weight that becomes bf16."""
    name, size = node.attrs["name"], math.prod(node.shape)
    array = graph.params.get(name)
    found = None if array is None else decibels(array, array.astype(t.bf16.numpy))
    before = size * node.dtype.itemsize
    return Layer(name, node.shape, 16, "-", found, 2 * size, before, uses(graph, node))


def uses(graph: Graph, node: Node) -> str:
    """What reads a weight that changes. One that both read is a file's once and a program's twice:
    what multiplies reads panels, in which a row is no row."""
    kinds = {"product" if x.op.name in (*VIEWS, "matmul") else "rows" for x in graph.users[node]}
    return BOTH if len(kinds) > 1 else kinds.pop()


def sqnr(graph: Graph, after: Graph, made: Node) -> float | None:
    """The power of what is quantized over that of the error, in dB; None where there is none."""
    x, scale = made.inputs
    (exact,) = evaluate(Graph("exact", (), (x,), graph.params), dtype="f64")
    (rounded,) = evaluate(Graph("rounded", (), (dequantize(made, scale),), after.params))
    return decibels(exact, rounded)


def decibels(exact: np.ndarray, rounded: np.ndarray) -> float | None:
    """The power of an array over that of an error; None where there is none."""
    exact = exact.astype(np.float64)
    signal, noise = np.square(exact).sum(), np.square(exact - rounded.astype(np.float64)).sum()
    # two digits: the last ones of a sum depend on the processor, files should not
    return round(10 * math.log10(signal / noise), 2) if noise and signal else None


@dataclass
class Layers:
    """An observer of pipelines that collects `layers` of each pass; prints as a table.

    With a clock, products are timed where the pass is bound to no times.
    """

    by_name: dict[str, Layer] = field(default_factory=dict)
    clock: Clock | None = None
    moved: dict[tuple[str, int], str] = field(default_factory=dict)  # what gptq did, by bits

    def __call__(self, step: Step) -> None:
        if isinstance(step.ran, Gptq):
            told = step.ran.told(step.before).items()
            self.moved |= {(name, step.ran.bits): why for name, why in told}
        if not isinstance(step.ran, FEWER_BITS):
            return
        times, first = times_of(step.before, step.ran, self.clock), not self.by_name
        for x in layers(step.before, step.ran):
            if not first and x.name not in self.by_name:
                continue  # it holds the scales of another
            x = replace(x, speed=times.get(x.name))
            if note := "" if x.kept else self.moved.get((x.name, x.bits), ""):
                x = replace(x, reason=f"{x.reason}; {note}")
            if worse := x.speed.worse() if x.speed and not x.kept else "":
                x = replace(x, reason=f"{x.reason}; {SLOWER}{worse}")
            earlier = self.by_name.get(x.name)
            if earlier is not None and earlier.kept and not x.kept:
                why = earlier.reason.removeprefix(STAYS)
                x = replace(x, reason=f"{x.reason}; not fewer bits: {why}")
            self.by_name[x.name] = x

    @property
    def found(self) -> list[Layer]:
        """What became of each weight at last."""
        return list(self.by_name.values())

    def records(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [asdict(layer) for layer in self.found]

    def __str__(self) -> str:
        return layers_text(self.found)


def until(recipe: Pipeline, kinds: tuple[type, ...]) -> Pipeline:
    """The passes up to the last of these kinds; none where there is none."""
    count = max((n for n, x in enumerate(recipe.passes, 1) if isinstance(x, kinds)), default=0)
    return Pipeline(*recipe.passes[:count])


def reporter(graph: Graph, recipe: Pipeline) -> Callable[[], list[dict[str, Any]]]:
    """Tells what a recipe makes of each weight, a `Layer` as a dict; [] where all stay.

    Asked, it runs the passes up to the last that changes bits. Only then does it need the graph. It
    measures nothing: times are those that are bound to the recipe.
    """
    first = until(recipe, FEWER_BITS)
    return partial(_report, graph, first) if first.passes else list


def _report(graph: Graph, recipe: Pipeline) -> list[dict[str, Any]]:
    seen = Layers()
    recipe.run(graph, observe=(seen,))
    return seen.records()


def report_text(records: Sequence[Mapping[str, Any]]) -> str:
    """What a reporter told as a table; ArtifactError if it is something else."""
    try:
        return layers_text([_layer(x) for x in records])
    except (TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"damaged: no report of quantization: {error!s:.100}") from error


def _layer(record: Mapping[str, Any]) -> Layer:
    speed = record.get("speed")
    return Layer(**{**record, "speed": speed and Speed(**speed)})


def layers_text(found: Sequence[Layer]) -> str:
    """A table with a line for each weight, one for all biases and weights of norms, and their sum;
    with times where some were taken."""
    before, after = (sum(x) for x in zip(*((y.bytes_before, y.bytes) for y in found), strict=True))
    total = ("all", "", "", "", "", f"{after:,}", f"{after / max(1, before):.3f}", "")
    flat = [x for x in found if x.kept and len(x.shape) == 1]
    shown = [x for x in found if not (x.kept and len(x.shape) == 1)]
    size, why = sum(x.bytes for x in flat), f"{STAYS}they have 1 axis, not 2"
    rest = [(f"{len(flat)} others", "", "", "-", "-", f"{size:,}", "1.000", why)] if flat else []
    rows = [HEAD, *(x.cells() for x in shown), *rest, total]
    if any(x.speed for x in found):
        times = [TIMES, *(x.times() for x in shown), *(("-", "-") for _ in rest), ("", "")]
        rows = [(*row[:-1], *pair, row[-1]) for row, pair in zip(rows, times, strict=True)]
    return table_text(rows, (0, len(rows[0]) - 1))
