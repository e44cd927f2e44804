"""planish itself."""

from __future__ import annotations

import time
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import numpy as np
from peers.case import Case, Prepare, Run, Unsupported
from workloads import BETAS, CLIP, DECAY, EPS, RATE, Config, batch, calibration

import planish as pl
from planish.frontend.generate import Generator
from planish.frontend.sampling import Sampling

# dtype -> the pipeline of inference, and of training
PIPELINES = {
    "f32": ("O2", "train"), "bf16": ("bf16", "train_bf16"), "int8": ("int8_cache", ""),
    "int8_static": ("int8", ""), "int4": ("int4_cache", ""),
}  # fmt: skip


def version() -> str:
    """Of planish."""
    try:
        return installed("planish")
    except PackageNotFoundError:
        return pl.__version__


def model_of(c: Config, weights: dict[str, np.ndarray]) -> pl.TinyGPT:
    """A model with these weights."""
    model = pl.TinyGPT(
        vocab_size=c.vocab, embed_dim=c.width, num_layers=c.layers, num_heads=c.heads,
        max_seq_len=c.context, dropout=0.0,
    )  # fmt: skip
    model.load_state_dict(weights)
    return model


def trainer_of(case: Case, model: pl.TinyGPT, **options: object) -> pl.Trainer:
    """A trainer with the benchmark's optimiser."""
    optimizer = pl.optim.AdamW(lr=RATE, weight_decay=DECAY, betas=BETAS, eps=EPS)
    c = case.c
    return pl.Trainer(
        model, optimizer=optimizer, clip=CLIP, batch=c.batch, context=c.context, **options
    )


def contestant(case: Case, variant: str) -> Prepare:
    """Whole programs by the public functions."""
    name = PIPELINES[case.dtype][case.workload == "train"]
    if name not in pl.PIPELINES:
        raise Unsupported(f"no {case.workload} in {case.dtype}")
    model = model_of(case.c, case.weights)
    passes = pl.PIPELINES[name]
    if case.dtype == "int8_static":
        case.need("prefill", dtypes=(case.dtype,))
        static = str(passes).replace("quantize", "quantize{mode=static}")
        passes = pl.calibrate(model, static, calibration(case.c).ravel(), threads=case.threads)
    return {
        "prefill": lambda: prefill(case, model, passes),
        "first": lambda: first(case, model, passes),
        "decode": lambda: decode(case, model, passes),
        "train": lambda: train(case, model, passes),
    }[case.workload]


def prefill(case: Case, model: pl.TinyGPT, pipeline: pl.Pipeline) -> Run:
    """Logits of the last position."""
    ids = case.ids
    program = pl.compile(
        model.last_logits, pl.spec(ids.shape, "i32"), pipeline=pipeline, threads=case.threads
    )
    bound = program.bind(ids)
    return lambda: bound.run()


def first(case: Case, model: pl.TinyGPT, pipeline: pl.Pipeline) -> Run:
    """The prompt's own token, by the call that a user makes."""
    generator = Generator(model, pipeline=pipeline, threads=case.threads, greedy=True)
    ids = case.ids
    return lambda: next(generator.stream(ids, 1, Sampling(0.0)))


def decode(case: Case, model: pl.TinyGPT, pipeline: pl.Pipeline) -> Run:
    """Greedy tokens; those after the first are timed."""
    generator = Generator(model, pipeline=pipeline, threads=case.threads, greedy=True)
    ids = case.ids

    def run() -> object:
        pieces = generator.stream(ids, case.c.new, Sampling(0.0))
        made = [next(pieces)]  # the prompt's own token
        start = time.perf_counter()
        made += pieces
        return time.perf_counter() - start, np.concatenate(made, 1)

    return run


def train(case: Case, model: pl.TinyGPT, pipeline: pl.Pipeline) -> Run:
    """Steps of a trainer."""
    trainer = trainer_of(case, model, pipeline=pipeline, threads=case.threads)
    x, y = batch(case.c)
    return lambda: trainer.step(x, y)
