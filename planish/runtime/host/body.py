"""Statements of host code as LLVM instructions."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from planish.runtime.codegen.text import Writer
from planish.runtime.host.expressions import Expressions, name_of
from planish.runtime.host.kinds import (
    I64,
    NUMBER,
    VOID,
    Function,
    Int,
    Kind,
    Struct,
    kind_of,
)
from planish.runtime.host.names import Names, constant
from planish.runtime.host.values import Place, Value


class Fault(Exception):
    """What is wrong in a line."""

    def __init__(self, line: int, why: object) -> None:
        super().__init__(why)
        self.line = line


class Body(Expressions):
    """The body of one function. `loops` are the labels of what continue and break go to."""

    def __init__(self, writer: Writer, names: Names, kind: Function, params: Sequence[str]) -> None:
        super().__init__(writer, names)
        self.kind = kind
        self.loops: list[tuple[str, str]] = []
        self.left: set[str] = set()  # labels of loops that a break leaves
        self.open = True  # whether the next statement can be reached
        for param, taken in zip(params, kind.params, strict=True):
            self.writer.do(f"store {taken.text} %{param}, ptr {self._new(param, taken).at}")

    def statements(self, nodes: Sequence[ast.stmt]) -> None:
        """Statements in order; Fault says which is none of host code."""
        for node in nodes:
            try:
                if not self.open:
                    raise ValueError("nothing gets here")
                self._statement(node)
            except ValueError as error:
                raise Fault(node.lineno, error) from None

    def end(self) -> None:
        """The end of the function."""
        if self.open and self.kind.result != VOID:
            raise ValueError(f"ends without a return, but {self.kind.result} is promised")
        if self.open:
            self.writer.do("ret void")

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(ast.Constant(str())) | ast.Pass():
                return
            case ast.Expr(ast.Call() as call):
                self.value(call)
            case ast.Assign([target], value):
                self._assign(target, self._value_for(target, value))
            case ast.AnnAssign(ast.Name(name), annotation, value) if value is not None:
                if name in self.places:
                    raise ValueError(f"{name} has a type already")
                kind = kind_of(annotation, self.names.records)
                found = self.typed(value, kind)
                self._store(self._new(name, kind), found)
            case ast.AugAssign(target, op, value):
                place = self.place(target)
                now = self._binary(name_of(op), self.load(place), self.value(value))
                self._store(place, self.fit(now, place.kind))
            case ast.Return(value):
                self._return(value)
            case ast.If(test, then, other):
                self._if(test, then, other)
            case ast.While(test, inside, []):
                self._while(test, inside)
            case ast.For(ast.Name(name), ast.Call(ast.Name("range"), given, []), inside, []):
                self._for(name, given, inside)
            case ast.Break() | ast.Continue():
                self._leave(isinstance(node, ast.Break))
            case _:
                raise ValueError(f"host code has no such {name_of(node)}: {first_line(node)}")

    # Assignments

    def _new(self, name: str, kind: Kind) -> Place:
        """Memory for a variable, zero at first."""
        if kind == VOID:
            raise ValueError(f"{name} would be nothing")
        place = Place(kind, self.writer.alloca(kind.text))
        self.writer.entry.append(f"  store {kind.text} zeroinitializer, ptr {place.at}")
        self.places[name] = place
        return place

    def _value_for(self, target: ast.expr, node: ast.expr) -> Value:
        """What is assigned, of the target's type where it has one."""
        if isinstance(target, ast.Name) and target.id not in self.places:
            return self.typed(node)
        return self.value(node)

    def _assign(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name) and target.id not in self.places:
            self._new(target.id, value.kind)
        place = self.place(target)
        if isinstance(target, ast.Subscript) and isinstance(place.kind, Struct):
            raise ValueError("records are assigned field by field")
        self._store(place, self.fit(value, place.kind))

    def _store(self, place: Place, value: Value) -> None:
        self.writer.do(f"store {value.kind.text} {value.ref}, ptr {place.at}")

    def _return(self, node: ast.expr | None) -> None:
        result = self.kind.result
        if (node is None) != (result == VOID):
            raise ValueError(f"returns {result}")
        if node is None:
            self.writer.do("ret void")
        else:
            self.writer.do(f"ret {result.text} {self.typed(node, result).ref}")
        self.open = False

    # Control

    def _go(self, label: str) -> None:
        """To a label, where this place is reached."""
        if self.open:
            self.writer.do(f"br label %{label}")

    def _if(self, test: ast.expr, then: list[ast.stmt], other: list[ast.stmt]) -> None:
        inside, otherwise, after = (self.writer.name(x) for x in ("then", "else", "after"))
        last = otherwise if other else after
        self.writer.do(f"br i1 {self.condition(test)}, label %{inside}, label %{last}")
        self.label(inside)
        self.statements(then)
        self._go(after)
        reached = self.open or not other
        self.open = True
        if other:
            self.label(otherwise)
            self.statements(other)
            self._go(after)
            reached = reached or self.open
        self.open = reached
        if reached:
            self.label(after)

    def _loop(self, inside: list[ast.stmt], again: str, after: str) -> None:
        """The body of a loop, up to its end."""
        self.loops.append((again, after))
        self.statements(inside)
        self.loops.pop()
        self._go(again)
        self.open = True

    def _while(self, test: ast.expr, inside: list[ast.stmt]) -> None:
        again, body, after = (self.writer.name(x) for x in ("while", "body", "after"))
        self.writer.do(f"br label %{again}")
        self.label(again)
        forever = isinstance(test, ast.Constant) and test.value is True
        self.writer.do(f"br i1 {self.condition(test)}, label %{body}, label %{after}")
        self.label(body)
        self._loop(inside, again, after)
        self.label(after)
        if forever and after not in self.left:
            self.writer.do("unreachable")
            self.open = False

    def _for(self, name: str, given: Sequence[ast.expr], inside: list[ast.stmt]) -> None:
        """for x in range(...): bounds are computed once, x counts beside a counter of its own."""
        if not 1 <= len(given) <= 3:
            raise ValueError("range takes 1 to 3 numbers")
        w, step = self.writer, 1
        if len(given) == 3:
            found = constant(given[2], self.names.constants)
            if not isinstance(found, int) or found == 0:
                raise ValueError("the step of a range is a whole number, not 0")
            step = found
        begin = self.value(given[0]) if len(given) > 1 else Value(NUMBER, 0)
        begin, end = self._bounds(begin, self.value(given[min(1, len(given) - 1)]))
        kind = begin.kind
        if not isinstance(kind, Int):
            raise ValueError(f"a range is of integers, not of {kind}")
        known = self.places.get(name)
        if known is not None and known.kind != kind:
            raise ValueError(f"{name} is {known.kind}, the range is of {kind}")
        place = known or self._new(name, kind)
        counter = Place(kind, w.alloca(kind.text))
        again, body, more, after = (w.name(x) for x in ("for", "body", "more", "after"))
        self._store(counter, begin)
        w.do(f"br label %{again}")
        self.label(again)
        now = self.load(counter)
        sign = "s" if kind.signed else "u"
        test = w.op(f"icmp {sign}{'lt' if step > 0 else 'gt'} {kind.text} {now.ref}, {end.ref}")
        w.do(f"br i1 {test}, label %{body}, label %{after}")
        self.label(body)
        self._store(place, now)
        self._loop(inside, more, after)
        self.label(more)
        ahead = w.op(f"add {kind.text} {now.ref}, {step}")
        self._store(counter, Value(kind, ahead))
        w.do(f"br label %{again}")
        self.label(after)

    def _bounds(self, begin: Value, end: Value) -> tuple[Value, Value]:
        if begin.kind == end.kind == NUMBER:
            return self.fit(begin, I64), self.fit(end, I64)
        return self._same(begin, end)

    def _leave(self, is_break: bool) -> None:
        if not self.loops:
            raise ValueError("break and continue stand in loops")
        again, after = self.loops[-1]
        if is_break:
            self.left.add(after)
        self._go(after if is_break else again)
        self.open = False


def first_line(node: ast.AST) -> str:
    """How a statement begins."""
    return ast.unparse(node).splitlines()[0]
