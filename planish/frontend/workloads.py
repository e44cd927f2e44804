"""What people do with a language model, made ready to be timed: prefill, decode, train.

    prefill   a prompt of `length` tokens, and the logits of the one that follows
    decode    the token at place `length`, from key-value caches, with greedy sampling
    train     forward pass, gradients and AdamW on `batch` pieces of `length` tokens

Tokens are random: none of this takes less time for some tokens than for others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.frontend.api import compile
from planish.frontend.generate import Generator
from planish.frontend.optim import AdamW
from planish.frontend.sampling import Sampling
from planish.frontend.trace import spec
from planish.frontend.training import Trainer
from planish.ir.errors import DataError
from planish.passes.pipeline import Pipeline
from planish.runtime.profile import Profile
from planish.runtime.program import Bound
from planish.runtime.roof import Roof

PROMPT = 256  # tokens of a prompt, where nobody says how many and the context has room
BATCH = {"prefill": 1, "decode": 1, "train": 8}
PIPELINE = {"prefill": "O2", "decode": "O2", "train": "train"}


@dataclass
class Workload:
    """A bound program that takes `tokens` tokens a run; `reset` makes the next run like the last.

    `seconds` is how long it took to trace and to compile.
    """

    name: str
    bound: Bound
    batch: int
    length: int
    tokens: int
    seconds: float
    reset: Callable[[], object] | None = None

    def profile(self, repeat: int = 10, roof: Roof | None = None) -> Profile:
        """The time of each step."""
        return self.bound.profile(repeat, roof, self.reset)


def workload(
    name: str, model: Any, *, batch: int | None = None, length: int | None = None,
    pipeline: str | Pipeline | None = None, threads: int | None = None,
) -> Workload:  # fmt: skip
    """A workload of `WORKLOADS`, compiled. Defaults: one text (8 to train), at most 256 tokens."""
    if name not in WORKLOADS:
        raise DataError(f"unknown workload {name!r}; known are {', '.join(WORKLOADS)}")
    context = model.config["max_seq_len"]
    most = context - 1 if name == "decode" else context  # a place for the new token
    batch = BATCH[name] if batch is None else batch
    length = min(most, PROMPT if name == "prefill" else most) if length is None else length
    if name == "decode" and length == most:
        length = max(1, context // 2)
    if not 1 <= length <= most:
        raise DataError(f"length is a number of 1 <= length <= {most}, got {length}")
    if batch < 1:
        raise DataError(f"batch is at least 1, got {batch}")
    return WORKLOADS[name](model, batch, length, pipeline or PIPELINE[name], threads)


def tokens_of(model: Any, *shape: int) -> np.ndarray:
    """Random tokens, always the same."""
    return np.random.default_rng(0).integers(0, model.config["vocab_size"], shape, np.int32)


def prefill(
    model: Any, batch: int, length: int, pipeline: str | Pipeline, threads: int | None
) -> Workload:
    """Reading a prompt."""
    started = time.perf_counter()
    ids = tokens_of(model, batch, length)
    program = compile(
        model.last_logits, spec((batch, length), "i32"), pipeline=pipeline, threads=threads
    )
    bound = program.bind(ids)
    spent = time.perf_counter() - started
    return Workload("prefill", bound, batch, length, batch * length, spent)


def decode(
    model: Any, batch: int, length: int, pipeline: str | Pipeline, threads: int | None
) -> Workload:
    """Adding a token."""
    started = time.perf_counter()
    maker = Generator(model, pipeline, threads, batch)
    settings = np.zeros((batch, 2), np.uint32), *Sampling(0.0).operands(model.config["vocab_size"])
    state = maker.begin(tokens_of(model, batch, length), settings)
    bound, place = maker.decode.bind(*state), state[1]
    spent = time.perf_counter() - started
    return Workload("decode", bound, batch, length, batch, spent, lambda: place.fill(length))


def train(
    model: Any, batch: int, length: int, pipeline: str | Pipeline, threads: int | None
) -> Workload:
    """A step of training; it changes arrays of its own, not the model's."""
    started = time.perf_counter()
    trainer = Trainer(
        model, AdamW(lr=1e-4), batch=batch, context=length, pipeline=pipeline, threads=threads
    )
    trainer.arrays["tokens"][...] = tokens_of(model, batch, length)
    trainer.arrays["targets"][...] = tokens_of(model, batch, length)[:, ::-1]
    trainer.arrays["lr"][...] = 1e-4
    trainer.arrays["step"][...] = 1
    bound = trainer.engine.bound  # type: ignore[union-attr]
    spent = time.perf_counter() - started
    return Workload("train", bound, batch, length, batch * length, spent)


WORKLOADS = {"prefill": prefill, "decode": decode, "train": train}
