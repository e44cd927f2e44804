"""Rewrite rules on layout: views, concat and pad, reductions; `simplify` says what binds them."""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.dims import AnySize, product
from planish.ir.errors import ShapeError
from planish.ir.node import OPS, Node
from planish.ir.ops.arithmetic import Add, Cast
from planish.ir.ops.attention import Attention
from planish.ir.ops.base import Elementwise, broadcast_shapes, const
from planish.ir.ops.indexing import Concat, Pad
from planish.ir.ops.linalg import Matmul, matmul, swap_last
from planish.ir.ops.reduction import Max, Min, Prod, Sum
from planish.ir.ops.view import (
    Broadcast,
    Flip,
    Reshape,
    Slice,
    Transpose,
    broadcast,
    flip,
    reshape,
    slice_,
    transpose,
)
from planish.passes.rewrite import scalar_of


def view_of_nothing(node: Node) -> Node | None:
    """A view that changes nothing -> x"""
    match node:
        case Node(Reshape() | Broadcast() | Slice(), (x,)) if x.shape == node.shape:
            unmoved = not isinstance(node.op, Slice) or not any(node.attrs["starts"])
            return x if unmoved else None
        case Node(Transpose(), (x,)) if node.attrs["perm"] == tuple(range(x.type.rank)):
            return x
        case Node(Flip(), (x,)) if not node.attrs["axes"]:
            return x
    return None


def view_of_scalar(node: Node) -> Node | None:
    """A view of broadcast(scalar) -> broadcast(scalar)"""
    match node:
        case Node(_, (Node(Broadcast(), (x,)),)) if not x.shape:
            return broadcast(x, shape=node.shape) if node.shape else x
        case Node(Reshape(), (x,)) if not x.shape:
            return broadcast(x, shape=node.shape)
    return None


def reshape_twice(node: Node) -> Node | None:
    """reshape(reshape(x)) -> reshape(x)"""
    match node:
        case Node(Reshape(), (Node(Reshape(), (x,)),)):
            return reshape(x, shape=node.shape)
    return None


def transpose_twice(node: Node) -> Node | None:
    """transpose(transpose(x)) -> transpose(x)"""
    match node:
        case Node(Transpose(), (Node(Transpose(), (x,)) as inner,)):
            return transpose(x, perm=tuple(inner.attrs["perm"][a] for a in node.attrs["perm"]))
    return None


def transpose_of_ones(node: Node) -> Node | None:
    """A transpose that moves only axes of size 1 -> reshape"""
    match node:
        case Node(Transpose(), (x,)):
            long = [a for a in node.attrs["perm"] if x.shape[a] != 1]
            return reshape(x, shape=node.shape) if long == sorted(long) else None
    return None


def broadcast_twice(node: Node) -> Node | None:
    """broadcast(broadcast(x)) -> broadcast(x)"""
    match node:
        case Node(Broadcast(), (Node(Broadcast(), (x,)),)):
            return broadcast(x, shape=node.shape)
    return None


def broadcast_of_leading_ones(node: Node) -> Node | None:
    """broadcast(reshape(x)) -> broadcast(x), where the reshape only puts axes of size 1 in front"""
    match node:
        case Node(Broadcast(), (Node(Reshape(), (x,)) as inner,)):
            front = len(inner.shape) - len(x.shape)
            if front > 0 and inner.shape == (1,) * front + x.shape:
                return broadcast(x, shape=node.shape)
    return None


def implicit_broadcast(node: Node) -> Node | None:
    """f(x, broadcast(y)) -> f(x, y), where elementwise f broadcasts to the same shape by itself"""
    if not isinstance(node.op, Elementwise):
        return None
    inputs = list(node.inputs)
    for i, x in enumerate(inputs):
        if isinstance(x.op, Broadcast):
            others = [y.shape for j, y in enumerate(inputs) if j != i]
            if broadcast_shapes("", x.inputs[0].shape, *others) == node.shape:
                inputs[i] = x.inputs[0]
    return None if tuple(inputs) == node.inputs else node.with_inputs(tuple(inputs))


def on_scalars(node: Node) -> Node | None:
    """f(broadcast(a), broadcast(b)) -> broadcast(f(a, b)), where a and b are constants"""
    if not isinstance(node.op, Elementwise) or not node.shape:
        return None
    scalars = []
    for x in node.inputs:
        if (value := scalar_of(x)) is None:
            return None
        scalars.append(const(value, x.dtype))
    return broadcast(node.with_inputs(tuple(scalars)), shape=node.shape)


def slice_of_slice(node: Node) -> Node | None:
    """slice(slice(x)) -> slice(x)"""
    match node:
        case Node(Slice(), (Node(Slice(), (x,)) as inner,)):
            starts, stops, steps = compose(inner, node)
            try:
                return slice_(x, starts=starts, stops=stops, steps=steps)
            except ShapeError:  # a stop of symbolic size that is not known to lie inside
                return None
    return None


