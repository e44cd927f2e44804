"""Loop IR: what a kernel does, element by element.

    kernel ::= Kernel(name, params: Buffer*, outputs: names written, locals: Buffer*, body: stmt*)
    stmt   ::= For(var, extent, kind, body, width)
                   kind: serial | parallel | vector | unroll | matrix | turn
             | If(cond, body)
             | Let(var, value)                       a name for a value, up to the end of the block
             | Store(buffer, index, value)
             | Accumulate(buffer, index, op, value)  buffer[index] = op(buffer[index], value)
             | Fetch(buffer, index)                  no meaning: its line is wanted soon
    expr   ::= Const(value, dtype) | Var(name, dtype) | Load(buffer, index)
             | Scalar(op, args, dtype)

Meaning is sequential: run every loop from 0 up to its extent, in order, and you have the result.
`kind` is permission: `parallel` (only as the outermost statement of a kernel; iterations are
split over threads, and write disjoint places), `vector` (SIMD, `width` lanes; an Accumulate whose
index does not depend on the loop variable is a reduction over lanes, whose order is fixed by
`width` alone), `unroll` (constant extent, fully unrolled), `matrix` (one shape of loops, see
`loop_matrix`), `turn` (transposes, see `loop_turn`). Without a parallel loop, one thread runs.

Buffers are row-major and contiguous. A *param* is memory handed in; a *local* is private to a
thread: a register tile where every index is constant after unrolling, scratch memory otherwise.
`Var`s of dtype i64 that no loop binds are the symbolic dimensions, handed in at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, Union

from planish.ir import types as t
from planish.ir.dims import AnySize
from planish.ir.errors import IRError
from planish.ir.types import DType


@dataclass(frozen=True, slots=True)
class Expr:
    """A value. Python's operators build `Scalar`s; integer constants fold."""

    @property
    def type(self) -> DType:
        """The dtype of the value."""
        raise NotImplementedError

    def __add__(self, other: Operand) -> Expr:
        return scalar("add", self, other)

    def __radd__(self, other: Operand) -> Expr:
        return scalar("add", other, self)

    def __sub__(self, other: Operand) -> Expr:
        return scalar("sub", self, other)

    def __rsub__(self, other: Operand) -> Expr:
        return scalar("sub", other, self)

    def __mul__(self, other: Operand) -> Expr:
        return scalar("mul", self, other)

    def __rmul__(self, other: Operand) -> Expr:
        return scalar("mul", other, self)

    def __truediv__(self, other: Operand) -> Expr:
        return scalar("div", self, other)

    def __rtruediv__(self, other: Operand) -> Expr:
        return scalar("div", other, self)

    def __floordiv__(self, other: Operand) -> Expr:
        return scalar("floor_div", self, other)

    def __mod__(self, other: Operand) -> Expr:
        return scalar("mod", self, other)

    def __neg__(self) -> Expr:
        return scalar("neg", self)

    def __and__(self, other: Operand) -> Expr:
        return scalar("and", self, other)

    def __or__(self, other: Operand) -> Expr:
        return scalar("or", self, other)

    def __xor__(self, other: Operand) -> Expr:
        return scalar("xor", self, other)

    def __lshift__(self, other: Operand) -> Expr:
        return scalar("shl", self, other)

    def __rshift__(self, other: Operand) -> Expr:
        return scalar("shr", self, other)

    def __lt__(self, other: Operand) -> Expr:
        return scalar("lt", self, other)

    def __le__(self, other: Operand) -> Expr:
        return scalar("le", self, other)

    def __gt__(self, other: Operand) -> Expr:
        return scalar("gt", self, other)

    def __ge__(self, other: Operand) -> Expr:
        return scalar("ge", self, other)


@dataclass(frozen=True, slots=True)
class Const(Expr):
    """A literal: a Python bool, int or float (inf and nan included)."""

    value: bool | int | float
    dtype: DType

    @property
    def type(self) -> DType:
        return self.dtype


@dataclass(frozen=True, slots=True)
class Var(Expr):
    """A loop variable, a `Let`, or a symbolic dimension."""

    name: str
    dtype: DType = t.i64

    @property
    def type(self) -> DType:
        return self.dtype


@dataclass(frozen=True, slots=True)
class Load(Expr):
    """One element of a buffer; the index has one i64 expression per axis."""

    buffer: Buffer
    index: tuple[Expr, ...]

    @property
    def type(self) -> DType:
        return self.buffer.dtype


@dataclass(frozen=True, slots=True)
class Scalar(Expr):
    """A scalar operation, see `SCALARS`."""

    op: str
    args: tuple[Expr, ...]
    dtype: DType

    @property
    def type(self) -> DType:
        return self.dtype


