"""Training that recomputes operands of products: the same numbers in less memory."""

from __future__ import annotations

import pytest

import planish as pl
from planish.passes.pipeline import Pipeline
from planish.passes.remat import Remat
from tests.frontend.small import TOKENS, same_state, small_model, small_trainer

LLAMA = {"positions": "rope", "norm": "rms", "mlp": "swiglu", "bias": False, "num_kv_heads": 1}


def passes(name: str, *instead: Remat) -> Pipeline:
    """A pipeline with these passes instead of `remat`."""
    known = pl.PIPELINES[name].passes
    return Pipeline(*(y for x in known for y in (instead if isinstance(x, Remat) else (x,))))


def memory(trainer: pl.Trainer) -> int:
    """Bytes of temporaries that a step needs."""
    graphs = trainer.graphs.values()
    return max(pl.compile(x, pipeline=trainer.pipeline).memory.arena for x in graphs)


@pytest.mark.parametrize(
    ("pipeline", "model", "accumulate"),
    [("train", {}, 1), ("train_bf16", {}, 2), ("train", LLAMA, 2), ("train_bf16", LLAMA, 1)],
    ids=["gpt2", "gpt2 bf16", "llama", "llama bf16"],
)
def test_the_numbers_are_the_same_in_less_memory(
    pipeline: str, model: dict, accumulate: int
) -> None:
    """Dropout included, whose masks are kept."""
    sizes = {"embed_dim": 32, "num_layers": 3, "dropout": 0.1}
    both = [
        small_trainer(
            small_model(**sizes, **model), batch=32, accumulate=accumulate, backend="native",
            pipeline=passes(pipeline, *instead),
        )
        for instead in ((Remat(little=1),), ())
    ]  # fmt: skip
    for trainer in both:
        trainer.fit(TOKENS, 3)
    assert same_state(*both)
    assert memory(both[0]) < 0.9 * memory(both[1])
