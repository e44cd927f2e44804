"""The memory plan: nothing overlaps while it lives, and updates in place are proved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import IRError
from planish.ir.graph import Graph
from planish.ir.loops import For, Kernel, Store
from planish.ir.node import OPS
from planish.ir.ops.leaf import input_
from planish.ir.types import TensorType
from planish.passes.pipelines import pipeline
from planish.runtime import arena
from planish.runtime.in_place import check_aliases
from planish.runtime.lower import lower
from planish.runtime.memory import ALIGN, plan_memory
from planish.runtime.plan import Plan, Step
from planish.runtime.target import Target
from tests.ir.nests import I, J, n
from tests.runtime.plans import chain, counter, elementwise, slot, view


def test_a_chain_needs_two_places() -> None:
    memory = plan_memory(chain(10, rows=64))
    assert memory.arena == memory.peak == 2 * 64 * 40 * 4
    assert memory.fixed


def test_the_largest_binding_counts() -> None:
    assert plan_memory(chain(3)).arena == 2 * 64 * 40 * 4


def test_without_a_maximum_the_binding_counts() -> None:
    plan = chain(3, rows=Dim("N"))
    assert not plan_memory(plan).fixed
    assert plan_memory(plan, {"N": 100}).arena == 2 * 100 * 40 * 4
    told, bound = str(plan_memory(plan)), str(plan_memory(plan, {"N": 100}))
    assert "and what grows with N, which has no maximum; weights" in told.splitlines()[0]
    assert "grows" not in bound


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12
    )
)
def test_temporaries_alive_together_do_not_overlap(wanted: list[tuple[int, int, int]]) -> None:
    temps = tuple(slot("temp", k, f"t{k}", 1, size) for k, (size, _, _) in enumerate(wanted))
    out = slot("output", 0, "y", 1, 1)
    steps = []
    for number in range(9):
        used = [temps[k] for k, (_, a, b) in enumerate(wanted) if number in (a, b)]
        kernel = Kernel("f", tuple(view(f"p{k}", s) for k, s in enumerate(used)), (), (), ())
        steps.append(Step(kernel, tuple(used), "f"))
    memory = plan_memory(Plan("random", (), (out,), temps, (), tuple(steps)))
    for i, x in enumerate(memory.lives):
        assert x.offset % ALIGN == 0 and x.offset + x.bytes <= memory.arena
        for y in memory.lives[:i]:
            apart = x.last < y.first or y.last < x.first
            assert apart or x.offset + x.bytes <= y.offset or y.offset + y.bytes <= x.offset
    assert memory.peak <= memory.arena


SPANS = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 30), st.integers(0, 6)), min_size=1, max_size=40
)


@settings(max_examples=60)
@given(SPANS)
def test_arenas_are_near_their_bound(pieces: list[tuple[int, int, int]]) -> None:
    sizes = [64 * size for size, _, _ in pieces]
    spans = [(first, first + more) for _, first, more in pieces]
    found = arena.offsets(sizes, spans)
    end = max(at + size for at, size in zip(found, sizes, strict=True))
    assert arena.peak(sizes, spans) <= end <= 1.5 * arena.peak(sizes, spans)


def test_pieces_that_do_not_fit_largest_first() -> None:
    # the two large ones leave a hole between them, unless the middle one is placed first
    sizes, spans = [4, 4, 3, 3, 2], [(0, 1), (3, 4), (1, 2), (2, 3), (0, 4)]
    found = arena.offsets(sizes, spans)
    assert max(a + s for a, s in zip(found, sizes, strict=True)) == arena.peak(sizes, spans) == 9
    assert arena.offsets([], []) == [] and arena.peak([], []) == 0


def test_the_report_names_temporaries_and_their_steps() -> None:
    text = str(plan_memory(chain(3, rows=2)))
    assert text.splitlines()[0] == "arena 640 bytes, at least 640 needed; weights 0 bytes"
    assert "steps 0-1  t0" in text and "steps 1-2  t1" in text


def test_update_in_place_of_the_element_read_is_fine() -> None:
    check_aliases(counter())


def test_update_before_another_read_is_refused() -> None:
    plan = counter()
    state, x = plan.inputs
    late = elementwise(lambda s, v: s * v, state, x, out=plan.outputs[1], name="late")
    broken = replace(plan, steps=(plan.steps[0], late))
    with pytest.raises(
        IRError, match=r"state is updated in place by step 0 \(update\), but step 1"
    ):
        check_aliases(broken)


def test_update_of_the_element_that_is_read_by_another_index_is_fine() -> None:
    x = input_(name="x", type=TensorType(t.f32, (3, 64, 128)))
    old = input_(name="old", type=TensorType(t.f32, (64, 128)))
    new = OPS["sum"](x, axes=(0,)) * 0.5 + old  # its columns are shared out, so old is seen flat
    fused = pipeline("O2").run(Graph("f", (old, x), (new,), aliases=((0, 0),)))
    plan = lower(fused, Target.parse("x86-64-v4"))
    (step,) = plan.steps
    assert {len(b.shape) for b in step.kernel.params if b.name[:2] in ("p0", "ou")} == {1, 2}
    check_aliases(plan)


def test_update_that_reads_other_elements_is_refused() -> None:
    plan = counter()
    state, _ = plan.inputs
    old, new = view("p0", state), view("o0", plan.outputs[0])
    body = For(I, n(8), "serial", (For(J, n(8), "serial", (Store(new, (I, J), old[J, I]),)),))
    step = Step(Kernel("turn", (old, new), ("o0",), (), (body,)), (state, plan.outputs[0]), "turn")
    with pytest.raises(IRError, match="reads it at other elements than it writes"):
        check_aliases(replace(plan, steps=(step,)))


def test_update_of_another_type_is_refused() -> None:
    plan = counter()
    outputs = (slot("output", 0, "new", 3, 3), plan.outputs[1])
    with pytest.raises(
        IRError, match=r"new: f32\[3, 3\] cannot be written over state: f32\[B, 40\]"
    ):
        check_aliases(replace(plan, outputs=outputs))


def test_weights_are_counted_once() -> None:
    plan = replace(chain(2, rows=2), params=(np.zeros(100, np.float32),))
    assert plan_memory(plan).params == 400
