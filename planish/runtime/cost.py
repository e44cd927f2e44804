"""What a kernel costs, counted on its loop nest: floating-point operations, and what it touches.

Loops are multiplied out; one whose extent depends on an outer loop (the triangle of causal
attention) is added up over that loop. Extents that are data (the position of a cached decode) are
read from the arguments where they are there to be read.

A function such as exp is one operation, as in most people's counts. A memory access counts once
for an element, however often it is read: what is in a cache is no traffic.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from planish.ir.dims import value
from planish.ir.loops import (
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
from planish.runtime.plan import Step
from planish.runtime.slots import Slot

SAMPLES = 128  # of a loop whose iterations differ: at most so many are looked at
UNKNOWN_EXTENT = 64  # of a loop whose extent is data that nobody has
_GOLDEN = 0.6180339887498949  # steps of this fraction fall evenly, whatever period a loop has

# operations of one scalar; others of floats are 1 where they compute and 0 where they choose
DOTS = {"dpbf16": 4}  # dot products of narrow numbers, which have roofs of their own
BYTE_DOTS = {"dpbusd": 8, "dpbssd": 8, "dpflip": 8, "dpbusw": 8}
_OPERATIONS = {"fma": 2, **DOTS, **BYTE_DOTS, "select": 0, "cast": 0, "bitcast": 0, "guard": 0}

Read = Callable[[str, tuple[int, ...]], int | None]  # an element of a param: its name, the index


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations; those of dot products of bf16 and of bytes among them; how often each param is
    read, and written."""

    flops: int
    dots: int
    byte_dots: int
    reads: Mapping[str, int]
    writes: Mapping[str, int]


def kernel_cost(kernel: Kernel, dims: Mapping[str, int], read: Read | None = None) -> Cost:
    """The cost of a kernel whose dimensions are `dims`; `read` knows elements of its params."""
    found = _Count(dims, read or (lambda _name, _index: None)).block(kernel.body)
    kinds: dict[str, dict[str, int]] = {"read": {}, "write": {}}
    for key, number in found.items():
        if isinstance(key, tuple):
            kinds[key[0]][key[1]] = round(number)
    flops, dots, byte_dots = (round(found[name]) for name in ("flops", "dots", "byte_dots"))
    return Cost(flops, dots, byte_dots, kinds["read"], kinds["write"])


def step_flops(step: Step, cost: Cost, binding: Mapping[str, int]) -> int:
    """Operations of a step. Those of a matrix product are what was asked for, without the edges
    of tiles that are cut off."""
    return cost.flops if step.flops is None else value(step.flops, binding)


def step_bytes(step: Step, cost: Cost, binding: Mapping[str, int]) -> dict[Slot, int]:
    """Bytes of each argument that a step touches: read, plus written."""
    sizes = {s: value(s.type.size, binding) * s.type.dtype.itemsize for s in step.args}
    touched = dict.fromkeys(step.args, 0)
    for accesses in (cost.reads, cost.writes):
        found: Counter[Slot] = Counter()
        for slot, buffer in zip(step.args, step.kernel.params, strict=True):
            found[slot] += accesses.get(buffer.name, 0) * buffer.dtype.itemsize
        for slot, number in found.items():
            touched[slot] += min(number, sizes[slot])
    return touched


