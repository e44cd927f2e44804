"""Optimisers and clipping against plain NumPy formulas; schedules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from planish.frontend import optim
from planish.frontend.optim import SGD, Adam, AdamW, Optimizer
from planish.frontend.trace import spec, trace
from planish.frontend.training import Trainer
from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.types import TensorType

SHAPES = {"w": (3, 4), "b": (4,)}
STEPS = 4


def arrays(seed: int) -> dict[str, np.ndarray]:
    """Arrays of the parameters' shapes."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def update_graph(optimizer: Optimizer, dtype: t.DType = t.f64) -> Graph:
    """One update as a graph: params, grads, state, step, lr -> params, state."""

    def node(name: str, shape: tuple[int, ...] = (), of: t.DType = dtype):
        return OPS["input"](name=name, type=TensorType(of, shape))

    params = {name: node(name, shape) for name, shape in SHAPES.items()}
    grads = {name: node(f"d{name}", shape) for name, shape in SHAPES.items()}
    state = {name: node(name, x.shape) for name, x in optimizer.init(arrays(0)).items()}
    step, lr = node("step", of=t.i64), node("lr")
    new, kept = optimizer.update(params, grads, state, step, lr)
    inputs = (*params.values(), *grads.values(), *state.values(), step, lr)
    return Graph("update", inputs, (*new.values(), *kept.values()))


def run(optimizer: Optimizer, lr: float = 0.1) -> dict[str, np.ndarray]:
    """The parameters after some steps."""
    graph, params = update_graph(optimizer), arrays(0)
    state = optimizer.init(params)
    for step in range(1, STEPS + 1):
        grads = arrays(step)
        found = evaluate(graph, *params.values(), *grads.values(), *state.values(), step, lr)
        params = dict(zip(params, found, strict=False))
        state = dict(zip(state, found[len(params) :], strict=True))
    return params


Rule = Callable[[np.ndarray, np.ndarray, list, int], np.ndarray]


def expected(rule: Rule) -> dict[str, np.ndarray]:
    """The same by a formula: rule(p, g, memory, step)."""
    params = arrays(0)
    memory = {name: [0.0, 0.0] for name in params}
    for step in range(1, STEPS + 1):
        params = {n: rule(p, arrays(step)[n], memory[n], step) for n, p in params.items()}
    return params


def adam(decay: float, decoupled: bool, b1: float = 0.9, b2: float = 0.99) -> Rule:
    """Adam by its paper, decay on matrices only."""

    def rule(p: np.ndarray, g: np.ndarray, memory: list, step: int) -> np.ndarray:
        wd = decay if p.ndim >= 2 else 0.0
        if decoupled:
            p = p - 0.1 * wd * p
        else:
            g = g + wd * p
        memory[0] = b1 * memory[0] + (1 - b1) * g
        memory[1] = b2 * memory[1] + (1 - b2) * g**2
        m, v = memory[0] / (1 - b1**step), memory[1] / (1 - b2**step)
        return p - 0.1 * m / (np.sqrt(v) + 1e-8)

    return rule


def sgd(momentum: float, nesterov: bool = False) -> Rule:
    """SGD as in Sutskever et al. (2013), decay 0.2 on matrices."""

    def rule(p: np.ndarray, g: np.ndarray, memory: list, step: int) -> np.ndarray:
        g = g + (0.2 * p if p.ndim >= 2 else 0.0)
        memory[0] = momentum * memory[0] + g
        return p - 0.1 * (g + momentum * memory[0] if nesterov else memory[0])

    return rule


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        (AdamW(betas=(0.9, 0.99), weight_decay=0.2), adam(0.2, decoupled=True)),
        (Adam(betas=(0.9, 0.99), weight_decay=0.2), adam(0.2, decoupled=False)),
        (Adam(betas=(0.0, 0.0)), adam(0.0, decoupled=False, b1=0.0, b2=0.0)),
        (SGD(weight_decay=0.2), sgd(0.0)),
        (SGD(weight_decay=0.2, momentum=0.9), sgd(0.9)),
        (SGD(weight_decay=0.2, momentum=0.9, nesterov=True), sgd(0.9, nesterov=True)),
    ],
    ids=lambda x: str(x) if isinstance(x, Optimizer) else "",
)
def test_updates_follow_their_formulas(optimizer: Optimizer, rule: Rule) -> None:
    for name, wanted in expected(rule).items():
        np.testing.assert_allclose(run(optimizer)[name], wanted, rtol=1e-12, err_msg=name)


