"""Keep caches of keys and values as integers of 8 bits, with a scale for each head and position.

    graph f(%k: f32[B, G, S, D] donate, %new: f32[B, G, T, D], ...) {
      %0 = update_slice(%k, %new, ...) : f32[B, G, S, D]
      %1 = attention(%q, %0, %v, ...) : f32[B, H, T, D]
      return %0, %1
    }
becomes
    graph f(%k: i8[B, G, S, D] donate, %k.scale: f32[B, G, S, 1] donate, %new: ...) {
      %0 = quantize(%new, %scale_of_each_row_of_new, dtype=i8) : i8[B, G, T, D]
      %1 = update_slice(%k, %0, ...) : i8[B, G, S, D]
      %2 = update_slice(%k.scale, %scale_of_each_row_of_new, ...) : f32[B, G, S, 1]
      %3 = dequantize(%1, %2) : f32[B, G, S, D]
      %4 = attention(%q, %3, %v, ...) : f32[B, H, T, D]
      return %1, %2, %4
    }

A cache is a donated input into which a slice is written, which attention reads, and nothing else.
Fusion makes `dequantize` part of attention, so that a quarter of the bytes is read. The signature
changes: next to each cache comes its scale. What is no cache stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.groups import UPDATES
from planish.ir.node import OPS, Node
from planish.ir.ops.quantize import dequantize, quantize, scale_of
from planish.ir.types import TensorType


def quantize_caches(graph: Graph) -> Graph:
    """Rewrite each cache, and its place in the signature."""
    found = {graph.inputs[i]: j for i, j in graph.aliases if is_cache(graph, i, j)}
    if not found:
        return graph
    inputs = {x: cache_inputs(x) for x in found}
    written: dict[Node, tuple[Node, Node]] = {}

    def step(node: Node) -> Node:
        if node.op.name in UPDATES and node.inputs[0] in inputs:
            pair = write(node, *inputs[node.inputs[0]])
            made = dequantize(*pair)
            written[made] = pair
            return made
        return node

    done = graph.map(step)
    outputs = [written.get(x, (x,)) for x in done.outputs]
    keys = [
        [path] if len(pair) == 1 else [f"{path}/{i}" for i in range(2)]
        for path, pair in zip(graph.treedef or map(str, range(len(outputs))), outputs, strict=True)
    ]
    ins = [inputs.get(x, (x,)) for x in graph.inputs]
    starts_in, starts_out = _starts(ins), _starts(outputs)
    aliases = [
        (starts_in[i] + k, starts_out[j] + k) for i, j in graph.aliases for k in range(len(ins[i]))
    ]
    return replace(
        done,
        inputs=tuple(x for pair in ins for x in pair),
        outputs=tuple(x for pair in outputs for x in pair),
        aliases=tuple(aliases),
        treedef=tuple(key for pair in keys for key in pair),
    )


def is_cache(graph: Graph, i: int, j: int) -> bool:
    """Whether a donated input and the output in its place are a cache of keys or values."""
    x, y = graph.inputs[i], graph.outputs[j]
    if y.op.name not in UPDATES or y.inputs[0] is not x or x.dtype != t.f32:
        return False
    rows = y.inputs[1].shape
    whole = x.type.rank == 4 and rows[3] == x.shape[3] and graph.outputs.count(y) == 1
    reads = graph.users[y]
    return (
        whole
        and graph.users[x] == (y,)
        and bool(reads)
        and all(u.op.name == "attention" and y not in (u.inputs[0], *u.inputs[3:]) for u in reads)
    )


def cache_inputs(x: Node) -> tuple[Node, Node]:
    """The integers, and their scales."""
    name, shape = x.attrs["name"], x.shape
    whole = OPS["input"](name=name, type=TensorType(t.i8, shape))
    return whole, OPS["input"](name=f"{name}.scale", type=TensorType(t.f32, (*shape[:3], 1)))


def write(node: Node, whole: Node, scales: Node) -> tuple[Node, Node]:
    """A slice written into the integers, and its scales into theirs."""
    _, new, *starts = node.inputs
    scale = scale_of(new, (3,))
    pairs = (whole, quantize(new, scale, dtype=t.i8)), (scales, scale)
    kept, kept_scales = (node.op(*pair, *starts, **node.attrs) for pair in pairs)
    return kept, kept_scales


def _starts(groups: Sequence[tuple[Node, ...]]) -> list[int]:
    """Where each group begins in the flat list."""
    return [sum(map(len, groups[:i])) for i in range(len(groups))]
