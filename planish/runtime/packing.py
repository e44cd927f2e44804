"""Weights where and how kernels read them, made when a program is lowered.

Panels of B [..., K, N] are [..., N / NR, K, NR], zeros beyond N.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.mapped import release
from planish.ir.node import Node
from planish.ir.ops.leaf import input_
from planish.ir.parse import parse
from planish.ir.types import TensorType
from planish.runtime.bitmaps import bit_panels, block_panels
from planish.runtime.crew import Crew
from planish.runtime.gate import ProcessLock
from planish.runtime.kernels.scaled import nibble_rows
from planish.runtime.kernels.words import STARTS, WORDS
from planish.runtime.memory import Room
from planish.runtime.slots import Made
from planish.runtime.target import available_cores

PIECE = 1 << 20  # bytes of a job
SMALL = 1 << 16  # bytes of an array that is better moved beside others than read where it is
# Source columns so many bytes apart (or a multiple) lie in the same few sets of a cache: only some
# of them are copied at a time.
ALIASED, FEW = 4096, 16

Key = tuple  # the name of a weight, how it is viewed, the width of panels
Given = Mapping[Node, np.ndarray]  # the leaves that a weight is made of; the last is the largest


class Panels:
    """Weights as panels. Programs that are lowered with the same `Panels` have them once.

    Those that have the same `kernels`, too, share what equal nodes were lowered to.
    """

    def __init__(self, kernels: dict[tuple, Any] | None = None) -> None:
        self.kernels = kernels
        self._room = Room()
        self._made: dict[Key, tuple[weakref.ref[np.ndarray], np.ndarray]] = {}
        self._lock = ProcessLock()

    @contextmanager
    def packing(self) -> Iterator[Packing]:
        """Make more, on all cores; they are there when the block ends."""
        with self._lock, Crew(available_cores()) as crew:
            more = Packing(self._room, self._made, crew)
            yield more
            crew.finish()
            self._made = more.made


class Packing:
    """Panels being made."""

    def __init__(self, room: Room, made: dict, crew: Crew) -> None:
        self._room, self._crew = room, crew
        self.made = dict(made)

    def plain(self, name: str, array: np.ndarray) -> np.ndarray:
        """An array as it is; a small one on a cache line of its own, beside the others."""
        key = (name, array.shape, array.dtype)
        known = self.made.get(key)
        if known is None or not (known[0]() is array or same_bits(known[1], array)):
            kept = self._room.copy(array) if array.nbytes <= SMALL else array
            known = self.made[key] = weakref.ref(array), kept
        return known[1]

    def packed(self, made: Made, view: Sequence[Node], given: Given) -> tuple[np.ndarray, ...]:
        """What weights become for a kernel, in its parts."""
        if made.kind == "nibbles":
            return self.nibbles((made,), view, given, made.width)
        make = {"panels": self.panels, "bitmap": self.bitmap, "blocks": self.blocks}[made.kind]
        return make((made,), view[0], given, made.width, made.before)

    def panels(
        self, key: Key, b: Node, given: Given, nr: int, before: str = ""
    ) -> tuple[np.ndarray]:
        """Panels of `b`, which is made of `given`: those there are, or new ones.

        Another array of that name may have been made of the same one, by a pass that rounds it.
        Where sums start with something, a row more goes `before`: see `STARTS`.
        """
        key, array = (*key, b.type), [*given.values()][-1]
        known = self.made.get(key)
        if known is not None and known[0]() is array:
            return (known[1],)
        matrix = computed(b, given)
        if known is not None and not before and holds(known[1], matrix):
            return (known[1],)
        *batch, k, n = matrix.shape
        new = self._room.empty((*batch, -(-n // nr), k + bool(before), nr), matrix.dtype)
        if before:
            self._crew.add(partial(fill_starts, new[..., :1, :], matrix, before))
        for target, source in pieces(new[..., int(bool(before)) :, :], matrix):
            self._crew.add(partial(fill, target, source))
        self.made[key] = (weakref.ref(array), new)
        return (new,)

    def bitmap(
        self, key: Key, b: Node, given: Given, nr: int, before: str = ""
    ) -> tuple[np.ndarray, ...]:
        """Panels of `b`, which is made of a bitmap, without its zeros: see `bit_panels`."""
        matrix, values = computed(b, given), [*given.values()][-1]
        first = start_of(matrix, before) if before else None
        room = values.nbytes if b.dtype == t.u32 else values.size
        return self.parts((*key, b.type), values, bit_panels(matrix, nr, room, first))

    def blocks(
        self, key: Key, b: Node, given: Given, nr: int, before: str = ""
    ) -> tuple[np.ndarray, ...]:
        """Panels of `b`, which is made of a bitmap, without rows of zeros: see `block_panels`."""
        matrix, values = computed(b, given), [*given.values()][-1]
        first = start_of(matrix, before) if before else None
        return self.parts((*key, b.type), values, block_panels(matrix, nr, first))

    def nibbles(self, key: Key, sides: Sequence[Node], given: Given, nr: int) -> tuple[np.ndarray]:
        """Panels of weights of 4 bits and of their scales, `sides`: see `nibble_rows`."""
        found = nibble_rows(*(computed(x, given) for x in sides))
        words = input_(name="words", type=TensorType(t.u32, found.shape))
        return self.panels(key, words, {words: found}, nr)

    def parts(
        self, key: Key, source: np.ndarray, arrays: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """What panels consist of, made of one array: those that there are where they are equal."""
        found = []
        for i, array in enumerate(arrays):
            place = (*key, i)
            known = self.made.get(place)
            if known is None or not same_bits(known[1], array):
                known = self.made[place] = weakref.ref(source), self._room.copy(array)
            found.append(known[1])
        return tuple(found)


def params_of(
    made: Sequence[Made], arrays: Mapping[str, np.ndarray], panels: Panels | None = None
) -> tuple[np.ndarray, ...]:
    """The params of a plan, made again of a graph's."""
    texts = {x.view for x in made if x.view}
    views = {text: parse(text, more=WORDS.values()) for text in sorted(texts)}
    found: dict[Made, tuple[np.ndarray, ...]] = {}
    with (panels or Panels()).packing() as packing:
        for x in (x._replace(part=0) for x in made):
            read = [arrays[name] for name in x.names]
            if x.kind == "plain":
                found[x] = (packing.plain(x.names[0], read[0]),)
            elif x not in found:
                view = views[x.view]
                given = dict(zip(view.inputs, read, strict=True))
                found[x] = packing.packed(x, view.outputs, given)
    return tuple(found[x._replace(part=0)][x.part] for x in made)


