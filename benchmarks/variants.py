"""The models that `quality.py` judges: trained by planish with a seed, then made smaller.

Each is kept in a folder when it is done; one whose training was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from judged import note

import planish as pl
from planish.frontend.cli.train import prepared, trainer_for
from planish.frontend.presets import PRESETS

WORDS = 50_257  # of a shape whose weights stay random
RATE = 5e-4  # of training on, at first; it falls to a tenth
SEEN = 32  # contexts of text by which heads and channels are ranked
EVERY = 50  # steps between checkpoints
UNGROUPED = "wpe"  # positions are too few numbers to gain anything

Change = Callable[[pl.TinyGPT, np.ndarray], pl.TinyGPT]


@dataclass(frozen=True)
class Variant:
    """A model made of a trained one: changed at once, then trained on if `trained`.

    `gradually` are options of `pl.Gradual`, whose last pruning is at five eighths of the steps.
    """

    change: Change | None = None
    gradually: Mapping[str, Any] | None = None
    forward: str = ""
    trained: bool = True


def pruned(model: pl.TinyGPT, tokens: np.ndarray, **options: Any) -> pl.TinyGPT:
    """By `pl.prune`, which looks at some text where its method does."""
    seen = None if options.get("method") is None else tokens[: SEEN * model.config["max_seq_len"]]
    return pl.prune(model, tokens=seen, **options)


def with_outliers(model: pl.TinyGPT, tokens: np.ndarray, factor: float) -> pl.TinyGPT:
    """The same function, in which one channel in 64 after each norm of a layer is so many times
    larger, as some channels of large language models are."""
    width = model.config["embed_dim"]
    chosen = np.random.default_rng(0).choice(width, max(1, width // 64), replace=False)
    state = {name: x.copy() for name, x in model.state_dict().items()}
    for i in range(model.config["num_layers"]):
        for norm, reader in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            for name in (f"h.{i}.{norm}.weight", f"h.{i}.{norm}.bias"):
                state[name][chosen] *= np.float32(factor)
            state[f"h.{i}.{reader}.weight"][:, chosen] /= np.float32(factor)
    made = pl.TinyGPT(**model.config)
    made.load_state_dict(state)
    return made


def once(function: Callable[..., pl.TinyGPT], **options: Any) -> Variant:
    """One that is not trained on."""
    return Variant(partial(function, **options), trained=False)


HALVES = {"heads": 1 / 3, "channels": 0.5, "method": "taylor"}
VARIANTS = {
    "trained on": Variant(),
    "70 %": Variant(gradually={"ratio": 0.7, "skip": UNGROUPED}),
    "2:4": Variant(gradually={"pattern": "2:4", "skip": UNGROUPED}),
    "blocks": Variant(gradually={"ratio": 0.5, "pattern": "16x1", "skip": UNGROUPED}),
    "structured": Variant(partial(pruned, **HALVES)),
    "for 4 bits": Variant(forward="fake_quantize{bits=4}"),
    "70 % at once": once(pruned, ratio=0.7, skip=UNGROUPED),
    "50 % by magnitude": once(pruned, ratio=0.5, scope="row", skip=UNGROUPED),
    "50 % by wanda": once(pruned, ratio=0.5, scope="row", method="wanda", skip=UNGROUPED),
    "outliers 100": once(with_outliers, factor=100),
    "outliers 1e4": once(with_outliers, factor=1e4),
}


class Family:
    """A preset and its variants, on one text: `model(variant)` makes what is not there yet."""

    def __init__(self, name: str, text: Path, folder: Path, steps: int, more: int, seed: int,
                 batch: int | None = None, threads: int | None = None):  # fmt: skip
        self.name, self.steps, self.more, self.seed, self.threads = name, steps, more, seed, threads
        sizes = PRESETS[name]
        self.sizes = sizes if batch is None else replace(sizes, batch=batch)
        self.stem = f"{name}-{steps}x{self.sizes.batch}"  # of files
        words = pl.read_text(text)
        self.tokenizer, self.learnt, self.held = prepared(words, self.sizes.context)
        digest = hashlib.sha256(words.encode()).hexdigest()[:8]
        self.folder = folder / f"{digest}-seed{seed}"  # models of another text are others
        self.made: dict[str, pl.TinyGPT] = {}

    def model(self, variant: str) -> pl.TinyGPT:
        """One of `VARIANTS`; "" is the trained model, or that with random weights."""
        if not variant:
            return self.base
        if variant not in self.made:
            self.made[variant] = self.changed(variant, VARIANTS[variant])
        return self.made[variant]

    @cached_property
    def base(self) -> pl.TinyGPT:
        """As the preset is trained; gpt2 as it begins."""
        if self.name == "gpt2":
            return self.sizes.model(WORDS, self.seed)
        make = partial(trainer_for, self.sizes, self.tokenizer, self.steps, self.seed,
                       threads=self.threads)  # fmt: skip
        return self.trained(self.stem, make, self.steps)

    def changed(self, name: str, variant: Variant) -> pl.TinyGPT:
        """A variant, trained on if it is one that is."""
        change = variant.change or (lambda model, tokens: model)
        if not variant.trained:
            return change(self.base, self.learnt)
        base, sparse = self.base, variant.gradually is not None
        gradual = None
        if variant.gradually is not None:
            end, every = self.more * 5 // 8, max(1, self.more // 40)
            gradual = pl.Gradual(**variant.gradually, begin=0, end=end, every=every)

        def make() -> pl.Trainer:
            schedule = pl.optim.cosine(RATE, RATE / 10, self.more // 20, self.more)
            optimizer = pl.optim.AdamW(
                lr=RATE, betas=(0.9, 0.99), weight_decay=0.1, keep_zeros=sparse
            )
            return pl.Trainer(
                change(base, self.learnt), optimizer, schedule, batch=self.sizes.batch,
                seed=self.seed + 1, tokenizer=self.tokenizer, threads=self.threads,
                forward=variant.forward,
            )  # fmt: skip

        words = "".join(x if x.isalnum() else "-" for x in name)
        return self.trained(f"{self.stem}-{words}-{self.more}", make, self.more, gradual)

    def trained(
        self, name: str, make: Callable[[], pl.Trainer], steps: int,
        on_step: Callable[[pl.Trainer], object] | None = None,
    ) -> pl.TinyGPT:  # fmt: skip
        """The model of a training: the one that is kept, or one more, from where it was stopped."""
        done, half = (self.folder / f"{name}{x}.safetensors" for x in ("", ".unfinished"))
        if not done.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            trainer = make()
            if half.exists():
                trainer.resume(half)
            note(f"{done.stem}: training, {trainer.steps} of {steps} steps done")
            trainer.fit(self.learnt, steps - trainer.steps, checkpoint=half,
                        checkpoint_every=EVERY, on_step=on_step)  # fmt: skip
            pl.save(trainer.model, done, self.tokenizer)
            half.unlink(missing_ok=True)
        return pl.load_model(done)[0]
