"""Arrays to try a graph on: random arguments and weights of the declared types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from planish.ir.dims import symbols, value
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.ir.types import TensorType

SIZES = (3, 5, 2, 4, 6)  # of symbolic dimensions, unlike each other so that mix-ups show


def example_arrays(
    graph: Graph, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> tuple[np.ndarray, ...]:
    """One array for each input. Integers that index a table stay inside it."""
    rng = np.random.default_rng(seed)
    binding = example_sizes(graph) | dict(sizes or {})
    return tuple(example_array(x.type, rng, binding, limit(graph, x)) for x in graph.inputs)


def example_sizes(graph: Graph) -> dict[str, int]:
    """A value for each symbolic size, at most its maximum."""
    found = enumerate(symbols(*(size for x in graph.inputs for size in x.shape)))
    return {s.name: min(SIZES[i % len(SIZES)], s.max or SIZES[0]) for i, s in found}


def example_array(
    wanted: TensorType, rng: np.random.Generator, sizes: Mapping[str, int], high: int = 2
) -> np.ndarray:
    """A random array; floats are normal, integers in 0 .. high - 1."""
    shape = tuple(value(size, sizes) for size in wanted.shape)
    if wanted.dtype.is_float:
        return rng.standard_normal(shape).astype(wanted.dtype.numpy)
    return rng.integers(0, high, shape).astype(wanted.dtype.numpy)


def limit(graph: Graph, x: Node) -> int:
    """One more than the largest integer that every direct reader of `x` takes."""
    highs = [100 if x.dtype.kind == "u" else 8]
    for user in graph.users[x]:
        if user.op.name == "cross_entropy":
            highs.append(user.inputs[0].shape[-1])
        elif user.op.name in ("take", "take_along", "scatter_add") and user.inputs[1] is x:
            highs.append(user.inputs[0].shape[user.attrs["axis"]])
        elif user.op.name == "attention" or user.op.kind != "elementwise":
            highs.append(1)
    return max(1, min(h for h in highs if isinstance(h, int)))


def with_example_params(graph: Graph, seed: int = 1) -> Graph:
    """`graph` with random arrays for the params that came without one, as from a text."""
    rng = np.random.default_rng(seed)
    missing = {n: x for n, x in graph.param_nodes.items() if n not in graph.params}
    made = {name: example_array(x.type, rng, {}) for name, x in missing.items()}
    return replace(graph, params={**graph.params, **made})