def pieces(panels: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some panels [P, K, NR] and the columns of B in them [P, K, NR], or fewer in the last one."""
    *batch, count, k, nr = panels.shape
    n = b.shape[-1]
    whole = n // nr
    some = max(1, PIECE // max(1, k * nr * b.dtype.itemsize))
    for at in np.ndindex(*batch):
        target, source = panels[at], b[at]
        columns = np.moveaxis(source[:, : whole * nr].reshape(k, whole, nr), 1, 0)
        for first in range(0, whole, some):
            last = min(first + some, whole)
            yield target[first:last], columns[first:last]
        if whole < count:
            yield target[whole:], source[None, :, whole * nr :]


def fill(panels: np.ndarray, source: np.ndarray) -> None:
    """Copy columns into their panels."""
    width, given = panels.shape[-1], source.shape[-1]
    step = FEW if source.strides[-1] % ALIASED == 0 else given
    for first in range(0, given, max(1, step)):
        panels[..., first : min(first + step, given)] = source[..., first : first + step]
    if given < width:
        panels[..., given:] = 0
    release(source)


def fill_starts(panels: np.ndarray, words: np.ndarray, dot: str) -> None:
    """What sums start with, in its row of the panels."""
    for target, source in pieces(panels, start_of(words, dot)[..., None, :]):
        fill(target, source)


def holds(panels: np.ndarray, b: np.ndarray) -> bool:
    """Whether panels hold just the bits of B."""
    return all(same_bits(x[..., : y.shape[-1]], y) for x, y in pieces(panels, b))


def same_bits(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two arrays of one dtype are the same, NaN and signs of zeros included."""
    bits = f"u{y.dtype.itemsize}"
    return np.array_equal(x.view(bits), y.view(bits))


def start_of(words: np.ndarray, dot: str) -> np.ndarray:
    """What sums start with, as words [..., N], of columns of words of four bytes [..., K, N].

    Words that are a view of rows of bytes, as those of weights [N, K], are read where they are.
    """
    rows = np.ascontiguousarray(words.swapaxes(-1, -2)).view(np.int8)
    return STARTS[dot](rows.swapaxes(-1, -2)).view(np.uint32)


def computed(x: Node, given: Given) -> np.ndarray:
    """The value of `x`, which is made of these arrays; unlike `evaluate`, views are not copied."""
    values = dict(given)
    for node in Graph("x", tuple(given), (x,)).nodes[len(given) :]:
        values[node] = node.op.ref(*(values[n] for n in node.inputs), **node.attrs)
    return values[x]
