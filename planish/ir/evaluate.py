"""The reference interpreter: what a graph means, computed with NumPy one node at a time.

Every other way of running a graph is judged by this one. It follows `Op.ref`, knows nothing of
kernels, and runs at any float width: `evaluate(graph, x, dtype="f64")` replaces every float dtype
of the graph, its weights and its arguments by f64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.dims import Size, bind, symbols, value
from planish.ir.errors import DataError, DTypeError, IRError, PlanishError, ShapeError
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.ir.text import line_of
from planish.ir.types import DType, TensorType

Observer = Callable[[Node, Any], None]


def evaluate(
    graph: Graph, *arrays: Any, dtype: object = None, observe: Observer | None = None
) -> tuple[np.ndarray, ...]:
    """The outputs of `graph` on `arrays`, always as a tuple, in the order of `graph.outputs`.

    `dtype` is the float dtype to compute in, if not the graph's own; float arguments of any width
    are then taken. `observe(node, value)` sees every value, those inside fused nodes included.
    """
    wide = None if dtype is None else t.dtype(dtype)
    if wide is not None and not wide.is_float:
        raise DTypeError(f"evaluate computes in a floating-point dtype, got dtype={wide}")
    given = arguments(graph, arrays, wide)
    sizes = bind_sizes(graph, [x.shape for x in given])
    with np.errstate(all="ignore"):
        results = _Run(graph.params, sizes, wide, observe).graph(graph, given)
    shared = {id(x) for x in (*given, *graph.params.values())}
    return tuple(_own(x, shared) for x in results)


def _own(x: Any, shared: set[int]) -> np.ndarray:
    """`x`, or a copy: never a caller's array, a weight, a view of one, or the same array twice."""
    if isinstance(x, np.ndarray) and x.flags.owndata and id(x) not in shared:
        shared.add(id(x))
        return x
    return np.array(x)


def arguments(graph: Graph, arrays: tuple, wide: DType | None = None) -> list[np.ndarray]:
    """The arguments as arrays of the declared dtypes; refused, by name, where they do not fit."""
    if len(arrays) != len(graph.inputs):
        listed = ", ".join(f"%{x.attrs['name']}: {x.type}" for x in graph.inputs)
        raise ShapeError(
            f"{graph.name} takes {len(graph.inputs)} arguments ({listed}), got {len(arrays)}"
        )
    return [_argument(graph, x, given, wide) for x, given in zip(graph.inputs, arrays, strict=True)]


def _argument(graph: Graph, declared: Node, given: Any, wide: DType | None) -> np.ndarray:
    """One argument; Python numbers and lists are weak, arrays must have the declared dtype."""
    wanted = declared.dtype
    where = f"{graph.name}: argument %{declared.attrs['name']}: expected {declared.type}"
    weak = not hasattr(given, "__array__")
    try:
        array = np.asarray(given)
        found = t.dtype(array.dtype)
        if weak and np.can_cast(found.numpy, wanted.numpy, "same_kind"):
            array, found = np.asarray(given, wanted.numpy), wanted
    except (TypeError, ValueError, OverflowError) as error:
        raise DTypeError(f"{where}, got {type(given).__name__}: {error}") from error
    if found != wanted and not (wide and wanted.is_float and found.is_float):
        hint = f"; convert it, as in x.astype({wanted.numpy.name!r})"
        raise DTypeError(f"{where}, got {TensorType(found, array.shape)}{hint}")
    if array.ndim != len(declared.shape):
        raise ShapeError(f"{where}, got {TensorType(found, array.shape)}")
    return array.astype(_widened(wanted, wide).numpy, copy=False)


