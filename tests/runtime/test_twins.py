"""Products of few rows read two panels side by side: the same bits as a product of many rows."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.ops.leaf import input_, param
from planish.ir.types import TensorType
from planish.passes.pipelines import FAST
from planish.runtime.interpret import run_plan
from planish.runtime.kernels import twins
from planish.runtime.lower import lower
from planish.runtime.program import Program
from planish.runtime.target import Target

HOST = Target.host()
WIDE = 4 * HOST.lanes(t.f32)  # columns of a panel of one row


def product(rows: int, weight: np.ndarray) -> Graph:
    """x[rows, K] @ weight."""
    x = input_(name="x", type=TensorType(t.f32, (rows, weight.shape[0])))
    w = param(name="w", type=TensorType(t.f32, weight.shape))
    return FAST.run(Graph("f", (x,), (OPS["matmul"](x, w),), params={"w": weight}))


def paired(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel of the graph's product is one of pairs."""
    made = []
    write = twins.TwinGemm.write
    monkeypatch.setattr(twins.TwinGemm, "write", lambda self: (made.append(self), write(self)))
    lower(graph, HOST)
    return bool(made)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("depth", [1, 7, 128])
@pytest.mark.parametrize("columns", [4 * WIDE, 4 * WIDE - 3, 64 * WIDE + 1, 65 * WIDE])
def test_a_pair_of_panels_has_the_bits_of_many_rows(rows: int, depth: int, columns: int) -> None:
    rng = np.random.default_rng(columns + depth)
    weight = rng.standard_normal((depth, columns)).astype(np.float32)
    x = rng.standard_normal((9, depth)).astype(np.float32)
    few, many = product(rows, weight), product(9, weight)
    plan = lower(few, HOST)
    one, two = (np.asarray(Program(plan, HOST, threads=n)(x[:rows])) for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, Program(lower(many, HOST), HOST, threads=2)(x)[:rows])
    np.testing.assert_allclose(run_plan(plan, x[:rows])[0], one, 1e-5, 1e-5)
    np.testing.assert_allclose(one, evaluate(few, x[:rows])[0], 1e-4, 1e-4)


@pytest.mark.parametrize(
    ("rows", "panels", "want"),
    [(1, 4, True), (1, 8, True), (1, 6, False), (1, 5, False), (1, 65, True), (3, 8, False)],
)
def test_pairs_are_shared_out_evenly(
    rows: int, panels: int, want: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pairs are two for one thread and one for the other."""
    assert paired(product(rows, np.ones((8, panels * WIDE), np.float32)), monkeypatch) is want
