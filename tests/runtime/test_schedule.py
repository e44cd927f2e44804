"""Who runs each step, and where threads must meet."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp
from planish.frontend.generate import Generator
from planish.frontend.next_token import graphs
from planish.frontend.optim import AdamW
from planish.frontend.step import training_graph
from planish.frontend.tensor import apply
from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.loops import Expr, Let, Store, Var, as_index, cast
from planish.ir.ops.sampling import nucleus_by_bits
from planish.passes.pipelines import pipeline as pipeline_named
from planish.runtime.build import modules_of
from planish.runtime.lower import lower
from planish.runtime.memory import plan_memory
from planish.runtime.pieces import in_pieces
from planish.runtime.plan import Plan
from planish.runtime.schedule import Schedule, _Pending
from planish.runtime.target import Target
from tests.ir.nests import J, K, buffer, kernel, over

RNG = np.random.default_rng(0)


def schedule_of(program: pl.Program) -> Schedule:
    return modules_of(program.plan, program.target).schedule


def table(program: pl.Program) -> list[tuple[str, str, bool]]:
    """(the op that a step is named after, who runs it, whether all meet before it)"""
    steps, s = program.plan.steps, schedule_of(program)
    names = [step.label.rsplit(".", 1)[-1].split("_")[0] for step in steps]
    return list(zip(names, s.runs, s.meets, strict=True))


def planned(graph: Graph, pipeline: str) -> tuple[Schedule, Plan]:
    """The schedule on AVX2, and the plan."""
    target = Target.parse("x86-64-v3")
    plan = lower(pipeline_named(pipeline).run(graph), target)
    return modules_of(plan, target).schedule, plan


def test_meetings_of_a_token() -> None:
    """Two in a layer, after c_proj, as the sums of that have the parts of what it reads; and one
    for argmax. What reads words of two bf16 has the same pieces in bytes. A product of i8 waits for
    the scale of a whole row."""
    graph = graphs(pl.TinyGPT(65, 128, 2, 4, 64), 1, 16, greedy=True)["decode"]
    assert sum(planned(graph, "int8")[0].meets) == 8
    for pipeline in ("bf16", "O2"):
        schedule, plan = planned(graph, pipeline)
        assert sum(schedule.meets) == 2 * 2 + 1
    # The next place is due at the end: nobody waits for it.
    assert [step.label for step in plan.steps[-4:-1]] == ["argmax", "max_isfinite_select", "add"]


def test_meetings_of_a_token_of_bytes() -> None:
    """Four in a layer where heads have whole panels: a thread has q, k and v of its own, and each
    finds for itself the scale of a row that is longer than what counts as small."""
    graph = graphs(pl.TinyGPT(65, 384, 2, 6, 64), 1, 16, greedy=True)["decode"]
    schedule, plan = planned(graph, "int8_cache")
    assert sum(schedule.meets) == 2 * 4 + 1
    hidden = [run for run, step in zip(schedule.runs, plan.steps, strict=True)
              if "c_proj.abs_max" in step.label]  # fmt: skip
    assert hidden == 4 * ["each"]


def test_meetings_of_a_step_of_training() -> None:
    model = pl.TinyGPT(65, 128, 2, 4, 64, dropout=0.0)
    graph = training_graph(model, AdamW(), 12, 64, 1.0, None)
    schedule, plan = planned(graph, "train")
    alone = zip(schedule.meets, schedule.runs, strict=True)
    # Totals wait for the optimiser: they had 23 meetings of their own, of 84 in all.
    assert sum(schedule.meets) <= 64
    assert sum(meet and run == "one" for meet, run in alone) <= 4
    memory = plan_memory(plan)
    assert memory.arena <= 1.02 * memory.peak


def test_a_small_step_between_shared_ones_is_run_by_every_thread() -> None:
    def mlp(x, v, w):
        h = x @ v
        h = h * pnp.rsqrt((h * h).mean(axis=-1, keepdims=True) + 1e-5)
        return h @ w

    given = [RNG.standard_normal(s).astype(np.float32) for s in ((1, 256), (256, 256), (256, 384))]
    two, one = (pl.compile(mlp, *given, threads=n) for n in (2, 1))
    assert table(two) == [
        ("matmul", "shared", False), ("norm", "each", True), ("matmul", "shared", False),
    ]  # fmt: skip
    made = schedule_of(two)
    assert len(made.private) == 1 and made.bytes == 1024
    assert (two(*given) == one(*given)).all()


def test_what_is_an_output_is_written_once() -> None:
    def f(x, w):
        h = x * pnp.rsqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5)
        return h, h @ w

    given = [RNG.standard_normal(s).astype(np.float32) for s in ((1, 256), (256, 384))]
    program = pl.compile(f, *given, threads=2)
    assert table(program) == [("norm", "one", False), ("matmul", "shared", True)]


def test_what_is_written_over_its_input_is_not_run_by_every_thread() -> None:
    """The second thread would read what the first has written."""
    graph = pl.trace(
        lambda x, w: (x + 1.0, (x + 1.0) * 2.0 @ w),
        pl.spec((1, 256), "f32"), pl.spec((256, 384), "f32"), donate={0: 0},
    )  # fmt: skip
    program = pl.compile(graph, threads=2)
    assert "each" not in schedule_of(program).runs


def test_a_cache_is_updated_by_the_thread_that_reads_it() -> None:
    model = pl.TinyGPT(65, embed_dim=64, num_layers=2, num_heads=2, max_seq_len=32)
    maker = Generator(model, threads=2)
    rows = table(maker.decode)
    at = [k for k, (name, *_) in enumerate(rows) if name == "attention"]
    assert len(at) == 2
    for k in at:
        assert [name for name, *_ in rows[k - 1 : k + 1]] == ["matmul", "attention"]
        assert {run for _, run, _ in rows[k - 1 : k + 1]} == {"shared"}
        assert [meet for *_, meet in rows[k - 1 : k + 1]] == [False, False]
    ids = np.arange(5)
    made = [model.generate(ids, 20, temperature=0.9, seed=3, threads=threads) for threads in (1, 2)]
    assert (made[0] == made[1]).all()


X, OUT = buffer("x", 8, 8), buffer("out", 8, 8)
P = Var("p")


@pytest.mark.parametrize(
    ("stored", "read", "apart"),
    [
        ((P, J), X[P, J], {"out": 1, "x": 1}),
        ((P, J), X[J, P], {"out": 1, "x": 8}),
        ((P, J), X[P, J] + X[0, J], {"out": 1}),
        ((P, J), X[P, J] + X[J, P], {"out": 1}),
        ((J, P), X[P, J], {"out": 8, "x": 1}),
        ((P, J), X[P, (J + P) % 8], {"out": 1, "x": 1}),
        ((P, J), X[7 - P, J], {"out": 1}),
    ],
)
def test_pieces(stored: tuple[Expr, ...], read: Expr, apart: dict[str, int]) -> None:
    inner = over(J, 8, Store(OUT, stored, read))
    loop = over(P, 8, inner, kind="parallel")
    assert in_pieces(kernel((X, OUT), loop), loop) == apart


def test_pieces_are_found_behind_names() -> None:
    x, out = buffer("x", 2, 4, 8), buffer("out", 8, 8)
    named = Let(K, P // 4), Store(out, (P, J), x[K, P % 4, J])
    loop = over(P, 8, over(J, 8, *named), kind="parallel")
    assert in_pieces(kernel((x, out), loop), loop) == {"x": 1, "out": 1}
    before = Let(K, cast(X[0, 0], t.i64)), over(P, 8, Store(OUT, (P, K), X[P, K]), kind="parallel")
    assert in_pieces(kernel((X, OUT), *before), before[1]) == {"out": 1}  # all threads read x[0, 0]


def test_pieces_of_heads() -> None:
    """Of q, k and v side by side [3, 4, 2], iteration p has three pieces of two."""
    out = buffer("out", 24)
    stores = [Store(out, (as_index(8 * part) + P * 2 + J,), X[P, J]) for part in range(3)]
    loop = over(P, 4, over(J, 2, *stores), kind="parallel")
    assert in_pieces(kernel((X, out), loop), loop) == {"out": 3, "x": 2}
    wide = over(P, 4, over(J, 3, *stores), kind="parallel")  # one of the next head's
    assert "out" not in in_pieces(kernel((X, out), wide), wide)


@pytest.mark.parametrize("k", [0, 1, 40, 41, 99])
def test_thresholds_where_all_is_kept(k: int) -> None:
    rows = RNG.standard_normal((3, 41)).astype(np.float32)
    rows[0, :2] = -0.0, 0.0
    program = pl.compile(lambda x, n: apply("kth_largest", x, n), rows, np.int32(k))
    place = 41 - min(max(k, 1), 41)
    assert (program(rows, np.int32(k)) == np.sort(rows, -1)[:, place : place + 1]).all()


@pytest.mark.parametrize("p", [0.5, 0.999, 1.0, 2.0, np.inf])
def test_nucleus_where_all_is_kept(p: float) -> None:
    rows = np.exp(RNG.standard_normal((3, 41)).astype(np.float32))
    rows /= rows.sum(-1, keepdims=True)
    program = pl.compile(lambda x, p: apply("nucleus", x, p), rows, np.float32(p))
    found = program(rows, np.float32(p))
    kept = np.where(rows >= found, rows, 0).sum(-1)
    assert (kept >= min(p, 1.0) - 1e-6).all()
    if p == 0.5:
        assert (found == nucleus_by_bits(rows, p)).all()
    if p > 1:
        assert (found == 0).all()


def test_updates_of_adamw_have_no_meeting_between_tensors() -> None:
    """All wait once for the gradients' norm; then no tensor's update waits for another's."""
    model = pl.TinyGPT(65, embed_dim=128, num_layers=2, num_heads=4, max_seq_len=32, dropout=0.0)
    step = training_graph(model, AdamW(), 2, 32)
    target = Target.host()
    plan = lower(pl.PIPELINES["train"].run(step), target)
    meets = modules_of(plan, target).schedule.meets
    updates = [k for k, x in enumerate(plan.steps) if x.label == "AdamW.update"]
    assert len(updates) == len(model.parameters())
    assert updates == [*range(updates[0], len(plan.steps))]
    assert not any(meets[k] for k in updates[1:])


class Touching:
    """A step that reads and writes these bytes."""

    def __init__(self, reads: list[tuple[int, int]], writes: list[tuple[int, int]]) -> None:
        self.places = {False: reads, True: writes}

    def slots(self, written: bool) -> list[tuple[str, int, int]]:
        return [("temp", *place) for place in self.places[written]]


@pytest.mark.parametrize(
    ("reads", "writes", "met"),
    [
        ([(100, 110)], [], True),  # what the step wrote
        ([(0, 64)], [], False),  # what both read
        ([], [(32, 40)], True),  # over what it read
        ([], [(120, 200)], True),  # over what it wrote
        ([(128, 200)], [(200, 201)], False),  # beside
    ],
)
def test_steps_are_near_that_touch_what_one_of_them_writes(
    reads: list, writes: list, met: bool
) -> None:
    pending = _Pending(lambda place: place)  # type: ignore[arg-type,return-value]
    pending.add(7, Touching([(0, 64)], [(64, 128)]))  # type: ignore[arg-type]
    assert (7 in pending.near(Touching(reads, writes))) == met  # type: ignore[arg-type]
