"""Operands of products that are recomputed: who packs them computes them."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.passes.fuse import fuse, kernels
from planish.runtime.lower import lower
from planish.runtime.plan import Plan
from planish.runtime.target import Target
from tests.runtime.test_lower import arg, run_plan

RNG = np.random.default_rng(0)
DEPTH, ROWS = 6, 5


def silu(x: Node) -> Node:
    return x * OPS["sigmoid"](x)


def product(side: str, columns: int, dtype: t.DType, keep: bool) -> Graph:
    """A product one of whose sides is stored first, or is recomputed of what is stored anyway."""
    x = arg("x", DEPTH, columns)
    made = silu(x if keep else OPS["again"](x))
    made = OPS["reshape"](OPS["cast"](made, dtype=dtype), shape=(DEPTH, columns))
    if side == "b":
        other = arg("dy", DEPTH, ROWS, dtype=dtype)
        return fuse(Graph("f", (x, other), (OPS["transpose"](other, perm=(1, 0)) @ made,)))
    other = arg("w", columns, ROWS, dtype=dtype)
    return fuse(Graph("f", (x, other), (made @ other,)))


def labels(plan: Plan) -> list[str]:
    return [step.label for step in plan.steps]


def same_numbers(kept: Graph, again: Graph) -> None:
    """Whether two graphs mean the same, and are lowered to plans that make the same bits."""
    x, other = (RNG.standard_normal(n.shape) for n in kept.inputs)
    given = [x.astype(np.float32), other.astype(kept.inputs[1].dtype.numpy)]
    for target in map(Target.parse, ("x86-64-v4", "x86-64-v3", "sapphirerapids")):
        one, two = (run_plan(graph, given, target) for graph in (kept, again))
        np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(np.float64(two), np.float64(evaluate(kept, *given)), 0.01, 0.1)


@pytest.mark.parametrize("dtype", [t.f32, t.bf16], ids=str)
def test_what_packs_an_operand_computes_it(dtype: t.DType) -> None:
    kept, again = (product("b", 70, dtype, keep) for keep in (True, False))
    assert (kernels(kept), kernels(again)) == (2, 1)
    first, second = (lower(graph, Target.parse("x86-64-v4")) for graph in (kept, again))
    assert len(second.steps) == len(first.steps) - 1
    assert len(second.temps) == len(first.temps) - 1
    same_numbers(kept, again)


@pytest.mark.parametrize(
    ("side", "columns", "dtype"), [("a", 70, t.f32), ("b", 64, t.f32), ("a", 64, t.bf16)], ids=str
)
def test_an_operand_that_is_read_as_it_lies_is_a_step(
    side: str, columns: int, dtype: t.DType
) -> None:
    kept, again = (product(side, columns, dtype, keep) for keep in (True, False))
    plan = lower(again, Target.parse("x86-64-v4"))
    assert labels(plan).count("operand") == 1
    assert len(plan.steps) == len(lower(kept, Target.parse("x86-64-v4")).steps)
    same_numbers(kept, again)


def test_words_that_are_copied_are_computed() -> None:
    """Rows of bf16 that make no whole words have a step, which computes them, too."""
    kept, again = (product("a", 7, t.bf16, keep) for keep in (True, False))
    plan = lower(again, Target.parse("x86-64-v4"))
    assert "operand" not in labels(plan)
    assert len(plan.steps) == len(lower(kept, Target.parse("x86-64-v4")).steps) - 1
    same_numbers(kept, again)


def test_both_operands_may_be_recomputed() -> None:
    """Of one value or of two, each of which an epilogue may read, too."""
    x, y = arg("x", DEPTH, 70), arg("y", DEPTH, 70)

    def both(keep: bool) -> Graph:
        a, b = (z if keep else OPS["again"](z) for z in (x, y))
        made = silu(a)
        first = OPS["transpose"](made, perm=(1, 0)) @ (silu(b) + made)
        second = OPS["transpose"](made, perm=(1, 0)) @ made
        return fuse(Graph("f", (x, y), (first, second)))

    same_numbers(both(keep=True), both(keep=False))
