"""Reductions over the lanes of a vector loop: partial results in registers, met after the loop."""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir import types as t
from planish.ir.loop_scalars import integer_range
from planish.ir.loops import Accumulate, For, Load, Scalar, Store, walk
from planish.ir.types import DType
from planish.runtime.codegen.expression import Expressions
from planish.runtime.codegen.memory import Place
from planish.runtime.codegen.value import Linear, Value


def identity(op: str, dtype: DType) -> bool | int | float:
    """What changes nothing under `op`; minus zero for a float sum, where +0 would change -0."""
    if dtype.is_float:
        return {"add": -0.0, "mul": 1.0, "max": float("-inf"), "min": float("inf")}[op]
    if dtype == t.boolean:
        return op in ("mul", "min", "and")
    low, high = integer_range(dtype)
    return {"add": 0, "mul": 1, "max": low, "min": high, "and": -1, "or": 0}[op]


# Floats without a sign are in the order of their bits, NaN above all: one instruction compares
# integers, while the larger of two floats takes three where NaN must stay.
ORDERED = {t.f32: t.i32, t.f64: t.i64}


@dataclass(frozen=True, slots=True)
class _Partial:
    memory: str
    place: Place
    at: Linear
    op: str
    dtype: DType


class Partials:
    """The partial results of one vector loop.

    An element that the loop only accumulates into, always by the same operation and at an index
    from outside the loop, gets one partial result for each lane; `close` adds them to it.
    """

    def __init__(self, code: Expressions, loop: For) -> None:
        self.code = code
        self.lanes = code.lanes
        self.level = code.registers.level
        self.before = code.writer.earlier()
        self.found: dict[tuple[str, Linear], _Partial] = {}
        touched: dict[str, set[str]] = {}
        for x in walk(loop.body):
            if isinstance(x, (Load, Store, Accumulate)):
                how = x.op if isinstance(x, Accumulate) else "otherwise"
                touched.setdefault(x.buffer.name, set()).add(how)
        self.buffers = {b for b, how in touched.items() if len(how) == 1 and "otherwise" not in how}

    def take(self, stmt: Accumulate, place: Place, at: Linear, value: Value) -> bool:
        """Accumulate into a partial result; False where the element cannot have one."""
        code = self.code
        if at.step or stmt.buffer.name not in self.buffers:
            return False
        if code.registers.level_of(at) > self.level:
            return False
        key = (stmt.buffer.name, at)
        if key not in self.found:
            self.found[key] = self._open(stmt, place, at, value)
        memory, dtype = self.found[key].memory, self.found[key].dtype
        value = code.scalars.bits(value, dtype) if dtype != value.dtype else value
        old = Value(code.writer.op(f"load {value.type}, ptr {memory}, align 64"), *_like(value))
        total = code.chosen(code.scalars.emit(stmt.op, [old, value], value.dtype), old)
        code.writer.do(f"store {total.typed}, ptr {memory}, align 64")
        return True

    def _open(self, stmt: Accumulate, place: Place, at: Linear, value: Value) -> _Partial:
        memory = self.code.writer.alloca(f"{value.type}, align 64")
        start = self.code.scalars.const(identity(stmt.op, value.dtype), value)
        self.before.append(f"  store {start.typed}, ptr {memory}, align 64")
        dtype = value.dtype
        match stmt:
            case Accumulate(op="max", value=Scalar("abs")):
                dtype = ORDERED.get(dtype, dtype)
        return _Partial(memory, place, at, stmt.op, dtype)

    def close(self) -> None:
        """After the loop: combine the lanes, and each result with its element."""
        code = self.code
        for p in self.found.values():
            lanes = Value("", p.dtype, self.lanes)
            ref = code.writer.op(f"load {lanes.type}, ptr {p.memory}, align 64")
            total = code.across(p.op, Value(ref, *_like(lanes)))
            total = code.scalars.bits(total, p.place.dtype) if p.dtype != p.place.dtype else total
            old = code.memory.load(p.place, p.at, 0, None)
            code.memory.store(p.place, p.at, code.scalars.emit(p.op, [old, total], old.dtype), None)


def _like(x: Value) -> tuple[DType, int]:
    return x.dtype, x.lanes
