"""Attention of many queries: register tiles of any width and height, against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.ops.leaf import input_
from planish.ir.types import TensorType
from planish.passes.pipelines import FAST
from planish.runtime.interpret import run_plan
from planish.runtime.kernels.attention import FEW, TILES
from planish.runtime.lower import lower
from planish.runtime.program import Program
from planish.runtime.target import Target

HOST = Target.host()
ROWS, VECTORS = TILES[HOST.vector_registers]
BLOCK = VECTORS * HOST.lanes(t.f32)  # columns of a tile


@pytest.mark.parametrize("queries", [FEW, ROWS + 1, 2 * ROWS])
@pytest.mark.parametrize("width", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
@pytest.mark.parametrize("causal", [True, False])
def test_values_of_any_width(queries: int, width: int, causal: bool) -> None:
    check(queries, 19, width, causal)


@pytest.mark.parametrize("keys", [1, BLOCK // 2, BLOCK // 2 + 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
def test_any_number_of_keys_and_queries_before_them(keys: int) -> None:
    """Queries are the last ones: of more than there are keys the first see none, and are 0."""
    early = ROWS + 2
    assert not check(keys + early, keys, BLOCK, causal=True)[:, :, :early].any()
    check(FEW, keys, BLOCK, causal=False)


def check(queries: int, keys: int, width: int, causal: bool) -> np.ndarray:
    """By one thread, by two, and by the interpreter of plans, beside the definition."""
    rng = np.random.default_rng(width)
    shapes = {"q": (1, 2, queries, 7), "k": (1, 1, keys, 7), "v": (1, 1, keys, width)}
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes.values()]
    leaves = [input_(name=n, type=TensorType(t.f32, s)) for n, s in shapes.items()]
    graph = Graph("f", tuple(leaves), (OPS["attention"](*leaves, causal=causal),))
    plan = lower(FAST.run(graph), HOST)
    one, two = (np.asarray(Program(plan, HOST, threads=n)(*arrays)) for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    want = evaluate(graph, *arrays)[0]
    for got in (one, run_plan(plan, *arrays)[0]):
        np.testing.assert_allclose(got, want, 1e-5, 1e-5)
    return one
