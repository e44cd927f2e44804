"""Store weights with many zeros as a bit for each number, and the others in a row.

    %w = param : f32[4, 256]
    %0 = matmul(%x, %w) : f32[2, 256]
becomes
    %w.mask = param : i64[16]
    %w.starts = param : i32[4]
    %w.values = param : f32[102]
    %0 = expand_bitmap(%w.mask, %w.starts, %w.values, shape=(4, 256)) : f32[4, 256]
    %1 = matmul(%x, %0) : f32[2, 256]

if 102 of its numbers are not 0. Files and memory hold the smaller form. Kernels expand what they
read, or are given the whole weight when the program is compiled, if that runs faster on a target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.ir.groups import has_kernel
from planish.ir.node import OPS, Node
from planish.ir.ops.sparse import bitmap_bytes, bitmap_of, expand_bitmap
from planish.ir.types import TensorType
from planish.passes.skip import with_skipped

SMALLEST = 1 << 12  # elements: of smaller arrays there is little to gain


@dataclass(frozen=True)
class Bitmap:
    """Store weights so that get smaller by at least `saving`; those that match `skip` stay."""

    saving: float = 0.1
    skip: str = ""

    def __post_init__(self) -> None:
        number = isinstance(self.saving, (int, float)) and not isinstance(self.saving, bool)
        if not number or not 0 <= self.saving < 1:
            raise DataError(
                f"bitmap: saving is a share of the bytes, as in 0.1, got {self.saving!r}"
            )

    def __call__(self, graph: Graph) -> Graph:
        chosen = [name for name, why in self.reasons(graph).items() if not why]
        params, new = dict(graph.params), {}
        for name in chosen:
            array, node = params.pop(name), graph.param_nodes[name]
            parts = []
            for part, made in zip(("mask", "starts", "values"), bitmap_of(array), strict=True):
                made.flags.writeable = False
                params[f"{name}.{part}"] = made
                parts.append(stored(f"{name}.{part}", made))
            new[node] = expand_bitmap(*parts, shape=node.shape).at(node.loc)
        # what is compiled depends on the numbers of weights: see `Graph.made`
        noted = {**graph.made, "": Graph("made", (), ())}
        return replace(graph.map(lambda x: new.get(x, x)), params=params, made=noted)

    def reasons(self, graph: Graph) -> dict[str, str]:
        """For each weight why it stays as it is; "" where it does not."""
        found = {
            name: self._reason(graph, node)
            for name, node in graph.param_nodes.items()
            if name in graph.params
        }
        return with_skipped("bitmap", found, self.skip, graph)

    def _reason(self, graph: Graph, node: Node) -> str:
        array = graph.params[node.attrs["name"]]
        if array.size < SMALLEST:
            return f"it has {array.size} numbers, fewer than {SMALLEST}"
        if node.dtype in (t.i4, t.boolean):
            return f"it is {node.dtype}"
        if is_stored(graph, node):
            return "it is a result, or a kernel needs it as it is"
        zeros = 1 - np.count_nonzero(array) / array.size
        if bitmap_bytes(array) > (1 - self.saving) * array.nbytes:
            return f"{zeros:.0%} zeros save too little"
        return ""


def stored(name: str, array: np.ndarray) -> Node:
    """The param that is an array."""
    return OPS["param"](name=name, type=TensorType(t.dtype(array.dtype), array.shape))


def is_stored(graph: Graph, node: Node) -> bool:
    """Whether something reads an array, or a view of it, that cannot compute its elements."""
    stack = [node]
    while stack:
        x = stack.pop()
        users = graph.users[x]
        if x in graph.outputs or any(has_kernel(y.op) or y.op.kind == "fused" for y in users):
            return True
        stack += [y for y in users if y.op.kind == "view"]
    return False