class _Varies(Exception):
    """The loop variable `name` is needed, but has no value yet."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Count:
    def __init__(self, dims: Mapping[str, int], read: Read) -> None:
        self.env: dict[str, int | Expr] = dict(dims)
        self.read = read
        self.varied: set[str] = set()  # loops whose iterations differ
        self.own: dict[int, Counter] = {}  # what each statement costs by itself

    def block(self, body: tuple[Stmt, ...]) -> Counter:
        """The cost of statements."""
        total: Counter = Counter()
        for stmt in body:
            match stmt:
                case For():
                    self._add(total, self._loop(stmt), 1.0)
                case If(cond, inner):
                    self._add(total, self._own(stmt), 1.0)
                    if self.number(cond) != 0:  # what nobody knows is taken
                        self._add(total, self.block(inner), 1.0)
                case Let(var, given):
                    self.env[var.name] = given
                    self._add(total, self._own(stmt), 1.0)
                case _:
                    self._add(total, self._own(stmt), 1.0)
        return total

    @staticmethod
    def _add(total: Counter, more: Counter, times: float) -> None:
        for key, number in more.items():
            total[key] += number * times  # type: ignore[assignment]

    def _loop(self, loop: For) -> Counter:
        found = self.number(loop.extent)
        count = UNKNOWN_EXTENT if found is None else max(0, found)
        total: Counter = Counter()
        if count == 0:
            return total
        name = loop.var.name
        if name not in self.varied:
            self.env.pop(name, None)
            try:
                self._add(total, self.block(loop.body), count)
                return total
            except _Varies as error:
                if error.name != name:
                    raise
                self.varied.add(name)
                total.clear()
        for at in _places(count):
            self.env[name] = at
            self._add(total, self.block(loop.body), count / min(count, SAMPLES))
        del self.env[name]
        return total

    def _own(self, stmt: Stmt) -> Counter:
        if id(stmt) not in self.own:
            self.own[id(stmt)] = _statement_cost(stmt)
        return self.own[id(stmt)]

    def number(self, expr: Expr) -> int | None:
        """The value of an integer expression; None where it is data that nobody has."""
        match expr:
            case Const(number):
                return int(number)
            case Var(name):
                if name not in self.env:
                    raise _Varies(name)
                found = self.env[name]
                return found if isinstance(found, int) else self.number(found)
            case Load(buffer, index) if buffer.space == "param":
                at = [self.number(i) for i in index]
                return None if None in at else self.read(buffer.name, tuple(at))  # type: ignore
            case Scalar("guard" | "cast", (x, *_)) if not expr.type.is_float:
                return self.number(x)
            case Scalar("select", (cond, yes, no)):
                chosen = self.number(cond)
                return None if chosen is None else self.number(yes if chosen else no)
            case Scalar(op, (a, b)) if op in _INTEGER:
                one, two = self.number(a), self.number(b)
                return None if one is None or two is None else int(_INTEGER[op](one, two))
        return None


_INTEGER: dict[str, Callable[[int, int], int]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "min": min, "max": max,
    "floor_div": lambda a, b: a // b if b else 0, "mod": lambda a, b: a % b if b else 0,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge, "and": operator.and_, "or": operator.or_,
}  # fmt: skip


def _places(count: int) -> list[int]:
    """The iterations to look at: all, or some that are spread evenly."""
    if count <= SAMPLES:
        return list(range(count))
    return [int(count * (i * _GOLDEN % 1.0)) for i in range(SAMPLES)]


def _statement_cost(stmt: Stmt) -> Counter:
    """Operations and accesses of one statement; an expression that occurs twice is made once."""
    total: Counter = Counter()
    stack: list[Expr] = list(children(stmt))
    seen: set[int] = set()
    if isinstance(stmt, (Store, Accumulate)) and stmt.buffer.space == "param":
        total["write", stmt.buffer.name] += 1
    if isinstance(stmt, Accumulate):
        total["flops"] += int(stmt.buffer.dtype.is_float)
        if stmt.buffer.space == "param":
            total["read", stmt.buffer.name] += 1
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        stack.extend(children(item))
        if isinstance(item, Load) and item.buffer.space == "param":
            total["read", item.buffer.name] += 1
        elif isinstance(item, Scalar):
            total["flops"] += _OPERATIONS.get(item.op, int(item.type.is_float))
            total["dots"] += DOTS.get(item.op, 0)
            total["byte_dots"] += BYTE_DOTS.get(item.op, 0)
    return total
