"""SHA-256 of host code against Python's, in pieces of any size."""

from __future__ import annotations

import ctypes
import hashlib
from functools import cache
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planish.runtime.host import libc, sha256
from planish.runtime.host.compiler import Source, source_of
from planish.runtime.ship.checkpoint import numbers
from tests.runtime.host.test_language import HEAD, code_of, native

WRAPPED = """
from planish.runtime.host.sha256 import *

@export
def total(
    numbers: Ptr[i64], data: Text, cut: i64, size: i64, memory: Ptr[u8], out: Ptr[u8]
) -> None:
    sum = sha_begun(memory, numbers)
    sha_add(sum, data, cut)
    sha_add(sum, data + cut, size - cut)
    sha_hex(sum, out)
"""


@cache
def total() -> Any:
    code = code_of(source_of(libc), source_of(sha256), Source("test.py", HEAD + WRAPPED))
    return native(code, "total", "", "ptr", "ptr", "i64", "i64", "ptr", "ptr")


@given(st.integers(0, 200), st.integers(0, 200), st.randoms(use_true_random=False))
def test_it_is_the_sum_of_python(size: int, cut: int, random: Any) -> None:
    data, told = random.randbytes(size), ctypes.create_string_buffer(65)
    table, memory = np.array(numbers(), np.int64), np.zeros(1024, np.uint8)
    total()(table.ctypes.data, data, min(cut, size), size, memory.ctypes.data, told)
    assert told.value.decode() == hashlib.sha256(data).hexdigest()
