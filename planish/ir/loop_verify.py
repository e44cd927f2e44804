"""Check that a kernel keeps the rules of loop IR.

Names: buffers and Lets are named once, a loop variable hides nothing, and whatever is read is in
scope, unless it is an i64 that nothing binds (a symbolic dimension). Types: an index has one i64
per axis, a stored value has the dtype of its buffer, operands agree. Loops: `parallel` only as the
last statement of the kernel, after Lets; `vector` does not nest, and branches inside it are the
same for all lanes; `unroll` has a constant extent; `matrix` has its shape. What is stored to is a
local or in `writes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.loop_lanes import varying
from planish.ir.loop_matrix import matrix_parts
from planish.ir.loop_text import body_lines, buffer_text, expr_text, kernel_text
from planish.ir.loops import (
    SCALARS,
    Accumulate,
    Buffer,
    Const,
    Expr,
    Fetch,
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
from planish.ir.types import DType

KINDS = ("serial", "parallel", "vector", "unroll", "matrix", "turn")
COMBINES = ("add", "mul", "max", "min", "and", "or")
_BITS = {"and", "or", "xor", "not"}
_INTEGERS = {"shl", "shr", "umulhi", "popcount", "guard", "threefry"}
# Of words, and what they add to
DOTS = {
    "dpbf16": t.f32, "dpbusd": t.i32, "dpbssd": t.i32, "dpflip": t.i32, "dpwssd": t.i32,
    "dpbusw": t.u32,
}  # fmt: skip
_ANY_NUMBER = {
    "add", "sub", "mul", "floor_div", "mod", "neg", "fma", "min", "max", "abs", "sign",
}  # fmt: skip


def verify_kernel(kernel: Kernel) -> Kernel:
    """The kernel itself; IRError with the line and its neighbours where it breaks a rule."""
    _Check(kernel).run()
    return kernel


class _Check:
    """One verification: what is in scope, and what was ever named."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.buffers: dict[str, Buffer] = {}
        self.bound: set[str] = set()
        self.lets: set[str] = set()
        self.lanes: set[str] | None = None  # inside a vector loop: names that differ by lane
        self.at: Stmt | None = None

    def refuse(self, message: str) -> NoReturn:
        """Raise, with the line in question."""
        kernel = self.kernel
        rows = [(kernel_text(kernel).split("\n", 1)[0], None), *body_lines(kernel.body)]
        here = next(i for i, (_, stmt) in enumerate(rows) if stmt is self.at)
        near = range(max(here - 1, 0), min(here + 2, len(rows)))
        lines = "\n".join(rows[i][0] + ("    <-- here" if i == here else "") for i in near)
        raise IRError(f"kernel {kernel.name}: {message}\n{lines}")

    def run(self) -> None:
        """All rules."""
        kernel = self.kernel
        self.bound = {x.var.name for x in statements(kernel.body) if isinstance(x, (For, Let))}
        for buffer in (*kernel.params, *kernel.locals):
            self.buffer(buffer)
        for name in kernel.writes:
            if name not in {x.name for x in kernel.params}:
                self.refuse(f"writes {name}, which is not a param")
        self.top()
        self.block(kernel.body, {})

    def buffer(self, buffer: Buffer) -> None:
        """Each name once, in its space, sizes of i64."""
        space = "param" if buffer in self.kernel.params else "local"
        if buffer.space != space:
            self.refuse(f"{buffer.name} is a {space} with space {buffer.space!r}")
        if buffer.name in self.buffers:
            self.refuse(f"two buffers are called {buffer.name}")
        for size in buffer.shape:
            self.expression(size, {})
            self.expect(size, t.i64, f"a size of {buffer_text(buffer)}")
        self.buffers[buffer.name] = buffer

    def top(self) -> None:
        """A parallel loop is last, and only Lets are before it."""
        for stmt in statements(self.kernel.body):
            self.at = stmt
            if isinstance(stmt, For) and stmt.kind == "parallel":
                if stmt is not self.kernel.body[-1]:
                    self.refuse("a parallel loop must be the last statement of the kernel")
                if not all(isinstance(x, Let) for x in self.kernel.body[:-1]):
                    self.refuse("only lets may stand before a parallel loop")
        self.at = None

    def block(self, body: tuple[Stmt, ...], outer: dict[str, DType]) -> None:
        """The statements of a block, in a scope of its own."""
        scope = dict(outer)
        for stmt in body:
            self.at = stmt
            for expr in children(stmt):
                self.expression(expr, scope)
            match stmt:
                case Let(var, value):
                    self.let(var, value, scope)
                case Store(buffer, index, value) | Accumulate(buffer, index, _, value):
                    self.access(buffer, index)
                    self.store(stmt)
                case Fetch(buffer, index):
                    self.access(buffer, index)
                case If(cond, inner):
                    self.branch(cond)
                    self.block(inner, scope)
                case For():
                    self.loop(stmt, scope)

    def let(self, var: Var, value: Expr, scope: dict[str, DType]) -> None:
        """A fresh name of the dtype of its value."""
        if var.name in self.lets or var.name in scope:
            self.refuse(f"{var.name} is already bound")
        self.expect(value, var.dtype, var.name)
        scope[var.name] = var.dtype
        self.lets.add(var.name)

    def store(self, stmt: Store | Accumulate) -> None:
        """A value of the buffer's dtype, into a buffer that may be written."""
        buffer = stmt.buffer
        self.expect(stmt.value, buffer.dtype, buffer_text(buffer))
        if isinstance(stmt, Accumulate) and stmt.op not in COMBINES:
            self.refuse(f"cannot accumulate by {stmt.op!r}; there is {', '.join(COMBINES)}")
        if buffer.space == "param" and buffer.name not in self.kernel.writes:
            self.refuse(f"{buffer.name} is written but is not among the kernel's writes")

    def branch(self, cond: Expr) -> None:
        """A bool, the same for all lanes."""
        self.expect(cond, t.boolean, "a condition")
        if self.lanes is not None and (names := reads(cond) & self.lanes):
            self.refuse(f"a branch in a vector loop depends on {min(names)}; use select")

    def loop(self, loop: For, scope: dict[str, DType]) -> None:
        """Kind, extent, variable; then the body."""
        if loop.kind not in KINDS:
            self.refuse(f"unknown kind of loop {loop.kind!r}; there is {', '.join(KINDS)}")
        if loop.var.name in scope or loop.var.name in self.lets:
            self.refuse(f"{loop.var.name} is already bound")
        if loop.var.dtype != t.i64:
            self.refuse(f"the loop variable {loop.var.name} is {loop.var.dtype}, not i64")
        self.expect(loop.extent, t.i64, "an extent")
        if loop.kind == "unroll" and not isinstance(loop.extent, Const):
            self.refuse("the extent of an unrolled loop must be a constant")
        if loop.kind == "matrix" and matrix_parts(loop) is None:
            self.refuse("a matrix loop has not the one shape that it may have")
        if loop.width < 1:
            self.refuse(f"a loop of {loop.width} lanes")
        if self.lanes is not None and (names := reads(loop.extent) & self.lanes):
            self.refuse(f"an extent in a vector loop depends on {min(names)}")
        if loop.kind == "vector" and self.lanes is not None:
            self.refuse("a vector loop inside a vector loop")
        before = self.lanes
        if loop.kind == "vector":
            self.lanes = varying(loop, loads=False)
        self.block(loop.body, {**scope, loop.var.name: t.i64})
        self.lanes = before

    def access(self, buffer: Buffer, index: tuple[Expr, ...]) -> None:
        """A known buffer, and one i64 for each of its axes."""
        if self.buffers.get(buffer.name) != buffer:
            self.refuse(f"{buffer_text(buffer)} is neither a param nor a local of the kernel")
        if len(index) != len(buffer.shape):
            self.refuse(f"{len(index)} indexes into {buffer_text(buffer)}")
        for i in index:
            self.expect(i, t.i64, f"an index into {buffer.name}")

    def expect(self, value: Expr, dtype: DType, what: str) -> None:
        """`value` has `dtype`, which is that of `what`."""
        if value.type != dtype:
            self.refuse(f"{what} is {dtype}, got {value.type} from {expr_text(value)}")

    def expression(self, root: Expr, scope: dict[str, DType]) -> None:
        """Every part of an expression, shared parts once."""
        for expr in parts(root):
            match expr:
                case Var(name, dtype):
                    self.variable(name, dtype, scope)
                case Load(buffer, index):
                    self.access(buffer, index)
                case Scalar():
                    if message := scalar_fault(expr):
                        self.refuse(f"{expr_text(expr)}: {message}")

    def variable(self, name: str, dtype: DType, scope: dict[str, DType]) -> None:
        """In scope, or a symbolic dimension."""
        is_dimension = dtype == t.i64 and name not in self.bound
        if name not in scope and not is_dimension:
            self.refuse(f"{name} is used before it is bound")
        if scope.get(name, dtype) != dtype:
            self.refuse(f"{name} is {scope[name]} but is used as {dtype}")


