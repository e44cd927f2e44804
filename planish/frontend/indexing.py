"""What `x[...]` means on a traced array, in ops: slice, flip, take, reshape.

Ints, slices, None and Ellipsis are static. One axis may be indexed by an integer array or tensor
(`take`); an integer scalar tensor picks a place known only at run time. Bounds follow NumPy where
they are known; where a bound is symbolic it must lie inside the axis for every size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.frontend.shapes import broadcast_to, cast, reshape
from planish.frontend.sizes import SymbolicSize, plain_size
from planish.ir.dims import AnySize, Shape, Size, upper
from planish.ir.errors import AxisError, ShapeError, TraceError, UnsupportedError

Apply = Callable[..., Any]

MASKED = (
    "{what} has a shape that depends on data, which a static graph cannot have; "
    "use pnp.where(mask, x, other) to keep the shape"
)


@dataclass(frozen=True)
class Place:
    """What one axis of the indexed array becomes.

    kind is "slice" (start, stop, step; `count` elements), "flip" (all, backward), "int" (start),
    "array" (indices: an integer array of any rank, a scalar included) or "new" (an axis of size 1
    that the array does not have).
    """

    kind: str
    start: AnySize = 0
    stop: AnySize = 0
    step: int = 1
    count: AnySize = 1
    indices: Any = None


def parse_key(key: Any, shape: Shape) -> list[Place]:
    """The places of all axes, for an index expression; refused where it does not fit `shape`."""
    items = key if isinstance(key, tuple) else (key,)
    taken = sum(item is not None and item is not Ellipsis for item in items)
    if sum(item is Ellipsis for item in items) > 1:
        raise AxisError("an index may hold one Ellipsis (...), got several")
    if taken > len(shape):
        raise AxisError(f"too many indices: {taken} for an array of shape {list(shape)}")
    if not any(item is Ellipsis for item in items):
        items = (*items, Ellipsis)
    places: list[Place] = []
    axis = 0
    for item in items:
        if item is None:
            places.append(Place("new"))
        elif item is Ellipsis:
            places += [
                Place("slice", 0, n, count=n) for n in shape[axis : axis + len(shape) - taken]
            ]
            axis += len(shape) - taken
        else:
            places.append(_place(item, shape[axis], axis))
            axis += 1
    return places


def _place(item: Any, n: AnySize, axis: int) -> Place:
    if isinstance(item, slice):
        return _slice_place(item, n, axis)
    if isinstance(item, (bool, np.bool_)) or _dtype_kind(item) == "b":
        raise UnsupportedError(MASKED.format(what="indexing with a boolean mask"))
    if isinstance(item, (int, np.integer, SymbolicSize, Size)):
        return Place("int", _int_place(plain_size(item), n, axis))
    if isinstance(item, (list, np.ndarray)):
        return _static_array(np.asarray(item), n, axis)
    if _dtype_kind(item) in ("i", "u"):
        return Place("array", indices=item)
    raise TraceError(
        f"an index is an int, slice, None, ... or an integer array, got {type(item).__name__}"
    )


def _dtype_kind(item: Any) -> str:
    return getattr(getattr(item, "dtype", None), "kind", "")


def _static_array(indices: np.ndarray, n: AnySize, axis: int) -> Place:
    """An index array known while tracing: negative entries count from the end."""
    if indices.dtype.kind == "b":
        raise UnsupportedError(MASKED.format(what="indexing with a boolean mask"))
    if indices.dtype.kind not in "iu" and indices.size:
        raise TraceError(f"an index array holds integers, got {indices.dtype}")
    indices = indices.astype(np.int64)
    if isinstance(n, int):
        for i in indices[(indices < -n) | (indices >= n)].ravel()[:1]:
            raise AxisError(f"index {i} is out of range for axis {axis} of size {n}")
        indices = np.where(indices < 0, indices + n, indices)
    elif (indices < 0).any():
        raise TraceError(f"negative indices in an array need a static size, axis {axis} is {n}")
    if indices.ndim == 0:
        return Place("int", int(indices))
    return Place("array", indices=indices)


def _int_place(i: AnySize, n: AnySize, axis: int) -> AnySize:
    """A static place in an axis, counted from the front."""
    if isinstance(i, int) and i < 0:
        i = n + i
    above, below = _most(i - n), _least(i)
    if below is not None and below >= 0 and above is not None and above < 0:
        return i
    if isinstance(i, int) and isinstance(n, int):
        given = i if i >= n else i - n
        raise AxisError(f"index {given} is out of range for axis {axis} of size {n}")
    raise TraceError(f"index {i} may be out of range for axis {axis} of symbolic size {n}")


def _least(size: AnySize) -> int | None:
    found = upper(-1 * size)
    return None if found is None else -found


_most = upper


def _slice_place(item: slice, n: AnySize, axis: int) -> Place:
    step = 1 if item.step is None else plain_size(item.step)
    if not isinstance(step, int) or step == 0:
        raise ShapeError(f"a slice step is an integer that is not 0, got {item.step}")
    bounds = [None if b is None else plain_size(b) for b in (item.start, item.stop)]
    if isinstance(n, int) and all(b is None or isinstance(b, int) for b in bounds):
        start, stop, step = slice(*bounds, step).indices(n)  # type: ignore[call-overload]
        count = len(range(start, stop, step))
        return Place("slice", start, stop if count else start, step, count)
    if step != 1:
        whole = bounds == [None, None] and step == -1
        if not whole:
            raise TraceError(f"a slice of symbolic size has step 1, got {step} on axis {axis}: {n}")
        return Place("flip", count=n)
    start = 0 if bounds[0] is None else _bound(bounds[0], n, axis)
    stop = n if bounds[1] is None else _bound(bounds[1], n, axis)
    if _is_negative(stop - start):
        stop = start
    return Place("slice", start, stop, 1, stop - start)


def _is_negative(size: AnySize) -> bool:
    return isinstance(size, int) and size < 0


def _bound(b: AnySize, n: AnySize, axis: int) -> AnySize:
    """A bound of a slice; NumPy clamps it into the axis, which must be decidable here."""
    if isinstance(b, int) and b < 0:
        b = n + b
    least = _least(n - b)
    if least is None or least < 0:
        if isinstance(b, int) and isinstance(n, int):
            return n
        if isinstance(n, int) and _most(b) is None:
            return b  # the program refuses a run with a larger size
        most = f", which may be {_most(b)}," if isinstance(b, Size) else ""
        raise ShapeError(f"slice bound {b}{most} does not fit axis {axis} of size {n}")
    low = _least(b)
    if low is not None and low < 0:
        raise ShapeError(f"slice bound {b} may be negative on axis {axis} of size {n}")
    return b


def index(op: Apply, x: Any, shape: Shape, key: Any) -> Any:
    """`x[key]`, by applying ops."""
    places = parse_key(key, shape)
    old = [p for p in places if p.kind != "new"]
    arrays = [axis for axis, p in enumerate(old) if p.kind == "array"]
    if len(arrays) > 1:
        raise UnsupportedError(
            "indexing with several arrays is not provided; use pnp.take_along_axis, or pnp.take "
            "on a reshaped array"
        )
    x = _cut(op, x, shape, old)
    if arrays:
        _need_one_block(old, arrays[0])
        x = op("take", x, old[arrays[0]].indices, axis=arrays[0])
    wanted = _final_shape(places)
    return reshape(op, x, wanted) if _reshapes(places) else x


def _need_one_block(old: list[Place], axis: int) -> None:
    """NumPy moves the array's axes to the front where an int stands apart; we refuse."""
    ints = [a for a, p in enumerate(old) if p.kind == "int"]
    block = range(min([axis, *ints]), max([axis, *ints]) + 1)
    if any(old[a].kind == "slice" for a in block):
        raise UnsupportedError("index by the ints first, then by the array: x[0][:, indices]")


