"""Expressions of host code as LLVM instructions."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from planish.runtime.codegen.text import Writer
from planish.runtime.host.kinds import (
    ADDRESSES,
    ALIASES,
    BOOL,
    F64,
    I64,
    INTS,
    NULL,
    NUMBER,
    PLAIN,
    VOID,
    Float,
    Function,
    Int,
    Kind,
    Pointer,
    Struct,
    kind_of,
    pointer,
)
from planish.runtime.host.names import Names, computed, constant
from planish.runtime.host.values import Place, Value, conversion, number, stored

OPERATORS = {
    "add": "add", "sub": "sub", "mult": "mul", "bitand": "and", "bitor": "or", "bitxor": "xor",
    "lshift": "shl",
}  # fmt: skip
FLOATS = {"add": "fadd", "sub": "fsub", "mult": "fmul", "div": "fdiv"}
COMPARISONS = {"eq": "eq", "noteq": "ne", "lt": "lt", "lte": "le", "gt": "gt", "gte": "ge"}


def name_of(op: ast.AST) -> str:
    """An operator by the name of its class: add, lte ..."""
    return type(op).__name__.lower()


class Expressions:
    """Expressions of one function, whose variables are `places`."""

    def __init__(self, writer: Writer, names: Names) -> None:
        self.writer, self.names = writer, names
        self.places: dict[str, Place] = {}
        self.block = "entry"

    def label(self, name: str) -> None:
        """Begin a block."""
        self.writer.label(name)
        self.block = name

    # Values

    def value(self, node: ast.expr) -> Value:
        """What an expression is; ValueError where host code has no such expression."""
        match node:
            case ast.Constant(bool(given)):
                return Value(BOOL, "true" if given else "false")
            case ast.Constant(int(given) | float(given)):
                return Value(NUMBER, given)
            case ast.Name("null"):
                return Value(NULL, "null")
            case ast.Name(name):
                return self._named(name)
            case ast.Attribute() | ast.Subscript():
                place = self.place(node)
                if isinstance(node, ast.Subscript) and isinstance(place.kind, Struct):
                    return Value(place.kind, place.at)  # elements are structs, fields addresses
                return self.load(place)
            case ast.UnaryOp(op, operand):
                return self._unary(name_of(op), self.value(operand))
            case ast.BinOp(left, op, right):
                return self._binary(name_of(op), self.value(left), self.value(right))
            case ast.Compare(left, ops, rights):
                return self._compared(left, ops, rights)
            case ast.BoolOp(op, values):
                return self._both(isinstance(op, ast.And), values)
            case ast.IfExp(test, first, second):
                return self._chosen(test, first, second)
            case ast.Call(function, arguments, []):
                return self._call(function, arguments)
        raise ValueError(f"host code has no {type(node).__name__.lower()}: {ast.unparse(node)}")

    def typed(self, node: ast.expr, kind: Kind | None = None) -> Value:
        """A value of this type, or of its own; plain numbers are i64 or f64."""
        return self.fit(self.value(node), kind)

    def fit(self, value: Value, kind: Kind | None) -> Value:
        """A value that has a type; ValueError where it is not the one that is wanted."""
        if value.kind == NUMBER:
            wanted = kind or (I64 if isinstance(value.ref, int) else F64)
            return Value(wanted, number(value.ref, wanted))
        if value.kind == NULL and isinstance(kind, ADDRESSES):
            return Value(kind, "null")
        if kind is not None and value.kind != kind:
            raise ValueError(f"expected {kind}, found {value.kind}")
        if value.kind == NULL:
            raise ValueError("null needs a type here, as in Ptr[u8](null)")
        return value

    def condition(self, node: ast.expr) -> str:
        """A condition as an i1."""
        value = self.value(node)
        if value.kind != BOOL:
            raise ValueError(f"a condition is a bool, {ast.unparse(node)} is {value.kind}")
        return value.ref

    def _named(self, name: str) -> Value:
        if name in self.places:
            return self.load(self.places[name])
        if name in self.names.functions:
            kind, symbol = self.names.functions[name]
            return Value(kind, f"@{symbol}")
        if name in self.names.constants:
            found = self.names.constants[name]
            if isinstance(found, str):
                raise ValueError(f"{name} is a string; text({name}) is its address")
            return Value(NUMBER, found)
        raise ValueError(f"unknown name {name}")

    # Memory

    def load(self, place: Place) -> Value:
        """What is there."""
        return Value(place.kind, self.writer.op(f"load {place.kind.text}, ptr {place.at}"))

    def place(self, node: ast.expr) -> Place:
        """Where an expression is that can be assigned to."""
        match node:
            case ast.Name(name) if name in self.places:
                return self.places[name]
            case ast.Attribute(owner, name):
                return self._field(self.typed(owner), name)
            case ast.Subscript(owner, index):
                base = self.typed(owner)
                if not isinstance(base.kind, Pointer):
                    raise ValueError(f"{base.kind} has no elements; Ptr[T] has")
                return Place(base.kind.element, self._moved(base, self._index(index)))
        raise ValueError(f"{ast.unparse(node)} is no place in memory")

    def _field(self, owner: Value, name: str) -> Place:
        fields = self.names.records.get(owner.kind.name, {})
        if not isinstance(owner.kind, Struct) or name not in fields:
            raise ValueError(f"{owner.kind} has no field {name}")
        number = list(fields).index(name)
        at = f"getelementptr inbounds %{owner.kind}, ptr {owner.ref}, i32 0, i32 {number}"
        return Place(fields[name], self.writer.op(at))

    def _index(self, node: ast.expr) -> str:
        """A count of elements as an i64."""
        index = self.typed(node)
        if not isinstance(index.kind, Int):
            raise ValueError(f"an index is an integer, not {index.kind}")
        return self.converted(index, I64).ref

    def _moved(self, base: Value, count: str) -> str:
        kind: Any = base.kind
        return self.writer.op(f"getelementptr {stored(kind.element)}, ptr {base.ref}, i64 {count}")

    # Operators

    def _unary(self, op: str, x: Value) -> Value:
        match op:
            case "not" if x.kind == BOOL:
                return Value(BOOL, self.writer.op(f"xor i1 {x.ref}, true"))
            case "usub" if x.kind == NUMBER:
                return Value(NUMBER, -x.ref)
            case "usub" if isinstance(x.kind, Int):
                return Value(x.kind, self.writer.op(f"sub {x.kind.text} 0, {x.ref}"))
            case "usub" if isinstance(x.kind, Float):
                return Value(x.kind, self.writer.op(f"fneg {x.kind.text} {x.ref}"))
            case "invert" if isinstance(x.kind, Int):
                return Value(x.kind, self.writer.op(f"xor {x.kind.text} {x.ref}, -1"))
        raise ValueError(f"{op} takes no {x.kind}")

    def _binary(self, op: str, a: Value, b: Value) -> Value:
        if a.kind == b.kind == NUMBER:
            return Value(NUMBER, computed(op, a.ref, b.ref))
        if isinstance(a.kind, Pointer):
            return self._pointed(op, a, b)
        a, b = self._same(a, b)
        kind, w = a.kind, self.writer
        if isinstance(kind, Float) and op in FLOATS:
            return Value(kind, w.op(f"{FLOATS[op]} {kind.text} {a.ref}, {b.ref}"))
        if isinstance(kind, Int):
            if op in OPERATORS:
                return Value(kind, w.op(f"{OPERATORS[op]} {kind.text} {a.ref}, {b.ref}"))
            if op == "rshift":
                name = "ashr" if kind.signed else "lshr"
                return Value(kind, w.op(f"{name} {kind.text} {a.ref}, {b.ref}"))
            if op in ("floordiv", "mod"):
                return Value(kind, self._divided(op, kind, a.ref, b.ref))
        raise ValueError(f"{kind} has no {op}")

    def _pointed(self, op: str, a: Value, b: Value) -> Value:
        """p + n, p - n, p - q."""
        kind: Any = a.kind
        if op == "sub" and b.kind == kind:
            bytes_ = self._binary("sub", self.converted(a, I64), self.converted(b, I64))
            size = self._size(kind.element)
            return Value(I64, self.writer.op(f"sdiv exact i64 {bytes_.ref}, {size}"))
        b = self.fit(b, None)
        if op not in ("add", "sub") or not isinstance(b.kind, Int):
            raise ValueError(f"{kind} and {b.kind} have no {op}")
        count = self.converted(b, I64)
        if op == "sub":
            count = self._unary("usub", count)
        return Value(kind, self._moved(a, count.ref))

    def _divided(self, op: str, kind: Int, a: str, b: str) -> str:
        """a // b or a % b, rounding down."""
        w, text = self.writer, kind.text
        if not kind.signed:
            return w.op(f"{'udiv' if op == 'floordiv' else 'urem'} {text} {a}, {b}")
        rest = w.op(f"srem {text} {a}, {b}")
        some = w.op(f"icmp ne {text} {rest}, 0")
        signs = w.op(f"xor {text} {rest}, {b}")
        other = w.op(f"icmp slt {text} {signs}, 0")
        off = w.op(f"and i1 {some}, {other}")
        if op == "mod":
            whole = w.op(f"add {text} {rest}, {b}")
            return w.op(f"select i1 {off}, {text} {whole}, {text} {rest}")
        less = w.op(f"sext i1 {off} to {text}")
        return w.op(f"add {text} {w.op(f'sdiv {text} {a}, {b}')}, {less}")

    def _same(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Two values of one type."""
        if a.kind in (NUMBER, NULL):
            b = self.fit(b, None)
            return self.fit(a, b.kind), b
        b = self.fit(b, None if b.kind not in (NUMBER, NULL) else a.kind)
        if a.kind != b.kind:
            raise ValueError(f"{a.kind} and {b.kind} do not mix; convert one, as in i64(x)")
        return a, b

    def _compared(self, left: ast.expr, ops: Sequence[ast.cmpop], rights: Sequence) -> Value:
        a, found = self.value(left), ""
        for op, node in zip(ops, rights, strict=True):
            b = self.value(node)
            one = self._comparison(name_of(op), a, b)
            found = self.writer.op(f"and i1 {found}, {one}") if found else one
            a = b
        return Value(BOOL, found)

    def _comparison(self, op: str, a: Value, b: Value) -> str:
        a, b = self._same(a, b)
        name, kind = COMPARISONS.get(op), a.kind
        if name and isinstance(kind, Float):
            test = f"fcmp {'une' if name == 'ne' else f'o{name}'}"
        elif name in ("eq", "ne") and (kind == BOOL or isinstance(kind, (Int, *ADDRESSES))):
            test = f"icmp {name}"
        elif name and isinstance(kind, (Int, Pointer)):
            test = f"icmp {'s' if isinstance(kind, Int) and kind.signed else 'u'}{name}"
        else:
            raise ValueError(f"{kind} has no {op}")
        return self.writer.op(f"{test} {kind.text} {a.ref}, {b.ref}")

    def _both(self, every: bool, values: Sequence[ast.expr]) -> Value:
        """`and`, `or`: the rest is not computed where it cannot matter."""
        w, end = self.writer, self.writer.name("both")
        ways = []
        for place, node in enumerate(values):
            found = self.condition(node)
            ways.append(f"[ {found}, %{self.block} ]")
            if place == len(values) - 1:
                w.do(f"br label %{end}")
                break
            more = w.name("and" if every else "or")
            first, second = (more, end) if every else (end, more)
            w.do(f"br i1 {found}, label %{first}, label %{second}")
            self.label(more)
        self.label(end)
        return Value(BOOL, w.op(f"phi i1 {', '.join(ways)}"))

    def _chosen(self, test: ast.expr, first: ast.expr, second: ast.expr) -> Value:
        w, names = self.writer, [self.writer.name(x) for x in ("then", "else", "chosen")]
        w.do(f"br i1 {self.condition(test)}, label %{names[0]}, label %{names[1]}")
        self.label(names[0])
        a = self.value(first)
        ways, before = [self.block], len(w.lines)
        w.do("")  # its branch: when the type of both is known
        self.label(names[1])
        b = self.value(second)
        a, b = self._same(a, b) if a.kind != NUMBER or b.kind != NUMBER else (
            self.fit(a, None), self.fit(b, None)
        )  # fmt: skip
        ways.append(self.block)
        w.lines[before] = f"  br label %{names[2]}"
        w.do(f"br label %{names[2]}")
        self.label(names[2])
        pairs = ", ".join(f"[ {x.ref}, %{way} ]" for x, way in zip((a, b), ways, strict=True))
        return Value(a.kind, w.op(f"phi {a.kind.text} {pairs}"))

    # Calls and conversions

    def _call(self, function: ast.expr, arguments: Sequence[ast.expr]) -> Value:
        records, constants = self.names.records, self.names.constants
        match function, arguments:
            case ast.Name("text"), [given]:
                return Value(
                    pointer(INTS["u8"]), self.names.string(str(constant(given, constants)))
                )
            case ast.Name("ord"), [_]:
                return Value(NUMBER, constant(ast.Call(function, list(arguments), []), {}))
            case ast.Name("size_of"), [given]:
                return Value(I64, self._size(kind_of(given, records)))
            case ast.Name("local"), [given, count]:
                return self._local(kind_of(given, records), constant(count, constants))
            case ast.Name("address"), [given]:
                found = self.place(given)
                return Value(pointer(found.kind), found.at)
            case ast.Name(name), [given] if name in (*PLAIN, *ALIASES, *records):
                return self.converted(self.value(given), kind_of(function, records))
            case ast.Subscript(ast.Name("Ptr" | "Callable")), [given]:
                return self.converted(self.value(given), kind_of(function, records))
        callee = self.typed(function)
        if not isinstance(callee.kind, Function):
            raise ValueError(f"{ast.unparse(function)} is {callee.kind}, no function")
        return self._called(ast.unparse(function), callee.ref, callee.kind, arguments)

    def _called(self, name: str, ref: str, kind: Function, arguments: Sequence[ast.expr]) -> Value:
        many = len(kind.params)
        if len(arguments) < many or (len(arguments) > many and not kind.open):
            raise ValueError(f"{name} takes {many} arguments, got {len(arguments)}")
        given = []
        for place, node in enumerate(arguments):
            try:
                value = self.typed(node, kind.params[place] if place < many else None)
            except ValueError as error:
                raise ValueError(f"argument {place + 1} of {name}: {error}") from None
            if place >= many and value.kind.text not in ("i32", "i64", "double", "ptr"):
                raise ValueError(f"argument {place + 1} of {name}: C wants i32, i64 or f64 there")
            given.append(f"{value.kind.text} {value.ref}")
        taken = [x.text for x in kind.params]
        signature = f" ({', '.join([*taken, '...'])})" if kind.open else ""
        text = f"call {kind.result.text}{signature} {ref}({', '.join(given)})"
        if kind.result == VOID:
            self.writer.do(text)
            return Value(VOID, "")
        return Value(kind.result, self.writer.op(text))

    def _size(self, kind: Kind) -> str:
        """Bytes of an element, as LLVM computes it."""
        at = f"getelementptr ({stored(kind)}, ptr null, i64 1)"
        return f"ptrtoint (ptr {at} to i64)"

    def _local(self, kind: Kind, count: int | float | str) -> Value:
        if not isinstance(count, int) or not 0 < count <= 1 << 16:
            raise ValueError(f"local memory has 1 to {1 << 16} elements, not {count}")
        at = self.writer.alloca(f"[{count} x {stored(kind)}], align 16")
        self.writer.entry.append(f"  store [{count} x {stored(kind)}] zeroinitializer, ptr {at}")
        return Value(pointer(kind), at)

    def converted(self, x: Value, kind: Kind) -> Value:
        """A value as another type, as C converts it."""
        if x.kind in (NUMBER, NULL):
            return self.fit(x, kind)
        if x.kind == kind or (isinstance(x.kind, ADDRESSES) and isinstance(kind, ADDRESSES)):
            return Value(kind, x.ref)
        name = conversion(x.kind, kind)
        if name is None:
            raise ValueError(f"{x.kind} does not convert to {kind}")
        if not name:
            return Value(kind, x.ref)
        return Value(kind, self.writer.op(f"{name} {x.kind.text} {x.ref} to {kind.text}"))