Operand: TypeAlias = Union[Expr, bool, int, float]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory: `space` is "param" or "local"; sizes are i64 expressions (often constants)."""

    name: str
    dtype: DType
    shape: tuple[Expr, ...]
    space: str = "param"

    def __getitem__(self, index: object) -> Load:
        items = index if isinstance(index, tuple) else (index,)
        return Load(self, tuple(as_index(i) for i in items))


@dataclass(frozen=True, slots=True)
class For:
    """A counted loop from 0 to `extent`; `width` is the lanes of a vector loop."""

    var: Var
    extent: Expr
    kind: str
    body: tuple[Stmt, ...]
    width: int = 1


@dataclass(frozen=True, slots=True)
class If:
    """Run `body` where `cond` holds."""

    cond: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Let:
    """Name a value. The name is fresh in its kernel."""

    var: Var
    value: Expr


@dataclass(frozen=True, slots=True)
class Store:
    """Write one element."""

    buffer: Buffer
    index: tuple[Expr, ...]
    value: Expr


@dataclass(frozen=True, slots=True)
class Accumulate:
    """buffer[index] = op(buffer[index], value); op is add, mul, max, min, and, or."""

    buffer: Buffer
    index: tuple[Expr, ...]
    op: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for the cache line of an element, which may lie outside. Nothing depends on it."""

    buffer: Buffer
    index: tuple[Expr, ...]


Stmt: TypeAlias = Union[For, If, Let, Store, Accumulate, Fetch]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A loop nest over buffers. `writes` names the params that it stores to."""

    name: str
    params: tuple[Buffer, ...]
    writes: tuple[str, ...]
    locals: tuple[Buffer, ...]
    body: tuple[Stmt, ...]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the symbolic dimensions, sorted: what neither a loop nor a Let binds."""
        sizes = (size for buffer in (*self.params, *self.locals) for size in buffer.shape)
        items = [*walk(self.body), *walk(tuple(sizes))]
        used = {x.name for x in items if type(x) is Var}
        return tuple(sorted(used - {x.var.name for x in items if isinstance(x, (For, Let))}))


# name -> (arity, result): "same" as the first argument, "bool", or "explicit" (the dtype is given).
SCALARS: dict[str, tuple[int, str]] = {
    # arithmetic (integers wrap; floor_div and mod on integers round to minus infinity, x // 0 == 0)
    "add": (2, "same"), "sub": (2, "same"), "mul": (2, "same"), "div": (2, "same"),
    "floor_div": (2, "same"), "mod": (2, "same"), "neg": (1, "same"), "fma": (3, "same"),
    "min": (2, "same"), "max": (2, "same"), "abs": (1, "same"), "sign": (1, "same"),
    # min and max give NaN where an argument is NaN, as np.minimum and np.maximum do
    "sqrt": (1, "same"), "floor": (1, "same"), "ceil": (1, "same"), "trunc": (1, "same"),
    "round": (1, "same"),  # half to even
    # comparison and logic; shr copies the sign of signed integers, umulhi takes all as unsigned
    "eq": (2, "bool"), "ne": (2, "bool"), "lt": (2, "bool"), "le": (2, "bool"),
    "gt": (2, "bool"), "ge": (2, "bool"),
    "and": (2, "same"), "or": (2, "same"), "xor": (2, "same"), "not": (1, "same"),
    "shl": (2, "same"), "shr": (2, "same"), "umulhi": (2, "same"), "popcount": (1, "same"),
    "select": (3, "second"),
    "cast": (1, "explicit"),      # by value; float to int truncates, NaN gives 0, saturates
    "bitcast": (1, "explicit"),   # same bits, other dtype of the same width
    # functions with a definition in loop IR (planish.ir.math)
    "exp": (1, "same"), "exp2": (1, "same"), "expm1": (1, "same"), "log": (1, "same"),
    "log2": (1, "same"), "log1p": (1, "same"), "tanh": (1, "same"), "erf": (1, "same"),
    "sin": (1, "same"), "cos": (1, "same"), "sigmoid": (1, "same"), "rsqrt": (1, "same"),
    "pow": (2, "same"),
    "threefry": (4, "same"),  # random bits: key0, key1, counter0, counter1, all u32
    # guard(i, n, site): i where 0 <= i < n; otherwise report (site, i, n) to the runtime, and 0
    "guard": (3, "same"),
    # (sum, u32, u32): sum + products of the parts of two words: see `planish.ir.loop_scalars`
    **dict.fromkeys(("dpbf16", "dpbusd", "dpbssd", "dpflip", "dpbusw", "dpwssd"), (3, "same")),
}  # fmt: skip


