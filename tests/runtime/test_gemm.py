"""Blocks of matrix products: sizes around them, by the loop interpreter and natively."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.ops.leaf import input_
from planish.ir.types import TensorType
from planish.passes.pipelines import FAST
from planish.runtime.cores import CORES
from planish.runtime.interpret import run_plan
from planish.runtime.kernels import gemm, pack
from planish.runtime.lower import lower
from planish.runtime.plan import Plan
from planish.runtime.program import Program
from planish.runtime.target import Target

RNG = np.random.default_rng(0)
HOST = Target.host()
LANES = HOST.lanes(t.f32)
DEPTH = 4
PANEL = DEPTH * 4 * LANES * 4  # bytes of a panel of four vectors


def leaf(name: str, *shape: object) -> Node:
    return input_(name=name, type=TensorType(t.f32, shape))


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def checked(graph: Graph, *arrays: np.ndarray) -> Plan:
    """The interpreter and native code agree with `ref`; threads leave the same bits."""
    plan, want = lower(FAST.run(graph), HOST), evaluate(graph, *arrays)
    one, two = (Program(plan, HOST, threads=threads)(*arrays) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    for got in (run_plan(plan, *arrays)[0], one):
        np.testing.assert_allclose(got, want[0], 1e-5, 1e-5)
    return plan


@pytest.mark.parametrize("panels", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 6, 7, 20])
@pytest.mark.parametrize("vectors", [1, 8, 9, 13, 24])
def test_groups_of_panels(
    panels: int, rows: int, vectors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One group, whole groups, and a last one of fewer panels."""
    monkeypatch.setitem(CORES, HOST.cpu, replace(HOST.core, l2=2 * panels * PANEL))
    columns = vectors * LANES - 3
    a, b = leaf("a", rows, DEPTH), leaf("b", DEPTH, columns)
    graph = Graph("f", (a, b), (OPS["matmul"](a, b),))
    checked(graph, values(rows, DEPTH), values(DEPTH, columns))


@pytest.mark.parametrize("rows", [1, 9])
def test_groups_in_a_batch_of_products_of_any_height(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CORES, HOST.cpu, replace(HOST.core, l2=4 * PANEL))
    columns = 12 * LANES
    a, b = leaf("a", 3, Dim("T", max=9), DEPTH), leaf("b", 3, DEPTH, columns)
    graph = Graph("f", (a, b), (OPS["matmul"](a, b),))
    checked(graph, values(3, rows, DEPTH), values(3, DEPTH, columns))


def packs(plan: Plan) -> int:
    return sum(step.label.endswith("pack") for step in plan.steps)


@pytest.mark.parametrize("depth", [1, 3, 4, 9])
@pytest.mark.parametrize("rows", [1, 5, 6, 13, 24])
@pytest.mark.parametrize("columns", [64, 65])
def test_strips_of_a_transposed_operand(
    rows: int, depth: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows around the height of a tile, depths around the block that one iteration packs."""
    monkeypatch.setattr(gemm, "STRIPS", 0)
    monkeypatch.setattr(pack, "PACK", 4)
    a, b = leaf("a", depth, rows), leaf("b", depth, columns)
    graph = Graph("f", (a, b), (OPS["transpose"](a, perm=(1, 0)) @ b,))
    plan = checked(graph, values(depth, rows), values(depth, columns))
    assert packs(plan) == (2 if columns == 65 else 1)


@pytest.mark.parametrize("rows", [64, 70, 130])
def test_strips_of_the_smaller_operand(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "STRIPS", 0)
    monkeypatch.setattr(gemm, "SWAPPED", 5)
    a, b = leaf("a", 7, rows), leaf("b", 7, 33)
    graph = Graph("f", (a, b), (OPS["transpose"](a, perm=(1, 0)) @ b,))
    plan = checked(graph, values(7, rows), values(7, 33))
    strips = [s for s in plan.steps[-1].kernel.params if s.name == "strips"]
    assert [s.shape[0].value * s.shape[-1].value < 64 for s in strips] == [True]


@pytest.mark.parametrize("depth", [1, 70])
def test_strips_of_a_depth_known_at_run_time(depth: int) -> None:
    a, b = leaf("a", Dim("T", max=70), 40), leaf("b", Dim("T", max=70), 65)
    graph = Graph("f", (a, b), (OPS["transpose"](a, perm=(1, 0)) @ b,))
    assert packs(checked(graph, values(depth, 40), values(depth, 65))) == 2


def test_strips_are_for_what_is_large_and_read_often() -> None:
    found = []
    for rows, depth, columns in ((256, 384, 64), (256, 384, 63), (64, 384, 64)):
        a, b = leaf("a", depth, rows), leaf("b", depth, columns)
        product = OPS["transpose"](a, perm=(1, 0)) @ b
        plan = lower(FAST.run(Graph("f", (a, b), (product,))), HOST)
        found.append(any(p.name == "strips" for s in plan.steps for p in s.kernel.params))
    assert found == [True, False, False]


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("words", [1, 2, 3, 4, 6, 7, 8, 12])
def test_bytes_are_read_in_several_places(rows: int, words: int) -> None:
    """Panels of bytes whose depth is no multiple of the places, and few rows or more; exact."""
    rng = np.random.default_rng(words)
    a, b = (
        rng.integers(-128, 128, s).astype(np.int8) for s in ((rows, 4 * words), (4 * words, 70))
    )
    x = OPS["input"](name="a", type=TensorType(t.i8, a.shape))
    w = OPS["param"](name="w", type=TensorType(t.i8, b.shape))
    graph = Graph("f", (x,), (OPS["matmul"](x, w, out=t.i32),), {"w": b})
    plan = lower(FAST.run(graph), HOST)
    want = a.astype(np.int32) @ b.astype(np.int32)
    for got in (run_plan(plan, a)[0], Program(plan, HOST, threads=2)(a)):
        np.testing.assert_array_equal(got, want)
