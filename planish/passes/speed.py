"""Whether fewer bits make a layer slower: its product alone, as it was and as integers, timed.

    clock = Clock(seconds, rows=256)          seconds(before, after): those of two graphs
    found = speeds(graph, products, options, clock)
    found["h.0.mlp.c_fc.weight"].slower("decode")

A product is timed for one row, as when tokens are added one by one, and for as many as a prompt
has. What rounds its activations is part of it. Passes measure nothing themselves: a clock comes
with samples, and what it says is bound to the pass, as scales are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node, viewed_of
from planish.ir.ops.linalg import matmul
from planish.ir.types import TensorType

LAYER = "weight"  # what the weight of a layer alone is called
RULES = ("", "decode", "prefill", "both")
NOISE = 1.03  # times of one program differ by that much from one measurement to the next

Pair = tuple[float, float]  # seconds before and after


@dataclass(frozen=True)
class Clock:
    """Times two graphs that take one array, in turns; `rows` is how long a prompt is."""

    seconds: Callable[[Graph, Graph], Pair]
    rows: int


@dataclass(frozen=True)
class Speed:
    """Seconds before and after of the products by a weight: of one row, and of a prompt."""

    decode: Pair
    prefill: Pair

    def counting(self, rule: str) -> dict[str, Pair]:
        """Those that count by a rule."""
        return {x: getattr(self, x) for x in (("decode", "prefill") if rule == "both" else (rule,))}

    def slower(self, rule: str) -> list[str]:
        """Which of the two that count by a rule got slower."""
        pairs = self.counting(rule)
        return [name for name, (before, after) in pairs.items() if after > before * NOISE]

    def worse(self) -> str:
        """Both times of what got slower, as they print; nothing where nothing did."""
        return " and ".join(f"{x} {micros(getattr(self, x))} us" for x in self.slower("both"))

    def saved(self, rule: str) -> float:
        """Seconds less, of those that count by a rule."""
        return sum(before - after for before, after in self.counting(rule).values())


def micros(pair: Pair) -> str:
    """Before and after, in microseconds."""
    return " > ".join(f"{1e6 * x:,.{1 if x < 1e-4 else 0}f}" for x in pair)


def speeds(
    graph: Graph, products: Sequence[tuple[str, Node]], change: Callable[[Graph], Graph],
    clock: Clock,
) -> dict[str, Speed]:  # fmt: skip
    """The times of these products, by the names of their weights; equal ones are timed once.

    `change` makes integers of the graph of a layer alone.
    """
    known: dict[object, Speed] = {}
    found: dict[str, Speed] = {}
    for name, node in products:
        param = viewed_of(node.inputs[1])
        key = (param.type, node.inputs[1].op.name, node.inputs[1].type)
        if key not in known:
            pairs = []
            for rows in (1, clock.rows):
                layer = alone(graph, node, rows)
                pairs.append(clock.seconds(layer, change(layer)))
            known[key] = Speed(*pairs)
        found[name] = added(found[name], known[key]) if name in found else known[key]
    return found


def added(a: Speed, b: Speed) -> Speed:
    """The times of two products by one weight."""
    return Speed(
        (a.decode[0] + b.decode[0], a.decode[1] + b.decode[1]),
        (a.prefill[0] + b.prefill[0], a.prefill[1] + b.prefill[1]),
    )


def alone(graph: Graph, product: Node, rows: int) -> Graph:
    """The product of so many rows by a weight, as a graph."""
    b = product.inputs[1]
    param = viewed_of(b)
    x = OPS["input"](name="x", type=TensorType(t.f32, (rows, b.shape[0])))
    weight = OPS["param"](name=LAYER, type=param.type)
    array = graph.params[param.attrs["name"]]
    made = Graph("layer", (x,), (matmul(x, b),), {param.attrs["name"]: array})
    return Graph("layer", (x,), made.map(lambda n: weight if n is param else n).outputs,
                 {LAYER: array})  # fmt: skip
