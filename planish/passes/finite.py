"""Weights that are numbers: NaN and infinity have no place in an order, and no integers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from planish.ir.errors import DataError
from planish.ir.graph import Graph


def check_all_finite(what: str, graph: Graph, names: Iterable[str]) -> None:
    """`check_finite` of these weights of a graph, as far as they are known."""
    for name in sorted(graph.params.keys() & set(names)):
        check_finite(what, name, graph.params[name])


def check_finite(what: str, name: str, array: np.ndarray) -> None:
    """DataError, with the place, where a weight has a number that is not finite.

    A sum is enough to know that there is none: it is finite only if all are, or overflows.
    """
    if np.isfinite(array.sum(dtype=np.float64)) or np.isfinite(array).all():
        return
    at = tuple(map(int, np.argwhere(~np.isfinite(array))[0]))
    raise DataError(
        f"{what}: {name} has {array[at]} at {list(at)}, which is no number to go by; repair the "
        f"weight, or leave it as it is with skip={name!r}"
    )
