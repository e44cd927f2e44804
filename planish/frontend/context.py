"""The running trace: which one it is, where the user's code is, and the arrays it closed over.

A `Trace` lives while a function is being traced; every Tensor holds the trace that made it, so a
tensor that leaks out of its trace is recognised. The only state is a context variable with the
innermost running trace; it is reset however the traced function ends.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from planish.ir import types as t
from planish.ir.errors import DTypeError, PlanishError
from planish.ir.node import OPS, Loc, Node
from planish.ir.types import TensorType

_CURRENT: ContextVar[Trace | None] = ContextVar("planish_trace", default=None)

PACKAGE = str(Path(__file__).resolve().parent.parent)
MODELS = str(Path(__file__).resolve().parent / "models")  # ours, yet read as the user's model
NUMPY = str(Path(np.__file__).resolve().parent)


class Trace:
    """One tracing of one function. `parent` is the trace that it runs inside, for `grad`."""

    def __init__(self, name: str, parent: Trace | None = None):
        self.name = name
        self.parent = parent
        self.closure: Closure = parent.closure if parent else Closure()
        self.scopes: list[str] = list(parent.scopes) if parent else []

    def __repr__(self) -> str:
        return f"the trace of {self.name!r}"

    def sees(self, other: Trace) -> bool:
        """Whether values of `other` may be used here: it is this trace, or this runs inside it."""
        here: Trace | None = self
        while here is not None and here is not other:
            here = here.parent
        return here is other

    @property
    def scope(self) -> str:
        """The path of the module that is running, such as h.3.mlp."""
        return self.scopes[-1] if self.scopes else ""

    @contextmanager
    def running(self) -> Iterator[Trace]:
        """Make this the current trace for a while."""
        token = _CURRENT.set(self)
        try:
            yield self
        except PlanishError as error:
            _name_line(error)
            raise
        finally:
            _CURRENT.reset(token)

    def inside(self, scope: str, run: Callable[[], Any]) -> Any:
        """Run a module: nodes made meanwhile carry its path."""
        self.scopes.append(scope)
        try:
            return run()
        finally:
            self.scopes.pop()


def current() -> Trace | None:
    """The innermost running trace of this thread, or None."""
    return _CURRENT.get()


def here(scope: str = "") -> Loc:
    """The line that runs now of the user's model: the first frame that is not planish or NumPy."""
    frame = sys._getframe(1)
    while _is_machinery((code := frame.f_code).co_filename) and (back := frame.f_back):
        frame = back
    return Loc(code.co_filename, frame.f_lineno, code.co_name, scope)


@lru_cache(1 << 10)
def _is_machinery(file: str) -> bool:
    if file.startswith(PACKAGE):
        return not file.startswith(MODELS)
    return file.startswith((NUMPY, "<frozen ")) or file.endswith(("contextlib.py", "functools.py"))


def _name_line(error: PlanishError) -> None:
    """Add the user's line that led to an error to its message, once."""
    if not error.args or getattr(error, "line_is_named", False):
        return
    places = [
        Loc(frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _is_machinery(frame.f_code.co_filename)
    ]
    loc = places[-1] if places else here()
    source = linecache.getline(loc.file, loc.line).strip()
    place = f"{loc}, in {loc.function}" + (f": {source}" if source else "")
    error.args = (f"{error.args[0]}\n  {place}", *error.args[1:])
    error.line_is_named = True  # type: ignore[attr-defined]


class Closure:
    """Arrays that a trace reads without taking them as arguments: weights and constants.

    Weights (`nn.Parameter`) are shared with the graph; plain arrays are copied, so that what
    happens to them after the trace changes nothing.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.names: dict[int, str] = {}  # id of a Parameter -> its name in the traced model
        self._weights: dict[int, tuple[Any, Node]] = {}
        self._constants: dict[int, tuple[np.ndarray, Node]] = {}

    def weight(self, parameter: Any) -> Node:
        """The node that reads an `nn.Parameter`."""
        known = self._weights.get(id(parameter))
        if known is None:
            name = self.names.get(id(parameter)) or parameter.name or "weight"
            known = (parameter, self._enter(name, parameter.array))
            self._weights[id(parameter)] = known
        return known[1]

    def constant(self, array: np.ndarray) -> Node:
        """The node that reads a copy of an array of trace time; a scalar becomes a literal."""
        dtype = t.dtype(array.dtype)
        if array.ndim == 0:
            return OPS["const"](value=array.astype(dtype.numpy).item(), dtype=dtype)
        known = self._constants.get(id(array))
        if known is not None and _same(known[0], array, self.arrays[known[1].attrs["name"]]):
            return known[1]
        copy = np.array(array, dtype=dtype.numpy, order="C")
        copy.flags.writeable = False
        node = self._enter("const", copy)
        self._constants[id(array)] = (array, node)
        return node

    def _enter(self, name: str, array: np.ndarray) -> Node:
        unique, count = name, 0
        while unique in self.arrays:
            count += 1
            unique = f"{name}.{count}"
        self.arrays[unique] = array
        return OPS["param"](name=unique, type=TensorType(t.dtype(array.dtype), array.shape))


def _same(known: np.ndarray, array: np.ndarray, copy: np.ndarray) -> bool:
    """Whether this is the array that was copied, and still what it was then."""
    if known is not array:
        return False
    equal_nan = array.dtype.kind == "f"
    return bool(np.array_equal(array, copy, equal_nan=equal_nan))


def as_array(x: Any) -> np.ndarray:
    """Anything that holds numbers, as an array; Python floats become f32."""
    if hasattr(x, "__array__") and not isinstance(x, float):  # np.float64 is a float
        found = _from_foreign(x)
    elif isinstance(x, (bool, int, float, list, tuple)):
        found = _from_python(x)
    else:
        raise DTypeError(
            f"arrays, tensors or Python numbers are wanted here, got {type(x).__name__}: {x!r:.60}"
        )
    t.dtype(found.dtype)  # refuses strings, objects, complex, dates by name
    return found


def _from_foreign(x: Any) -> np.ndarray:
    try:
        return np.asarray(x)
    except PlanishError:
        raise
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise DTypeError(f"{type(x).__name__} is no array in main memory: {error}") from error


def _from_python(x: Any) -> np.ndarray:
    try:
        found = np.asarray(x)
    except OverflowError as error:
        raise DTypeError(f"{x!r:.60} fits no supported dtype") from error
    except ValueError as error:
        raise DTypeError(f"a nested list must have rows of one length: {error}") from error
    return found.astype(np.float32) if found.dtype == np.float64 else found