def compose(inner: Node, outer: Node) -> tuple[tuple, tuple, tuple]:
    """Starts, stops, steps of a slice of a slice, counted in what the inner one slices."""
    places = zip(
        *(inner.attrs[n] for n in ("starts", "steps")),
        *(outer.attrs[n] for n in ("starts", "steps")),
        outer.shape,
        strict=True,
    )
    starts, stops, steps = [], [], []
    for start, step, first, stride, size in places:
        starts.append(start + step * first)
        steps.append(step * stride)
        # one past the last element that is read: a stop beyond the operand would be refused
        last = starts[-1] + steps[-1] * (size - 1)
        stops.append(starts[-1] if size == 0 else last + 1 if steps[-1] > 0 else last - 1)
    return tuple(starts), tuple(stops), tuple(steps)


def slice_of_concat(node: Node) -> Node | None:
    """slice(concat(x, y)) -> slice(x), where it lies inside x"""
    match node:
        case Node(Slice(), (Node(Concat(), parts) as whole,)):
            axis = whole.attrs["axis"]
            start, stop = node.attrs["starts"][axis], node.attrs["stops"][axis]
            if node.attrs["steps"][axis] < 0:
                start, stop = stop + 1, start + 1
            offset: AnySize = 0
            for x in parts:
                if inside(start, stop, offset, offset + x.shape[axis]):
                    starts = moved(node.attrs["starts"], axis, offset)
                    stops = moved(node.attrs["stops"], axis, offset)
                    return slice_(x, starts=starts, stops=stops, steps=node.attrs["steps"])
                offset = offset + x.shape[axis]
    return None


def inside(start: AnySize, stop: AnySize, low: AnySize, high: AnySize) -> bool:
    """Whether start..stop is known to lie in low..high."""
    gaps = (start - low, high - stop)
    return all(isinstance(gap, int) and gap >= 0 for gap in gaps)


def moved(places: tuple, axis: int, by: AnySize) -> tuple:
    """`places` with the one at `axis` less by `by`."""
    return tuple(place - by if a == axis else place for a, place in enumerate(places))


def flip_twice(node: Node) -> Node | None:
    """flip(flip(x)) -> flip(x)"""
    match node:
        case Node(Flip(), (Node(Flip(), (x,)) as inner,)):
            axes = set(inner.attrs["axes"]) ^ set(node.attrs["axes"])
            return flip(x, axes=tuple(sorted(axes)))
    return None


def concat_of_one(node: Node) -> Node | None:
    """concat(x) -> x"""
    match node:
        case Node(Concat(), (x,)):
            return x
    return None


def concat_of_parts(node: Node) -> Node | None:
    """concat(x[:k], x[k:]) -> x"""
    match node:
        case Node(Concat(), (Node(Slice(), (x,)), *_)) if x.type == node.type:
            offset: AnySize = 0
            for part in node.inputs:
                if not isinstance(part.op, Slice) or part.inputs[0] is not x:
                    return None
                want = tuple(offset if a == node.attrs["axis"] else 0 for a in range(x.type.rank))
                if part.attrs["starts"] != want or set(part.attrs["steps"]) != {1}:
                    return None
                offset = offset + part.shape[node.attrs["axis"]]
            return x
    return None


def concat_of_concat(node: Node) -> Node | None:
    """concat(a, concat(b, c)) -> concat(a, b, c)"""
    axis = node.attrs["axis"]
    inner = [isinstance(x.op, Concat) and x.attrs["axis"] == axis for x in node.inputs]
    if not any(inner):
        return None
    parts = (x.inputs if flat else (x,) for x, flat in zip(node.inputs, inner, strict=True))
    return OPS["concat"](*(x for part in parts for x in part), axis=axis)


def sum_of_neighbours(node: Node) -> Node | None:
    """pad(a) + pad(b) -> pad(concat(a, b)), where b begins where a ends

    The gradient of a projection that was cut into pieces is such a sum. It may turn -0.0 + 0.0 into
    -0.0, which equals it.
    """
    match node:
        case Node(Add(), (Node(Pad(), (a,)) as x, Node(Pad(), (b,)) as y)) if x.type == y.type:
            return _joined(x, y, a, b) or _joined(y, x, b, a)
    return None


def _joined(x: Node, y: Node, a: Node, b: Node) -> Node | None:
    low, high = x.attrs["low"], y.attrs["high"]
    moved_axes = [i for i, (m, n) in enumerate(zip(low, y.attrs["low"], strict=True)) if m != n]
    if len(moved_axes) != 1 or x.attrs["value"] != 0 or y.attrs["value"] != 0:
        return None
    axis = moved_axes[0]
    sides = [(i, s) for i, s in enumerate(a.shape) if i != axis]
    if y.attrs["low"][axis] != low[axis] + a.shape[axis] or any(b.shape[i] != s for i, s in sides):
        return None
    return OPS["pad"](OPS["concat"](a, b, axis=axis), low=low, high=high, value=x.attrs["value"])


