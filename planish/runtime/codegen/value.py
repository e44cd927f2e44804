"""What an expression is while code is made.

    Value   a register: one scalar, or `lanes` of them
    Linear  an i64 scalar or vector that is not in a register yet:
            const + sum of coefficient * register + step * lane

Index arithmetic stays linear as long as it can. What a vector loop touches is then plain to see
(step 1: consecutive elements, step 0: one element), comparisons with the loop variable become
one comparison of lane numbers, and addresses are summed outermost loop first, each part outside
of the loops that do not change it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, Union

from planish.ir import types as t
from planish.ir.types import DType
from planish.runtime.codegen.text import Writer, literal, llvm_type, splat_literal

Terms: TypeAlias = tuple[
    tuple[str, int], ...
]  # (scalar i64 register, coefficient), outermost first


class Value(NamedTuple):
    """A register or a literal; `lanes` is 0 for a scalar."""

    ref: str
    dtype: DType
    lanes: int = 0

    @property
    def type(self) -> str:
        """Its LLVM type."""
        return llvm_type(self.dtype, self.lanes)

    @property
    def typed(self) -> str:
        """Its LLVM type and name, as operands are written."""
        return f"{llvm_type(self.dtype, self.lanes)} {self.ref}"


class Linear(NamedTuple):
    """const + terms + step * lane; varies over `lanes` lanes where `step` is not 0."""

    const: int = 0
    terms: Terms = ()
    step: int = 0
    lanes: int = 0
    dtype: DType = t.i64

    @property
    def constant(self) -> int | None:
        """Its value where it is a number, else None."""
        return None if self.terms or self.step else self.const

    def is_multiple(self, of: int) -> bool:
        """Whether `of` divides it, whatever the registers hold."""
        return not self.step and all(n % of == 0 for n in (self.const, *dict(self.terms).values()))

    @property
    def uniform(self) -> Linear:
        """The part that is the same for all lanes."""
        return Linear(self.const, self.terms) if self.step else self


ZERO = Linear()

Operand: TypeAlias = Union[Value, Linear]


class Registers:
    """Makes registers of linear values, and vectors of scalars, once and as far out as can be."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.depth: dict[str, int] = {}  # register -> number of open blocks where it was made
        self._found: dict[object, str] = {}  # what was made in blocks that are open
        self._keys: list[list[object]] = [[]]  # of that, for each of them
        self._outside: list[list[str]] = []  # for each open block but the first, what precedes it

    @property
    def level(self) -> int:
        """How many blocks are open."""
        return len(self._keys)

    def enter(self) -> None:
        """Begin a block whose registers cannot be used after it. Call before branching to it."""
        self._keys.append([])
        self._outside.append(self.writer.earlier())

    def leave(self) -> None:
        """End the innermost block."""
        for key in self._keys.pop():
            del self._found[key]
        self._outside.pop()

    def make(self, key: object, text: str, *operands: str) -> str:
        """A register for `key`, made by `text` as soon as all its operands are there."""
        known = self._found.get(key)
        if known is not None:
            return known
        level = max(map(self.made, operands), default=1)
        if level == self.level:
            ref = self.writer.op(text)
        else:
            ref = self.writer.op_in(self._outside[level - 1], text)
        self._found[key] = ref
        self._keys[level - 1].append(key)
        self.depth[ref] = level
        return ref

    def made(self, ref: str) -> int:
        """The block where a register was made: literals and arguments are there from the start."""
        return self.depth.get(ref, self.level) if ref.startswith("%r") else 1

    def level_of(self, x: Linear) -> int:
        """The block from which on all registers of `x` are there."""
        return max((self.made(ref) for ref, _ in x.terms), default=1)

    # linear arithmetic

    def atom(self, ref: str) -> Linear:
        """A scalar i64 register as a linear value."""
        if ref.startswith("%r"):
            self.depth.setdefault(ref, self.level)
        return Linear(0, ((ref, 1),))

    def linear(self, x: Operand) -> Linear | None:
        """`x` as a linear value; None where it is a vector of no known step."""
        if isinstance(x, Linear):
            return x
        return None if x.lanes else self.atom(x.ref)

    def add(self, a: Linear, b: Linear, sign: int = 1) -> Linear:
        """a + sign * b."""
        if sign == 1 and (a == ZERO or b == ZERO):
            return a if b == ZERO else b
        step = a.step + sign * b.step
        lanes = max(a.lanes, b.lanes) if step else 0
        return Linear(a.const + sign * b.const, self._sum(a.terms, b.terms, sign), step, lanes)

    def scale(self, a: Linear, factor: int) -> Linear:
        """a * factor."""
        if factor in (0, 1):
            return a if factor else ZERO
        terms = tuple([(ref, c * factor) for ref, c in a.terms])
        return Linear(a.const * factor, terms, a.step * factor, a.lanes)

    def mul(self, a: Linear, b: Linear) -> Linear | None:
        """a * b; None where it is not linear in the lane."""
        if b.constant is not None:
            return self.scale(a, b.constant)
        if a.constant is not None:
            return self.scale(b, a.constant)
        if a.step or b.step:
            return None
        if len(a.terms) == 1 and not a.const:
            a, b = b, a
        if len(b.terms) > 1 or b.const:  # sum times sum: no need to multiply out
            return self._product(self.scalar(a), self.scalar(b), 1)
        # A sum times a register (a stride): multiply out, so that outer terms stay apart.
        ((stride, factor),) = b.terms
        total = Linear(0, ((stride, a.const * factor),) if a.const else ())
        for ref, c in a.terms:
            total = self.add(total, self._product(ref, stride, c * factor))
        return total

    def _product(self, x: str, y: str, coefficient: int) -> Linear:
        x, y = sorted((x, y))
        return Linear(0, ((self.make(("mul", x, y), f"mul i64 {x}, {y}", x, y), coefficient),))

    def _sum(self, a: Terms, b: Terms, sign: int) -> Terms:
        if not b or (not a and sign == 1):
            return a or b
        total = dict(a)
        for ref, c in b:
            total[ref] = total.get(ref, 0) + sign * c
        kept = [(ref, c) for ref, c in total.items() if c]
        return tuple(sorted(kept, key=lambda term: self.made(term[0])))

    # registers

    def scalar(self, x: Linear) -> str:
        """A register or literal with the uniform part of `x`."""
        if not x.terms:
            return str(x.const)
        if len(x.terms) == 1 and x.terms[0][1] == 1 and not x.const:
            return x.terms[0][0]
        total = ""
        for ref, c in x.terms:
            part = ref if c == 1 else self.make(("mul", ref, c), f"mul i64 {ref}, {c}", ref)
            total = self._plus(total, part) if total else part
        return self._plus(total, str(x.const)) if x.const else total

    def _plus(self, a: str, b: str) -> str:
        return self.make(("add", a, b), f"add i64 {a}, {b}", a, b)

    def value(self, x: Operand, lanes: int = 0) -> Value:
        """`x` in a register, spread over `lanes` where it is a scalar and `lanes` is not 0."""
        if isinstance(x, Linear):
            if x.step:
                return self._ramp(x)
            x = Value(self.scalar(x), t.i64)
        return self.splat(x, lanes) if lanes and not x.lanes else x

    def _ramp(self, x: Linear) -> Value:
        lanes = ", ".join(f"i64 {x.step * i}" for i in range(x.lanes))
        base = self.splat(Value(self.scalar(x.uniform), t.i64), x.lanes)
        ref = self.make(("ramp", x), f"add {base.typed}, <{lanes}>", base.ref)
        return Value(ref, t.i64, x.lanes)

    def splat(self, x: Value, lanes: int) -> Value:
        """A scalar in every lane."""
        if not x.ref.startswith("%"):
            return Value(splat_literal(x.ref, llvm_type(x.dtype), lanes), x.dtype, lanes)
        kind = llvm_type(x.dtype, lanes)
        text = f"insertelement {kind} poison, {x.typed}, i64 0"
        one = self.make(("one", x.ref, lanes), text, x.ref)
        text = f"shufflevector {kind} {one}, {kind} poison, <{lanes} x i32> zeroinitializer"
        return Value(self.make(("splat", x.ref, lanes), text, one), x.dtype, lanes)

    def constant(self, value: bool | int | float, dtype: DType) -> Operand:
        """A literal."""
        if dtype == t.i64:
            return Linear(int(value))
        return Value(literal(value, dtype), dtype)
