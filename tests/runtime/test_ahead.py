"""Kernels go to LLVM as soon as they are lowered, by guesses how the plan will call them."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend.optim import AdamW
from planish.frontend.step import training_graph
from planish.ir.graph import Graph
from planish.passes.pipelines import pipeline
from planish.runtime import build
from planish.runtime.codegen.functions import Ahead, Functions
from planish.runtime.image import Image
from planish.runtime.lower import lower
from planish.runtime.objects import defined
from planish.runtime.plan import Plan, Step
from planish.runtime.program import Program
from planish.runtime.target import Target

HOST = Target.host()
MODEL = pl.TinyGPT(vocab_size=23, embed_dim=24, num_layers=2, num_heads=2, max_seq_len=16)


def prompt() -> Graph:
    return pipeline("O2").run(pl.trace(MODEL.last_logits, pl.spec((1, 16), "i32")))


def step() -> Graph:
    return pipeline("train").run(training_graph(MODEL, AdamW(), 2, 16))


def built(graph: Graph) -> tuple[Plan, Image]:
    with build.begun(HOST, pooled=True) as compiling:
        return build.lowered(graph, compiling)


def names(codes: tuple[bytes, ...]) -> set[str]:
    return {x for code in codes for x in defined(code)}


@pytest.mark.parametrize("graph", [prompt(), step()], ids=["prompt", "step"])
def test_guesses_are_right_for_nearly_all_kernels(graph: Graph) -> None:
    plan, image = built(graph)
    alone = build.build(plan, HOST)
    assert names(alone.code) <= names(image.code)
    assert len(names(image.code) - names(alone.code)) <= len(names(alone.code)) // 10
    symbols = set(build.modules_of(plan, HOST).symbols)
    assert symbols <= names(image.code)


def test_a_wrong_guess_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, ids = prompt(), np.arange(16, dtype=np.int32).reshape(1, 16)
    want = Program(lower(graph, HOST), HOST, threads=2)(ids)

    def wrong(self: Ahead, step: Step) -> None:
        params = frozenset(range(len(step.kernel.params)))
        self._functions.symbol(step.kernel, params, alone=True)

    monkeypatch.setattr(Ahead, "add", wrong)
    plan, image = built(graph)
    program = Program.of(image, plan.params, lambda: plan, 2)
    np.testing.assert_array_equal(program(ids), want)


def test_modules_are_handed_on_before_all_is_lowered() -> None:
    begun: list[int] = []
    steps: list[Step] = []
    functions = Functions(HOST, lambda text: begun.append(len(steps)))
    ahead = Ahead(functions, ())

    def add(step: Step) -> None:
        steps.append(step)
        ahead.add(step)

    lower(step(), HOST, None, add)
    assert begun and begun[0] < len(steps) // 2
