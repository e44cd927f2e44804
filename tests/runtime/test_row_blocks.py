"""Products that multiply blocks of rows by all panels, and make their rows: prologues."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend.optim import AdamW
from planish.frontend.step import training_graph
from planish.ir import types as t
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.groups import classify
from planish.ir.loop_eval import run_kernel
from planish.passes.pipelines import pipeline
from planish.runtime.build import modules_of
from planish.runtime.lower import lower
from planish.runtime.plan import Plan
from planish.runtime.target import Target

RNG = np.random.default_rng(0)
AVX2 = Target.parse("x86-64-v3")
SIZES = {"g": 24, "b": 24, "up": (24, 80), "down": (80, 24)}
WEIGHTS = {name: RNG.standard_normal(size).astype(np.float32) for name, size in SIZES.items()}


def layer(x):
    h = pl.nn.functional.layer_norm(x, WEIGHTS["g"], WEIGHTS["b"])
    return x + pl.nn.functional.gelu(h @ WEIGHTS["up"]) @ WEIGHTS["down"]


def planned(rows: int, *lead: int) -> tuple[Graph, Plan]:
    graph = pipeline("O2").run(pl.trace(layer, pl.spec((*lead, rows, 24), "f32")))
    return graph, lower(graph, AVX2)


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize(("rows", "steps"), [(96, 2), (95, 3), (1, 3)])
def test_a_norm_is_part_of_the_product_that_reads_it(lead, rows: int, steps: int) -> None:
    """Of rows that make no whole blocks it is a step, and so it is of a single row."""
    graph, plan = planned(rows, *lead)
    assert len(plan.steps) == steps
    assert [x.label.startswith("norm") for x in plan.steps] == [True, *[False] * (steps - 1)]
    first = next(n for n in graph.nodes if n.op.kind == "fused")
    group = classify(first.attrs["body"])
    assert (group.kind == "contraction") == (rows * (lead or (1,))[0] > 1)
    if steps == 2:
        made = [b for b in plan.steps[0].kernel.locals if b.name == "rows"]
        assert len(made) == 1 and group.prologue is not None


def test_the_kernel_means_what_the_graph_says() -> None:
    graph, plan = planned(96)
    x = RNG.standard_normal((96, 24)).astype(np.float32)
    step = plan.steps[0]
    arrays = [np.zeros([int(s) for s in slot.type.shape], np.float32) for slot in step.args]
    for slot, array in zip(step.args, arrays, strict=True):
        if slot.kind in ("input", "param"):
            array[...] = x if slot.kind == "input" else plan.params[slot.index]
    run_kernel(step.kernel, arrays, {})
    (made,) = (a for a, s in zip(arrays, step.args, strict=True) if s.kind == "temp")
    first = next(n for n in graph.nodes if n.op.kind == "fused")
    (wanted,) = evaluate(Graph("h", graph.inputs, (first,), graph.params), x)
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)


def test_bits_of_a_row_do_not_depend_on_who_makes_it() -> None:
    x = RNG.standard_normal((96, 24)).astype(np.float32)
    found = [
        pl.compile(layer, pl.spec(part.shape, "f32"), threads=threads)(part)
        for part in (x, x[:95], x[:7])
        for threads in (1, 2)
    ]
    for y in found:
        np.testing.assert_array_equal(y, found[0][: len(y)])


def test_threads_go_on_with_blocks_of_rows_that_they_have_made() -> None:
    """The second product of an MLP reads rows of the first without a meeting."""
    model = pl.TinyGPT(65, 128, 3, 4, 64, dropout=0.0)
    plan = lower(pipeline("O2").run(pl.trace(model, pl.spec((1, 48), "i32"))), AVX2)
    meets = modules_of(plan, AVX2).schedule.meets
    named = zip(plan.steps, meets, strict=True)
    assert [meet for step, meet in named if "mlp.c_proj" in step.label] == 3 * [False]
    assert sum(meets) == 4 * 3


def test_masks_of_dropout_are_made_in_the_kernels_that_they_are_for() -> None:
    """In registers, by a product or a row; the backward pass reads what is kept, in bytes."""

    def bodies(rate: float) -> list[Graph]:
        model = pl.TinyGPT(65, 32, 1, 2, 8, dropout=rate)
        step = pipeline("train").run(training_graph(model, AdamW(), 2, 8))
        found = [n.attrs["body"] for n in step.nodes if n.op.kind == "fused"]
        return [body for body in found if body.name != "fold_in"]

    plain, dropped = bodies(0.0), bodies(0.2)
    masks = [body for body in dropped if any(n.op.name == "random_bits" for n in body.nodes)]
    assert [classify(body).kind for body in masks] == ["row", "contraction", "contraction"]
    kept = [[x.dtype for x in body.outputs].count(t.boolean) for body in masks]
    assert kept == [1, 1, 1]
    assert len(dropped) == len(plain)