def bind_sizes(graph: Graph, shapes: Iterable[tuple[int, ...]]) -> dict[str, int]:
    """The value of every symbolic size, from the shapes of the arguments; ShapeError if none."""
    binding: dict[str, int] = {}
    shapes = list(shapes)

    def refused(node: Node, shape: tuple[int, ...], error: object) -> ShapeError:
        listed = ", ".join(map(str, shape))
        return ShapeError(
            f"{graph.name}: argument %{node.attrs['name']}: expected {node.type}, "
            f"got [{listed}]: {error}"
        )

    for node, shape in zip(graph.inputs, shapes, strict=True):
        try:
            bind(node.shape, shape, binding)
        except ShapeError as error:
            raise refused(node, shape, error) from None
    for node, shape in zip(graph.inputs, shapes, strict=True):
        for size, found in zip(node.shape, shape, strict=True):
            unbound = [s.name for s in symbols(size) if s.name not in binding]
            if unbound:
                raise refused(node, shape, f"{unbound[0]} is not the size of any axis by itself")
            if value(size, binding) != found:
                raise refused(node, shape, f"{size} is {value(size, binding)} here, got {found}")
    return binding


def _widened(dtype: DType, wide: DType | None) -> DType:
    return wide if wide is not None and dtype.is_float else dtype


@dataclass(frozen=True)
class _Run:
    """What is the same for all nodes of one evaluation."""

    params: Mapping[str, np.ndarray]
    sizes: Mapping[str, int]
    wide: DType | None
    observe: Observer | None

    def graph(self, graph: Graph, given: Iterable[Any]) -> list[Any]:
        """The outputs of a graph or a fused body; a value is dropped after its last use."""
        values: dict[Node, Any] = dict(zip(graph.inputs, given, strict=True))
        left = Counter(x for node in graph.nodes for x in node.inputs)
        left.update(graph.outputs)
        for node in graph.nodes:
            if node not in values:
                try:
                    values[node] = self.node(node, [values[x] for x in node.inputs])
                except PlanishError as error:
                    error.add_note(line_of(graph, node))
                    raise
            if self.observe is not None:
                self.observe(node, values[node])
            for x in node.inputs:
                left[x] -= 1
                if not left[x]:
                    values.pop(x, None)
        return [values[x] for x in graph.outputs]

    def node(self, node: Node, inputs: list[Any]) -> Any:
        """The value of one node; a tuple for a fused node with several results."""
        match node.op.name:
            case "fused":
                results = self.graph(node.attrs["body"], inputs)
                return results[0] if len(results) == 1 else tuple(results)
            case "get":
                return inputs[0][node.attrs["index"]]
            case "param":
                return self.checked(node, self.param(node.attrs["name"]))
            case "input":
                raise IRError(f"input %{node.attrs['name']} is not in the graph's signature")
        attrs = {name: self.attribute(x) for name, x in node.attrs.items()}
        return self.checked(node, node.op.ref(*inputs, **attrs))

    def attribute(self, x: Any) -> Any:
        """An attribute with symbolic sizes as ints and float dtypes widened."""
        if isinstance(x, Size):
            return value(x, self.sizes)
        if isinstance(x, DType):
            return _widened(x, self.wide)
        if isinstance(x, tuple):
            return tuple(self.attribute(item) for item in x)
        return x

    def param(self, name: str) -> np.ndarray:
        """The array of a parameter, at the width of this run."""
        if name not in self.params:
            raise DataError(
                f"param {name!r} has no array; this graph came without its weights, "
                "pass params= to parse"
            )
        array = np.asarray(self.params[name])
        return array.astype(_widened(t.dtype(array.dtype), self.wide).numpy, copy=False)

    def checked(self, node: Node, result: Any) -> np.ndarray:
        """The result, refused where an op's `ref` and `infer` disagree."""
        array = np.asarray(result)
        shape = tuple(value(size, self.sizes) for size in node.shape)
        if array.shape != shape or array.dtype != _widened(node.dtype, self.wide).numpy:
            found = f"{array.dtype}{list(array.shape)}"
            raise IRError(f"{node.op.name}: the value is {found}, the type says {node.type}")
        return array
