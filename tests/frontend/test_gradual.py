"""Training a pruned model, and pruning while training: zeros stay, in every kind of step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.ir.errors import DataError

TOKENS = np.tile(np.random.default_rng(0).integers(0, 30, 50), 20)


def model() -> pl.TinyGPT:
    return pl.TinyGPT(30, embed_dim=16, num_layers=2, num_heads=2, max_seq_len=12, dropout=0.0)


def zeros(of: pl.TinyGPT) -> dict[str, np.ndarray]:
    return {n: x == 0 for n, x in of.state_dict().items() if x.ndim == 2}


@pytest.mark.parametrize(
    "optimizer",
    [pl.optim.AdamW(lr=1e-2, keep_zeros=True), pl.optim.SGD(lr=0.1, momentum=0.9, keep_zeros=True)],
)
@pytest.mark.parametrize("pipeline", ["train", "train_bf16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_zeros_stay(optimizer: object, pipeline: str, accumulate: int) -> None:
    small = pl.prune(model(), 0.7)
    before = zeros(small)
    trainer = pl.Trainer(small, optimizer, batch=2, accumulate=accumulate, pipeline=pipeline)
    trainer.fit(TOKENS, 20, progress=False)
    assert trainer.losses[-1] < trainer.losses[0]
    for name, kept in zeros(small).items():
        np.testing.assert_array_equal(kept, before[name], name)
    # what is no matrix has zeros that are not meant: biases begin so
    assert np.abs(small.h[0].mlp.c_fc.bias.array).max() > 0


def test_without_it_they_do_not() -> None:
    small = pl.prune(model(), 0.7)
    pl.Trainer(small, pl.optim.AdamW(lr=1e-2), batch=2).fit(TOKENS, 2, progress=False)
    assert (small.h[0].mlp.c_fc.weight.array == 0).mean() < 0.01


def test_the_step_is_that_of_the_interpreter() -> None:
    found = []
    for backend in ("native", "interpret"):
        small = pl.prune(model(), 0.5)
        optimizer = pl.optim.AdamW(lr=1e-2, keep_zeros=True)
        trainer = pl.Trainer(small, optimizer, batch=2, backend=backend)
        found.append((trainer.fit(TOKENS, 5, progress=False), trainer.grad_norm))
    np.testing.assert_allclose(found[0][0], found[1][0], 1e-4)
    np.testing.assert_allclose(found[0][1], found[1][1], 1e-3)


def test_the_ratio_grows_as_a_cube() -> None:
    plan = pl.Gradual(0.8, begin=10, end=20, every=4)
    assert [plan.is_due(t) for t in range(8, 24)] == [t in (10, 14, 18, 20) for t in range(8, 24)]
    assert [plan.at(t) for t in (0, 10, 20, 99)] == [0, 0, 0.8, 0.8]
    assert plan.at(15) == pytest.approx(0.8 * 7 / 8)


def test_pruning_while_training(tmp_path: Path) -> None:
    """The share that is asked for is reached; a training that is resumed gives the same bits."""
    plan = pl.Gradual(0.6, begin=4, end=12, every=3)

    def trainer() -> pl.Trainer:
        return pl.Trainer(model(), pl.optim.AdamW(lr=1e-2, keep_zeros=True), batch=2)

    whole, shares = trainer(), []

    def watch(t: pl.Trainer) -> None:
        plan(t)
        shares.append((t.model.h[0].mlp.c_fc.weight.array == 0).mean())

    whole.fit(TOKENS, 16, progress=False, on_step=watch)
    assert shares[3] == 0 and np.all(np.diff(shares[4:]) >= 0)
    assert shares[-1] == pytest.approx(0.6, abs=1e-3) and 0.3 < shares[8] < 0.59
    first, path = trainer(), tmp_path / "half.safetensors"
    first.fit(TOKENS, 7, progress=False, on_step=plan, checkpoint=path)
    second = trainer()
    second.resume(path)  # after a step that pruned: the file has what came of it
    second.fit(TOKENS, 9, progress=False, on_step=plan)
    assert second.losses == whole.losses
    for name, array in whole.model.state_dict().items():
        np.testing.assert_array_equal(second.model.state_dict()[name], array, name)


@pytest.mark.parametrize("ratio", [None, 0.5])
def test_groups_while_training(ratio: float | None) -> None:
    """More and more groups have two zeros of four; at the end all have."""
    plan, shares = pl.Gradual(ratio, begin=1, end=7, every=2, pattern="2:4"), []
    trainer = pl.Trainer(model(), pl.optim.AdamW(lr=1e-2, keep_zeros=True), batch=2)

    def watch(t: pl.Trainer) -> None:
        plan(t)
        groups = (t.model.h[0].mlp.c_fc.weight.array == 0).reshape(-1, 4).sum(1)
        assert set(np.unique(groups)) <= {0, 2}
        shares.append((groups == 2).mean())

    trainer.fit(TOKENS, 8, progress=False, on_step=watch)
    assert shares[0] == 0 and shares[-1] == 1 and np.all(np.diff(shares) >= 0)
    assert 0.5 < shares[3] < 1


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match=r"takes 0.5 of each group, not ratio=0\.7"):
        pl.Gradual(0.7, pattern="2:4")
    with pytest.raises(DataError, match="ratio is a share"):
        pl.Gradual(1.2)
    for options in ({"begin": -1}, {"begin": 5, "end": 5}, {"every": 0}, {"end": 2.5}):
        with pytest.raises(DataError, match="0 <= begin < end and every >= 1"):
            pl.Gradual(0.5, **options)
    with pytest.raises(DataError, match="keep_zeros=True"):
        pl.Trainer(model(), batch=2).fit(TOKENS, 1, progress=False, on_step=pl.Gradual(0.5))