def _cut(op: Apply, x: Any, shape: Shape, old: list[Place]) -> Any:
    """Apply the slices and ints; an axis taken by an int stays, with size 1."""
    around = tuple(a for a, p in enumerate(old) if p.kind == "flip")
    if around:
        x = op("flip", x, axes=around)
    starts, stops, steps = [], [], []
    for p, n in zip(old, shape, strict=True):
        whole = p.kind in ("array", "flip")
        starts.append(0 if whole else p.start)
        stops.append(n if whole else p.start + 1 if p.kind == "int" else p.stop)
        steps.append(p.step)
    if set(starts) <= {0} and tuple(stops) == tuple(shape) and set(steps) <= {1}:
        return x
    return op("slice", x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


def _reshapes(places: list[Place]) -> bool:
    return any(p.kind in ("int", "new") for p in places)


def _final_shape(places: list[Place]) -> Shape:
    """The shape of the result, from slices, arrays and new axes."""
    shape: list[AnySize] = []
    for p in places:
        if p.kind in ("slice", "flip"):
            shape.append(p.count)
        elif p.kind == "array":
            shape += [plain_size(n) for n in p.indices.shape]
        elif p.kind == "new":
            shape.append(1)
    return tuple(shape)


class At:
    """`x.at[key]`: functional updates of a part of `x`; `x` itself never changes."""

    def __init__(self, x: Any):
        self.x = x

    def __getitem__(self, key: Any) -> Part:
        return Part(self.x, key)


class Part:
    """A part of an array, to be replaced in a copy."""

    def __init__(self, x: Any, key: Any):
        self.x, self.key = x, key

    def set(self, value: Any) -> Any:
        """`x` with this part replaced by `value`, which broadcasts."""
        x, op = self.x, self.x.apply
        if _dtype_kind(self.key) == "b":
            if len(self.key.shape) != len(x.type.shape):
                raise UnsupportedError("x.at[mask].set takes a mask of the shape of x")
            return op("select", self.key, _like(value, x), x)
        places = parse_key(self.key, x.type.shape)
        if any(p.kind == "flip" or (p.kind == "slice" and p.step != 1) for p in places):
            raise UnsupportedError("x.at[...].set takes slices of step 1; use pnp.where for others")
        old = [p for p in places if p.kind != "new"]
        if any(p.kind == "array" and p.indices.shape for p in old):
            raise UnsupportedError("x.at[array].set is not provided; .add is, or use pnp.where")
        shown = tuple(p.count for p in places if p.kind in ("slice", "new"))
        update = broadcast_to(op, _like(value, x), shown)
        update = reshape(op, update, tuple(p.count for p in old))
        return op("update_slice", x, update, *(_start(p) for p in old))

    def add(self, value: Any) -> Any:
        """`x` with `value` added to this part; repeated indices add up."""
        x, op = self.x, self.x.apply
        if _dtype_kind(self.key) in ("i", "u") and self.key.shape:
            wanted = (*(plain_size(n) for n in self.key.shape), *x.type.shape[1:])
            updates = broadcast_to(op, _like(value, x), wanted)
            return op("scatter_add", x, self.key, updates, axis=0)
        return self.set(x[self.key] + value)

    def multiply(self, value: Any) -> Any:
        """`x` with this part multiplied by `value`."""
        return self.set(self.x[self.key] * value)


def _start(p: Place) -> Any:
    return p.indices if p.kind == "array" else p.start


def _like(value: Any, x: Any) -> Any:
    """`value` in the dtype of the array that it goes into."""
    dtype = x.type.dtype
    if not isinstance(value, (bool, int, float)):
        return cast(x.apply, value, dtype)
    kind = float if dtype.is_float else int if dtype.is_int else bool
    return x.apply("const", value=kind(value), dtype=dtype)
