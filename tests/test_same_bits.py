"""The same program and the same inputs give the same bits, however they are run.

Two runs, two processes, one thread and two, alone or at any place in a batch.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.api import Compiled

pytestmark = pytest.mark.usefixtures("uncached")

ROOT = Path(__file__).resolve().parent.parent
VOCAB, CONTEXT = 17, 24
TOKENS = np.random.default_rng(3).integers(0, VOCAB, (5, CONTEXT)).astype(np.int32)
FAMILY = {
    "gpt2": {},
    "llama": {"positions": "rope", "norm": "rms", "mlp": "swiglu", "num_kv_heads": 2,
              "bias": False, "tie_head": False},
}  # fmt: skip


def model_of(name: str, layers: int = 1, dropout: float = 0.0) -> pl.TinyGPT:
    """A member of the family."""
    return pl.TinyGPT(VOCAB, 32, layers, 4, CONTEXT, dropout=dropout, **FAMILY[name])


@cache
def forward(name: str, threads: int, copy: int = 0) -> Compiled:
    """Logits, for any batch and length; another `copy` is compiled anew."""
    return pl.compile(model_of(name, 2), pl.spec(("B", "T"), "i32"), threads=threads)


def trained(threads: int) -> str:
    """A digest of losses, weights and optimiser state after some steps with dropout."""
    trainer = pl.Trainer(model_of("gpt2", dropout=0.1), batch=3, context=12, threads=threads)
    losses = trainer.fit(np.arange(400) * 7 % VOCAB, 4)
    found = hashlib.sha256(np.array(losses).tobytes())
    for array in (*trainer.snapshot().weights.values(), *trainer.snapshot().state.values()):
        found.update(array.tobytes())
    return found.hexdigest()


def digest(threads: int) -> str:
    """A digest of logits, training and text."""
    found = hashlib.sha256(forward("gpt2", threads)(TOKENS).tobytes())
    found.update(trained(threads).encode())
    found.update(model_of("gpt2").generate([1, 2], 9, seed=1, threads=threads).tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", FAMILY)
def test_two_runs_and_any_number_of_threads(name: str) -> None:
    one, two = forward(name, 1), forward(name, 2)
    wanted = one(TOKENS)
    for program in (one, two, forward(name, 2, copy=1)):
        for _ in range(3):
            np.testing.assert_array_equal(program(TOKENS), wanted)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("length", [CONTEXT, 7, 1])
def test_alone_or_at_any_place_in_a_batch(name: str, length: int) -> None:
    program = forward(name, 2)
    tokens = TOKENS[:, :length]
    batch = program(tokens)
    for i, row in enumerate(tokens):
        np.testing.assert_array_equal(program(row[None])[0], batch[i])
    np.testing.assert_array_equal(program(tokens[::-1]), batch[::-1])
    np.testing.assert_array_equal(program(tokens[[2, 2, 0]]), batch[[2, 2, 0]])


def test_training_and_text_in_two_processes() -> None:
    code = "from tests.test_same_bits import digest; print(digest(2))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest(1)
