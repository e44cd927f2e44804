"""Host code: what it means to Python, what it does to memory, and what it refuses."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.errors import CompileError
from planish.runtime.elf import loaded
from planish.runtime.host.compiler import Source, baseline, host_text, source_of
from planish.runtime.llvm import compile_text
from planish.runtime.target import Target
from tests.runtime.host import samples

HEAD = "from planish.runtime.host.language import *\n"
KINDS = {"i64": ctypes.c_int64, "u8": ctypes.c_uint8, "ptr": ctypes.c_void_p,
         "u32": ctypes.c_uint32, "f32": ctypes.c_float, "f64": ctypes.c_double,
         "i32": ctypes.c_int32, "bool": ctypes.c_bool, "": None}  # fmt: skip


def code_of(*sources: Source, **more: Any) -> Any:
    target = baseline(Target.host())
    return loaded([compile_text(host_text(sources, **more), target)], target)


def native(code: Any, name: str, result: str = "i64", *params: str) -> Callable[..., Any]:
    function = ctypes.CFUNCTYPE(KINDS[result], *(KINDS[x] for x in params))
    found = function(code.address(name))
    found.code = code  # type: ignore[attr-defined]
    return found


def one(body: str, result: str = "i64", *params: str) -> Callable[..., Any]:
    """The function f of a module."""
    return native(code_of(Source("test.py", HEAD + body)), "f", result, *params)


@cache
def sample_code() -> Any:
    return code_of(source_of(samples))


SMALL = {"fibonacci": 12, "primes": 200}
NAMES = [x for x in vars(samples) if callable(getattr(samples, x)) and x.islower()]
PURE = sorted(set(NAMES) - {"export", "i32", "i64", "u8", "f64"})


@pytest.mark.parametrize("name", PURE)
@settings(max_examples=60)
@given(st.data())
def test_it_means_what_it_means_to_python(name: str, data: st.DataObject) -> None:
    most = SMALL.get(name, 1000)
    numbers = st.integers(0 if name in SMALL else -most, most)
    judge = getattr(samples, name)
    count = judge.__code__.co_argcount
    values = [data.draw(numbers) for _ in range(count)]
    if name == "divided" and values[1] == 0:
        values[1] = 7
    function = native(sample_code(), name, "i64", *["i64"] * count)
    assert function(*values) == judge(*values)


def test_records_strings_and_the_c_library() -> None:
    code = code_of(
        Source(
            "test.py",
            HEAD
            + '''
class Words(Record):
    """Some text."""

    start: Ptr[u8]
    small: u8
    size: i64
    next: Words

@extern
def malloc(size: i64) -> Ptr[u8]: ...
@extern
def free(place: Ptr[u8]) -> None: ...
@extern
def strlen(start: Ptr[u8]) -> i64: ...
@extern
def snprintf(out: Ptr[u8], size: i64, form: Ptr[u8], *more: object) -> i32: ...

FORM = "%s has %ld, é"

def made(start: Ptr[u8]) -> Words:
    words = Words(malloc(size_of(Words)))
    words.start = start
    words.size = strlen(start)
    words.next = null
    return words

@export
def f(out: Ptr[u8], room: i64) -> i32:
    words = made(text("some text"))
    words.next = made(text("x"))
    words.next.size += words.size
    done = snprintf(out, room, text(FORM), words.start, words.next.size)
    if words.next.next == null and words != null:
        out[0] = u8(ord("S"))
    free(Ptr[u8](words.next))
    free(Ptr[u8](words))
    return done
''',
        )
    )
    out = ctypes.create_string_buffer(64)
    assert native(code, "f", "i32", "ptr", "i64")(ctypes.addressof(out), 64) == 20
    assert out.value.decode() == "Some text has 10, é"


def test_functions_have_addresses_and_arrays_of_records_too() -> None:
    f = one(
        '''
class Pair(Record):
    """Two numbers."""

    key: i32
    value: i64

@extern
def qsort(base: Ptr[Pair], count: i64, size: i64,
          compare: Callable[[Pair, Pair], i32]) -> None: ...

def by_key(a: Pair, b: Pair) -> i32:
    return a.key - b.key

@export
def f(n: i64) -> i64:
    pairs = local(Pair, 8)
    for i in range(n):
        pairs[i].key = i32((i * 5) % 8)
        pairs[i].value = i
    qsort(pairs, n, size_of(Pair), by_key)
    last = pairs + (n - 1)
    place = address(last[0].value)
    place[0] += 100
    return pairs[n - 1].value * 1000 + (last - pairs) * 100 + size_of(Pair)
''',
        "i64",
        "i64",
    )
    assert f(8) == 103 * 1000 + 7 * 100 + 16


def test_small_types_wrap_and_shift_by_their_signs() -> None:
    f = one(
        """
