"""What weights multiply, seen over some text: how large each input of each weight is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.passes.bf16 import viewed_of
from planish.passes.prune import products


def input_norms(graph: Graph, runs: Iterable[Sequence[Any]]) -> dict[str, np.ndarray]:
    """For each weight the root of the sum of squares of each of its inputs, over all runs.

    Each of `runs` has the arguments of one run of the interpreter.
    """
    read: dict[Node, list[str]] = {}
    for node in products(graph):
        read.setdefault(node.inputs[0], []).append(viewed_of(node.inputs[1]).attrs["name"])
    found: dict[str, np.ndarray] = {}

    def observe(node: Node, value: Any) -> None:
        if node in read:
            squares = np.square(value.reshape(-1, value.shape[-1]), dtype=np.float64).sum(0)
            for name in read[node]:
                found[name] = found[name] + squares if name in found else squares

    for arrays in runs:
        evaluate(graph, *arrays, observe=observe)
    return {name: np.sqrt(x).astype(np.float32) for name, x in found.items()}
