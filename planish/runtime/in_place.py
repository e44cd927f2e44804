"""Storage that is shared in place: outputs over inputs, proved safe step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from planish.ir.errors import IRError
from planish.ir.index import to_poly
from planish.ir.loops import Expr, Kernel, Let, Load, Scalar, Store, Var, as_index, walk
from planish.runtime.plan import Plan, Step
from planish.runtime.slots import Slot


def storage(plan: Plan, slot: Slot) -> tuple[str, int]:
    """The memory of a slot by name: outputs written in place have that of their input."""
    if slot.kind == "output":
        for i, j in plan.aliases:
            if j == slot.index:
                return "input", i
    return slot.kind, slot.index


def written(step: Step) -> list[Slot]:
    """The slots that a step writes."""
    return [
        s
        for s, b in zip(step.args, step.kernel.params, strict=True)
        if b.name in step.kernel.writes
    ]


def check_aliases(plan: Plan) -> None:
    """IRError, naming both readers, unless every update in place happens after the last other read.

    The writing step itself may read the old values at the elements that it writes.
    """
    steps: dict[tuple[str, int], dict[int, None]] = {}  # that touch a slot, in order
    for number, step in enumerate(plan.steps):
        for slot in step.args:
            steps.setdefault((slot.kind, slot.index), {})[number] = None
    known: dict[tuple, bool] = {}
    for i, j in plan.aliases:
        if plan.inputs[i].type != plan.outputs[j].type:
            raise IRError(
                f"{plan.outputs[j].name}: {plan.outputs[j].type} cannot be written over "
                f"{plan.inputs[i].name}: {plan.inputs[i].type}"
            )
        touching = {**steps.get(("input", i), {}), **steps.get(("output", j), {})}
        _check_alias(plan, plan.inputs[i], ("output", j), sorted(touching), known)


def _check_alias(
    plan: Plan, given: Slot, target: tuple[str, int], steps: list[int], known: dict[tuple, bool]
) -> None:
    """`known` is what was found of kernels and their params, which steps have in common."""
    writer = -1
    for number in steps:
        step = plan.steps[number]
        reads = any((s.kind, s.index) == ("input", given.index) for s in step.args)
        writes = any((s.kind, s.index) == target for s in written(step))
        if reads and writer >= 0:
            raise IRError(
                f"{given.name} is updated in place by step {writer} ({plan.steps[writer].label}), "
                f"but step {number} ({step.label}) reads the old value after that"
            )
        if reads and writes and not _elementwise(step, given, target, known):
            raise IRError(
                f"{given.name} is updated in place by step {number} ({step.label}), which reads it "
                "at other elements than it writes"
            )
        if writes and writer < 0:
            writer = number


def _elementwise(
    step: Step, given: Slot, target: tuple[str, int], known: dict[tuple, bool]
) -> bool:
    """Whether the kernel reads `given` only at the places where it writes `target`."""
    args = list(zip(step.args, step.kernel.params, strict=True))
    read = frozenset(b.name for s, b in args if (s.kind, s.index) == ("input", given.index))
    write = frozenset(b.name for s, b in args if (s.kind, s.index) == target)
    key = id(step.kernel), read, write
    if key not in known:
        known[key] = _reads_where_it_writes(step.kernel, read, write)
    return known[key]


def _reads_where_it_writes(kernel: Kernel, read: frozenset[str], write: frozenset[str]) -> bool:
    items = list(walk(kernel.body))
    lets = {x.var: x.value for x in items if isinstance(x, Let)}
    reads = [x for x in items if isinstance(x, Load) and x.buffer.name in read]
    writes = [x for x in items if isinstance(x, Store) and x.buffer.name in write]
    return {_place(x, lets) for x in reads} <= {_place(x, lets) for x in writes}


def _place(x: Load | Store, lets: Mapping[Var, Expr]) -> frozenset:
    """Where an element is in its array, which one may see as [4, 8] and another as [32]."""
    place: Expr = as_index(0)
    for i, size in zip(x.index, x.buffer.shape, strict=True):
        place = place * size + _in_full(i, lets)
    return frozenset(to_poly(place, {}).items())


def _in_full(x: Expr, lets: Mapping[Var, Expr]) -> Expr:
    """An index without names."""
    if isinstance(x, Var):
        return _in_full(lets[x], lets) if x in lets else x
    if isinstance(x, Scalar):
        return replace(x, args=tuple(_in_full(a, lets) for a in x.args))
    return x