@export
def f(a: u32, b: u8) -> u32:
    low: u8 = 250
    low += b
    shifted = (a << 7) | (a >> 25)
    signed = i32(a) >> 31
    return shifted * 3 + u32(low) + u32(signed) + a // 3 + u32(b > 3 and a >= 0x80000000)
""",
        "u32",
        "u32",
        "u8",
    )
    a, b = 0xF000_0001, 9
    shifted = (a << 7 | a >> 25) & 0xFFFFFFFF
    assert f(a, b) == (shifted * 3 + (250 + b) % 256 + 0xFFFFFFFF + a // 3 + 1) % 2**32


def test_sides_that_cannot_matter_are_not_computed() -> None:
    f = one(
        """
@export
def f(p: Ptr[i64], n: i64) -> i64:
    if p != null and n > 0 and p[n - 1] == 5:
        return 1
    x = 2 if p == null or p[0] == 5 else 3
    while True:
        x += 1
        if x > 9:
            return x
""",
        "i64",
        "ptr",
        "i64",
    )
    assert f(None, 3) == 10
    numbers = (ctypes.c_int64 * 2)(7, 5)
    assert (f(ctypes.addressof(numbers), 2), f(ctypes.addressof(numbers), 1)) == (1, 10)


def test_exports_take_another_prefix_and_externs_llvm_text() -> None:
    text = HEAD + (
        "@extern\ndef twice(x: f32) -> f32: ...\n"
        "@export\ndef planish_f(x: f32) -> f32:\n    return twice(x) + 0.5\n"
    )
    twice = "define internal float @twice(float %x) {\n %y = fadd float %x, %x\n ret float %y\n}"
    code = code_of(Source("test.py", text), given={"twice": twice}, prefix="mine_")
    assert native(code, "mine_f", "f32", "f32")(1.25) == 3.0


REFUSED = [
    ("def f(x: i64) -> i64:\n    return x / 2", "3: i64 has no div"),
    ("def f(x: i64) -> i64:\n    return x + u8(3)", "3: i64 and u8 do not mix; convert one"),
    ("def f(x: i64) -> i64:\n    return y", "3: unknown name y"),
    ("def f(x: i64) -> i64:\n    return 1 if x else 2", "3: a condition is a bool"),
    ("def f(x: i64) -> i64:\n    if x > 2:\n        return 1", "2: ends without a return"),
    ("def f(x: i64) -> None:\n    return\n    f(x)", "4: nothing gets here"),
    ("def f(x: u8) -> u8:\n    return x + 256", "3: 256 does not fit into u8"),
    ("def f(x: str) -> u8:\n    return 1", "2: a type of host code is expected, not str"),
    ("def f(x: i64) -> i64:\n    return f(x, x)", "3: f takes 1 arguments, got 2"),
    ("def f(x: i64) -> i64:\n    return f(null)", "3: argument 1 of f: expected i64, found null"),
    ("def f(x: i64) -> i64:\n    return x.y", "3: i64 has no field y"),
    ("def f(x: i64) -> i64:\n    x = 1.5\n    return x", "3: expected i64, found the number 1.5"),
    ("def f(x: i64) -> i64:\n    for i in range(x):\n        y = [1]\n    return 1",
     "4: host code has no list: [1]"),
    ("def f(x: i64) -> i64:\n    try:\n        pass\n    finally:\n        return 1",
     "3: host code has no such try: try:"),
    ("def f(x: i64 = 3) -> i64:\n    return x", "2: f: arguments are plain"),
    ("def f(x: i64) -> i64:\n    break\n    return 1", "3: break and continue stand in loops"),
    ("def f(x: i64) -> None:\n    y = null", "3: null needs a type here"),
    ("class R:\n    x: i64", "2: class R: only records"),
    ("class R(Record):\n    x = 3", "2: record R has fields only"),
    ("X = f(3)", "2: f(3) is no constant"),
    ("X = 3\nX = 4", "3: X is defined twice"),
    ("for x in y: pass", "2: a module of host code has no for statement"),
    ("@other\ndef f() -> None:\n    pass", "3: f: unknown decorator other"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_is_no_host_code_is_refused_with_its_line(body: str, why: str) -> None:
    with pytest.raises(CompileError, match="^test.py:" + re.escape(why)):
        host_text([Source("test.py", HEAD + body)])
