"""A model, a text and trainers that are as small as they can be."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.frontend.models.tinygpt import TinyGPT
from planish.frontend.optim import AdamW
from planish.frontend.text import CharTokenizer
from planish.frontend.training import Trainer

TEXT = "the quick brown fox jumps over the lazy dog. " * 12
TOKENIZER = CharTokenizer.from_text(TEXT)
TOKENS = TOKENIZER.encode(TEXT)
CONTEXT, BATCH = 6, 3


def small_model(dropout: float = 0.0, **options: Any) -> TinyGPT:
    """One layer, width 8."""
    given = {"embed_dim": 8, "num_layers": 1, "num_heads": 2, "max_seq_len": CONTEXT, **options}
    return TinyGPT(TOKENIZER.vocab_size, dropout=dropout, **given)


def small_trainer(model: TinyGPT | None = None, **options: Any) -> Trainer:
    """On the interpreter, unless told otherwise."""
    given = {"batch": BATCH, "backend": "interpret", "tokenizer": TOKENIZER, **options}
    given.setdefault("optimizer", AdamW(lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1))
    return Trainer(model or small_model(), **given)


def same_state(a: Trainer, b: Trainer) -> bool:
    """Whether two trainings are in bitwise the same state."""
    arrays = zip(a.snapshot().weights.values(), b.snapshot().weights.values(), strict=True)
    states = zip(a.snapshot().state.values(), b.snapshot().state.values(), strict=True)
    equal = all(np.array_equal(x, y) for x, y in [*arrays, *states])
    return equal and a.losses == b.losses and a.steps == b.steps
