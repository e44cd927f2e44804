"""Heads of attention and channels of MLPs in a graph: what of which weights belongs to each.

A product by a weight reads the outputs of units along k. From there a walk upwards numbers them, in
every array in which they are places along an axis, up to the products that make them:

    c_fc [8, 4] -> + bias [8] -> gelu [2, 8] -> by c_proj     units 0 ... 7 along the axes of 8
    c_attn [3 H D, C] -> q, k, v [.., H, D] -> attention -> by c_proj     units 0 ... H-1

Heads that share keys and values are one unit. Where something else reads them, or an op on the way
computes across them, they are none, and `Units.why` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planish.ir.graph import Graph
from planish.ir.groups import UPDATES
from planish.ir.node import OPS, Node, viewed_of
from planish.passes.prune import products

ACTIVATIONS = ("relu", "silu", "gelu")  # composites that compute each element by itself
NONE = -1  # the number of what belongs to no unit


@dataclass(frozen=True)
class Cut:
    """An axis of an array, and for each place along it the number of its unit."""

    axis: int
    units: np.ndarray


@dataclass
class Units:
    """Units that a product reads: "heads" or "channels", so many, and where they are.

    `why` says why they are none, "" where they are.
    """

    kind: str
    count: int
    reader: Node
    cuts: dict[Node, Cut] = field(default_factory=dict)
    why: str = ""

    @property
    def name(self) -> str:
        """The weight that reads them."""
        return viewed_of(self.reader.inputs[1]).attrs["name"]

    def weights(self) -> dict[str, tuple[Node, Cut]]:
        """The weights that have rows or columns of them, by name."""
        return {x.attrs["name"]: (x, c) for x, c in self.cuts.items() if x.op.name == "param"}


class Unfit(Exception):
    """What is read along k is no row of units; the message says why."""


def units(graph: Graph) -> list[Units]:
    """What each product by a weight reads, as units, or why they are none."""
    found = []
    for reader in products(graph):
        a, b = reader.inputs
        above, k = attention_above(a), b.shape[0]
        count = k if above is None else above.inputs[1].shape[1]
        one = Units("channels" if above is None else "heads", count, reader)
        numbers = np.repeat(np.arange(count), k // count)
        try:
            walk(graph, one, [(a, Cut(a.type.rank - 1, numbers)), (b, Cut(0, numbers))])
        except Unfit as error:
            one.why = str(error)
        found.append(one)
    return found


def attention_above(x: Node) -> Node | None:
    """The attention of which `x` is a view, if it is one."""
    while x.op.name in ("reshape", "transpose"):
        x = x.inputs[0]
    return x if x.op.name == "attention" else None


def walk(graph: Graph, found: Units, todo: list[tuple[Node, Cut]]) -> None:
    """Number the units in all arrays above; Unfit where they are none."""
    cuts = found.cuts
    while todo:
        node, cut = todo.pop()
        if (old := cuts.get(node)) is not None:
            cut = both(node, old, cut)
            if np.array_equal(cut.units, old.units):
                continue
        cuts[node] = cut
        todo.extend(sources(graph, node, cut))
    if not any(x.op.name == "matmul" for x in cuts):
        raise Unfit("no product by a weight makes what it multiplies")
    for node in cuts:
        if node in graph.outputs and node.op.name not in UPDATES:
            raise Unfit("what it multiplies is an output, too")
        for user in graph.users[node]:
            if user not in cuts and user is not found.reader:
                raise Unfit(f"{user.op.name} reads what it multiplies, too")


def both(node: Node, old: Cut, new: Cut) -> Cut:
    """What two ways to an array say of it: each may know of some of its units."""
    if old.axis != new.axis:
        raise Unfit(f"{node.op.name} has units along two axes")
    known = (old.units != NONE) & (new.units != NONE)
    if (old.units != new.units)[known].any():
        raise Unfit(f"{node.op.name} has two units in one place")
    return replace(old, units=np.where(old.units == NONE, new.units, old.units))


def sources(graph: Graph, node: Node, cut: Cut) -> list[tuple[Node, Cut]]:
    """Where the units of an array come from, with their places there."""
    name, axis, numbers = node.op.name, cut.axis, cut.units
    if name == "param":
        if not node.dtype.is_float or node.attrs["name"] not in graph.params:
            raise Unfit(f"{node.attrs['name']} is not float, or not known yet")
        return []
    if name == "input":
        if not any(graph.inputs[i] is node for i, _ in graph.aliases):
            raise Unfit("what it multiplies is an input")
        return []  # a cache, which has what the program writes into it
    if name == "transpose":
        return [(node.inputs[0], Cut(node.attrs["perm"][axis], numbers))]
    if name == "slice":
        return [(node.inputs[0], sliced(node, cut))]
    if name == "reshape":
        return [(node.inputs[0], reshaped(node, cut))]
    if name == "matmul" and axis == node.type.rank - 1 and node.inputs[1].type.rank == 2:
        return [(node.inputs[1], Cut(1, numbers))]
    if name == "attention" and axis == 1 and not node.attrs.get("dropout_rate"):
        groups = merged(numbers, node.inputs[1].shape[1])
        return [
            (x, Cut(1, n)) for x, n in zip(node.inputs, (numbers, groups, groups), strict=False)
        ]
    if name in UPDATES and node.inputs[1].shape[axis] == node.shape[axis]:
        return [(x, cut) for x in node.inputs[:2]]
    if name == "rope" and axis < node.type.rank - 2:
        return [(node.inputs[0], cut)]
    if name in (*ACTIVATIONS, "broadcast") or node.op.kind == "elementwise":
        ranks = ((x, axis - node.type.rank + x.type.rank) for x in node.inputs)
        return [(x, Cut(at, numbers)) for x, at in ranks if at >= 0 and x.shape[at] != 1]
    raise Unfit(f"{name} computes across what it multiplies")


def sliced(node: Node, cut: Cut) -> Cut:
    """The units of what a slice is of: those that it leaves out belong to none."""
    start, stop, step = (node.attrs[x][cut.axis] for x in ("starts", "stops", "steps"))
    if step != 1:
        raise Unfit("slice leaves some of what it multiplies out")
    numbers = np.full(node.inputs[0].shape[cut.axis], NONE)
    numbers[start:stop] = cut.units
    return Cut(cut.axis, numbers)


def reshaped(node: Node, cut: Cut) -> Cut:
    """The units of what a reshape is of, which splits their axis into heads, or heads from it."""
    before, after, axis = node.inputs[0].shape, node.shape, cut.axis
    if before[:axis] == after[:axis]:
        rest = after[axis + 1 :]
        if rest and before[axis:] == (after[axis] * rest[0], *rest[1:]):
            return Cut(axis, np.repeat(cut.units, rest[0]))
        if before[axis + 2 :] == rest and math.prod(before[axis : axis + 2]) == after[axis]:
            return Cut(axis, merged(cut.units, before[axis]))
    raise Unfit("reshape mixes what it multiplies")


def merged(numbers: np.ndarray, count: int) -> np.ndarray:
    """The number of each of so many blocks of neighbours, all of whose members have it."""
    parts = numbers.reshape(count, -1)
    if (parts != parts[:, :1]).any():
        raise Unfit("heads have more than one unit")
    return parts[:, 0]


def without(graph: Graph, gone: Sequence[tuple[Units, np.ndarray]]) -> Graph:
    """A graph without units: for each row of them, which go; itself where there is none."""
    if not gone:
        return graph
    left: dict[Node, dict[int, np.ndarray]] = {}
    for found, mask in gone:
        for node, cut in found.cuts.items():
            stays = np.flatnonzero((cut.units == NONE) | ~mask[cut.units])
            left.setdefault(node, {})[cut.axis] = stays
    params, new = dict(graph.params), dict[Node, Node]()
    for node in graph.nodes:
        new[node] = smaller(node, tuple(new[x] for x in node.inputs), left)
        if node.op.name == "param" and node in left:
            array = params[node.attrs["name"]]
            for axis, stays in left[node].items():
                array = array.take(stays, axis)
            array.flags.writeable = False
            params[node.attrs["name"]] = array
    ins, outs = (tuple(new[x] for x in y) for y in (graph.inputs, graph.outputs))
    return replace(graph, inputs=ins, outputs=outs, params=params)


def smaller(node: Node, inputs: tuple[Node, ...], left: Mapping[Node, Mapping[int, np.ndarray]]
            ) -> Node:  # fmt: skip
    """A node on new inputs, with what is left along its axes."""
    axes = left.get(node, {})
    if not axes or node.op.name not in ("param", "input", "slice", "reshape", "broadcast"):
        return node.with_inputs(inputs)
    attrs = dict(node.attrs)
    shape = tuple(len(axes[i]) if i in axes else n for i, n in enumerate(node.shape))
    if node.op.name in ("param", "input"):
        attrs["type"] = node.type.with_shape(shape)
    elif node.op.name == "slice":
        for end in ("starts", "stops"):
            known = left[node.inputs[0]]
            attrs[end] = tuple(
                int((known[i] < n).sum()) if i in axes else n for i, n in enumerate(attrs[end])
            )
    else:
        attrs["shape"] = shape
    return OPS[node.op.name](*inputs, **attrs).at(node.loc)
