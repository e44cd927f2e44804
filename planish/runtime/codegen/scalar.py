"""The scalar operations of loop IR as LLVM instructions, on one value or on every lane.

Rounding is IEEE's; the one liberty is `contract` (a * b + c may round once). NaN and infinity
mean what they mean: no `nnan`, no `ninf`. Integer division never traps: x // 0 is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.loop_scalars import integer_range
from planish.ir.types import DType
from planish.runtime.codegen.dots import (
    dot_bytes,
    dot_flipped,
    dot_halves,
    dot_into_halves,
    dot_pairs,
)
from planish.runtime.codegen.text import (
    Writer,
    literal,
    literal_int,
    llvm_type,
    mangled,
    splat_literal,
    vector_type,
)
from planish.runtime.codegen.value import Value
from planish.runtime.target import Target

_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTEGER = {"add", "sub", "mul", "and", "or", "xor"}
_ROUNDING = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "roundeven"}
_ORDERED = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_NARROW = (t.f16, t.bf16)
_AS_BITS = ("select", "cast", "bitcast")  # need no arithmetic on narrow floats


class Scalars:
    """Emits scalar operations; operands have equal lanes."""

    def __init__(self, writer: Writer, target: Target) -> None:
        self.writer = writer
        self.target = target

    def emit(self, op: str, args: Sequence[Value], dtype: DType) -> Value:
        """The result of `op`, of element type `dtype`."""
        if op not in _AS_BITS and any(x.dtype in _NARROW for x in args):
            wide = [self.cast(x, t.f32) if x.dtype in _NARROW else x for x in args]
            result = self.emit(op, wide, t.f32 if dtype in _NARROW else dtype)
            return self.cast(result, dtype)
        if op in _ORDERED:
            return self._compare(op, *args)
        special = _SPECIAL.get(op)
        if special is not None:
            return special(self, *args)
        if op == "cast":
            return self.cast(args[0], dtype)
        if op == "bitcast":
            return self.bits(args[0], dtype)
        family = self._float if args[0].dtype.is_float else self._integer
        return family(op, args)

    # helpers

    def _new(
        self, text: str, like: Value, dtype: DType | None = None, suffix: bool = False
    ) -> Value:
        dtype = like.dtype if dtype is None else dtype
        if suffix:
            text = f"{text} {llvm_type(dtype, like.lanes)}"
        return Value(self.writer.op(text), dtype, like.lanes)

    def const(self, value: bool | int | float, like: Value, dtype: DType | None = None) -> Value:
        """A literal with the lanes (and, unless given, the dtype) of `like`."""
        dtype = like.dtype if dtype is None else dtype
        text = splat_literal(literal(value, dtype), llvm_type(dtype), like.lanes)
        return Value(text, dtype, like.lanes)

    def binary(self, opcode: str, a: Value, b: Value) -> Value:
        """A two-operand instruction."""
        return self._new(f"{opcode} {a.typed}, {b.ref}", a)

    def compare(self, opcode: str, a: Value, b: Value) -> Value:
        """A comparison, such as "icmp slt"."""
        return self._new(f"{opcode} {a.typed}, {b.ref}", a, t.boolean)

    def select(self, cond: Value, yes: Value, no: Value) -> Value:
        """`yes` where `cond` holds, else `no`."""
        return self._new(f"select {cond.typed}, {yes.typed}, {no.typed}", yes)

    def intrinsic(self, name: str, *args: Value, flags: str = "") -> Value:
        """Call an intrinsic whose result has the type of its operands."""
        kind = args[0].type
        pairs = [(x.type, x.ref) for x in args]
        full = f"llvm.{name}.{mangled(kind)}"
        ref = self.writer.call(full, kind, *pairs, flags=flags)
        return Value(ref, args[0].dtype, args[0].lanes)

    # families

    def _float(self, op: str, args: Sequence[Value]) -> Value:
        if op in _FLOAT:
            return self.binary(f"{_FLOAT[op]} contract", *args)
        if op in _ROUNDING:
            return self.intrinsic(_ROUNDING[op], *args)
        if op in ("min", "max"):
            # The sign of a zero does not matter to np.maximum, and costs instructions.
            return self.intrinsic(f"{op}imum", *args, flags="nsz ")
        if op == "fma":
            return self.intrinsic("fma" if self.target.has_fma else "fmuladd", *args)
        if op in ("floor_div", "mod"):
            return self._float_division(op, *args)
        match op:
            case "neg":
                return self._new(f"fneg {args[0].typed}", args[0])
            case "abs":
                return self.intrinsic("fabs", *args)
            case "sqrt":
                return self.intrinsic("sqrt", *args)
        raise IRError(f"no code for {op} on {args[0].dtype}")

    def _integer(self, op: str, args: Sequence[Value]) -> Value:
        x = args[0]
        signed = x.dtype.kind == "i"
        if op in _INTEGER:
            return self._wrapped(self.binary(op, *args))
        if op in _ROUNDING:
            return x
        if op in ("min", "max"):
            if x.dtype == t.boolean:
                return self.binary("and" if op == "min" else "or", *args)
            return self.intrinsic(f"{'s' if signed else 'u'}{op}", *args)
        match op:
            case "fma":
                return self._wrapped(self.binary("add", self.binary("mul", x, args[1]), args[2]))
            case "floor_div" | "mod" | "div":
                return self._wrapped(self._division(op, *args))
            case "neg":
                return self._wrapped(self._new(f"sub {x.type} {self.const(0, x).ref}, {x.ref}", x))
            case "abs":
                if not signed:
                    return x
                return self._wrapped(self.select(self._negative(x), self._integer("neg", [x]), x))
        raise IRError(f"no code for {op} on {x.dtype}")

    def _wrapped(self, x: Value) -> Value:
        """i4 lives in a byte: wrap it back into four bits."""
        if x.dtype != t.i4:
            return x
        four = self.const(4, x)
        return self.binary("ashr", self.binary("shl", x, four), four)

    def _negative(self, x: Value) -> Value:
        return self.compare("icmp slt", x, self.const(0, x))

    def _compare(self, op: str, a: Value, b: Value) -> Value:
        if a.dtype.is_float:
            return self.compare(f"fcmp {_ORDERED[op]}", a, b)
        if op in ("eq", "ne"):
            return self.compare(f"icmp {op}", a, b)
        return self.compare(f"icmp {'s' if a.dtype.kind == 'i' else 'u'}{op}", a, b)

    def _not(self, x: Value) -> Value:
        return self.binary("xor", x, self.const(True if x.dtype == t.boolean else -1, x))

    def _sign(self, x: Value) -> Value:
        """-1, 0 or 1; NaN for NaN."""
        zero, one = self.const(0, x), self.const(1, x)
        if x.dtype.kind in "ub":
            return self.select(self.compare("icmp ne", x, zero), one, zero)
        less = self.select(self._compare("lt", x, zero), self.const(-1, x), zero)
        sign = self.select(self._compare("gt", x, zero), one, less)
        return self.select(self.compare("fcmp uno", x, x), x, sign) if x.dtype.is_float else sign

    def _shift(self, op: str, x: Value, by: Value) -> Value:
        """Shifts by the width or more give 0 (or the sign) as in NumPy; in LLVM, poison."""
        right_signed = op == "shr" and x.dtype.kind == "i"
        opcode = "shl" if op == "shl" else "ashr" if right_signed else "lshr"
        width = x.dtype.bits
        amount = literal_int(by.ref)
        if amount is not None and 0 <= amount < width:
            return self._wrapped(self.binary(opcode, x, by))
        inside = self.compare("icmp ult", by, self.const(width, by))
        least = self.const(width - 1 if right_signed else 0, by)
        shifted = self.binary(opcode, x, self.select(inside, by, least))
        if right_signed:
            return shifted
        return self._wrapped(self.select(inside, shifted, self.const(0, x)))

    def bits(self, x: Value, dtype: DType) -> Value:
        """The bits of `x` as another dtype."""
        return self._new(f"bitcast {x.typed} to", x, dtype, suffix=True)

    def part(self, x: Value, start: int, count: int) -> Value:
        """`count` lanes of `x` from `start` on."""
        if count == x.lanes:
            return x
        text = f"shufflevector {x.typed}, {x.type} poison, {_numbers(start, count)}"
        return Value(self.writer.op(text), x.dtype, count)

    def _high_product(self, a: Value, b: Value) -> Value:
        wide = vector_type(f"i{2 * a.dtype.bits}", a.lanes)
        x, y = (self.writer.op(f"zext {v.typed} to {wide}") for v in (a, b))
        product = self.writer.op(f"mul {wide} {x}, {y}")
        by = splat_literal(str(a.dtype.bits), f"i{2 * a.dtype.bits}", a.lanes)
        high = self.writer.op(f"lshr {wide} {product}, {by}")
        return self._new(f"trunc {wide} {high} to", a, suffix=True)

    # division

    def _division(self, op: str, x: Value, by: Value) -> Value:
        """floor_div, mod (rounding down) and div (truncating); x / 0 is 0, MIN / -1 is MIN."""
        signed = x.dtype.kind == "i"
        known = literal_int(by.ref)
        zero, one = self.const(0, x), self.const(1, x)
        bad = None
        if known in (None, 0, -1):
            bad = self.compare("icmp eq", by, zero)
            least = self.const(-(1 << (max(x.dtype.bits, 8) - 1)), x)
            unsafe = bad
            if signed:
                minus = self.compare("icmp eq", by, self.const(-1, x))
                overflow = self.binary("and", minus, self.compare("icmp eq", x, least))
                unsafe = self.binary("or", bad, overflow)
            by = self.select(unsafe, one, by)
        result = self._safe_division(op, x, by, signed)
        return result if bad is None else self.select(bad, zero, result)

    def _safe_division(self, op: str, x: Value, by: Value, signed: bool) -> Value:
        kind = "s" if signed else "u"
        if op == "div" or (op == "floor_div" and not signed):
            return self.binary(f"{kind}div", x, by)
        rest = self.binary(f"{kind}rem", x, by)
        if not signed:
            return rest
        # C's remainder has the sign of x, ours that of the divisor.
        nonzero = self.compare("icmp ne", rest, self.const(0, x))
        apart = self._negative(self.binary("xor", rest, by))
        wrong = self.binary("and", nonzero, apart)
        if op == "mod":
            return self.select(wrong, self.binary("add", rest, by), rest)
        down = self._new(f"sext {wrong.typed} to", x, suffix=True)
        return self.binary("add", self.binary("sdiv", x, by), down)

    def _float_division(self, op: str, x: Value, by: Value) -> Value:
        """NumPy's: floor(x / y), and x - floor(x / y) * y, with one correction for rounding.

        f32 works in f64, where the product is exact for quotients below 2^29.
        """
        if x.dtype == t.f32:
            wide = self._float_division(op, self.cast(x, t.f64), self.cast(by, t.f64))
            return self.cast(wide, t.f32)
        one, zero = self.const(1, x), self.const(0, x)
        quotient = self.intrinsic("floor", self.binary("fdiv", x, by))
        rest = self.intrinsic("fma", self._new(f"fneg {quotient.typed}", x), by, x)
        # 0 * inf is NaN, but what is left of x when nothing is taken away is x.
        rest = self.select(self.compare("fcmp oeq", quotient, zero), x, rest)
        # The quotient may have been rounded up to the next integer: the rest has the wrong sign.
        product = self.binary("fmul", rest, by)
        high = self.compare("fcmp olt", product, zero)
        if op == "floor_div":
            return self.select(high, self.binary("fsub", quotient, one), quotient)
        fixed = self.select(high, self.binary("fadd", rest, by), rest)
        return self.intrinsic_sign(fixed, by)

    def intrinsic_sign(self, x: Value, sign: Value) -> Value:
        """`x`, with the sign of `sign` where it is zero."""
        is_zero = self.compare("fcmp oeq", x, self.const(0, x))
        return self.select(is_zero, self.intrinsic("copysign", x, sign), x)

    # conversion

    def cast(self, x: Value, dtype: DType) -> Value:
        """`x` converted by value; float to int truncates, saturates, and takes NaN to 0."""
        source = x.dtype
        if source == dtype:
            return x
        if source.is_float and dtype.is_float:
            if source in _NARROW and dtype in _NARROW:
                return self.cast(self.cast(x, t.f32), dtype)
            if {source, dtype} & {t.f64} and {source, dtype} & set(_NARROW):
                return self.cast(self.cast(x, t.f32), dtype)  # in one step it were a library call
            if t.bf16 in (source, dtype):
                return self._to_bf16(x) if dtype == t.bf16 else self._from_bf16(x)
            opcode = "fpext" if dtype.bits > source.bits else "fptrunc"
            return self._new(f"{opcode} {x.typed} to", x, dtype, suffix=True)
        if source.is_float:
            return self.to_integer(x, dtype)
        if dtype in _NARROW:
            return self.cast(self.cast(x, t.f32), dtype)  # in one step it were a library call
        if dtype.is_float:
            opcode = "sitofp" if source.kind == "i" else "uitofp"
            return self._new(f"{opcode} {x.typed} to", x, dtype, suffix=True)
        if dtype == t.boolean:
            return self.compare("icmp ne", x, self.const(0, x))
        return self._resize(x, dtype)

    def _resize(self, x: Value, dtype: DType) -> Value:
        before, after = (1 if d == t.boolean else max(d.bits, 8) for d in (x.dtype, dtype))
        if before == after:
            return self._wrapped(Value(x.ref, dtype, x.lanes))
        opcode = "trunc" if after < before else "sext" if x.dtype.kind == "i" else "zext"
        return self._wrapped(self._new(f"{opcode} {x.typed} to", x, dtype, suffix=True))

    def to_integer(self, x: Value, dtype: DType, fits: bool = False) -> Value:
        """A float as an integer, by hand: LLVM's saturating conversion of a vector goes lane by
        lane. `fits`: it is known to be in range, or NaN."""
        if x.dtype in _NARROW:
            x = self.cast(x, t.f32)
        if dtype == t.boolean:
            return self.compare("fcmp une", x, self.const(0, x))
        low, high = integer_range(dtype)
        most = float(high)
        full = None
        if int(most) > high or (x.dtype == t.f32 and high >> 24):  # high itself is no float
            full = self.compare("fcmp oge", x, self.const(most, x))
            most = float(np.nextafter(x.dtype.numpy.type(most), x.dtype.numpy.type(0)))
        inside = x if fits else self._clamp(x, float(low), most)
        through = t.i32 if dtype.bits <= 8 else dtype
        opcode = "fptosi" if through.kind == "i" else "fptoui"
        whole = self._new(f"{opcode} {inside.typed} to", x, through, suffix=True)
        # chosen behind it, so that one instruction does both
        whole = self.select(self.compare("fcmp ord", x, x), whole, self.const(0, whole))
        whole = self._resize(whole, dtype)
        return whole if full is None else self.select(full, self.const(high, whole), whole)

    def _clamp(self, x: Value, low: float, high: float) -> Value:
        least, most = self.const(low, x), self.const(high, x)
        x = self.select(self.compare("fcmp ogt", x, least), x, least)
        return self.select(self.compare("fcmp olt", x, most), x, most)

    def _to_bf16(self, x: Value) -> Value:
        """f32 to bf16, half to even: a library call or one that flushes denormals in LLVM."""
        bits = self._new(f"bitcast {x.typed} to", x, t.i32, suffix=True)
        upper = self.binary("lshr", bits, self.const(16, bits))
        odd = self.binary("and", upper, self.const(1, bits))
        up = self.binary("add", self.binary("add", bits, self.const(0x7FFF, bits)), odd)
        rounded = self.binary("lshr", up, self.const(16, bits))
        quiet = self.binary("or", upper, self.const(0x40, bits))
        chosen = self.select(self.compare("fcmp uno", x, x), quiet, rounded)
        return self._new(f"trunc {chosen.typed} to", x, t.bf16, suffix=True)

    def _from_bf16(self, x: Value) -> Value:
        wide = self._new(f"zext {x.typed} to", x, t.i32, suffix=True)
        bits = self.binary("shl", wide, self.const(16, wide))
        return self._new(f"bitcast {bits.typed} to", x, t.f32, suffix=True)


@cache
def _numbers(start: int, count: int) -> str:
    """The vector of `count` numbers from `start` on."""
    return f"<{count} x i32> <{', '.join(f'i32 {start + i}' for i in range(count))}>"


_SPECIAL: dict[str, Callable[..., Value]] = {
    "select": Scalars.select,
    "not": Scalars._not,
    "sign": Scalars._sign,
    "shl": lambda self, x, by: self._shift("shl", x, by),
    "shr": lambda self, x, by: self._shift("shr", x, by),
    "umulhi": Scalars._high_product,
    "popcount": lambda self, x: self.intrinsic("ctpop", x),
    "dpbf16": dot_pairs,
    "dpbusd": partial(dot_bytes, signed=False),
    "dpbssd": partial(dot_bytes, signed=True),
    "dpflip": dot_flipped,
    "dpwssd": dot_halves,
    "dpbusw": dot_into_halves,
}

# What `Scalars.emit` knows; other scalars have a definition in planish.ir.math.
PRIMITIVE = frozenset(
    {*_FLOAT, *_INTEGER, *_ROUNDING, *_ORDERED, *_SPECIAL, *_AS_BITS}
    | {"floor_div", "mod", "neg", "fma", "min", "max", "abs", "sqrt"}
)
