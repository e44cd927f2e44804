"""Files of pruned models: smaller, loaded back bitwise, refused where parts do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import planish as pl
from planish.frontend.checkpoint import digest, read_file, write_file
from planish.frontend.sparse_files import KEY, without_zeros
from planish.ir.errors import ArtifactError, SizeError
from planish.runtime import target

RNG = np.random.default_rng(0)


def model() -> pl.TinyGPT:
    return pl.TinyGPT(90, embed_dim=64, num_layers=2, num_heads=4, max_seq_len=70, dropout=0.0)


def test_a_pruned_model_is_smaller_on_disk_and_the_same(tmp_path: Path) -> None:
    small = pl.prune(model(), 0.7)
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("dense", "sparse")}
    pl.save(model(), paths["dense"])
    pl.save(small, paths["sparse"])
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    assert sizes["sparse"] < 0.42 * sizes["dense"]
    again = pl.TinyGPT.from_pretrained(paths["sparse"])
    for name, array in small.state_dict().items():
        found = again.state_dict()[name]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes(), name
    header = safetensors.numpy.load_file(paths["sparse"])
    assert "h.0.mlp.c_fc.weight.mask" in header and "h.0.mlp.c_fc.weight" not in header


def test_a_training_of_a_pruned_model_is_resumed_from_it(tmp_path: Path) -> None:
    tokens, path = RNG.integers(0, 90, 500), tmp_path / "half.safetensors"

    def trainer() -> pl.Trainer:
        optimizer = pl.optim.AdamW(lr=1e-3, keep_zeros=True)
        return pl.Trainer(pl.prune(model(), 0.8), optimizer, batch=2, context=32)

    whole, first, second = trainer(), trainer(), trainer()
    whole.fit(tokens, 6, progress=False)
    first.fit(tokens, 3, progress=False)
    first.save(path)
    second.resume(path)
    second.fit(tokens, 3, progress=False)
    assert second.losses == whole.losses
    state = sum(x.nbytes for x in first.arrays.values())
    assert path.stat().st_size < 0.5 * state  # the optimiser's zeros are left out, too


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8])
@pytest.mark.parametrize("shape", [(4097,), (64, 64), (3, 1400), (9000, 1), (0, 5000)])
def test_arrays_come_back_bitwise(dtype: type, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = np.where(RNG.random(shape) < 0.8, 0, RNG.integers(-9, 9, shape)).astype(dtype)
    if x.size and x.dtype.kind == "f":
        x.flat[:3] = -0.0, np.nan, np.inf
    arrays = {"x": x, "dense": RNG.standard_normal(5000), "none": np.zeros(5000, np.float32)}
    path = tmp_path / "x.safetensors"
    write_file(path, arrays, {})
    found = read_file(path).arrays
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_names_that_are_taken_are_left_alone() -> None:
    x = np.zeros(5000, np.float32)
    found, facts = without_zeros({"x": x, "x.mask": np.ones(3)})
    assert found["x"] is x and not facts


def test_files_without_zeros_to_lose_are_as_before(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    pl.save(model(), path)
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata()["planish.format"] == "1" and KEY not in file.metadata()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shape": [64, 63]}, r"x \[64, 63\] has a mask i64\[63\], got int64\[64\]"),
        ({"shape": [2**40, 2**40]}, "has a mask"),
        ({"shape": [-64, -64]}, "has the shape"),
        ({"shape": "x"}, "has the shape"),
        ({"values": np.zeros(3, np.float32)}, "has 3 values for a mask of"),
        ({"values": np.zeros((2, 2), np.float32)}, "has a mask i64"),
        ({"mask": np.zeros(64, np.int32)}, "got int32"),
        ({"mask": None}, "stored without its zeros, but not so"),
        ({"x": np.zeros(9)}, "or twice"),
        ({"facts": "[1]"}, "no list of names with shapes"),
        ({"facts": "{"}, "bad JSON"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    """Even where the checksum is right: before memory is asked for."""
    x = np.where(RNG.random((64, 64)) < 0.8, 0, 1).astype(np.float32)
    arrays, facts = without_zeros({"x": x})
    if "shape" in change:
        facts[KEY] = json.dumps({"x": change["shape"]})
    facts[KEY] = change.get("facts", facts[KEY])
    arrays |= {f"x.{n}": v for n, v in change.items() if n in ("mask", "values") and v is not None}
    arrays |= {"x": change["x"]} if "x" in change else {}
    if "mask" in change and change["mask"] is None:
        del arrays["x.mask"]
    facts["planish.format"] = "2"
    facts["planish.sha256"] = digest(arrays, facts)
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(arrays, path, facts)
    with pytest.raises(ArtifactError, match=message):
        read_file(path)


def test_what_no_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    write_file(path, {"x": np.zeros(1 << 20, np.float32)}, {})
    monkeypatch.setattr(target, "memory_limit", lambda: 1 << 20)
    with pytest.raises(SizeError, match="the weights in"):
        read_file(path)