def test_decay_of_vectors_is_an_option() -> None:
    params = run(AdamW(weight_decay=0.5, betas=(0.9, 0.99)))
    every = run(AdamW(weight_decay=0.5, betas=(0.9, 0.99), decay_all=True))
    np.testing.assert_array_equal(params["w"], every["w"])
    assert np.all(params["b"] != every["b"])


def test_the_correction_keeps_its_digits_in_float32() -> None:
    graph = update_graph(Adam(betas=(0.9, 0.9999)), t.f32)
    params = {name: x.astype(np.float32) for name, x in arrays(0).items()}
    grads = {name: x.astype(np.float32) for name, x in arrays(1).items()}
    given = [*params.values(), *grads.values(), *Adam().init(params).values()]
    single = evaluate(graph, *given, 1, np.float32(1.0))
    double = evaluate(graph, *given, 1, np.float32(1.0), dtype="f64")
    for a, b, p in zip(single[:2], double, params.values(), strict=False):
        np.testing.assert_allclose(a - p, b - p, rtol=2e-6)


def test_updates_run_on_arrays_and_in_traces() -> None:
    optimizer = AdamW(lr=0.1)
    params, grads = arrays(0), arrays(1)
    state = optimizer.init(params)
    wanted, _ = optimizer.update(params, grads, state, 1, 0.1)
    specs = [{n: spec(x.shape, "f64") for n, x in d.items()} for d in (params, grads, state)]
    graph = trace(optimizer.update, *specs, spec((), "i64"), spec((), "f32"))
    given = [*params.values(), *grads.values(), *state.values()]
    found = evaluate(graph, *given, 1, np.float32(0.1))
    for a, b in zip(wanted.values(), found, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_clipping_scales_all_gradients_together() -> None:
    grads = arrays(0)
    norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
    clipped, found = optim.clip_by_global_norm(grads, 1.0)
    np.testing.assert_allclose(found, norm, rtol=1e-12)
    for name, g in grads.items():
        np.testing.assert_allclose(clipped[name], g / (norm + 1e-6), rtol=1e-12)
    assert norm < 100
    same, _ = optim.clip_by_global_norm(grads, 100.0)
    free, found = optim.clip_by_global_norm(grads, None)
    for name, g in grads.items():
        np.testing.assert_array_equal(same[name], g)
        assert free[name] is g
    np.testing.assert_allclose(found, norm, rtol=1e-12)
    for limit in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="clipped to a positive norm"):
            optim.clip_by_global_norm(grads, limit)


def test_schedules() -> None:
    rate = optim.cosine(1e-3, 1e-4, warmup=100, steps=2000)
    assert rate(0) == pytest.approx(1e-3 / 101) and rate(99) == pytest.approx(1e-3 * 100 / 101)
    assert rate(100) == 1e-3 and rate(1050) == pytest.approx(5.5e-4)
    assert rate(2000) == rate(10**6) == pytest.approx(1e-4)
    assert optim.constant(0.5)(7) == 0.5 and optim.constant(0.5, warmup=1)(0) == 0.25
    line = optim.linear(1.0, 0.0, warmup=0, steps=4)
    assert [line(i) for i in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert rate == optim.cosine(1e-3, 1e-4, 100, 2000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamW(lr=-1.0), "lr is a finite number of at least 0, got -1.0"),
        (lambda: AdamW(lr=float("nan")), "lr is a finite number"),
        (lambda: Adam(betas=(0.9, 1.0)), "betas are two numbers of 0 <= beta < 1"),
        (lambda: SGD(weight_decay=float("inf")), "weight_decay is a finite number"),
        (lambda: AdamW(lr=[1.0]), r"lr is a finite number .*, got \[1.0\]"),  # type: ignore
        (lambda: Trainer(None, "adamw"), r"such as AdamW\(lr=1e-3\), got 'adamw'"),
        (lambda: Trainer(None, schedule="cosine"), "a function of the steps done.* got 'cosine'"),
    ],
)
def test_options_are_checked(make: Callable[[], Optimizer], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()
