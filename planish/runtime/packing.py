"""Weights in the layout that kernels read, made when a program is compiled."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.runtime.memory import Room


def packed(b: np.ndarray, nr: int, room: Room) -> np.ndarray:
    """B [..., K, N] as panels [..., N / NR, K, NR], zeros beyond N."""
    *batch, k, n = b.shape
    new = room.empty((*batch, -(-n // nr), k, nr), b.dtype)
    whole, rest = divmod(n, nr)
    panels = b[..., : whole * nr].reshape(*batch, k, whole, nr)
    new[..., :whole, :, :] = np.moveaxis(panels, -2, -3)
    if rest:
        new[..., whole, :, :rest] = b[..., whole * nr :]
        new[..., whole, :, rest:] = 0
    return new


def computed(x: Node, leaf: Node, array: np.ndarray) -> np.ndarray:
    """The value of `x`, which is made of one array; unlike `evaluate`, views are not copied."""
    values = {leaf: array}
    for node in Graph("x", (leaf,), (x,)).nodes[1:]:
        values[node] = node.op.ref(*(values[n] for n in node.inputs), **node.attrs)
    return values[x]
