"""Dot products of bf16 and of bytes: every spelling, and where it is one instruction."""

from __future__ import annotations

import re

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.loop_scalars import OPERATIONS
from planish.ir.loop_verify import DOTS
from planish.ir.loops import For, Kernel, Store, scalar
from planish.runtime.kernels.words import STARTS
from planish.runtime.target import Target
from tests.ir.nests import J, buffer, n
from tests.runtime.native import assembly, check

RNG = np.random.default_rng(0)
WIDTHS = (1, 4, 8, 16, 32, 48, 64)


def dot_kernel(op: str, size: int, width: int) -> Kernel:
    """total[j] += a[j] . b, with one word b."""
    total = buffer("total", size, dtype=DOTS[op])
    a, b = buffer("a", size, dtype=t.u32), buffer("b", 1, dtype=t.u32)
    body = For(J, n(size), "vector", (Store(total, (J,), scalar(op, total[J], a[J], b[0])),), width)
    return Kernel("test", (a, b, total), ("total",), (), (body,))


@pytest.mark.parametrize("width", WIDTHS)
def test_dot_of_bf16_pairs(width: int) -> None:
    """As rounded by the interpreter, in every spelling that runs here."""
    words = RNG.standard_normal((101, 2)).astype(t.bf16.numpy).view(np.uint32)[:, 0]
    total = RNG.standard_normal(100).astype(np.float32)
    check(dot_kernel("dpbf16", 100, width), words[:100], words[100:], total, rtol=0)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("op", ["dpbusd", "dpbssd"])
def test_dot_of_bytes(op: str, width: int) -> None:
    """Exact, with no sum that saturates on the way, and wrapping at the end."""
    words = RNG.integers(0, 1 << 32, 101, np.uint32)
    words[:4], words[100] = [0xFFFFFFFF, 0x80808080, 0x7F7F7F7F, 0x80017F00], 0x80808080
    total = RNG.integers(-(1 << 31), 1 << 31, 100).astype(np.int32)
    check(dot_kernel(op, 100, width), words[:100], words[100:], total, rtol=0)


def test_what_dots_of_bytes_mean() -> None:
    a, b = np.uint32([0x04030201, 0xFF000080]), np.uint32([0x01010101, 0x80000080])
    for op, want in (("dpbusd", [110, 100 + 255 * -128 + 128 * -128]), ("dpbssd", [110, 16612])):
        np.testing.assert_array_equal(OPERATIONS[op](np.int32([100, 100]), a, b), want)


@pytest.mark.parametrize("width", WIDTHS)
def test_dot_of_flipped_bytes(width: int) -> None:
    """In every spelling, and the bits of a product of signed bytes once magnitudes are added."""
    ends = RNG.choice(np.array([-128, -127, 127], np.int8), (101, 4))
    some = RNG.integers(-128, 128, (101, 4), np.int8)
    given = np.where(RNG.random((101, 4)) < 0.7, ends, some)
    total = RNG.integers(-(1 << 31), 1 << 31, 100).astype(np.int32)
    for last in (-128, 127):
        given[100] = last
        a, b = given[:100].view("<u4")[:, 0], given[100:].view("<u4")[:, 0]
        (*_, got) = check(dot_kernel("dpflip", 100, width), a, b, total, rtol=0)
        short = STARTS["dpflip"](given[:100].T)
        np.testing.assert_array_equal(got + short.astype("i4"), OPERATIONS["dpbssd"](total, a, b))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("op", ["dpbusw", "dpwssd"])
def test_dot_of_halves(op: str, width: int) -> None:
    """What does not fit in 16 bits is cut off before it is added; sums wrap."""
    words = RNG.integers(0, 1 << 32, 101, np.uint32)
    words[:3], words[100] = [0xFFFF7F80, 0x7FFF8000, 0x01FF8080], 0x7F7F8081
    total = RNG.integers(-(1 << 31), 1 << 31, 100).astype(DOTS[op].numpy)
    check(dot_kernel(op, 100, width), words[:100], words[100:], total, rtol=0)


def test_what_dots_of_halves_mean() -> None:
    a, b = np.uint32([0x02010403]), np.uint32([0x01FF0101])
    assert OPERATIONS["dpbusw"](np.uint32([0xFFFF0001]), a, b) == [0x00000008]
    most = np.uint32([0xFFFFFFFF]), np.uint32([0x7F7F8080])
    assert OPERATIONS["dpbusw"](np.uint32([0]), *most) == [0x7FFF8000]
    assert OPERATIONS["dpwssd"](np.int32([5]), np.uint32([0x0002FFFF]), a) == [5 + 2 * 513 - 1027]


@pytest.mark.parametrize(
    "op, name, wanted",
    [
        ("dpbf16", "znver4", "vdpbf16ps"),
        ("dpbf16", "x86-64-v4", "vfmadd"),
        ("dpbusd", "znver4", "vpdpbusd.*zmm"),
        ("dpbusd", "sapphirerapids", "vpdpbusd.*zmm"),
        ("dpbusd", "x86-64-v4", "vpmaddwd.*zmm"),
        ("dpbssd", "znver4", "vpmaddwd.*zmm"),
        ("dpbusd", "x86-64-v3", "vpmaddwd.*ymm"),
        ("dpbssd", "x86-64-v2", "pmaddwd.*xmm"),
        ("dpflip", "x86-64-v4", "vpmaddubsw.*zmm"),
        ("dpflip", "x86-64-v3", "vpmaddubsw.*ymm"),
        ("dpflip", "x86-64-v3", "vpcmpgtb.*ymm"),
        ("dpflip", "x86-64-v2", "pmaddubsw.*xmm"),
        ("dpbusw", "x86-64-v3", "vpmaddubsw.*ymm"),
        ("dpwssd", "x86-64-v2", "pmaddwd.*xmm"),
        ("dpbssd", "aarch64:neoverse-n1", "sdot"),
        ("dpbusd", "aarch64:neoverse-v1", "usdot"),
    ],
)
def test_dots_in_one_instruction(op: str, name: str, wanted: str) -> None:
    lines = assembly(dot_kernel(op, 256, 16), Target.parse(name))
    assert any(re.search(wanted, line) for line in lines)
    assert not any("rsp" in line for line in lines)
