"""Products of few rows read panels side by side: the same bits as a product of many rows."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend.next_token import graphs
from planish.ir import types as t
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.loops import For, as_index
from planish.ir.node import OPS
from planish.ir.ops.leaf import input_, param
from planish.ir.types import TensorType
from planish.passes.pipelines import FAST, PIPELINES
from planish.runtime.build import modules_of
from planish.runtime.interpret import run_plan
from planish.runtime.kernels.beside import VECTORS, SideGemm
from planish.runtime.kernels.tiles import quickest
from planish.runtime.lower import lower
from planish.runtime.packing import Panels
from planish.runtime.program import Program
from planish.runtime.target import Target
from tests.runtime.native import here

HOST = Target.host()
LANES = HOST.lanes(t.f32)
WIDE = quickest(HOST, None, 4096, LANES)[0] * LANES  # columns of a panel


def product(rows: int, weight: np.ndarray) -> Graph:
    """x[rows, K] @ weight."""
    x = input_(name="x", type=TensorType(t.f32, (rows, weight.shape[0])))
    w = param(name="w", type=TensorType(t.f32, weight.shape))
    return FAST.run(Graph("f", (x,), (OPS["matmul"](x, w),), params={"w": weight}))


def beside(graph: Graph, monkeypatch: pytest.MonkeyPatch, target: Target = HOST) -> int:
    """How many panels the graph's product reads side by side."""
    made: list[SideGemm] = []
    write = SideGemm.write
    monkeypatch.setattr(SideGemm, "write", lambda self: (made.append(self), write(self)))
    lower(graph, target)
    return made[-1].beside if made else 1


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("depth", [1, 7, 40])
@pytest.mark.parametrize("columns", [4 * WIDE, 8 * WIDE - 3, 129 * WIDE + 1, 5 * WIDE, 65, 80])
def test_panels_side_by_side_have_the_bits_of_many_rows(
    rows: int, depth: int, columns: int
) -> None:
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


