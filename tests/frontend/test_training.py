"""Training on the interpreter: the step, its numbers, resuming, refusals. Native: see below."""

from __future__ import annotations

import copy
import math
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import planish as pl
import planish.nn.functional as F
from planish import nn
from planish.frontend import optim
from planish.frontend.data import IGNORED, windows
from planish.frontend.optim import SGD, AdamW
from planish.frontend.progress import progress_bar, uninterrupted
from planish.frontend.step import loss_graph, training_graph
from planish.frontend.training import Trainer
from planish.ir.errors import DataError, DTypeError, GradientError, ShapeError, TokenError
from planish.ir.evaluate import evaluate
from planish.ir.verify import verify
from planish.passes.pipelines import pipeline
from tests.frontend.small import (
    BATCH,
    CONTEXT,
    TEXT,
    TOKENIZER,
    TOKENS,
    same_state,
    small_model,
    small_trainer,
)

STEPS = 10
LOSSES = [  # of the small trainer in float64
    3.336442, 3.275383, 3.263738, 3.368083, 3.260947, 3.210715, 3.243633, 3.274249, 3.237343,
    3.299527,
]  # fmt: skip


def test_a_step_is_one_graph_with_donated_state() -> None:
    model = small_model()
    graph = verify(training_graph(model, AdamW(), BATCH, CONTEXT))
    names = [x.attrs["name"] for x in graph.inputs]
    weights = list(model.state_dict())
    state = [f"AdamW.{slot}.{name}" for name in weights for slot in "mv"]
    assert names == ["tokens", "targets", "step", "lr", *state, *weights]
    assert graph.treedef is not None and graph.treedef[:2] == ("loss", "grad_norm")
    for i, j in graph.aliases:
        assert graph.treedef[j] == f"new/{names[i]}"
        assert graph.inputs[i].type == graph.outputs[j].type
    assert len(graph.aliases) == 3 * len(weights) and not graph.params


def test_an_update_is_that_of_finite_differences() -> None:
    model = small_model()
    trainer = small_trainer(model, optimizer=SGD(lr=1.0), clip=None, dtype="f64")
    x, y, _ = next(windows(TOKENS, BATCH, CONTEXT))
    forward = loss_graph(model, BATCH, CONTEXT)
    before = {name: array.astype(np.float64) for name, array in model.state_dict().items()}

    def loss(name: str, change: float) -> float:
        arrays = {n: a.copy() for n, a in before.items()}
        arrays[name].flat[1] += change
        changed = type(forward)(forward.name, forward.inputs, forward.outputs, arrays)
        return float(evaluate(changed, x, y, dtype="f64")[0])

    found = trainer.step(x, y)
    assert found == pytest.approx(loss("wte.weight", 0.0), rel=1e-12)
    for name in before:
        slope = (loss(name, 1e-6) - loss(name, -1e-6)) / 2e-6
        moved = before[name].flat[1] - trainer.arrays[name].flat[1]
        assert moved == pytest.approx(slope, rel=1e-3, abs=1e-7), name


def test_ten_losses_in_two_widths() -> None:
    single, double = small_trainer(), small_trainer(dtype="f64")
    single.fit(TEXT, STEPS)
    double.fit(TOKENS, STEPS)
    assert double.arrays["wte.weight"].dtype == np.float64
    assert double.model.wte.weight.dtype == np.float32
    np.testing.assert_allclose(single.losses, double.losses, rtol=1e-5)
    np.testing.assert_allclose(double.losses, LOSSES, atol=1e-6)
    assert len(single.losses) == single.steps == STEPS
    assert single.losses[-1] < single.losses[0]


