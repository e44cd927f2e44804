"""Training: a `Trainer` holds weights and optimiser state, and runs one native call per step.

    trainer = Trainer(model, AdamW(), schedule=cosine(1e-3, 1e-4, 100, 2000), batch=12)
    trainer.fit(tokens, steps=2000)
    trainer.evaluate(validation)

Step n depends on the weights and state before it, the seed and n alone. So a training that is
stopped, saved and resumed gives bitwise what one that was never stopped gives.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend import ship_step
from planish.frontend.accumulate import Accumulator, accumulating_graphs
from planish.frontend.checkpoint import Snapshot, load_snapshot, save_snapshot
from planish.frontend.data import (
    as_tokens,
    check_length,
    fill_batch,
    random_batch,
    whole_number,
)
from planish.frontend.optim import AdamW, Optimizer, need_optimizer
from planish.frontend.perplexity import Engine, mean_loss
from planish.frontend.progress import progress_bar, uninterrupted
from planish.frontend.random import key
from planish.frontend.step import (
    AS_IT_IS,
    Interpreted,
    Loss,
    Native,
    loss_graph,
    training_graph,
)
from planish.frontend.tokenizers.base import Tokenizer
from planish.ir import types as t
from planish.ir.draws import need_seed
from planish.ir.errors import DataError, DTypeError, ShapeError
from planish.ir.files import need_place
from planish.ir.graph import Graph
from planish.ir.plots import need_plot
from planish.passes.lift import LiftParams
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import pipeline as pipeline_named
from planish.runtime.memory import Room
from planish.runtime.target import Target

BACKENDS = ("native", "interpret")


class Trainer:
    """Trains a language model on random pieces of a text.

    A step takes `accumulate` batches of `batch` pieces, one after the other, and makes one update
    by their mean: that of a batch so many times as large, in the memory of one.

    `losses` has the loss of every step, `evaluations` has (steps done, validation loss),
    `grad_norm` is that of the last step, before clipping. `pipeline="train_bf16"` multiplies in
    bf16; weights, state and sums stay f32. `backend="interpret"` runs the same graph on the
    reference interpreter, in `dtype` if one is given. `forward` are passes on the model's graph, of
    which gradients are taken: with "fake_quantize{bits=4}" weights are trained for 4 bits.
    """

    def __init__(
        self, model: Any, optimizer: Optimizer | None = None,
        schedule: Callable[[int], float] | None = None, loss: Loss | None = None, *,
        clip: float | None = 1.0, batch: int = 12, accumulate: int = 1, context: int | None = None,
        seed: int = 0, tokenizer: Tokenizer | None = None, pipeline: str | Pipeline = "train",
        threads: int | None = None, backend: str = "native", dtype: Any = None,
        forward: str | Pipeline = AS_IT_IS,
    ):  # fmt: skip
        if backend not in BACKENDS or (backend == "native" and dtype is not None):
            raise DataError(
                f"backend is one of {', '.join(BACKENDS)}, and only interpret takes a dtype; got "
                f"backend={backend!r}, dtype={dtype!r}"
            )
        self.model = model
        self.optimizer = need_optimizer(AdamW() if optimizer is None else optimizer, schedule)
        self.schedule = schedule
        self.loss, self.clip = loss, clip
        self.seed = need_seed(whole_number("seed", seed, -math.inf))
        self.batch = whole_number("batch", batch, 1)
        self.accumulate = whole_number("accumulate", accumulate, 1)
        self._config: dict[str, Any] = getattr(model, "config", {})
        self.context = whole_number("context", context or self._config.get("max_seq_len"), 1)
        self.vocab_size: int | None = self._config.get("vocab_size")
        self.tokenizer, self.pipeline, self.threads = tokenizer, pipeline, threads
        self.dtype = t.dtype(dtype) if dtype is not None else None
        self.backend = backend
        self.losses: list[float] = []
        self.evaluations: list[tuple[int, float]] = []
        self.grad_norm, self.seconds = math.nan, 0.0
        self.forward = pipeline_named(forward)
        made = model, self.optimizer, self.batch, self.context, clip, loss, self.forward
        self._adding: Graph | None = None  # what runs before `graph`, for each batch of a step
        if self.accumulate > 1:
            self._adding, self.graph = accumulating_graphs(*made)
        else:
            self.graph = training_graph(*made)
        self._parameters = dict(model.named_parameters())
        self._given: dict[str, object] = {}  # `source` of the parameters that hold our weights
        self.arrays = self._allocated()
        self._take_weights()

    # state

    @property
    def steps(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    def _allocated(self) -> dict[str, np.ndarray]:
        """An array for each input of the graphs, by name: they live as long as the trainer."""
        arrays, room = {}, Room()
        for x in (*(self._adding.inputs if self._adding else ()), *self.graph.inputs):
            wide = self.dtype if self.dtype is not None and x.dtype.is_float else x.dtype
            arrays[x.attrs["name"]] = room.empty(x.shape, wide.numpy)
        if "key" in arrays:
            arrays["key"][...] = key(self.seed)
        return arrays

    @cached_property
    def _donated(self) -> list[str]:
        """The names of weights and optimiser state: what a step changes."""
        return [self.graph.inputs[i].attrs["name"] for i, _ in self.graph.aliases]

    @cached_property
    def trained(self) -> list[str]:
        """The names of the parameters that are trained."""
        return [name for name in self._donated if name in self._parameters]

    @cached_property
    def state_names(self) -> list[str]:
        """The names of the optimiser's state."""
        return [name for name in self._donated if name not in self._parameters]

    def _take_weights(self) -> None:
        """Read the model's parameters where somebody else has set them."""
        for name in self.trained:
            parameter = self._parameters[name]
            if name not in self._given or parameter.source is not self._given[name]:
                array = parameter.array
                if array.shape != self.arrays[name].shape:
                    raise ShapeError(
                        f"{name} is {list(array.shape)} now, the trainer was made for "
                        f"{list(self.arrays[name].shape)}"
                    )
                self.arrays[name][...] = array
                self._given[name] = parameter.promise(lambda array=array: array)

    def _give_weights(self) -> None:
        """Let the model's parameters be copies of the trained arrays, made when they are read."""
        for name in self.trained:
            parameter, array = self._parameters[name], self.arrays[name]
            make = partial(array.astype, parameter.dtype)
            self._given[name] = parameter.promise(make)

    # running

    def _engine(self, graph: Graph, arrays: list[np.ndarray], pipeline: str | Pipeline) -> Engine:
        if self.backend == "native":
            return Native(graph, arrays, pipeline, self.threads)
        return Interpreted(graph, arrays, self.dtype or t.f32)

    @cached_property
    def engine(self) -> Engine:
        """The step (the update, where batches accumulate), bound to the trainer's arrays."""
        return self._engine(self.graph, self._arrays_of(self.graph), self.pipeline)

    @cached_property
    def _accumulator(self) -> Accumulator | None:
        if self._adding is None:
            return None
        engine = self._engine(self._adding, self._arrays_of(self._adding), self.pipeline)
        return Accumulator(engine, self.arrays, uniform=self.loss is not None)

    @property
    def graphs(self) -> dict[str, Graph]:
        """What a step runs, in order."""
        if self._adding is None:
            return {"step": self.graph}
        return {"gradients": self._adding, "update": self.graph}

    def _arrays_of(self, graph: Graph) -> list[np.ndarray]:
        return [self.arrays[x.attrs["name"]] for x in graph.inputs]

    @cached_property
    def _evaluator(self) -> tuple[Engine, np.ndarray, np.ndarray]:
        """The loss on the trainer's weights, and the arrays of its tokens and targets."""
        graph = loss_graph(self.model, self.batch, self.context, self.loss, self.forward)
        graph = LiftParams(tuple(n for n in graph.params if n in self.trained))(graph)
        x, y = np.zeros((2, self.batch, self.context), np.int32)
        arrays = [x, y, *(self.arrays[n.attrs["name"]] for n in graph.inputs[2:])]
        return self._engine(graph, arrays, "O2"), x, y

    def _rate(self) -> float:
        """The learning rate of the step to come."""
        return self.schedule(self.steps) if self.schedule else self.optimizer.lr

    def _run(self, nan: str) -> float:
        """One step on the batch in the arrays; the trainer's state changes whole, or not at all."""
        rate = self._rate()
        if not math.isfinite(rate):
            raise DataError(f"the schedule gives {rate!r} for step {self.steps}")
        if self._accumulator is not None:
            self._accumulator.run(*self._batch, self.steps)
        self.arrays["lr"][...] = rate
        self.arrays["step"][...] = self.steps + 1
        engine = self.engine
        with uninterrupted():
            loss, norm = map(float, engine.run()[:2])
            if math.isfinite(loss) and math.isfinite(norm):
                self._count(loss, norm)
                return loss
        what = f"loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        message = f"{what} at step {self.steps + 1}; the weights are still those before this step"
        if nan == "stop":
            raise DataError(f"{message}. Try a smaller learning rate, or clip=1.0")
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        self._count(loss, norm)
        return loss

    def _count(self, loss: float, norm: float) -> None:
        self.grad_norm = norm
        self.losses.append(loss)

    def step(self, x: Any, y: Any, nan: str = "stop") -> float:
        """One step on tokens x and targets y [batch, context]; the loss before the update.

        Where batches accumulate, x and y have the rows of all of them.
        """
        _check_nan(nan)
        fill_batch(self._batch, x, y, self.vocab_size)
        self._take_weights()
        loss = self._run(nan)
        self._give_weights()
        return loss

    def fit(
        self, text: Any, steps: int, *, validation: Any = None, evaluate_every: int = 0,
        checkpoint: str | os.PathLike[str] | None = None, checkpoint_every: int = 0,
        nan: str = "stop", progress: bool | None = None,
        on_step: Callable[[Trainer], object] | None = None,
        on_evaluate: Callable[[Trainer], object] | None = None,
    ) -> list[float]:  # fmt: skip
        """Train for `steps` more steps on `text` (a str, or tokens); the losses of these steps.

        `validation` is evaluated every `evaluate_every` steps, and at the end. `checkpoint` is
        written every `checkpoint_every` steps, at the end, and on Ctrl-C. `nan` says what a loss
        that is not finite does: "stop", or "warn" and go on without that step's update. `on_step`
        is called after each step, before that is evaluated and written, `on_evaluate` after each
        evaluation. `seconds` is then the time of these steps, without all that.
        """
        _check_nan(nan)
        if checkpoint is not None:
            need_place(Path(checkpoint))
        end = self.steps + whole_number("steps", steps, 0)
        tokens = self._tokens(text)
        held = None if validation is None else self._tokens(validation, "the validation text", 1)
        first, self.seconds = self.steps, 0.0
        self._take_weights()
        try:
            with progress_bar("train", steps, progress) as report:
                if self.steps < end:
                    _ = self.engine, self._accumulator  # compiled before the clock runs
                while self.steps < end:
                    begun = time.perf_counter()
                    random_batch(tokens, self.seed, self.steps, *self._batch)
                    loss = self._run(nan)
                    self.seconds += time.perf_counter() - begun
                    speed = (self.steps - first) / self.seconds
                    report(self.steps - first, f"loss {loss:.4f}  {speed:.1f} steps/s")
                    if on_step is not None:
                        self._give_weights()
                        on_step(self)
                        self._take_weights()
                    if held is not None and _due(self.steps, evaluate_every, end):
                        self.evaluations.append((self.steps, mean_loss(*self._evaluator, held)))
                        if on_evaluate is not None:
                            on_evaluate(self)
                    if checkpoint is not None and _due(self.steps, checkpoint_every, end):
                        self._save_good(checkpoint)
        except KeyboardInterrupt:
            if checkpoint is not None and self.steps > first:
                self._save_good(checkpoint)
            raise
        finally:
            with uninterrupted():
                self._give_weights()
        return self.losses[first:]

    @cached_property
    def _batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of a whole step."""
        if self._adding is None:
            return self.arrays["tokens"], self.arrays["targets"]
        x, y = np.zeros((2, self.accumulate * self.batch, self.context), np.int32)
        return x, y

    def _tokens(self, text: Any, what: str = "the text", least: int = 0) -> np.ndarray:
        """Tokens of a str or of an array; refused where they are too few or not the model's."""
        if isinstance(text, str):
            if self.tokenizer is None:
                raise DTypeError("text needs Trainer(..., tokenizer=...); or give encoded tokens")
            text = self.tokenizer.encode(text)
        tokens = as_tokens(text, self.vocab_size)
        check_length(tokens, least or self.context, what)
        return tokens

    def evaluate(self, text: Any) -> float:
        """The mean loss over all of `text` (a str, or tokens): each token but the first, once."""
        tokens = self._tokens(text, least=1)
        self._take_weights()
        return mean_loss(*self._evaluator, tokens)

    # files

    def snapshot(self) -> Snapshot:
        """All that the next step depends on, and the losses so far; the arrays are not copied."""
        facts = {
            "class": type(self.model).__name__,
            "config": {n: x for n, x in self._config.items() if n not in ("seed", "dtype")},
            "optimizer": repr(self.optimizer),
            "clip": self.clip,
            "batch": self.batch,
            "accumulate": self.accumulate,
            "context": self.context,
            "seed": self.seed,
            "forward": str(self.forward),
        }
        weights = {name: self.arrays[name] for name in self.trained}
        state = {name: self.arrays[name] for name in self.state_names}
        return Snapshot(facts, weights, state, self.losses, self.evaluations)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint: a file for `resume`, which also loads as a model."""
        self._take_weights()
        with uninterrupted():
            save_snapshot(path, self.model, self.tokenizer, self.snapshot())

    def save_step(
        self, path: str | os.PathLike[str], weights: str = "embed", prefix: str = "planish_",
        target: str | Target | None = None,
    ) -> Target:  # fmt: skip
        """Write the step as a library (.so) or an object file (.o), with a C header, or that (.h).

        It begins with the weights and the optimiser's state of now: inside ("embed") or in
        NAME.weights beside it ("file"). `target` names another CPU; the one it is for is returned.
        """
        self._take_weights()
        return ship_step.save_step(self, Path(path), weights, prefix, target)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on from a checkpoint; where it does not fit, ArtifactError, and nothing changes."""
        found = load_snapshot(path, self.snapshot())
        with uninterrupted():
            for name, array in {**found.weights, **found.state}.items():
                self.arrays[name][...] = array
            self.losses, self.evaluations = found.losses, found.evaluations
            self._give_weights()

    def _save_good(self, path: str | os.PathLike[str]) -> None:
        """Save, unless the last loss was not finite: then the last good checkpoint stays."""
        if not self.losses or math.isfinite(self.losses[-1]):
            self.save(path)

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the losses into a .png, .svg or .pdf file; needs matplotlib."""
        target = need_plot(path)
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss")
        axes.plot(range(1, len(self.losses) + 1), self.losses, lw=0.8, label="training")
        if self.evaluations:
            axes.plot(*zip(*self.evaluations, strict=True), "o-", ms=3, label="validation")
        axes.legend()
        figure.savefig(target)
        return target


def _due(done: int, every: int, end: int) -> bool:
    return done == end or bool(every and done % every == 0)


def _check_nan(nan: str) -> None:
    if nan not in ("stop", "warn"):
        raise DataError(f"nan is stop or warn, got {nan!r}")