@pytest.mark.parametrize("name", ["host", "x86-64-v3"])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("columns", [64, 509, 512])
def test_panels_of_bytes_side_by_side(
    name: str, rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact, with what sums start with; by the loop interpreter, too."""
    rng, target = np.random.default_rng(columns), here(name)
    weight, given = (rng.integers(-128, 128, s, np.int8) for s in ((20, columns), (rows, 20)))
    x = input_(name="x", type=TensorType(t.i8, (rows, 20)))
    w = param(name="w", type=TensorType(t.i8, weight.shape))
    y = OPS["matmul"](x, w, out=t.i32)
    graph = FAST.run(Graph("f", (x,), (y,), params={"w": weight}))
    assert columns == 64 or beside(graph, monkeypatch, target) > 1
    plan, want = lower(graph, target), given.astype(np.int32) @ weight.astype(np.int32)
    for threads in (1, 2):
        np.testing.assert_array_equal(Program(plan, target, threads=threads)(given), want)
    np.testing.assert_array_equal(run_plan(plan, given)[0], want)


@pytest.mark.parametrize(
    ("rows", "panels", "most"),
    [(1, 4, 2), (1, 8, 4), (1, 3, 2), (1, 6, 3), (1, 5, 3), (1, 66, 2), (1, 65, 2), (1, 130, 4),
     (3, 8, 1)],
)  # fmt: skip
def test_groups_are_shared_out_evenly(
    rows: int, panels: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pairs are two for one thread and one for the other; three of them at once do not fit
    into the registers everywhere."""
    room = VECTORS[HOST.vector_registers] * LANES // WIDE
    many = most if most <= room else 1 if most == 3 else 2
    assert beside(product(rows, np.ones((8, panels * WIDE), np.float32)), monkeypatch) == many


def test_columns_without_a_number_are_read_by_panels_that_are_made() -> None:
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    program = pl.compile(lambda x: x @ x.T @ x, pl.spec((pl.Dim("N"), 8)), threads=2)
    np.testing.assert_allclose(program(x), x @ x.T @ x, 1e-5, 1e-5)


@pytest.mark.parametrize(
    ("heads", "size", "apart"),
    [(2, WIDE, True), (4, 2 * WIDE, True), (6, 4 * WIDE, True), (3, WIDE, False),
     (4, WIDE - 1, False), (4, LANES, True), (4, WIDE + LANES, True)],
)  # fmt: skip
def test_columns_of_heads(heads: int, size: int, apart: bool) -> None:
    """An iteration has q, k and v of a head, and sums have the bits that they have by panels."""
    columns, depth = 3 * heads * size, 8
    weight = np.random.default_rng(heads).standard_normal((depth, columns)).astype(np.float32)
    plain = product(1, weight)
    x, w = plain.inputs[0], param(name="w", type=TensorType(t.f32, weight.shape))
    y = OPS["reshape"](OPS["matmul"](x, w), shape=(1, 3, heads, size))
    q, k, v = (
        OPS["reshape"](
            OPS["slice"](y, starts=(0, i, 0, 0), stops=(1, i + 1, heads, size), steps=(1,) * 4),
            shape=(1, heads, 1, size),
        )
        for i in range(3)
    )
    given = np.random.default_rng(1).standard_normal((1, depth)).astype(np.float32)
    graph = FAST.run(Graph("f", (x,), (OPS["attention"](q, k, v),), params={"w": weight}))
    plan = lower(graph, HOST)
    loop = next(s for s in plan.steps[0].kernel.body if isinstance(s, For))
    assert (loop.extent == as_index(heads)) == apart
    one, two = (np.asarray(Program(plan, HOST, threads=n)(given)) for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, evaluate(graph, given)[0], 1e-4, 1e-4)
    np.testing.assert_allclose(run_plan(plan, given)[0], one, 1e-5, 1e-5)


def test_a_token_is_multiplied_by_the_panels_of_a_prompt() -> None:
    """Whatever the target, panels have one width."""
    for name in ("x86-64-v2", "x86-64-v3", "x86-64-v4", "znver4", "aarch64:neoverse-n1"):
        target = Target.parse(name)
        for columns in (65, 128, 384, 50257):
            lanes = target.lanes(t.f32)
            assert len({quickest(target, m, columns, lanes)[0] for m in (1, 2, 64, None)}) == 1


@pytest.mark.parametrize("width", [LANES, 2 * WIDE])
def test_a_sum_in_parts(width: int) -> None:
    """A thread multiplies the parts that it has made, by the panels that a prompt is multiplied by:
    no meeting between, and the same bits on any number of threads."""
    rng = np.random.default_rng(width)
    made = {
        "v": rng.standard_normal((64, 256)).astype(np.float32) / 8,
        "w": rng.standard_normal((256, 4 * width)).astype(np.float32) / 16,
    }
    v, w = (param(name=k, type=TensorType(t.f32, x.shape)) for k, x in made.items())
    graphs = {}
    for rows in (1, 5):
        x = input_(name="x", type=TensorType(t.f32, (rows, 64)))
        hidden = OPS["tanh"](OPS["matmul"](x, v))
        graphs[rows] = FAST.run(Graph("f", (x,), (OPS["matmul"](hidden, w),), params=made))
    given = rng.standard_normal((1, 64)).astype(np.float32)
    panels = Panels()
    plan, prompt = (lower(graphs[rows], HOST, panels) for rows in (1, 5))
    for mine, theirs in zip(plan.params, prompt.params, strict=True):
        assert mine is theirs
    modules = modules_of(plan, HOST)
    assert modules.schedule.meets[:2] == (False, False)
    one, two = (np.asarray(Program(plan, HOST, threads=n)(given)) for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, evaluate(graphs[1], given)[0], 1e-4, 1e-5)
    np.testing.assert_allclose(run_plan(plan, given)[0], one, 1e-5, 1e-6)


@pytest.mark.parametrize("pipeline", ["O2", "bf16"])
def test_panels_of_a_projection_are_as_wide_as_heads(pipeline: str) -> None:
    """A thread that multiplies a token for its heads reads whole rows of panels; prompts read the
    same ones. Of bf16 the panels are as wide as any."""
    target, panels = Target.parse("x86-64-v4"), Panels()
    made = graphs(pl.TinyGPT(65, 128, 1, 4, 64), 1, 64, greedy=True)
    widths = []
    for name in ("prefill", "decode"):
        plan = lower(PIPELINES[pipeline].run(made[name]), target, panels)
        step = next(x for x in plan.steps if "c_attn.matmul" in x.label)
        widths.append(step.kernel.params[-1].shape[-1].value)
    assert widths == [64 if pipeline == "bf16" else 32] * 2
