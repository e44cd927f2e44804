"""Other shapes and other places of the same elements."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.frontend import shapes
from planish.frontend.indexing import index
from planish.frontend.sizes import plain_size
from planish.frontend.tensor import apply
from planish.ir.dims import AnySize, divide
from planish.ir.errors import ShapeError, UnsupportedError
from planish.ir.ops.base import axes_of, axis_of


def reshape(x: Any, /, shape: Any) -> Any:
    """The same elements in another shape; one size may be -1."""
    return shapes.reshape(apply, x, shape)


def ravel(x: Any, /) -> Any:
    """All elements along one axis."""
    return shapes.reshape(apply, x, -1)


def squeeze(x: Any, /, axis: Any = None) -> Any:
    """Without the axes of size 1 that `axis` names; all of them for None."""
    return shapes.squeeze(apply, x, axis)


def expand_dims(x: Any, /, axis: Any = 0) -> Any:
    """With axes of size 1 at the places `axis` of the result."""
    return shapes.expand_dims(apply, x, axis)


def permute_dims(x: Any, /, axes: Any = None) -> Any:
    """The axes in another order."""
    return shapes.transpose(apply, x, axes)


transpose = permute_dims


def matrix_transpose(x: Any, /) -> Any:
    """The last two axes exchanged."""
    return shapes.swapaxes(apply, x, -1, -2)


def swapaxes(x: Any, /, axis1: int, axis2: int) -> Any:
    """Two axes exchanged."""
    return shapes.swapaxes(apply, x, axis1, axis2)


def moveaxis(x: Any, source: Any, destination: Any, /) -> Any:
    """Axes moved to other places, the rest keep their order."""
    rank = len(shapes.shape_of(x))
    sources = source if isinstance(source, (tuple, list)) else (source,)
    places = destination if isinstance(destination, (tuple, list)) else (destination,)
    moved = {axis_of("moveaxis", d, rank): axis_of("moveaxis", s, rank)
             for s, d in zip(sources, places, strict=True)}  # fmt: skip
    rest = iter(a for a in range(rank) if a not in moved.values())
    return shapes.transpose(apply, x, [moved[d] if d in moved else next(rest) for d in range(rank)])


def broadcast_to(x: Any, /, shape: Any) -> Any:
    """`x` repeated to a shape."""
    return shapes.broadcast_to(apply, x, shape)


def flip(x: Any, /, axis: Any = None) -> Any:
    """The order of elements reversed along `axis`."""
    return apply("flip", x, axes=axes_of("flip", axis, len(shapes.shape_of(x))))


def concat(arrays: Sequence[Any], /, axis: int | None = 0) -> Any:
    """Arrays one after another along `axis`; None flattens them first."""
    if not arrays:
        raise ShapeError("concat takes at least one array")
    if axis is None:
        arrays, axis = [ravel(x) for x in arrays], 0
    return apply("concat", *arrays, axis=axis_of("concat", axis, len(shapes.shape_of(arrays[0]))))


concatenate = concat


def stack(arrays: Sequence[Any], /, axis: int = 0) -> Any:
    """Arrays of one shape along a new axis."""
    if not arrays:
        raise ShapeError("stack takes at least one array")
    place = axis_of("stack", axis, len(shapes.shape_of(arrays[0])) + 1)
    return apply("concat", *(expand_dims(x, place) for x in arrays), axis=place)


def split(x: Any, /, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    """`x` cut along `axis`: into equal parts (an int), or before the places of a list."""
    shape = shapes.shape_of(x)
    place = axis_of("split", axis, len(shape))
    size = shape[place]
    if isinstance(indices_or_sections, (int, np.integer)):
        part = divide(size, int(indices_or_sections))
        cuts: list[AnySize] = [part * i for i in range(1, int(indices_or_sections))]
    else:
        cuts = [plain_size(i) for i in indices_or_sections]
    bounds = [0, *cuts, size]
    return [_part(x, place, a, b) for a, b in itertools.pairwise(bounds)]


def _part(x: Any, axis: int, start: AnySize, stop: AnySize) -> Any:
    key = (slice(None),) * axis + (slice(start, stop),)
    return index(apply, x, shapes.shape_of(x), key)


def unstack(x: Any, /, axis: int = 0) -> tuple[Any, ...]:
    """The slices along `axis`, which is dropped."""
    shape = shapes.shape_of(x)
    place = axis_of("unstack", axis, len(shape))
    count = shape[place]
    if not isinstance(count, int):
        raise ShapeError(f"unstack needs a static size, axis {place} is {count}")
    before = (slice(None),) * place
    return tuple(index(apply, x, shape, (*before, i)) for i in range(count))


def roll(x: Any, /, shift: int, axis: int) -> Any:
    """Elements moved by `shift` places along `axis`; what falls off comes in at the other end."""
    size = shapes.shape_of(x)[axis_of("roll", axis, len(shapes.shape_of(x)))]
    if not isinstance(size, int):
        raise ShapeError(f"roll needs a static size, axis {axis} is {size}")
    place = axis_of("roll", axis, len(shapes.shape_of(x)))
    at = -shift % size if size else 0
    return concat([_part(x, place, at, size), _part(x, place, 0, at)], axis=place) if at else x


def repeat(x: Any, repeats: int, /, axis: int) -> Any:
    """Every slice along `axis` several times in a row."""
    shape = list(shapes.shape_of(x))
    place = axis_of("repeat", axis, len(shape))
    wide = shapes.expand_dims(apply, x, place + 1)
    wide = broadcast_to(wide, (*shape[: place + 1], repeats, *shape[place + 1 :]))
    shape[place] = shape[place] * repeats
    return reshape(wide, shape)


def tile(x: Any, repetitions: tuple[int, ...], /) -> Any:
    """The whole array several times along each axis."""
    for axis, times in enumerate(repetitions, len(shapes.shape_of(x)) - len(repetitions)):
        x = concat([x] * times, axis=axis) if times != 1 else x
    return x


def pad(x: Any, pad_width: Any, /, mode: str = "constant", constant_values: float = 0) -> Any:
    """`constant_values` around the array: a number, (before, after), or a pair for every axis."""
    if mode != "constant":
        raise UnsupportedError(f"pad has the mode 'constant', not {mode!r}")
    rank = len(shapes.shape_of(x))
    widths = np.broadcast_to(np.asarray(pad_width), (rank, 2)).tolist()
    low, high = (tuple(int(pair[i]) for pair in widths) for i in (0, 1))
    return apply("pad", x, low=low, high=high, value=constant_values)


def take(x: Any, indices: Any, /, axis: int = 0, what: str = "index") -> Any:
    """The slices at `indices` along `axis`; `what` names an index in a run-time refusal."""
    return apply("take", x, indices, axis=axis, what=what)


def take_along_axis(x: Any, indices: Any, /, axis: int = -1) -> Any:
    """One choice per place along `axis`: y[i, j] = x[i, indices[i, j]]."""
    return apply("take_along", x, indices, axis=axis)


def update_slice(x: Any, update: Any, /, *starts: Any) -> Any:
    """`x` with the block that begins at run-time `starts` replaced by `update`."""
    return apply("update_slice", x, update, *starts)


def dynamic_slice(x: Any, starts: Sequence[Any], sizes: Sequence[Any], /) -> Any:
    """The block of `sizes` that begins at run-time `starts`, one integer scalar per axis."""
    return apply("dynamic_slice", x, *starts, sizes=tuple(plain_size(s) for s in sizes))
