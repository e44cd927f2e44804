"""Roofs: what is measured makes sense, and what is read from a file is not believed as it is."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.types import TensorType
from planish.runtime import roofs
from planish.runtime.cost import kernel_cost
from planish.runtime.roof import LEVELS, Reading, Roof, roof_of
from planish.runtime.slots import Slot
from planish.runtime.target import Target, cache_sizes, cpu_name
from tests.runtime import native

ROOF = Roof(
    2, 200e9, 400e9, 800e9,
    (Reading("L1", 1 << 15, 400e9), Reading("L2", 1 << 20, 200e9), Reading("L3", 1 << 24, 100e9),
     Reading("middle", 1 << 26, 75e9), Reading("DRAM", 1 << 28, 50e9)), 1e-7,
)  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
def test_a_small_measurement(threads: int) -> None:
    sizes = tuple(threads * x for x in (1 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18))
    found = roofs.measured(threads, sizes, steps=16, seconds=0)
    assert roof_of(json.loads(json.dumps(found.record()))) == found
    assert tuple(x.level for x in found.readings) == LEVELS
    assert tuple(x.size for x in found.readings) == sizes
    assert (found.barrier is None) == (threads == 1)
    assert (found.bf16 is None) != roofs.has_bf16(Target.host()) and found.int8 > 0


def test_working_sets_grow() -> None:
    for threads in (1, 2, 64):
        sizes = roofs.working_sets(threads)
        assert list(sizes) == sorted(set(sizes)) and sizes[-1] >= 256 << 20
    assert cache_sizes()[0] >= 1024 and cpu_name()


OUT = Slot("output", 0, TensorType(t.f32, (2, roofs.CHAINS, 16)), "out")


OPS = [("fma", t.f32, 2), ("dpbf16", t.u32, 4), ("dpbusd", t.u32, 8), ("dpbssd", t.u32, 8)]


@pytest.mark.parametrize(("op", "dtype", "count"), OPS)
def test_chains_are_what_they_are_counted_for(op: str, dtype: t.DType, count: int) -> None:
    kernel = roofs.chain_kernel(op, dtype, OUT, 16, 5)
    links = 2 * 5 * roofs.CHAINS * 16
    cost = kernel_cost(kernel, {})
    assert cost.flops == links * count
    start = np.linspace(0.1, 0.9, roofs.CHAINS * 16).astype(np.float32)
    words = start if dtype == t.f32 else start.view(np.uint32)
    native.check(kernel, words, np.zeros((2, roofs.CHAINS, 16), np.float32), rtol=1e-5)


def test_products_of_matrices_are_counted_like_their_peak() -> None:
    kernel = roofs.matrix_kernel(OUT, 3)
    side, depth = roofs.BLOCK
    words = np.full(roofs.BLOCK, roofs._HALVES, np.uint32)
    out = np.zeros((2, roofs.CHAINS, 16), np.float32)
    *_, found = native.check(kernel, words, words.reshape(-1, side), out)
    assert found[0, 0, 0] == 2 * depth * 0.25
    assert kernel_cost(kernel, {}).dots == 2 * 3 * 4 * side * side * depth


@pytest.mark.parametrize(("vectors", "rows"), roofs.TILES)
@pytest.mark.parametrize("op", ["dpbusd", "dpbssd"])
def test_tiles_of_bytes_are_products(op: str, vectors: int, rows: int) -> None:
    kernel = roofs.tile_kernel(op, OUT, 16, vectors, rows, 3)
    assert kernel_cost(kernel, {}).byte_dots == 2 * 3 * roofs.DEPTH * 8 * rows * vectors * 16
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 1 << 32, (roofs.DEPTH, n), np.uint32) for n in (rows, vectors * 16))
    *_, found = native.check(kernel, a, b, np.zeros((2, roofs.CHAINS, 16), np.float32))
    of_a = a.view(np.uint8 if op == "dpbusd" else np.int8).reshape(-1, rows, 4)
    want = 3 * np.einsum(
        "krc,kjc->rj", of_a.astype(int), b.view(np.int8).reshape(-1, vectors * 16, 4).astype(int)
    )
    row = (rows * vectors - 1) % roofs.CHAINS  # the last tile of registers, and what it overwrote
    np.testing.assert_array_equal(found[1, row], want[-1, -16:].astype(np.float32))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("znver4", r"vpdpbusd.*%zmm"), ("cascadelake", r"vpdpbusd.*%zmm"),
        ("x86-64-v4", r"vpmadd.*%zmm"), ("x86-64-v3", r"vpmadd.*%ymm"),
        ("aarch64:neoverse-n1", r"sdot"),
    ],
)  # fmt: skip
def test_bytes_are_measured_by_the_best_instruction(name: str, wanted: str) -> None:
    target = Target.parse(name)
    out = Slot("output", 0, TensorType(t.f32, (2, roofs.CHAINS, target.lanes(t.f32))), "out")
    for kernel in roofs.byte_kernels(out, target, 256):
        lines = native.assembly(kernel, target)
        assert sum(bool(re.search(wanted, x)) for x in lines) >= 6, kernel.name


def test_the_better_of_two() -> None:
    slow = replace(ROOF, fma=1e9, bf16=None, barrier=1e-3, readings=ROOF.readings)
    assert slow.best(ROOF) == ROOF.best(slow) == ROOF


@pytest.mark.parametrize("places", roofs.PLACES)
def test_a_reader_reads_all_of_its_piece(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = 2 * roofs.READS * 16
    monkeypatch.setattr(roofs, "VOLUME", 3 * 4 * piece)
    data = Slot("input", 0, TensorType(t.f32, (2 * piece,)), "data")
    kernel = roofs.read_kernel("L1", data, piece, OUT, 16, places)
    x = np.arange(2 * piece, dtype=np.float32)
    _, out = native.check(kernel, x, np.zeros((2, roofs.CHAINS, 16), np.float32))
    np.testing.assert_allclose(out.sum((1, 2)), 3 * x.reshape(2, -1).sum(1))
    first = x.reshape(2, places, -1)[0, :, :16]  # all places are begun in the first step
    assert {*first[:, 0]} == {n * piece / places for n in range(places)}
    assert kernel_cost(kernel, {}).reads["data"] == 2 * 3 * piece


def test_time_under_the_roof() -> None:
    assert ROOF.bandwidth(10) == 400e9 and ROOF.bandwidth(1 << 40) == 50e9
    assert ROOF.bandwidth(1 << 22) == pytest.approx(200e9 / math.sqrt(2))
    assert ROOF.seconds(200e9, 0, 0, []) == 1 == ROOF.seconds(400e9, 400e9, 0, [])
    assert replace(ROOF, bf16=None).seconds(400e9, 400e9, 0, []) == 2
    assert ROOF.seconds(1000e9, 0, 800e9, []) == 2 == ROOF.seconds(1600e9, 0, 2000e9, [])
    assert ROOF.seconds(200e9, 0, 0, [(10**12, 10), (10**12, 1 << 40)]) == 2.5 + 20


@pytest.mark.parametrize(
    "change",
    [
        {"fma": -1.0}, {"fma": math.nan}, {"fma": 1e30}, {"fma": "fast"}, {"fma": True},
        {"bf16": 0.0}, {"int8": None}, {"int8": 0.0}, {"threads": 0}, {"threads": 1.5},
        {"barrier": None}, {"barrier": 9.0},
        {"readings": []}, {"readings": 7}, {"more": 1},
        {"readings": [{"level": "L1", "size": 1, "speed": 1e9}] * 5},
    ],
)  # fmt: skip
def test_records_that_make_no_sense(change: dict) -> None:
    good = json.loads(json.dumps(ROOF.record()))
    assert roof_of(good) == ROOF
    assert roof_of({**good, **change}) is None
    assert roof_of(list(good)) is None


def test_a_roof_is_kept_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(roofs, "thread_count", lambda wanted: wanted)
    made = []

    def measure(threads: int, sizes: object) -> Roof:
        made.append(threads)
        return ROOF

    monkeypatch.setattr(roofs, "measured", measure)
    monkeypatch.setattr(roofs, "has_bf16", lambda target: True)
    find = roofs.machine_roof.__wrapped__
    assert find(2) == find(2) == ROOF and made == [2]
    (path,) = (tmp_path / "cache").iterdir()
    good = path.read_text()
    for bad in ("", "{}", "[" * 99999, "\0", good.replace("200000000000.0", "-1.0"),
                good.replace(cpu_name(), "another")):  # fmt: skip
        path.write_text(bad)
        assert find(2) == ROOF and path.read_text() == good
    assert made == [2] * 7
    monkeypatch.setenv("PLANISH_CACHE", "off")
    assert find(2) == ROOF and made == [2] * 8
    monkeypatch.setenv("PLANISH_CACHE", str(path / "a file is no folder"))
    assert find(2) == ROOF