def as_expr(value: Operand, like: DType) -> Expr:
    """`value` as an expression; a Python number becomes a constant of dtype `like`."""
    return value if isinstance(value, Expr) else Const(value, like)


def as_index(value: object) -> Expr:
    """`value` as an i64 expression."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, int):
        return Const(value, t.i64)
    raise IRError(f"an index must be an integer or an expression, got {value!r}")


def size_expr(size: AnySize) -> Expr:
    """A size (int, or polynomial over symbols) as an i64 expression over `Var`s."""
    if isinstance(size, int):
        return Const(size, t.i64)
    total: Expr = Const(0, t.i64)
    for monomial, coefficient in size.terms:
        term: Expr = Const(coefficient, t.i64)
        for symbol in monomial:
            term = term * Var(symbol.name)
        total = total + term
    return total


def scalar(op: str, *operands: Operand, dtype: DType | None = None) -> Expr:
    """Apply a scalar operation; Python numbers take the dtype of their partners; i64 folds."""
    if op not in SCALARS:
        raise IRError(f"unknown scalar operation {op!r}")
    arity, result = SCALARS[op]
    if len(operands) != arity:
        raise IRError(f"{op} takes {arity} operands, got {len(operands)}")
    chooses = result == "second"  # the condition says nothing about the others' dtype
    types = [x.type for x in operands[chooses:] if isinstance(x, Expr)]
    like = types[0] if types else t.i64
    args = tuple([x if isinstance(x, Expr) else Const(x, like) for x in operands])
    args = (as_expr(operands[0], t.boolean), *args[1:]) if chooses else args
    if like == t.i64 and (folded := fold_index(op, args)) is not None:
        return folded
    kind = t.boolean if result == "bool" else dtype if result == "explicit" else like
    if kind is None:
        raise IRError(f"{op} needs a dtype")
    return Scalar(op, args, kind)


_FOLDS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "min": min,
    "floor_div": lambda a, b: a // b if b else 0, "mod": lambda a, b: a % b if b else 0, "max": max,
}  # fmt: skip


def fold_index(op: str, args: tuple[Expr, ...]) -> Expr | None:
    """Constant folding and identities of integer index arithmetic, or None."""
    if op not in _FOLDS:
        match op, args:
            case "guard", (Const(i), Const(n), _) if 0 <= i < n:
                return args[0]
        return None
    a, b = args
    if isinstance(a, Const):
        if isinstance(b, Const):
            return Const(_FOLDS[op](int(a.value), int(b.value)), t.i64)
        if op not in ("add", "mul"):
            return None
        a, b = b, a
    match op, b.value if isinstance(b, Const) else None:
        case ("add" | "sub", 0) | ("mul" | "floor_div", 1):
            return a
        case ("mul", 0) | ("mod", 1):
            return Const(0, t.i64)
    return None


def select(cond: Operand, yes: Operand, no: Operand) -> Expr:
    """`yes` where `cond` holds, else `no`."""
    return scalar("select", cond, yes, no)


def cast(x: Expr, dtype: DType) -> Expr:
    """`x` converted to `dtype` by value."""
    return x if x.type == dtype else scalar("cast", x, dtype=dtype)


def bitcast(x: Expr, dtype: DType) -> Expr:
    """The bits of `x` read as `dtype`."""
    return x if x.type == dtype else scalar("bitcast", x, dtype=dtype)


def children(item: Expr | Stmt) -> tuple[Expr, ...]:
    """The expressions directly inside an expression or a statement."""
    found = _CHILDREN.get(type(item))
    return found(item) if found is not None else ()


_CHILDREN: dict[type, Callable[..., tuple[Expr, ...]]] = {
    Load: lambda x: x.index,
    Scalar: lambda x: x.args,
    For: lambda x: (x.extent,),
    If: lambda x: (x.cond,),
    Let: lambda x: (x.value,),
    Store: lambda x: (*x.index, x.value),
    Accumulate: lambda x: (*x.index, x.value),
    Fetch: lambda x: x.index,
}


def walk(body: tuple[Stmt | Expr, ...]) -> Iterator[Stmt | Expr]:
    """Every statement and expression of `body` and inside, without recursion on depth."""
    stack: list[Stmt | Expr] = list(reversed(body))
    while stack:
        item = stack.pop()
        yield item
        kind = type(item)
        if kind is Scalar or kind is Load:
            stack += item.args if kind is Scalar else item.index  # type: ignore[union-attr]
        elif kind is not Var and kind is not Const:
            if isinstance(item, (For, If)):
                stack += reversed(item.body)
            stack += children(item)
