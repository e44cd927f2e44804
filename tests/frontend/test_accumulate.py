"""Accumulated gradients: the update of the whole batch, in the memory of a part of it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest

import planish.nn.functional as F
from planish.frontend.data import IGNORED
from planish.frontend.optim import SGD
from planish.frontend.training import Trainer
from planish.ir.errors import ArtifactError, DataError, ShapeError
from planish.runtime.program import Bound
from tests.frontend.small import CONTEXT, TEXT, TOKENS, same_state, small_model, small_trainer

RNG = np.random.default_rng(0)
PARTS = 3


def both(**options: object) -> tuple[Trainer, Trainer]:
    """A trainer of three micro-batches of 2, and one of a batch of 6."""
    return (
        small_trainer(batch=2, accumulate=PARTS, **options),
        small_trainer(batch=2 * PARTS, **options),
    )


def batch(ignored: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and targets; where some are ignored, the parts have 8, 3 and none that count."""
    x, y = RNG.integers(0, int(TOKENS.max()) + 1, (2, 2 * PARTS, CONTEXT)).astype(np.int32)
    if ignored:
        y[1, 2:], y[2, 3:], y[3:] = IGNORED, IGNORED, IGNORED
    return x, y


def close(a: Trainer, b: Trainer, tolerance: float) -> None:
    """Whether two trainings are in the same state but for rounding."""
    np.testing.assert_allclose(a.losses, b.losses, rtol=tolerance)
    assert a.grad_norm == pytest.approx(b.grad_norm, rel=tolerance)
    for name in [*a.trained, *a.state_names]:
        np.testing.assert_allclose(
            a.arrays[name], b.arrays[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("ignored", [False, True])
def test_an_update_is_that_of_the_whole_batch(ignored: bool) -> None:
    parts, whole = both(dtype="f64")
    for _ in range(3):
        x, y = batch(ignored)
        assert parts.step(x, y) == pytest.approx(whole.step(x, y), rel=1e-12)
    close(parts, whole, 1e-9)


@pytest.mark.parametrize("pipeline", ["train", "O0"])
def test_native_updates_are_those_of_the_whole_batch(pipeline: str) -> None:
    options = {"backend": "native", "optimizer": SGD(lr=0.1, momentum=0.9), "pipeline": pipeline}
    parts, whole = both(**options)
    for trainer in (parts, whole):
        trainer.fit(TEXT, 5)
    close(parts, whole, 2e-5)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    one, two = (small_trainer(batch=2, accumulate=2, backend="native", threads=n) for n in (1, 2))
    one.fit(TEXT, 4)
    two.fit(TEXT, 4)
    assert same_state(one, two)


def test_a_call_for_each_part_and_one_for_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    run = Bound.run

    def told(self: Bound, repeat: int = 1) -> object:
        runs.append(self.program.plan.name)
        return run(self, repeat)

    monkeypatch.setattr(Bound, "run", told)
    trainer = small_trainer(batch=2, accumulate=3, backend="native")
    trainer.fit(TEXT, 2)
    assert runs == 2 * (3 * ["TinyGPT_gradients"] + ["TinyGPT_update"])
    plans = [x.program.plan for x in (trainer._accumulator.engine, trainer.engine)]
    copies = [[s.label for s in plan.steps if s.label.startswith("copy")] for plan in plans]
    assert copies == [[], ["copy to output 0"]]  # the loss: a number


def test_parts_drop_out_differently() -> None:
    model = small_model(dropout=0.5)
    trainer = small_trainer(model, batch=2, accumulate=2, clip=None, optimizer=SGD(lr=0.0))
    alone = small_trainer(small_model(dropout=0.5), batch=2, clip=None, optimizer=SGD(lr=0.0))
    x, y = (a[:2] for a in batch())
    losses = [alone.step(x, y) for _ in range(4)]
    assert len(set(losses)) == 4
    for k in (0, 2):  # steps of the parts are counted on
        found = trainer.step(np.concatenate([x, x]), np.concatenate([y, y]))
        assert found == pytest.approx(np.mean(losses[k : k + 2]), rel=1e-6)


def test_a_loss_of_ones_own_counts_parts_alike() -> None:
    parts, whole = (
        small_trainer(batch=n, accumulate=k, loss=F.cross_entropy, dtype="f64")
        for n, k in ((2, PARTS), (2 * PARTS, 1))
    )
    x, y = batch()
    assert parts.step(x, y) == pytest.approx(whole.step(x, y), rel=1e-12)
    close(parts, whole, 1e-9)


@pytest.mark.parametrize("backend", ["native", "interpret"])
def test_a_training_that_was_resumed_is_bitwise_the_same(tmp_path: Path, backend: str) -> None:
    def fresh(**options: object) -> Trainer:
        given = {"batch": 2, "accumulate": 3, "backend": backend, **options}
        return small_trainer(small_model(dropout=0.1), **given)

    through, stopped, resumed = fresh(), fresh(), fresh()
    through.fit(TEXT, 5)
    stopped.fit(TEXT, 2, checkpoint=tmp_path / "a.safetensors")
    resumed.resume(tmp_path / "a.safetensors")
    resumed.fit(TEXT, 3)
    assert same_state(through, resumed)
    with pytest.raises(ArtifactError, match="accumulate is 3 in the file, 1 here"):
        fresh(accumulate=1).resume(tmp_path / "a.safetensors")


def test_losses_that_are_not_finite_change_nothing() -> None:
    trainer = small_trainer(batch=2, accumulate=2)
    trainer.fit(TEXT, 1)
    before = {name: trainer.arrays[name].copy() for name in trainer.trained}
    broken = trainer.model.state_dict()["wte.weight"].copy()
    broken[0, 0] = np.nan
    trainer.model.load_state_dict({**trainer.model.state_dict(), "wte.weight": broken})
    with pytest.raises(DataError, match="at step 2; the weights are still those before"):
        trainer.fit(TEXT, 1)
    before["wte.weight"] = broken
    for name, array in before.items():
        np.testing.assert_array_equal(trainer.arrays[name], array)


def test_the_time_of_steps_is_told_without_what_stands_between() -> None:
    trainer, seen = small_trainer(batch=2, accumulate=2), []
    wait = {"on_step": lambda t: time.sleep(0.4), "on_evaluate": lambda t: seen.append(t.steps)}
    trainer.fit(TEXT, 3, validation=TEXT, evaluate_every=2, **wait)
    assert seen == [2, 3] and 0 < trainer.seconds < 1.2


def test_ctrl_c_between_parts_leaves_all_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, other = (small_trainer(batch=2, accumulate=4) for _ in range(2))
    trainer.fit(TEXT, 1)
    accumulator = trainer._accumulator
    run, count = accumulator.engine.run, [0]

    def stopping() -> object:
        count[0] += 1
        if count[0] == 3:
            signal.raise_signal(signal.SIGINT)
        return run()

    monkeypatch.setattr(accumulator.engine, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TEXT, 1)
    assert trainer.steps == 1 and count[0] == 3
    trainer.fit(TEXT, 1)
    other.fit(TEXT, 2)
    assert same_state(trainer, other)


def test_what_is_refused() -> None:
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(DataError, match="accumulate is a whole number of at least 1, got"):
            small_trainer(accumulate=wrong)
    trainer = small_trainer(batch=2, accumulate=2)
    x = np.zeros((2, CONTEXT), np.int32)
    with pytest.raises(ShapeError, match=r"tokens are \[4, 6\] \(batch, context\), got \[2, 6\]"):
        trainer.step(x, x)
