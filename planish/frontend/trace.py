"""Tracing: run a Python function once on tensors, and keep the graph of what it did.

    graph = trace(model, spec(("B", "T"), "i32"))

What is not a tensor happens while tracing, once: `print`, random numbers of NumPy, clocks, files.
Arrays that the function closes over are constants of trace time: later changes do not reach the
graph. Weights of an `nn.Module` are shared with it, by their state-dict names.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.frontend.context import Trace, as_array, current
from planish.frontend.sizes import SymbolicSize
from planish.frontend.tensor import Parameter, Tensor, apply, check_trace
from planish.frontend.tree import flatten, map_leaves, treedef_of
from planish.ir import types as t
from planish.ir.dims import AnySize, Dim, Shape, Size, Symbol, symbols
from planish.ir.errors import DTypeError, ShapeError, TraceError
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.types import DType, TensorType


@dataclass(frozen=True)
class Spec:
    """What an argument will be: dtype and shape, and a name where one is wanted."""

    shape: Shape
    dtype: DType
    name: str | None = None

    @property
    def type(self) -> TensorType:
        """dtype and shape as a type of the IR."""
        return TensorType(self.dtype, self.shape)


def spec(shape: Any, dtype: Any = "f32", name: str | None = None) -> Spec:
    """An argument of `shape`: ints, "B" for a symbolic size, `pl.Dim("T", max=256)`.

    >>> import planish as pl
    >>> pl.spec(("B", pl.Dim("T", max=64)), "i32").type
    i32[B, T]

    `dtype` is one of f64 f32 f16 bf16 i64 i32 i8 u32 u8 bool, or a NumPy dtype; `name` is what the
    argument is called in the graph. ShapeError and DTypeError refuse what no array could be.
    """
    listed = shape if isinstance(shape, (tuple, list)) else (shape,)
    sizes = tuple(_size(s) for s in listed)
    found = t.dtype(dtype)
    OPS["input"](name="", type=TensorType(found, sizes))  # refuses what has no address
    return Spec(sizes, found, name)


def _size(s: Any) -> AnySize:
    if isinstance(s, str):
        return Dim(s)
    if isinstance(s, (Size, SymbolicSize)):
        return s.size if isinstance(s, SymbolicSize) else s
    if isinstance(s, (int, np.integer)) and not isinstance(s, bool):
        if s < 0:
            raise ShapeError(f"a size is at least 0, got {s}")
        return int(s)
    raise ShapeError(f"a size in spec is an int, a name such as 'B', or pl.Dim, got {s!r}")


def trace(fn: Any, *specs: Any, donate: Mapping[int, int] | None = None) -> Graph:
    """The graph of `fn` (a function, a model, a method of a model) on arguments like `specs`.

    >>> import planish as pl
    >>> print(pl.trace(lambda x: x.sum(axis=1), pl.spec(("B", 3))))
    graph fn[B](%x: f32[B, 3]) {
      %0 = sum(%x, axes=(1,), keep=False) : f32[B]
      return %0
    }

    An argument is a spec, an array (its dtype and shape count), or a tuple, list or dict of those.
    The function returns an array, or a tuple or dict of arrays. `donate={1: 0}` says that the
    arrays of argument 1 give their storage to those of result 0.

    The function runs once. TraceError refuses what needs the value of an array (`if x > 0`), and
    ShapeError, AxisError and DTypeError what does not fit; all name the line.
    """
    running = Trace(name_of(fn), current())
    model = getattr(fn, "__self__", fn)
    if hasattr(model, "named_parameters"):
        running.closure.names |= {id(p): name for name, p in model.named_parameters()}
    with running.running():
        arguments = _arguments(fn, specs)
        inputs = [x.node for _, x in flatten(list(arguments)) if isinstance(x, Tensor)]
        before = random_state()
        given = map_leaves(lambda x: Tensor(x.node, running), list(arguments))
        result = fn(*given)
        _warn_of_random(before, running)
        outputs = [_output(running, x, path) for path, x in flatten(result)]
    graph = Graph(running.name, tuple(inputs), tuple(outputs), running.closure.arrays,
                  treedef=treedef_of(result))  # fmt: skip
    return graph if not donate else _donating(graph, arguments, donate)


def name_of(fn: Any) -> str:
    """What a traced function is called in the graph."""
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return "fn" if name == "<lambda>" else name


def _arguments(fn: Any, specs: Sequence[Any]) -> list[Any]:
    """A tree of input tensors for every argument; names come from the function's signature."""
    maxima = _maxima(specs)
    taken: set[str] = set()
    found = []
    for name, given in zip(argument_names(fn, len(specs)), specs, strict=True):
        leaves = iter(flatten(given, join="."))

        def tensor(leaf: Any, leaves: Any = leaves, name: str = name) -> Tensor:
            path, _ = next(leaves)
            return _input(leaf, f"{name}.{path}" if path else name, maxima, taken)

        found.append(map_leaves(tensor, given))
    return found


def argument_names(fn: Any, count: int) -> list[str]:
    """The names of the first `count` arguments of a function or a model, which needs no more."""
    try:
        target = fn.forward if hasattr(fn, "forward") else fn
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if missing := [p.name for p in named[count:] if p.default is p.empty]:
        raise TraceError(
            f"{name_of(fn)} takes {missing[0]}, too: give a pl.spec(shape, dtype) or an array "
            "for each"
        )
    names = [p.name for p in named]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "x")
    return names[:count] + [f"{rest}{i}" for i in range(count - len(names))]


