"""Run a kernel on NumPy arrays, in order, one statement at a time: what a kernel means.

Loops run from 0 upwards, every operation works in its own dtype, and an index outside its buffer
is an error. A vector loop whose iterations cannot see each other's writes runs on all its lanes
at once, because that gives the same result sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from planish.ir.errors import IRError
from planish.ir.loop_lanes import lanes_independent
from planish.ir.loop_scalars import LIBRARY, OPERATIONS, SIGNS, bitcast, cast
from planish.ir.loop_text import expr_text, line_text
from planish.ir.loops import (
    SCALARS,
    Accumulate,
    Const,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
    children,
)
from planish.ir.math import Function, definition

Value = Any  # a NumPy scalar, or an array of lanes
Status = list[tuple[int, int, int]]
_Steps = list[tuple[Callable[..., Value], tuple[int, ...]]]


def run_kernel(
    kernel: Kernel,
    arrays: list[np.ndarray],
    dims: Mapping[str, int],
    status: Status | None = None,
    *,
    definitions: bool = True,
) -> None:
    """Run `kernel` in place on `arrays`, one for each param.

    A failing `guard` appends (site, index, bound) to `status`. Without `definitions`, exp and its
    kin are NumPy's instead of planish's polynomials.
    """
    machine = _Machine({}, {}, status, definitions)
    machine.values.update({name: np.int64(value) for name, value in dims.items()})
    with np.errstate(all="ignore"):
        if len(arrays) != len(kernel.params):
            raise IRError(f"{kernel.name} takes {len(kernel.params)} arrays, got {len(arrays)}")
        for buffer, array in zip(kernel.params, arrays, strict=True):
            shape = tuple(int(machine.value(size)) for size in buffer.shape)
            machine.arrays[buffer.name] = _view(buffer.name, buffer.dtype.numpy, shape, array)
        for buffer in kernel.locals:
            shape = tuple(int(machine.value(size)) for size in buffer.shape)
            machine.arrays[buffer.name] = _unset(buffer.dtype.numpy, shape)
        machine.run(kernel.body)


def run_function(function: Function, *arrays: Value) -> Value:
    """Evaluate a definition on whole arrays, every lane in the function's own dtypes."""
    with np.errstate(all="ignore"):
        return _Machine({}, {}).call(function, *arrays)


def _view(name: str, dtype: np.dtype, shape: tuple[int, ...], array: np.ndarray) -> np.ndarray:
    if array.dtype != dtype or array.size != int(np.prod(shape, dtype=np.int64)):
        raise IRError(f"{name} is {dtype}{list(shape)}, got {array.dtype}{list(array.shape)}")
    if not array.flags.c_contiguous:
        raise IRError(f"{name}: the array is not contiguous")
    return array.reshape(shape)


