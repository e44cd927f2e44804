"""Loads and stores: one element, consecutive ones, or elements anywhere; all lanes or some."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from planish.ir import types as t
from planish.ir.types import DType
from planish.runtime.codegen.text import Writer, llvm_type, mangled, memory_type, vector_type
from planish.runtime.codegen.value import Linear, Operand, Registers, Value


@dataclass(frozen=True, slots=True)
class Place:
    """Where a buffer is: its first element, and the elements between steps of each axis."""

    base: str
    dtype: DType
    strides: tuple[Linear, ...]


class Memory:
    """Emits memory operations."""

    def __init__(self, writer: Writer, registers: Registers) -> None:
        self.writer = writer
        self.registers = registers

    def offset(self, place: Place, index: tuple[Operand, ...], lanes: int) -> Operand:
        """The element number of an index: linear where it can be, else a vector."""
        r = self.registers
        total = Linear()
        rest: Value | None = None  # the sum of what is not linear
        for i, stride in zip(index, place.strides, strict=True):
            linear = r.linear(i)
            part = None if linear is None else r.mul(linear, stride)
            if part is not None:
                total = r.add(total, part)
                continue
            a, b = r.value(i, lanes), r.value(stride, lanes)
            product = Value(self.writer.op(f"mul {a.typed}, {b.ref}"), t.i64, lanes)
            rest = product if rest is None else self._add(rest, product)
        if rest is None:
            return total
        return rest if total == Linear() else self._add(rest, r.value(total, lanes))

    def _add(self, a: Value, b: Value) -> Value:
        return Value(self.writer.op(f"add {a.typed}, {b.ref}"), t.i64, a.lanes)

    def load(self, place: Place, at: Operand, lanes: int, mask: str | None) -> Value:
        """The elements at `at`: one where it is uniform, else one for each of `lanes`."""
        element = memory_type(place.dtype)
        if isinstance(at, Linear) and not at.step:
            ref = self.writer.op(f"load {element}, {self._pointer(place, at)}")
            return self._from_memory(ref, place.dtype, 0)
        kind = vector_type(element, lanes)
        if isinstance(at, Linear) and at.step == 1:
            pointer = self._pointer(place, at.uniform)
            if mask is None:
                ref = self.writer.op(f"load {kind}, {pointer}")
            else:
                ref = self._masked_load("load", kind, pointer, mask)
        else:
            ref = self._masked_load("gather", kind, self._pointers(place, at, lanes), mask)
        return self._from_memory(ref, place.dtype, lanes)

    def store(self, place: Place, at: Operand, x: Value, mask: str | None) -> None:
        """Write one element, or one for each lane."""
        element, lanes = memory_type(place.dtype), x.lanes
        ref = self._to_memory(x)
        if not lanes:
            self.writer.do(f"store {element} {ref}, {self._pointer(place, at)}")
            return
        kind = vector_type(element, lanes)
        if isinstance(at, Linear) and at.step == 1:
            pointer = self._pointer(place, at.uniform)
            if mask is None:
                self.writer.do(f"store {kind} {ref}, {pointer}")
            elif mask.count("i1 true") == 1 and mask.startswith("<i1 true"):
                # as `Kernel._unknown` says, LLVM may do this wrongly
                first = self.writer.op(f"extractelement {kind} {ref}, i64 0")
                self.writer.do(f"store {element} {first}, {pointer}")
            else:
                self._masked_store("store", kind, ref, pointer, mask)
        else:
            self._masked_store("scatter", kind, ref, self._pointers(place, at, lanes), mask)

    def fetch(self, place: Place, at: Operand) -> None:
        """Ask for the line of an element, of the first lane's, into the L2 cache."""
        if isinstance(at, Linear):
            address = self.address(place, at.uniform)
            given = ("ptr", address), ("i32", "0"), ("i32", "3"), ("i32", "1")
            self.writer.call("llvm.prefetch.p0", "void", *given)

    # addresses

    def _pointer(self, place: Place, at: Operand) -> str:
        """The address of one element, as the operand of a load or a store, with its alignment."""
        return f"ptr {self.address(place, at)}, align {place.dtype.itemsize}"

    def address(self, place: Place, at: Operand) -> str:
        """The address of one element: terms of outer loops first, the constant last."""
        r = self.registers
        if isinstance(at, Value):
            at = r.atom(at.ref)
        pointer, element = place.base, memory_type(place.dtype)
        for _, terms in groupby(at.terms, lambda term: r.made(term[0])):
            pointer = self._step(pointer, element, Linear(0, tuple(terms)))
        return self._step(pointer, element, Linear(at.const)) if at.const else pointer

    def _step(self, pointer: str, element: str, by: Linear) -> str:
        amount = self.registers.scalar(by)
        text = f"getelementptr {element}, ptr {pointer}, i64 {amount}"
        return self.registers.make((element, pointer, amount), text, pointer, amount)

    def _pointers(self, place: Place, at: Operand, lanes: int) -> str:
        """Addresses for each lane, as the operand of a gather or a scatter."""
        element = memory_type(place.dtype)
        if isinstance(at, Linear):
            base = self.address(place, at.uniform)
            lane = ", ".join(f"i64 {at.step * i}" for i in range(lanes))
            index = f"<{lane}>"
        else:
            base, index = place.base, at.ref
        text = f"getelementptr {element}, ptr {base}, {vector_type('i64', lanes)} {index}"
        where = self.writer.op(text)
        return f"{vector_type('ptr', lanes)} {where}, align {place.dtype.itemsize}"

    # some lanes only; no mask means all of them

    def _masked_load(self, what: str, kind: str, pointer: str, mask: str | None) -> str:
        name = f"llvm.masked.{what}.{mangled(kind)}.{_pointer_suffix(pointer)}"
        pairs = (_split(pointer), _mask(kind, mask), (kind, "zeroinitializer"))
        return self.writer.call(name, kind, *pairs)

    def _masked_store(self, what: str, kind: str, ref: str, pointer: str, mask: str | None) -> None:
        name = f"llvm.masked.{what}.{mangled(kind)}.{_pointer_suffix(pointer)}"
        self.writer.call(name, "void", (kind, ref), _split(pointer), _mask(kind, mask))

    # bool is a byte in memory and a bit in a register, i4 a byte whose upper half is 0 in memory
    # and the sign in a register; f16 moves as its bits

    def _from_memory(self, ref: str, dtype: DType, lanes: int) -> Value:
        kind = vector_type(memory_type(dtype), lanes)
        if dtype == t.boolean:
            zero = "zeroinitializer" if lanes else "0"
            ref = self.writer.op(f"icmp ne {kind} {ref}, {zero}")
        elif dtype == t.f16:
            ref = self.writer.op(f"bitcast {kind} {ref} to {llvm_type(dtype, lanes)}")
        elif dtype == t.i4:
            four = "splat (i8 4)" if lanes else "4"
            ref = self.writer.op(f"shl {kind} {ref}, {four}")
            ref = self.writer.op(f"ashr {kind} {ref}, {four}")
        return Value(ref, dtype, lanes)

    def _to_memory(self, x: Value) -> str:
        kind = vector_type(memory_type(x.dtype), x.lanes)
        if x.dtype == t.boolean:
            return self.writer.op(f"zext {x.typed} to {kind}")
        if x.dtype == t.f16:
            return self.writer.op(f"bitcast {x.typed} to {kind}")
        if x.dtype == t.i4:
            low = "splat (i8 15)" if x.lanes else "15"
            return self.writer.op(f"and {x.typed}, {low}")
        return x.ref


def _split(pointer: str) -> tuple[str, str]:
    """ "ptr %p, align 4" as the type (with its alignment) and the value of an argument."""
    operand, align = pointer.split(", ")
    kind, ref = operand.rsplit(" ", 1)
    return f"{kind} {align}", ref


def _pointer_suffix(pointer: str) -> str:
    return mangled(pointer.rsplit(" ", 3)[0])


def _mask(kind: str, mask: str | None) -> tuple[str, str]:
    lanes = int(kind[1 : kind.index(" ")])
    return vector_type("i1", lanes), mask if mask is not None else "splat (i1 true)"