def pad_by_nothing(node: Node) -> Node | None:
    """pad(x) by 0 -> x"""
    match node:
        case Node(Pad(), (x,)) if x.shape == node.shape:
            return x
    return None


def reduce_nothing(node: Node) -> Node | None:
    """sum over axes of size 1 -> reshape, likewise prod, max, min; sum over no axes -> x"""
    match node:
        case Node(Sum() | Prod() | Max() | Min(), (x,)) if x.dtype == node.dtype:
            if all(x.shape[a] == 1 for a in node.attrs["axes"]):
                return reshape(x, shape=node.shape)
    return None


def reshaped_reduction(node: Node) -> Node | None:
    """reshape(sum(x)) -> sum(x, keep=True), where that is all the reshape does, and back"""
    match node:
        case Node(Reshape(), (Node(Sum() | Prod() | Max() | Min() as op, (x,)) as inner,)):
            other = op(x, axes=inner.attrs["axes"], keep=not inner.attrs["keep"])
            return other if other.shape == node.shape else None
    return None


def reduced_broadcast(node: Node) -> Node | None:
    """sum(broadcast(x)) -> sum(x) * n over the axes that broadcast made; likewise max, min"""
    match node:
        case Node(Sum() | Max() | Min() as op, (Node(Broadcast(), (x,)) as wide,)):
            rank = wide.type.rank
            x = reshape(x, shape=(1,) * (rank - x.type.rank) + x.shape)
            axes = node.attrs["axes"]
            grown = [a for a in axes if x.shape[a] != wide.shape[a]]
            if not grown or (0 in wide.shape and not isinstance(op, Sum)):
                return None
            x = op(x, axes=tuple(a for a in axes if a not in grown), keep=True)
            if isinstance(op, Sum):
                x = x * count(product(wide.shape[a] for a in grown), x)
            kept = tuple(1 if a in axes else s for a, s in enumerate(wide.shape))
            return reshape(broadcast(x, shape=kept), shape=node.shape)
    return None


def count(n: AnySize, like: Node) -> Node:
    """The number `n` at the dtype of `like`."""
    if isinstance(n, int):
        return const(n, like.dtype)
    size = OPS["size"](size=n)
    return size if like.dtype == t.i64 else OPS["cast"](size, dtype=like.dtype)


def transposed_matmul(node: Node) -> Node | None:
    """transpose(a @ b) -> transpose(b) @ transpose(a); only where nothing else reads a @ b"""
    match node:
        case Node(Transpose(), (Node(Matmul(), (a, b)) as y,)):
            rank = y.type.rank
            if node.attrs["perm"] != (*range(rank - 2), rank - 1, rank - 2):
                return None
            try:
                return matmul(swap_last(b), swap_last(a), **y.attrs)
            except ShapeError:
                return None
    return None


def rounded_attention(node: Node) -> Node | None:
    """cast(attention(q, k, v)) from f32 to a narrower float -> attention(q, k, v, out=...)"""
    match node:
        case Node(Cast(), (Node(Attention()) as y,)) if y.dtype == t.f32 and node.dtype in NARROW:
            return OPS["attention"](*y.inputs, **{**y.attrs, "out": node.dtype})
    return None


def attention_by_time(node: Node) -> Node | None:
    """transpose(attention(q, k, v), perm=(0, 2, 1, 3)) -> attention(q, k, v, time_first=True)"""
    match node:
        case Node(Transpose(), (Node(Attention()) as y,)) if node.attrs["perm"] == (0, 2, 1, 3):
            first = not y.attrs.get("time_first", False)
            kept = {k: x for k, x in y.attrs.items() if k != "time_first"}
            return OPS["attention"](*y.inputs, **kept, **({"time_first": True} if first else {}))
    return None


NARROW = (t.f16, t.bf16)
VIEW = (view_of_nothing, view_of_scalar)
REDUCTION = (reduce_nothing, reduced_broadcast)
LAYOUT_RULES = {
    "reshape": (*VIEW, reshape_twice, reshaped_reduction),
    "transpose": (*VIEW, transpose_twice, transpose_of_ones),
    "broadcast": (view_of_nothing, broadcast_twice, broadcast_of_leading_ones),
    "slice": (*VIEW, slice_of_slice, slice_of_concat),
    "flip": (*VIEW, flip_twice),
    "concat": (concat_of_one, concat_of_parts, concat_of_concat),
    "add": (sum_of_neighbours,),
    "pad": (pad_by_nothing,),
    "sum": REDUCTION,
    "prod": (reduce_nothing,),
    "max": REDUCTION,
    "min": REDUCTION,
    "elementwise": (on_scalars, implicit_broadcast),
}
SOLE_RULES = {  # may apply where the operand has no other reader
    "transpose": (transposed_matmul, attention_by_time),
    "cast": (rounded_attention,),
}