def _unset(dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Scratch memory; NaN (or an odd integer), so that reading it unwritten shows in the result."""
    if dtype.kind in "iu":
        return np.full(shape, np.iinfo(dtype).max // 3, dtype)
    return np.zeros(shape, dtype) if dtype.kind == "b" else np.full(shape, np.nan).astype(dtype)


@dataclass
class _Machine:
    """Memory and named values of a run; `lanes` is the extent of a loop that runs on lanes."""

    values: dict[str, Value]
    arrays: dict[str, np.ndarray]
    status: Status | None = None
    definitions: bool = True
    lanes: int = 0
    # Keyed by id: expressions are frozen and outlive the run; hashing them would recurse.
    steps: dict[int, _Steps] = field(default_factory=dict)
    safe: dict[int, bool] = field(default_factory=dict)

    def run(self, body: tuple[Stmt, ...]) -> None:
        """Run the statements of a block."""
        for stmt in body:
            match stmt:
                case Let(var, value):
                    self.values[var.name] = self.value(value)
                case Store(buffer, index, value):
                    place = self.index(buffer.name, index, stmt)
                    self.arrays[buffer.name][place] = self.value(value)
                case Accumulate():
                    self.accumulate(stmt)
                case If(cond, inner):
                    if self.value(cond):
                        self.run(inner)
                case For():
                    self.loop(stmt)

    def loop(self, loop: For) -> None:
        """Run a loop on all lanes at once where that is the same, else one by one."""
        extent = int(self.value(loop.extent))
        if extent <= 0:
            return
        if loop.kind == "vector" and not self.lanes and self.independent(loop):
            self.lanes = extent
            self.values[loop.var.name] = np.arange(extent)
            self.run(loop.body)
            self.lanes = 0
            return
        for i in range(extent):
            self.values[loop.var.name] = np.int64(i)
            self.run(loop.body)

    def independent(self, loop: For) -> bool:
        """Whether no iteration of a loop reads or overwrites what another one wrote."""
        if id(loop) not in self.safe:
            self.safe[id(loop)] = lanes_independent(loop, self.arrays)
        return self.safe[id(loop)]

    def accumulate(self, stmt: Accumulate) -> None:
        """buffer[index] = op(buffer[index], value), lane after lane where all meet in one place."""
        place = self.index(stmt.buffer.name, stmt.index, stmt)
        array, value = self.arrays[stmt.buffer.name], self.value(stmt.value)
        combine, old = OPERATIONS[stmt.op], array[place]
        if self.lanes and np.ndim(old) == 0:
            terms = np.append(old, np.broadcast_to(value, self.lanes)).astype(array.dtype)
            array[place] = combine.accumulate(terms)[-1]  # type: ignore[attr-defined]
        else:
            array[place] = combine(old, value)

    def index(self, name: str, index: tuple[Expr, ...], where: Stmt | Expr) -> tuple[Value, ...]:
        """The index as numbers, checked against the buffer."""
        place = tuple(self.value(i) for i in index)
        self.check(name, place, where)
        return place

    def check(self, name: str, place: tuple[Value, ...], where: Stmt | Expr) -> None:
        """Refuse an index outside its buffer."""
        shape = self.arrays[name].shape
        if len(place) != len(shape):
            raise IRError(f"{name} has {len(shape)} axes, got {len(place)} indexes: {_show(where)}")
        for axis, (i, size) in enumerate(zip(place, shape, strict=True)):
            low, high = (i, i) if i.ndim == 0 else (i[i.argmin()], i[i.argmax()])
            if low < 0 or high >= size:
                bad = low if low < 0 else high
                raise IRError(
                    f"index {bad} is outside axis {axis} of {name}, whose size is {size}: "
                    f"{_show(where)}"
                )

    def value(self, expr: Expr) -> Value:
        """The value of an expression: one of its own lanes where a loop runs on lanes."""
        steps = self.steps.get(id(expr))
        if steps is None:
            steps = self.steps[id(expr)] = self.compile(expr)
        done: list[Value] = []
        for operation, places in steps:
            done.append(operation(*[done[i] for i in places]) if places else operation())
        return done[-1]

    def compile(self, root: Expr) -> _Steps:
        """The steps of an expression, operands before operations, shared parts once."""
        steps: _Steps = []
        position: dict[int, int] = {}
        stack: list[tuple[Expr, bool]] = [(root, False)]
        while stack:
            expr, ready = stack.pop()
            if id(expr) in position:
                continue
            if ready:
                position[id(expr)] = len(steps)
                places = tuple(position[id(child)] for child in children(expr))
                steps.append((self.operation(expr), places))
            else:
                stack.append((expr, True))
                stack.extend((child, False) for child in children(expr))
        return steps

    def operation(self, expr: Expr) -> Callable[..., Value]:
        """What an expression does with the values of its operands."""
        match expr:
            case Const(value, dtype):
                constant = np.asarray(value).astype(dtype.numpy)[()]
                return lambda: constant
            case Var(name):
                return partial(self.variable, name)
            case Load(buffer):
                return partial(self.load, buffer.name, expr)
            case Scalar("cast", _, dtype):
                return partial(_swap, cast, dtype)
            case Scalar("bitcast", _, dtype):
                return partial(_swap, bitcast, dtype)
            case Scalar("guard"):
                return self.guard
            case Scalar(op) if op in OPERATIONS:
                return SIGNS.get(op, OPERATIONS[op])
            case Scalar(op, args) if op in SCALARS:
                return self.function(op, args)
        raise IRError(f"cannot evaluate {expr!r}")

    def function(self, op: str, args: tuple[Expr, ...]) -> Callable[..., Value]:
        """A mathematical function: planish's definition, or NumPy's."""
        dtype = args[0].type
        if self.definitions or op not in LIBRARY:
            return partial(_Machine({}, {}).call, definition(op, dtype))
        return lambda *xs: np.asarray(LIBRARY[op](*xs)).astype(dtype.numpy)[()]

    def call(self, function: Function, *arrays: Value) -> Value:
        """The result of a definition; this machine holds nothing else."""
        for param, array in zip(function.params, arrays, strict=True):
            self.values[param.name] = np.asarray(array, dtype=param.dtype.numpy)[()]
        for let in function.lets:
            self.values[let.var.name] = self.value(let.value)
        return self.value(function.result)

    def variable(self, name: str) -> Value:
        """The value of a name."""
        try:
            return self.values[name]
        except KeyError:
            why = "neither a loop, a let nor a dimension binds it"
            raise IRError(f"{name} has no value: {why}") from None

    def load(self, name: str, expr: Expr, *place: Value) -> Value:
        """One element of a buffer, or one for each lane."""
        self.check(name, place, expr)
        return self.arrays[name][place]

    def guard(self, i: Value, n: Value, site: Value) -> Value:
        """i where 0 <= i < n, else 0 and an entry in the status list."""
        good = (i >= 0) & (i < n)
        if self.status is not None and not np.all(good):
            lanes = np.broadcast_arrays(np.atleast_1d(good), i, n, site)
            rows = zip(*(x.tolist() for x in lanes), strict=True)
            self.status += [(s, index, bound) for fine, index, bound, s in rows if not fine]
        return np.where(good, i, np.zeros_like(i))[()]


def _swap(operation: Callable[..., Value], dtype: Any, x: Value) -> Value:
    return operation(x, dtype)


def _show(item: Stmt | Expr) -> str:
    return expr_text(item) if isinstance(item, Expr) else line_text(item)