def _input(leaf: Any, name: str, maxima: dict[str, int], taken: set[str]) -> Tensor:
    """One input; its name is made unique."""
    if isinstance(leaf, Spec):
        declared = leaf
    elif isinstance(leaf, (np.ndarray, np.generic, Parameter)) or hasattr(leaf, "__array__"):
        if isinstance(leaf, Tensor):
            raise TraceError("trace takes specs or arrays, got a tensor of another trace")
        array = leaf.array if isinstance(leaf, Parameter) else as_array(leaf)
        declared = Spec(array.shape, t.dtype(array.dtype))
    else:
        raise DTypeError(
            f"argument {name}: trace takes pl.spec(shape, dtype) or an array, got "
            f"{type(leaf).__name__} {leaf!r:.40}; bind plain Python values with functools.partial"
        )
    name = declared.name or name
    unique, count = name, 0
    while unique in taken:
        count += 1
        unique = f"{name}.{count}"
    taken.add(unique)
    shape = tuple(_bounded(size, maxima) for size in declared.shape)
    node = OPS["input"](name=unique, type=TensorType(declared.dtype, shape))
    return Tensor(node, current())  # type: ignore[arg-type]


def _maxima(specs: Sequence[Any]) -> dict[str, int]:
    """The maximum of every symbolic size that has one; refused where two are stated."""
    found: dict[str, int] = {}
    for _, leaf in flatten(list(specs)):
        for symbol in symbols(*leaf.shape) if isinstance(leaf, Spec) else ():
            if symbol.max is not None and found.setdefault(symbol.name, symbol.max) != symbol.max:
                raise ShapeError(
                    f"size {symbol.name} has max={found[symbol.name]} in one spec and "
                    f"max={symbol.max} in another"
                )
    return found


def _bounded(size: AnySize, maxima: dict[str, int]) -> AnySize:
    """`size` with the maxima that are stated anywhere in the signature."""
    if not isinstance(size, Size):
        return size
    total: AnySize = 0
    for monomial, coefficient in size.terms:
        term: AnySize = coefficient
        for symbol in monomial:
            bounded = Symbol(symbol.name, maxima.get(symbol.name))
            term = term * Size((((bounded,), 1),))
        total = total + term
    return total


def _output(running: Trace, x: Any, path: str) -> Node:
    """One result as a node; arrays and numbers become constants."""
    if x is None or isinstance(x, (str, bytes)) or (callable(x) and not hasattr(x, "type")):
        where = f" at {path}" if path else ""
        raise TraceError(
            f"{running.name} returned {type(x).__name__}{where}; a traced function returns "
            "an array, or a tuple or dict of arrays"
        )
    if isinstance(x, Tensor):
        check_trace(x, running)
        return x.node
    return apply("stop_gradient", x).node if isinstance(x, Parameter) else _constant(running, x)


def _constant(running: Trace, x: Any) -> Node:
    if isinstance(x, SymbolicSize):
        return OPS["size"](size=x.size)
    return running.closure.constant(
        np.asarray(x, np.float32) if isinstance(x, float) else np.asarray(x)
    )


def random_state() -> list[Any] | None:
    """What NumPy's global random generator will do next; None where nobody has imported it."""
    return _state(_generator()) if "numpy.random" in sys.modules else None


def _generator() -> Any:
    return np.random.get_bit_generator()  # type: ignore[attr-defined]


def _state(generator: Any) -> list[Any]:
    inner = generator.state["state"].values()
    return [x.tobytes() if isinstance(x, np.ndarray) else x for x in inner]


def _warn_of_random(before: Any, running: Trace) -> None:
    """Warn where NumPy's global generator was used: its numbers are now constants."""
    after = random_state()
    if before is None and after is not None:  # imported meanwhile: how it began
        generator = _generator()
        before = _state(type(generator)(generator.seed_seq))
    if before != after:
        warnings.warn(
            f"NumPy's global random generator was used while tracing {running.name!r}; its numbers "
            "are now constants of the program. Use pl.random with a key for fresh ones.",
            stacklevel=3,
        )


def _donating(graph: Graph, arguments: list[Any], donate: Mapping[int, int]) -> Graph:
    """The graph with aliases from the leaves of arguments to the leaves of results."""
    places = {x: i for i, x in enumerate(graph.inputs)}
    keys = graph.treedef or ("",)
    aliases = []
    for argument, result in donate.items():
        inputs = [places[x.node] for _, x in flatten(arguments[argument])]
        outputs = [i for i, key in enumerate(keys) if not key or key.split("/")[0] == str(result)]
        if [graph.inputs[i].type for i in inputs] != [graph.outputs[i].type for i in outputs]:
            raise ShapeError(
                f"argument {argument} cannot be donated to result {result}: their arrays differ, "
                f"{[graph.inputs[i].type for i in inputs]} and "
                f"{[graph.outputs[i].type for i in outputs]}"
            )
        aliases += list(zip(inputs, outputs, strict=True))
    return Graph(
        graph.name, graph.inputs, graph.outputs, graph.params, tuple(aliases), graph.treedef
    )