def test_the_train_pipeline_changes_no_numbers() -> None:
    trainer = small_trainer()
    trainer.fit(TOKENS, 1)
    graph = pipeline("train").run(trainer.graph)
    arrays = [array.copy() for array in trainer.arrays.values()]
    plain = evaluate(trainer.graph, *arrays, dtype="f64")
    for a, b in zip(plain, evaluate(graph, *arrays, dtype="f64"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_the_schedule_and_the_norm_are_those_of_the_step() -> None:
    trainer = small_trainer(schedule=optim.linear(0.5, 0.0, warmup=0, steps=4))
    seen = []
    trainer.fit(TOKENS, 3, on_step=lambda t: seen.append((t.steps, float(t.arrays["lr"]))))
    assert seen == [(1, 0.5), (2, 0.375), (3, 0.25)]
    assert 0 < trainer.grad_norm < 100
    with pytest.raises(DataError, match="the schedule gives nan for step 0"):
        small_trainer(schedule=lambda step: math.nan).fit(TOKENS, 1)


def test_steps_depend_on_seed_and_number_alone() -> None:
    whole, parts = small_trainer(seed=5), small_trainer(seed=5)
    whole.fit(TOKENS, 6)
    parts.fit(TOKENS, 2)
    parts.fit(TOKENS, 4)
    assert same_state(whole, parts)
    other = small_trainer(seed=6)
    other.fit(TOKENS, 6)
    assert not same_state(whole, other)


def test_dropout_differs_from_step_to_step_and_ends_with_training() -> None:
    model = small_model(dropout=0.5)
    model.eval()
    trainer = small_trainer(model, optimizer=SGD(lr=0.0))
    assert "key" in trainer.arrays and not model.training
    x, y, _ = next(windows(TOKENS, BATCH, CONTEXT))
    losses = [trainer.step(x, y) for _ in range(3)]
    assert len(set(losses)) == 3
    again = small_trainer(model, optimizer=SGD(lr=0.0))
    assert [again.step(x, y) for _ in range(3)] == losses
    assert again.evaluate(TOKENS) == again.evaluate(TOKENS)
    assert "key" not in small_trainer().arrays


def test_the_model_holds_the_trained_weights() -> None:
    model = small_model()
    first = model.state_dict()
    trainer = small_trainer(model)
    trainer.fit(TOKENS, 2)
    kept = model.state_dict()
    assert not np.array_equal(first["wte.weight"], kept["wte.weight"])
    copy = kept["wte.weight"].copy()
    trainer.step(*next(windows(TOKENS, BATCH, CONTEXT))[:2])
    np.testing.assert_array_equal(kept["wte.weight"], copy)  # what was handed out never changes
    assert not np.array_equal(model.wte.weight.array, copy)
    model.load_state_dict(first)  # and what is set meanwhile is what is trained on
    trainer.fit(TOKENS, 0)
    np.testing.assert_array_equal(trainer.arrays["wte.weight"], first["wte.weight"])


def test_copies_of_a_model_keep_their_weights() -> None:
    model = small_model()
    trainer = small_trainer(model)
    trainer.fit(TOKENS, 1)
    x, y, _ = next(windows(TOKENS, BATCH, CONTEXT))
    trainer.step(x, y)
    twin = copy.deepcopy(model)
    once = trainer.arrays["wte.weight"].copy()
    trainer.step(x, y)
    np.testing.assert_array_equal(twin.wte.weight.array, once)
    again = model.wte.weight.array
    np.testing.assert_array_equal(again, trainer.arrays["wte.weight"])
    assert again is model.wte.weight.array and not again.flags.writeable
    trainer.step(x, y)
    assert not np.array_equal(again, trainer.arrays["wte.weight"])
    np.testing.assert_array_equal(model.wte.weight.array, trainer.arrays["wte.weight"])


def test_any_module_and_loss_can_be_trained() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    trainer = Trainer(model, SGD(lr=0.1), loss=F.cross_entropy, batch=2, context=3,
                      backend="interpret")  # fmt: skip
    x = np.array([[0, 1, 2], [3, 4, 0]])
    losses = [trainer.step(x, (x + 1) % 5) for _ in range(30)]
    assert losses[-1] < losses[0]
    assert trainer.evaluate(np.arange(5)) > 0
    with pytest.raises(GradientError, match="reads no parameter"):
        Trainer(nn.Sequential(nn.ReLU()), context=3, loss=lambda x, y: x.astype("f32").mean())


def test_ignored_targets_do_not_count() -> None:
    trainer = small_trainer(optimizer=SGD(lr=0.0))
    x, y, _ = next(windows(TOKENS, BATCH, CONTEXT))
    whole = trainer.step(x, y)
    y[1:] = IGNORED
    assert trainer.step(x, y) != whole


def test_evaluation_covers_the_whole_split() -> None:
    trainer = small_trainer(dtype="f64")
    tokens = TOKENS[: 2 * BATCH * CONTEXT + 9]
    graph = loss_graph(trainer.model, 1, "T")
    total = 0.0
    for i in range(0, len(tokens) - 1, CONTEXT):
        y = tokens[i + 1 : i + 1 + CONTEXT]
        total += float(
            evaluate(graph, tokens[None, i : i + len(y)], y[None], dtype="f64")[0]
        ) * len(y)
    assert trainer.evaluate(tokens) == pytest.approx(total / (len(tokens) - 1), rel=1e-9)


def test_fit_evaluates_on_request() -> None:
    trainer = small_trainer()
    trainer.fit(TOKENS, 5, validation=TOKENS[:40], evaluate_every=2)
    assert [step for step, _ in trainer.evaluations] == [2, 4, 5]
    assert trainer.evaluations[-1][1] == trainer.evaluate(TOKENS[:40])


# NaN, Ctrl-C


def poison(model: nn.Module) -> None:
    """Make the next loss NaN."""
    array = model.wte.weight.array.copy()
    array[0, 0] = np.nan
    model.wte.weight.array = array


def test_a_loss_that_is_nan_stops_at_that_step(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    trainer = small_trainer(schedule=lambda step: 1e-2 if step < 3 else 1e30)
    with pytest.raises(DataError, match=r"(nan|inf) at step [56]; the weights are still those bef"):
        trainer.fit(TOKENS, 9, checkpoint=path, checkpoint_every=3)
    assert trainer.steps in (4, 5)
    good = small_trainer()
    good.resume(path)
    assert good.steps == 3 and np.isfinite(good.arrays["wte.weight"]).all()


def test_a_loss_that_is_nan_can_be_skipped() -> None:
    trainer = small_trainer()
    before = trainer.arrays["wpe.weight"].copy()
    poison(trainer.model)
    with pytest.warns(RuntimeWarning, match="loss is nan at step 1"):
        losses = trainer.fit(TOKENS, 1, nan="warn")
    assert math.isnan(losses[0]) and trainer.steps == 1
    np.testing.assert_array_equal(trainer.arrays["wpe.weight"], before)
    assert not trainer.arrays["AdamW.m.wpe.weight"].any()
    with pytest.raises(DataError, match="nan is stop or warn, got 'ignore'"):
        trainer.fit(TOKENS, 1, nan="ignore")


def test_interrupted_training_is_whole_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    trainer, whole = small_trainer(), small_trainer()

    def stop(t: Trainer) -> None:
        if t.steps == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TOKENS, 6, on_step=stop, checkpoint=path)
    assert trainer.steps == 3 and trainer.arrays["step"] == 3
    np.testing.assert_array_equal(trainer.model.wte.weight.array, trainer.arrays["wte.weight"])
    trainer.fit(TOKENS, 3)
    whole.fit(TOKENS, 6)
    assert same_state(trainer, whole)
    resumed = small_trainer()
    resumed.resume(path)
    assert resumed.steps == 3


def test_ctrl_c_at_any_moment_leaves_a_whole_state() -> None:
    trainer, whole = small_trainer(), small_trainer()
    rng = np.random.default_rng(0)
    for _ in range(6):
        timer = threading.Timer(0.03 * rng.random(), os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            trainer.fit(TOKENS, 10_000)
    assert trainer.steps == len(trainer.losses)
    whole.fit(TOKENS, trainer.steps)
    assert same_state(trainer, whole)


def test_ctrl_c_waits_for_the_end_of_a_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def elsewhere() -> None:
        with uninterrupted():
            done.append(2)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == [1, 2]


def test_the_bar_is_drawn_only_on_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    small_trainer().fit(TOKENS, 1)
    assert capsys.readouterr() == ("", "")
    with progress_bar("train", 2, wanted=True) as report:
        report(2, "loss 1.0")
    out, err = capsys.readouterr()
    assert out == "" and "2/2" in err and "loss 1.0" in err


def test_losses_are_drawn(tmp_path: Path) -> None:
    trainer = small_trainer()
    trainer.fit(TOKENS, 2, validation=TOKENS[:20])
    assert trainer.plot(tmp_path / "loss.svg").read_text(encoding="utf-8").startswith("<?xml")


# refusals


def test_bad_batches_are_refused_before_anything_changes() -> None:
    trainer = small_trainer()
    x, y, _ = next(windows(TOKENS, BATCH, CONTEXT))
    last = TOKENIZER.vocab_size
    for bad in (last, -1, 2**31 - 1):
        wrong = x.copy()
        wrong[1, 2] = bad
        with pytest.raises(TokenError, match=rf"token id {bad} at position 1, 2 .* id < {last}"):
            trainer.step(wrong, y)
        with pytest.raises(TokenError, match=f"token id {bad} at position 1, 2"):
            trainer.step(x, wrong)
    with pytest.raises(TokenError, match=f"token id {IGNORED}"):
        trainer.step(np.full_like(x, IGNORED), y)
    with pytest.raises(DTypeError, match="token ids are integers, got float"):
        trainer.step(x.astype(float), y)
    with pytest.raises(ShapeError, match=r"tokens are \[3, 6\] .* got \[3, 5\]"):
        trainer.step(x[:, 1:], y)
    assert trainer.steps == 0


def test_bad_texts_are_refused() -> None:
    trainer = small_trainer()
    with pytest.raises(DataError, match="has 6 tokens; a context of 6 needs at least 7"):
        trainer.fit(TEXT[:6], 1)
    with pytest.raises(DataError, match="has 0 tokens; a context of 6 needs at least 7"):
        trainer.fit("", 1)
    with pytest.raises(DataError, match=r"validation text has 1 tokens; .* needs at least 2"):
        trainer.fit(TEXT, 1, validation="t")
    with pytest.raises(DataError, match=r"character '\?' \(U\+003F\)"):
        trainer.fit("what? " * 9, 1)
    with pytest.raises(DTypeError, match=r"text needs Trainer.*tokenizer"):
        small_trainer(tokenizer=None).fit(TEXT, 1)
    with pytest.raises(TokenError, match="outside 0 <= id <"):
        trainer.fit(np.full(20, 99), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is a whole number of at least 1, got 0"),
        *[({x: y}, f"{x} is a whole number") for x, y in (("batch", 2.0), ("context", True))],
        ({"seed": "x"}, "seed is a whole number, got 'x'"),
        ({"seed": -1}, r"a seed is an integer of 0 <= seed < 2\*\*64, got -1"),
        ({"clip": -1.0}, "clipped to a positive norm"),
        ({"backend": "gpu"}, "backend is one of native, interpret"),
        ({"backend": "native", "dtype": "f64"}, "only interpret takes a dtype"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        small_trainer(**options)


def test_a_count_of_steps_is_a_whole_number() -> None:
    for steps in (-1, 2.5, True):
        with pytest.raises(DataError, match="steps is a whole number of at least 0"):
            small_trainer().fit(TOKENS, steps)  # type: ignore[arg-type]
    assert small_trainer().fit(TOKENS, 0) == []


# native code


def test_native_training_follows_the_interpreter(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    native, double = small_trainer(backend="native", threads=2), small_trainer(dtype="f64")
    native.fit(TOKENS, 4)
    native.save(path)
    native.fit(TOKENS, STEPS - 4)
    double.fit(TOKENS, STEPS)
    np.testing.assert_allclose(native.losses, double.losses, rtol=1e-4)
    for name in native.trained:
        pair = native.arrays[name], double.arrays[name]
        np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-4, err_msg=name)
    mean = native.evaluate(TOKENS)
    assert mean == pytest.approx(double.evaluate(TOKENS), rel=1e-4)
    assert pl.perplexity(native.model, TOKENS) == pytest.approx(math.exp(mean), rel=1e-5)
    resumed = small_trainer(backend="native", threads=1)  # other threads, the same bits
    resumed.resume(path)
    resumed.fit(TOKENS, STEPS - 4)
    assert same_state(resumed, native)
    poison(native.model)
    before = native.arrays["wpe.weight"].copy()
    with pytest.raises(DataError, match="loss is nan at step 11"):
        native.fit(TOKENS, 1)
    np.testing.assert_array_equal(native.arrays["wpe.weight"], before)
