"""Saved steps of training in Python: the bits of the trainer without LLVM; errors in a line."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import planish as pl
from planish.frontend.cli.entry import commands
from planish.frontend.data import IGNORED, random_batch
from planish.frontend.optim import SGD
from planish.frontend.saved_step import SavedStep
from planish.frontend.training import Trainer
from planish.runtime.host.abi import ABI
from tests.frontend.small import (
    CONTEXT,
    TEXT,
    TOKENIZER,
    TOKENS,
    same_state,
    small_model,
    small_trainer,
)

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]


def trained(**options: Any) -> Trainer:
    """After two steps."""
    trainer = small_trainer(small_model(dropout=0.2), backend="native", seed=3, **options)
    trainer.fit(TEXT, 2)
    return trainer


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("step") / "step.so"
    trained().save_step(path)
    return path


def batch(step: int, rows: int = 3) -> np.ndarray:
    found = np.zeros((2, rows, CONTEXT), np.int32)
    random_batch(TOKENS, 1, step, *found)
    return found


def same(step: SavedStep, trainer: Trainer) -> bool:
    arrays = [trainer.arrays[name] for name in step.arrays]
    equal = all(np.array_equal(x, y) for x, y in zip(step.arrays.values(), arrays, strict=True))
    return equal and step.losses == trainer.losses and step.steps == trainer.steps


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [{}, {"batch": 2, "accumulate": 2}], ids=["one", "two"])
def test_a_saved_step_has_the_bits_of_the_trainer(
    options: dict[str, int], threads: int, tmp_path: Path
) -> None:
    trainer = trained(**options)
    trainer.save_step(tmp_path / "step.so", weights="file")
    found = pl.load(tmp_path / "step.so", threads=threads)
    assert isinstance(found, SavedStep) and same(found, trainer)
    assert list(found.arrays) == [*trainer.trained, *trainer.state_names]
    for n in range(1200 if threads == 1 and not options else 3):  # also beyond room for losses
        x, y = batch(n, found.rows)
        trainer.schedule = lambda step, n=n: 0.01 / (n + 1)
        assert found.step(x, y, lr=0.01 / (n + 1)) == trainer.step(x, y)
        assert found.grad_norm == trainer.grad_norm
    assert same(found, trainer)


RUN = """
import sys
import numpy as np
import planish as pl
found = pl.load(sys.argv[1])
x, y = np.load(sys.argv[2])
print(found.step(x, y, lr=0.01).hex())
assert not {"llvmlite", "networkx", "planish.frontend.training"} & set(sys.modules)
"""


def test_it_runs_in_another_process_without_llvm(library: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", batch(0))
    command = [sys.executable, "-c", RUN, str(library), str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float.fromhex(done.stdout) == trained().step(*batch(0))


def test_its_checkpoint_is_resumed_and_loads_as_a_model(library: Path, tmp_path: Path) -> None:
    found, trainer, path = pl.load(library), trained(), tmp_path / "x.safetensors"
    assert found.step(*batch(0), lr=0.01) == trainer.step(*batch(0))
    found.save(path)
    resumed = small_trainer(small_model(dropout=0.2, seed=5), backend="native", seed=3)
    resumed.resume(path)
    assert same_state(resumed, trainer)
    assert resumed.step(*batch(1)) == trainer.step(*batch(1))
    model, words = pl.load_model(path)
    assert np.array_equal(model.state_dict()["wte.weight"], found.arrays["wte.weight"])
    assert words == TOKENIZER


def test_parameters_that_are_not_trained_are_missed(tmp_path: Path) -> None:
    model = small_model()
    model.unused = pl.nn.Linear(2, 2)
    small_trainer(model, backend="native").save_step(tmp_path / "step.so")
    found = pl.load(tmp_path / "step.so")
    with pytest.raises(pl.DataError, match=r"lack unused\.weight, which is not trained"):
        found.save(tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


# checkpoints


def refused(found: SavedStep, path: Path, why: str) -> None:
    """A file is not taken, and nothing has changed."""
    before = {name: x.copy() for name, x in found.arrays.items()}, found.losses
    with pytest.raises(pl.ArtifactError, match=why) as told:
        found.restore(path)
    assert "\n" not in str(told.value)
    assert all(np.array_equal(x, before[0][name]) for name, x in found.arrays.items())
    assert found.losses == before[1]


def test_a_checkpoint_of_the_trainer_is_gone_on_with(library: Path, tmp_path: Path) -> None:
    """Also back to fewer steps than the library was made with."""
    begun = small_trainer(small_model(dropout=0.2), backend="native", seed=3)
    begun.save(tmp_path / "begun.safetensors")
    trainer, found = trained(), pl.load(library)
    trainer.step(*batch(0))
    trainer.save(tmp_path / "more.safetensors")
    for other, name in ((begun, "begun"), (trainer, "more")):
        found.restore(tmp_path / f"{name}.safetensors")
        assert same(found, other)
        other.schedule = lambda step: 0.01
        assert found.step(*batch(1), lr=0.01) == other.step(*batch(1))
        assert same(found, other)


def test_row_64_a_checkpoint_that_is_damaged_is_refused(library: Path, tmp_path: Path) -> None:
    found, path = pl.load(library), tmp_path / "x.safetensors"
    found.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in (0, 7, 8, 30, *rng.integers(8, len(whole), 20).tolist()):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.integers(8)]) + whole[at + 1 :])
        refused(found, path, r"x\.safetensors is (damaged|no checkpoint of this training)")
    for size in (1, 7, 8, 100, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(found, path, r"x\.safetensors is no checkpoint of this training")
    path.write_bytes(whole + whole[-8:])
    refused(found, path, "is no checkpoint of this training")
    path.write_bytes(b"")
    refused(found, path, "is empty")
    refused(found, tmp_path / "none", "cannot read .*none: No such file")
    refused(found, tmp_path, "cannot read .*: Is a directory")


def test_a_checkpoint_of_another_training_is_refused(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for options in ({"batch": 2}, {"optimizer": SGD(lr=0.1)}):
        small_trainer(small_model(dropout=0.2), backend="native", seed=3, **options).save(path)
        refused(pl.load(library), path, "is no checkpoint of this training")
    trainer = trained()
    trainer.evaluations.append((2, 1.5))
    trainer.save(path)
    refused(pl.load(library), path, "is no checkpoint of this training")


def test_a_checkpoint_replaces_the_old_one_or_leaves_it(library: Path, tmp_path: Path) -> None:
    found, path = pl.load(library), tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(pl.ArtifactError, match=f"{name} is a folder, a device or a pipe"):
            found.save(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "pipe").unlink()
    with pytest.raises(pl.ArtifactError, match=r"cannot write .*no/x: No such file"):
        found.save(tmp_path / "no" / "x")
    with pytest.raises(pl.ArtifactError, match=r"cannot write|too long"):
        found.save(tmp_path / ("x" * 5000))
    assert path.read_bytes() == b"old"
    found.save(path)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["folder", "x.safetensors"]
    assert pl.load_model(path)[1] == TOKENIZER


def test_arrays_are_those_that_a_step_changes(library: Path) -> None:
    found, trainer = pl.load(library), trained()
    name = "wte.weight"
    found.arrays[name][...] = trainer.arrays[name] * 2
    trainer.arrays[name] *= 2
    assert found.step(*batch(0), lr=0.01) == trainer.step(*batch(0))
    assert same(found, trainer)
    kept = found.arrays[name]
    want = kept.copy()
    del found
    gc.collect()
    assert np.array_equal(kept, want)


def test_models_share_nothing_that_changes(library: Path) -> None:
    one, other = pl.load(library), pl.load(library)
    one.step(*batch(0), lr=0.01)
    assert one.steps == 3 and other.steps == 2
    assert other.step(*batch(0), lr=0.01) == one.losses[-1]
    assert other.step(*batch(0), lr=0.01, seed=9) != one.step(*batch(0), lr=0.01)


def test_calls_from_several_threads_wait_for_each_other(library: Path) -> None:
    found, one = pl.load(library), batch(0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: found.step(*one, lr=0.01), range(40)))
    trainer = trained()
    trainer.schedule = lambda step: 0.01
    for _ in range(40):
        trainer.step(*one)
    assert same(found, trainer)


def wrong(place: int, value: int) -> np.ndarray:
    found = batch(0)
    found[place, 1, 2] = value
    return found


@pytest.mark.parametrize(("given", "error", "why"), [
    ((*wrong(0, 28), 0.01), pl.TokenError, "token id 28 at position 1, 2 is outside 0 <= id < 28"),
    ((*wrong(1, -5), 0.01), pl.TokenError, "token id -5 at position 1, 2"),
    ((*batch(0, 2), 0.01), pl.ShapeError, r"tokens are \[3, 6\] \(batch, context\), got \[2, 6\]"),
    ((*batch(0).astype("f4"), 0.01), pl.DTypeError, "token ids are integers"),
    ((*batch(0), float("nan")), pl.DataError, "lr is a finite number, got nan"),
    ((*batch(0), 1e39), pl.DataError, "lr is a finite number, got inf"),
    ((*batch(0), "fast"), pl.DTypeError, "lr is a number, got 'fast'"),
    ((*batch(0), 0.01, 1.5), pl.DTypeError, "a seed is an integer, got float"),
    ((*batch(0), 0.01, -1), pl.DataError, "a seed is an integer of 0 <= seed"),
])  # fmt: skip
def test_mistakes_are_told_and_change_nothing(
    given: tuple, error: type[Exception], why: str, library: Path
) -> None:
    found, trainer = pl.load(library), trained()
    with pytest.raises(error, match=why):
        found.step(*given)
    assert same(found, trainer)
    assert found.step(*batch(0), lr=0.01) == trainer.step(*batch(0))


def test_c_tells_them_too(library: Path) -> None:
    found = pl.load(library)
    for place, value, why in [
        (0, 28, "token 28 at position 1, 2 is outside 0 <= token < 28"),
        (0, IGNORED, "token -100 at position 1, 2 is outside"),
        (1, -5, "target -5 at position 1, 2 is outside"),
    ]:
        x, y = wrong(place, value)
        code = found._model("step", x.ctypes.data, y.ctypes.data, 0.01, 0, None, None)
        assert code == 1 and found._model("error").decode().startswith(why)
    assert found._model("get", 99, None) == 1
    assert found._model("error").decode() == f"array 99 is outside 0 <= number < {3 * 16}"
    assert found.steps == 2


def test_a_loss_that_is_not_finite_leaves_the_weights(tmp_path: Path) -> None:
    trainer = small_trainer(backend="native", optimizer=SGD(lr=1.0))
    trainer.save_step(tmp_path / "step.so")
    found = pl.load(tmp_path / "step.so")
    found.arrays["ln_f.weight"][0] = np.inf
    before = {name: x.copy() for name, x in found.arrays.items()}
    with pytest.raises(pl.DataError, match=r"loss is .*nan at step 1; the weights are still those"):
        found.step(*batch(0), lr=0.01)
    assert all(np.array_equal(x, before[name]) for name, x in found.arrays.items())
    assert found.steps == 0 and found.losses == []
    found.arrays["ln_f.weight"][0] = 1
    assert found.step(*batch(0), lr=0.01) == trainer.step(*batch(0))


def test_a_forked_process_is_told(library: Path) -> None:
    found = pl.load(library, threads=2)
    child = os.fork()
    if child == 0:
        try:
            found.step(*batch(0), lr=0.01)
        except pl.DataError as error:
            told = "pl.load the library there" in str(error)
            del found, error
            gc.collect()  # waits for no thread
            os._exit(7 if told else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_inspect_says_what_it_is(library: Path) -> None:
    done = CliRunner().invoke(commands, ["inspect", str(library), "--json"])
    facts = json.loads(done.output)
    assert (facts["program"], facts["rows"], facts["context"], facts["steps"]) == ("step", 3, 6, 2)
    assert facts["training"]["optimizer"].startswith("AdamW(") and facts["abi"] == ABI
    assert facts["quantization"] == [] and facts["memory"]["state"] > 0
    assert "rows " in CliRunner().invoke(commands, ["inspect", str(library)]).output