def scalar_fault(expr: Scalar) -> str:
    """What is wrong with the types of a scalar operation, or nothing."""
    op, args, dtype = expr.op, expr.args, expr.dtype
    if op not in SCALARS:
        return f"unknown operation {op!r}"
    arity, result = SCALARS[op]
    if len(args) != arity:
        return f"{op} takes {arity} operands, got {len(args)}"
    first, *others = [x.type for x in args]
    if op in DOTS:
        good = (first, *others, dtype) == (DOTS[op], t.u32, t.u32, DOTS[op])
        return "" if good else f"{op} adds to {DOTS[op]} a product of two words u32"
    if op == "select":
        if first != t.boolean:
            return f"the condition is {first}, not bool"
        first, *others = others
    if any(x != first for x in others):
        return f"operands are {', '.join(str(x.type) for x in args)}"
    expected = {"same": first, "second": first, "bool": t.boolean, "explicit": dtype}[result]
    if dtype != expected:
        return f"the result is {dtype}, not {expected}"
    if op == "bitcast":
        same = first.bits == dtype.bits
        return "" if same else f"{first} and {dtype} have different widths"
    return "" if result != "same" or takes(op, first) else f"{op} is not defined on {first}"


def takes(op: str, dtype: DType) -> bool:
    """Whether an operation with a result of its operands' dtype is defined on `dtype`."""
    if op in _BITS:
        return not dtype.is_float
    if op in _INTEGERS:
        return dtype.is_int
    if op in ("min", "max"):
        return True
    return dtype != t.boolean if op in _ANY_NUMBER else dtype.is_float


def statements(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """Every statement of a block and of the blocks inside it, in order."""
    stack = list(reversed(body))
    while stack:
        stmt = stack.pop()
        yield stmt
        if isinstance(stmt, (For, If)):
            stack.extend(reversed(stmt.body))


def parts(root: Expr) -> Iterator[Expr]:
    """An expression and all inside it, each object once."""
    seen: set[int] = set()
    stack = [root]
    while stack:
        expr = stack.pop()
        if id(expr) not in seen:
            seen.add(id(expr))
            yield expr
            stack.extend(children(expr))


def reads(expr: Expr) -> set[str]:
    """Names of the variables of an expression."""
    return {x.name for x in parts(expr) if isinstance(x, Var)}
