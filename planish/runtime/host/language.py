"""The language of host code: functions of Python's syntax that become machine code, not bytecode.

    from planish.runtime.host.language import Ptr, Record, export, extern, i64, null, text, u8

    LIMIT = 1 << 20                                    # constants: numbers and strings

    class Words(Record):                               # a C struct
        \"\"\"Some text, and how often it was read.\"\"\"

        start: Ptr[u8]
        size: i64
        reads: i64

    @extern                                            # a function of the C library
    def strlen(start: Ptr[u8]) -> i64: ...

    @export                                            # a symbol that others see
    def count(words: Words, letter: u8) -> i64:
        \"\"\"How often a letter stands in a text.\"\"\"
        words.reads += 1
        found = 0
        for at in range(words.size):
            if words.start[at] == letter:
                found += 1
        return found

`planish.runtime.host.compiler` reads the source of such modules and writes LLVM IR; nothing is
imported or run by it. For Python these are ordinary modules, so mypy and ruff read them as well.

Types      bool, i8 i16 i32 i64, u8 u16 u32 u64, f32 f64, None (returns nothing); `Ptr[T]`, of
           which `Text` is one of u8 that C sees as const char *, `Memory` C's void *, `Const[T]`
           C's const T *;
           a record means the address of a struct, `Ptr[TheRecord]` that of an array of them;
           `Callable[[i64, f32], i32]` is a function's address, and the name of a function has it.
Variables  are typed by their first assignment (a number without a type is i64 or f64), or by
           `x: u8 = 0`. They begin as zero and keep their type. There are no global ones.
Statements assignments, `+=` and the like, if, while, for over range (the step is a number),
           break, continue, return, calls, pass.
Operators  + - * / // % << >> & | ^ ~, comparisons (chained, too), and, or, not, `a if c else b`;
           / is for floats, // and % for integers, both as in Python. Operands have one type: only
           plain numbers fit their partner. Integers wrap. Conditions are bool.
Memory     `p[i]` reads and writes, `p + i` moves by elements, `p - q` counts them, `r.field`;
           records and pointers compare with == != and `null`.
Calls      `i64(x)` converts numbers and pointers, as C does; `Ptr[T](p)` and `TheRecord(p)` see
           memory as something else. `text("...")` is a constant that ends with a zero byte,
           `ord("x")` a number, `size_of(T)` bytes, `local(T, n)` memory on the stack until the
           function returns, `address(r.field)` or `address(p[i])` where something is.
C          `@extern` declares a function by its name; `*more: object` stands for C's `...`.

Not checked, as in C: bounds of memory, division by zero, shifts by more than the width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
F = TypeVar("F", bound=Callable)

i8: TypeAlias = int
i16: TypeAlias = int
i32: TypeAlias = int
i64: TypeAlias = int
u8: TypeAlias = int
u16: TypeAlias = int
u32: TypeAlias = int
u64: TypeAlias = int
f32: TypeAlias = float
f64: TypeAlias = float

null: Any = None


class Record:
    """Base of structs: annotations are the fields, in order."""

    def __init__(self, place: Any) -> None:
        raise NotImplementedError(REASON)


class Ptr(Generic[T]):
    """The address of elements of one type."""

    def __init__(self, place: Any) -> None:
        raise NotImplementedError(REASON)

    def __getitem__(self, at: int) -> T:
        raise NotImplementedError(REASON)

    def __setitem__(self, at: int, value: T) -> None:
        raise NotImplementedError(REASON)

    def __add__(self, count: int) -> Ptr[T]:
        raise NotImplementedError(REASON)

    def __sub__(self, other: Any) -> Any:
        raise NotImplementedError(REASON)

    def __int__(self) -> int:
        raise NotImplementedError(REASON)


Const = Ptr  # that C sees as const
Text: TypeAlias = Ptr[u8]
Memory: TypeAlias = Ptr[Any]
REASON = "host code is compiled, Python does not run it"


def export(function: F) -> F:
    """A function that other code calls by its name."""
    return function


def extern(function: F) -> F:
    """A function that is defined elsewhere; its body is `...`."""
    return function


def text(value: str) -> Ptr[u8]:
    """UTF-8 that ends with a zero byte."""
    raise NotImplementedError(REASON)


def size_of(kind: Any) -> i64:
    """Bytes of a value of a type; of a record, those of the struct."""
    raise NotImplementedError(REASON)


def local(kind: type[T], count: int) -> Ptr[T]:
    """Elements on the stack, which begin as zero; the count is a constant."""
    raise NotImplementedError(REASON)


def address(place: T) -> Ptr[T]:
    """Where a field or an element is."""
    raise NotImplementedError(REASON)
