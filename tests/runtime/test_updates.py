"""A product writes its columns into donated arrays: keys and values into their caches."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.ir import types as t
from planish.ir.errors import TokenError, UnsupportedError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.groups import classify
from planish.ir.node import OPS, Node
from planish.ir.ops.leaf import input_, param
from planish.ir.types import TensorType
from planish.passes.pipelines import FAST
from planish.runtime.interpret import run_plan
from planish.runtime.lower import lower
from planish.runtime.plan import Plan
from planish.runtime.program import Program
from planish.runtime.target import Target
from tests.runtime.native import here

ROOM = 11  # rows of a cache
RNG = np.random.default_rng(0)


def heads(y: Node, part: int, count: int, size: int) -> Node:
    """The columns of a part as heads [B, count, T, size]."""
    batch, length, width = y.shape
    first = part * count * size
    starts, stops = (0, 0, first), (batch, length, first + count * size)
    assert stops[-1] <= width
    x = OPS["slice"](y, starts=starts, stops=stops, steps=(1, 1, 1))
    x = OPS["reshape"](x, shape=(batch, length, count, size))
    return OPS["transpose"](x, perm=(0, 2, 1, 3))


def graph(batch: int, length: int, count: int, size: int, of_rows: bool = False) -> Graph:
    """q, k and v of x [B, T, 8], the last two written into caches; what is read of the first."""
    x = input_(name="x", type=TensorType(t.f32, (batch, length, 8)))
    at = input_(name="at", type=TensorType(t.i32, (batch,) if of_rows else ()))
    caches = [
        input_(name=n, type=TensorType(t.f32, (batch, count, ROOM, size))) for n in ("k", "v")
    ]
    w, b = RNG.standard_normal((8, 3 * count * size)), RNG.standard_normal(3 * count * size)
    weight, bias = (param(name=n, type=TensorType(t.f32, a.shape)) for n, a in (("w", w), ("b", b)))
    y = OPS["add"](OPS["matmul"](x, weight), bias)
    written = [
        OPS["update_slice"](cache, heads(y, i + 1, count, size), 0, 0, at, 0)
        for i, cache in enumerate(caches)
    ]
    outputs = (heads(y, 0, count, size), *written)
    params = {"w": w.astype(np.float32), "b": b.astype(np.float32)}
    return Graph("f", (x, at, *caches), outputs, params, aliases=((2, 1), (3, 2)))


def arrays(of: Graph, place: int = 3) -> list[np.ndarray]:
    x, at, *caches = of.inputs
    rows = (place + np.arange(at.shape[0]) if at.shape else np.asarray(place)).astype(np.int32)
    given = [RNG.standard_normal(a.shape).astype(np.float32) for a in (x, *caches)]
    return [given[0], rows, *given[1:]]


def steps(plan: Plan) -> list[str]:
    return [step.label for step in plan.steps]


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2"])
@pytest.mark.parametrize("of_rows", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "count", "size"),
    [(1, 1, 2, 32), (1, 1, 4, 8), (3, 1, 2, 16), (1, 7, 2, 32), (2, 5, 3, 24), (1, 3, 1, 5)],
)
def test_columns_go_to_the_heads_of_caches(
    batch: int, length: int, count: int, size: int, of_rows: bool, target: str
) -> None:
    made = FAST.run(graph(batch, length, count, size, of_rows))
    plan = lower(made, here(target))
    assert "matmul_add_update_slice" in steps(plan)
    assert "update_slice" not in steps(plan)
    given = arrays(made)
    want = evaluate(made, *given)
    for found in (
        run_plan(plan, *[x.copy() for x in given]),
        Program(plan, here(target), threads=2)(*[x.copy() for x in given]),
    ):
        for x, y in zip(found, want, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    made = FAST.run(graph(1, 3, 2, 16))
    program = Program(lower(made, Target.host()), Target.host())
    program(*arrays(made, ROOM - 3))
    with pytest.raises(TokenError, match=f"axis 2 start: index {ROOM - 2} is outside"):
        program(*arrays(made, ROOM - 2))


def test_a_cache_that_is_not_donated_is_copied() -> None:
    of = graph(1, 1, 2, 16)
    apart = FAST.run(Graph("f", of.inputs, of.outputs, of.params))
    given = arrays(of)
    kept = [x.copy() for x in given]
    found = Program(lower(apart, Target.host()), Target.host())(*given)
    for x, y in zip(given, kept, strict=True):
        assert (x == y).all()
    for x, y in zip(found, evaluate(of, *given), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    donated = FAST.run(of)
    kernel = next(n for n in donated.nodes if n.op.kind == "fused")
    assert classify(kernel.attrs["body"]).kind == "contraction"
    with pytest.raises(UnsupportedError, match="a product writes slices of donated inputs only"):
        lower(Graph("f", donated.inputs, donated.outputs, donated.params), Target.host())


def test_what_is_read_besides_is_no_part_of_the_kernel() -> None:
    """The old cache, by another op of the kernel; runs of columns that do not stay runs."""
    of = graph(1, 2, 2, 16)
    _, k, _ = of.outputs
    twice = OPS["matmul"](of.inputs[2], OPS["transpose"](of.inputs[2], perm=(0, 1, 3, 2)))
    reads = FAST.run(Graph("f", of.inputs, (k, twice), of.params, aliases=((2, 0),)))
    given = arrays(of)
    for x, y in zip(
        Program(lower(reads, Target.host()), Target.host())(*[x.copy() for x in given]),
        evaluate(reads, *given),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    x = of.inputs[0]
    turned = OPS["transpose"](OPS["matmul"](x, of.param_nodes["w"]), perm=(0, 2, 1))
    cache = input_(name="c", type=TensorType(t.f32, (1, 96, ROOM)))
    y = OPS["update_slice"](cache, turned, 0, 0, of.inputs[1])
    made = FAST.run(Graph("f", (x, of.inputs[1], cache), (y,), of.params, aliases=((2, 0),)))
    assert len([n for n in made.nodes if n.op.kind not in ("leaf", "get")]) == 2


def test_generation_writes_its_caches_so() -> None:
    model = pl.TinyGPT(65, embed_dim=64, num_layers=2, num_heads=2, max_seq_len=32)
    ids = np.arange(5)
    made = [model.generate(ids, 20, seed=3, pipeline=name) for name in ("O0", "O2")]
    assert (made[0] == made[1]).all()
