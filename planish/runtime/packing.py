"""Weights in the layout that kernels read, made when a program is compiled."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.runtime.memory import Room


def packed(b: np.ndarray, nr: int, room: Room, first: np.ndarray | None = None) -> np.ndarray:
    """B [..., K, N] as panels [..., N / NR, K, NR], zeros beyond N; one row more where a `first`
    row [..., N] goes before."""
    *batch, k, n = b.shape
    skip = int(first is not None)
    new = room.empty((*batch, -(-n // nr), k + skip, nr), b.dtype)
    whole, rest = divmod(n, nr)
    rows = [(slice(skip, None), b)]
    if first is not None:
        rows.append((slice(0, 1), first[..., None, :]))
    for places, given in rows:
        panels = given[..., : whole * nr].reshape(*batch, given.shape[-2], whole, nr)
        new[..., :whole, places, :] = np.moveaxis(panels, -2, -3)
        if rest:
            new[..., whole, places, :rest] = given[..., whole * nr :]
            new[..., whole, places, rest:] = 0
    return new


def unsigned_start(words: np.ndarray) -> np.ndarray:
    """-128 times the sums of the columns of words of four bytes [..., K, N], as words [..., N]."""
    sums = np.zeros((*words.shape[:-2], words.shape[-1]), np.int64)
    for shift in range(0, 32, 8):
        sums += (words >> np.uint32(shift)).astype(np.uint8).view(np.int8).sum(-2, dtype=np.int64)
    return (-128 * sums).astype(np.int32).view(np.uint32)


def computed(x: Node, leaf: Node, array: np.ndarray) -> np.ndarray:
    """The value of `x`, which is made of one array; unlike `evaluate`, views are not copied."""
    values = {leaf: array}
    for node in Graph("x", (leaf,), (x,)).nodes[1:]:
        values[node] = node.op.ref(*(values[n] for n in node.inputs), **node.attrs)
    return values[x]
