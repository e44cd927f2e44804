"""Expressions of loop IR as registers: scalars where all lanes agree, vectors where they do not."""

from __future__ import annotations

from collections.abc import Sequence

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.loop_expand import EXPANSIONS, LANES, expansion_parts
from planish.ir.loop_scalars import integer_range
from planish.ir.loops import Const, Expr, For, Load, Scalar, Var, children
from planish.ir.math import definition
from planish.ir.types import DType
from planish.runtime.codegen.expand import expand_load
from planish.runtime.codegen.memory import Memory, Place
from planish.runtime.codegen.scalar import PRIMITIVE, Scalars
from planish.runtime.codegen.text import Writer, vector_type
from planish.runtime.codegen.value import Linear, Operand, Registers, Value
from planish.runtime.expansion import way
from planish.runtime.target import Target

_MIRROR = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def fits(x: Expr, dtype: DType) -> bool:
    """Whether a float is in the range of an integer dtype, or NaN: max(min(x, most), least)."""
    match x:
        case Scalar("max", (Scalar("min", (_, Const(most))), Const(least)), kind) if kind.is_float:
            low, high = integer_range(dtype) if dtype.is_int else (0, -1)
            return low <= least and most <= high  # type: ignore[operator]
    return False


class Expressions:
    """Emits expressions. `lanes` and `mask` are those of the vector loop `owner`, if any."""

    def __init__(self, writer: Writer, target: Target) -> None:
        self.writer = writer
        self.registers = Registers(writer)
        self.scalars = Scalars(writer, target)
        self.memory = Memory(writer, self.registers)
        self.env: dict[str, Operand] = {}
        self.places: dict[str, Place] = {}
        self.lanes = 0
        self.mask: str | None = None
        self.owner: For | None = None
        self._done: dict[int, Operand] = {}  # by identity, within one statement
        self._roots: list[Expr] = []  # kept, so that no identity is given to another expression

    def begin(self) -> None:
        """Begin a statement: what memory held for the last one may be gone."""
        self._done.clear()
        self._roots.clear()

    def operand(self, root: Expr) -> Operand:
        """The value of an expression, shared parts once, without recursion on depth."""
        done = self._done
        self._roots.append(root)
        stack = [root]
        while stack:
            expr = stack.pop()
            if id(expr) in done:
                continue
            if (found := self._whole(expr)) is not None:
                done[id(expr)] = found
                continue
            inside = children(expr)
            missing = [x for x in inside if id(x) not in done]
            if missing:
                stack += (expr, *reversed(missing))
            else:
                done[id(expr)] = self._combine(expr, [done[id(x)] for x in inside])
        return done[id(root)]

    def register(self, x: Operand, lanes: int = 0) -> Value:
        """`x` in a register, spread over `lanes` if it is a scalar."""
        return self.registers.value(x, lanes)

    def index(self, expr: Expr) -> Operand:
        """An index as i64."""
        x = self.operand(expr)
        if isinstance(x, Value) and x.dtype != t.i64:
            x = self.scalars.cast(x, t.i64)
        return x

    def uniform(self, expr: Expr) -> Linear:
        """A size or extent: one number, the same for all lanes."""
        found = self.registers.linear(self.index(expr))
        if found is None or found.step:
            raise IRError("a size depends on the variable of a vector loop")
        return found

    def product(self, a: Linear, b: Linear) -> Linear:
        """The product of two sizes."""
        found = self.registers.mul(a, b)
        if found is None:
            raise IRError("a size depends on the variable of a vector loop")
        return found

    def _whole(self, expr: Expr) -> Operand | None:
        """The value of what has no parts, or needs none of them; None for another expression."""
        if type(expr) is Var:
            return self._named(expr.name)
        if type(expr) is Const:
            return self.registers.constant(expr.value, expr.dtype)
        if type(expr) is Scalar and expr.op in EXPANSIONS:
            return self._expanded(expr)
        return None

    def _combine(self, expr: Expr, args: list[Operand]) -> Operand:
        match expr:
            case Load(buffer):
                place = self.places[buffer.name]
                at = self.memory.offset(place, tuple(args), self.lanes)
                return self.memory.load(place, at, self.lanes, self.mask)
            case Scalar(op, inside, dtype):
                return self._operation(op, inside, args, dtype)
        raise IRError(f"no code for {expr!r}")

    def _operation(
        self, op: str, inside: tuple[Expr, ...], args: list[Operand], dtype: DType
    ) -> Operand:
        if op == "cast" and fits(inside[0], dtype):
            return self.scalars.to_integer(self.register(args[0]), dtype, fits=True)
        loaded = type(inside[0]) is Load and type(inside[-1]) is Const
        if op == "xor" and dtype == t.u32 and self.lanes and loaded:
            # one word for all lanes goes straight to a vector, not through integer registers
            return self._scalar(op, [self.register(args[0], self.lanes), args[1]], dtype)
        if op == "guard":
            return self._guard(args[0], args[1], int(inside[2].value))  # type: ignore[attr-defined]
        return self._scalar(op, args, dtype)

    def _expanded(self, expr: Expr) -> Value | None:
        """A whole vector of a bitmap at once; None for any other expression."""
        if self.lanes != LANES or self.mask is not None:
            return None
        found = expansion_parts(expr)
        if found is None or self.env.get(found.lane.name) != Linear(0, (), 1, LANES):
            return None
        if not way(self.scalars.target, found.values.dtype):
            return None
        mask, start = self.register(self.operand(found.mask)), self.uniform(found.start)
        address = self.memory.address(self.places[found.values.name], start)
        return expand_load(self.scalars, found.values.dtype, address, mask, expr.type)

    def _named(self, name: str) -> Operand:
        if name not in self.env:
            raise IRError(f"{name} has no value: neither a loop, a let nor a dimension binds it")
        return self.env[name]

    def _scalar(self, op: str, args: list[Operand], dtype: DType) -> Operand:
        if args[0 if op != "select" else 1].dtype == t.i64:
            found = self._linear(op, args)
            if found is not None:
                return found
        lanes = max(x.lanes for x in args)
        if op == "div" and self.lanes and not lanes and dtype in (t.f32, t.f64):
            a, b = map(self.register, args)  # the same for all turns of the loop, maybe
            text = f"fdiv contract {a.typed}, {b.ref}"
            return Value(self.registers.make((text,), text, a.ref, b.ref), dtype)
        if op == "select" and not args[0].lanes:
            values = [self.register(args[0]), *(self.register(x, lanes) for x in args[1:])]
        else:
            values = [self.register(x, lanes) for x in args]
        if op in PRIMITIVE:
            return self.scalars.emit(op, values, dtype)
        return self._call(op, values, dtype)

    def _linear(self, op: str, args: list[Operand]) -> Operand | None:
        """Integer arithmetic and comparisons that stay linear in the lane; None for others."""
        linear = [self.registers.linear(x) for x in args]
        a, b = linear[0], linear[-1]
        if a is None or b is None:
            return None
        match op:
            case "add":
                return self.registers.add(a, b)
            case "sub":
                return self.registers.add(a, b, -1)
            case "mul":
                return self.registers.mul(a, b)
            case "neg":
                return self.registers.scale(a, -1)
        return self.compare_lanes(op, a, b) if op in _MIRROR and (a.step or b.step) else None

    def compare_lanes(self, op: str, a: Linear, b: Linear) -> Operand:
        """Compare values that move with the lane: (a.step - b.step) * lane against b - a."""
        lanes, step = max(a.lanes, b.lanes), a.step - b.step
        x, y = (Value(self.registers.scalar(v), t.i64) for v in (a, b))
        if not step:
            return self.scalars.emit(op, [x, y], t.boolean)
        most = abs(step) * lanes  # beyond it all lanes agree
        if most >> 30:
            wide = [self.registers.value(v, lanes) for v in (a, b)]
            return self.scalars.emit(op, wide, t.boolean)
        apart = self.scalars.intrinsic("ssub.sat", y, x)
        apart = self.scalars.intrinsic("smin", apart, Value(str(most), t.i64))
        apart = self.scalars.intrinsic("smax", apart, Value(str(-most), t.i64))
        bound = self.registers.splat(self.scalars.cast(apart, t.i32), lanes)
        steps = ", ".join(f"i32 {step * i}" for i in range(lanes))
        return self.scalars.emit(op, [Value(f"<{steps}>", t.i32, lanes), bound], t.boolean)

    def _call(self, op: str, args: Sequence[Value], dtype: DType) -> Value:
        """A mathematical function, written out in place."""
        if dtype in (t.f16, t.bf16):
            wide = [self.scalars.cast(x, t.f32) for x in args]
            return self.scalars.cast(self._call(op, wide, t.f32), dtype)
        function = definition(op, dtype)
        outside = self.env, self._done
        self.env = {p.name: x for p, x in zip(function.params, args, strict=True)}
        self._done = {}
        for let in function.lets:
            self.env[let.var.name] = self.operand(let.value)
        result = self.register(self.operand(function.result))
        self.env, self._done = outside
        return result

    # guards

    def _guard(self, i: Operand, n: Operand, site: int) -> Operand:
        """i where 0 <= i < n; else 0, and an entry in the status memory (see sync)."""
        lanes = max(i.lanes, n.lanes)
        index, bound = self.register(i, lanes), self.register(n, lanes)
        wide, limit = self.scalars.cast(index, t.i64), self.scalars.cast(bound, t.i64)
        good = self.scalars.compare("icmp ult", wide, limit)
        bad = self.scalars.emit("not", [good], t.boolean)
        if lanes and self.mask is not None:
            bad = Value(self.writer.op(f"and {bad.type} {bad.ref}, {self.mask}"), t.boolean, lanes)
        some = self.any(bad.ref, lanes) if lanes else bad.ref
        report, after = self.writer.name("bad"), self.writer.name("good")
        self.writer.do(f"br i1 {some}, label %{report}, label %{after}, !prof !0")
        self.writer.label(report)
        if lanes:
            wide, limit = self._first_bad(bad, wide), self._first_bad(bad, limit)
        self.writer.do(
            f"call void @planish.fail(ptr %status, i64 {site}, {wide.typed}, {limit.typed})"
        )
        self.writer.do(f"br label %{after}")
        self.writer.label(after)
        return self.scalars.select(good, index, self.scalars.const(0, index))

    def _first_bad(self, bad: Value, of: Value) -> Value:
        bits = self.writer.op(f"bitcast {bad.typed} to i{bad.lanes}")
        kind = f"i{bad.lanes}"
        name = f"llvm.cttz.{kind}"
        at = self.writer.call(name, kind, (kind, bits), ("i1", "true"))
        return Value(self.writer.op(f"extractelement {of.typed}, {kind} {at}"), of.dtype)

    # lanes

    def any(self, mask: str, lanes: int) -> str:
        """Whether any lane of a mask holds."""
        kind = vector_type("i1", lanes)
        return self.writer.call(f"llvm.vector.reduce.or.v{lanes}i1", "i1", (kind, mask))

    def chosen(self, new: Value, old: Value) -> Value:
        """`new` in the lanes that run, `old` in the others."""
        if self.mask is None or not new.lanes:
            return new
        return self.scalars.select(Value(self.mask, t.boolean, new.lanes), new, old)

    def enter_lane(self, lane: int) -> str:
        """Begin code that runs if a lane is in the mask; returns the label of what follows it."""
        if self.mask is None:
            self.registers.enter()
            return ""
        kind = vector_type("i1", self.lanes)
        runs = self.writer.op(f"extractelement {kind} {self.mask}, i64 {lane}")
        inside, after = self.writer.name("lane"), self.writer.name("after")
        self.registers.enter()
        self.writer.do(f"br i1 {runs}, label %{inside}, label %{after}")
        self.writer.label(inside)
        return after

    def leave_lane(self, after: str) -> None:
        """End what `enter_lane` began."""
        self.registers.leave()
        if after:
            self.writer.do(f"br label %{after}")
            self.writer.label(after)

    def across(self, op: str, x: Value) -> Value:
        """All lanes combined: the upper half with the lower one, until one is left."""
        while x.lanes > 1 and x.lanes % 2 == 0:
            half = x.lanes // 2
            low, high = (self.scalars.part(x, start, half) for start in (0, half))
            x = self.scalars.emit(op, [low, high], x.dtype)
        total = Value(self.writer.op(f"extractelement {x.typed}, i64 0"), x.dtype)
        for lane in range(1, x.lanes):
            one = Value(self.writer.op(f"extractelement {x.typed}, i64 {lane}"), x.dtype)
            total = self.scalars.emit(op, [total, one], x.dtype)
        return total
