"""Models and trainings as files: round trips, and what happens to files that are not whole."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import planish as pl
from planish.frontend import checkpoint
from planish.frontend.checkpoint import read_file, write_file
from planish.frontend.models.tinygpt import TinyGPT
from planish.frontend.optim import SGD, AdamW
from planish.frontend.pretrained import load_model
from planish.ir.errors import ArtifactError
from tests.frontend.small import TOKENIZER, TOKENS, same_state, small_model, small_trainer


def same(a: TinyGPT, b: TinyGPT) -> bool:
    """Whether two models have equal weights and configurations."""
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return a.config == b.config and all(
        n == m and x.dtype == y.dtype and np.array_equal(x, y) for (n, x), (m, y) in pairs
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A model in a file."""
    path = tmp_path / "model.safetensors"
    pl.save(small_model(), path, TOKENIZER)
    return path


# round trips


@pytest.mark.parametrize("options", [
    {}, {"positions": "rope", "norm": "rms", "mlp": "swiglu", "bias": False},
    {"tie_head": False, "positions": "sinusoidal", "seed": 3},
])  # fmt: skip
def test_models_come_back(tmp_path: Path, options: dict) -> None:
    model = small_model(**options)
    pl.save(model, tmp_path / "model.safetensors", TOKENIZER)
    found, tokenizer = load_model(tmp_path / "model.safetensors")
    assert same(found, model) and tokenizer == TOKENIZER
    assert same(TinyGPT.from_pretrained(str(tmp_path / "model.safetensors")), model)
    pl.save(model, tmp_path / "model.safetensors")
    assert load_model(tmp_path / "model.safetensors")[1] is None


@pytest.mark.parametrize("optimizer", [AdamW(lr=1e-2), SGD(lr=0.1), SGD(lr=0.1, momentum=0.9)])
def test_a_resumed_training_is_bitwise_the_one_never_stopped(
    tmp_path: Path, optimizer: pl.optim.Optimizer
) -> None:
    path = tmp_path / "training.safetensors"
    options: dict[str, Any] = {"optimizer": optimizer, "seed": 4, "dtype": None}
    whole = small_trainer(small_model(dropout=0.2), **options)
    whole.fit(TOKENS, 3, validation=TOKENS[:30])
    whole.save(path)
    whole.fit(TOKENS, 3)
    resumed = small_trainer(small_model(dropout=0.2, seed=9), **options)
    resumed.resume(path)
    assert resumed.steps == 3 and resumed.evaluations == whole.evaluations
    resumed.fit(TOKENS, 3)
    assert same_state(resumed, whole)
    assert same(load_model(path)[0], load_model(path)[0])


def test_a_checkpoint_is_a_model_too(tmp_path: Path) -> None:
    trainer = small_trainer()
    trainer.fit(TOKENS, 2, checkpoint=tmp_path / "t.safetensors", checkpoint_every=1)
    model, tokenizer = load_model(tmp_path / "t.safetensors")
    assert same(model, trainer.model) and tokenizer == TOKENIZER


def test_zero_sized_and_scalar_arrays(tmp_path: Path) -> None:
    arrays = {"none": np.zeros((0, 3), np.float32), "one": np.array(2.0)}
    write_file(tmp_path / "a.safetensors", arrays, {})
    found = read_file(tmp_path / "a.safetensors").arrays
    assert found["none"].shape == (0, 3) and found["one"].shape == () and found["one"] == 2.0


# files that are not whole


def rewritten(path: Path, change: Any) -> None:
    """Change the parsed header, and keep the data."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = change(json.loads(raw[8 : 8 + length]))
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_row_64_a_file_cut_or_flipped_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    rng = np.random.default_rng(0)
    for at in {0, 1, 7, 8, 9, len(whole) - 1, *rng.integers(0, len(whole), 60).tolist()}:
        saved.write_bytes(whole[:at])
        with pytest.raises(ArtifactError, match=r"model\.safetensors: "):
            load_model(saved)
        saved.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(ArtifactError, match=r"model\.safetensors: "):
            load_model(saved)
    saved.write_bytes(whole + b"\0")
    with pytest.raises(ArtifactError, match="not fully covered"):
        load_model(saved)


class Boom:
    """Raises when unpickled."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("unpickled",))


def test_row_70_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Boom()))
    contents = [path.read_bytes(), b"", b"GGUF\3\0\0\0" + b"\0" * 40, b"just text" * 9,
                pickle.dumps(Boom())]  # fmt: skip
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"model\.safetensors: not a safetensors file"):
            load_model(path)
    other = tmp_path / "ckpt.pt"
    for content, what in zip([contents[0], contents[-1], b"\x7fELF" * 9], (
        "an archive, as PyTorch's are of pickled objects", "pickled objects, which are never read",
        "a program or a library: run it, or load it with pl.load"), strict=True):  # fmt: skip
        other.write_bytes(content)
        with pytest.raises(ArtifactError, match=rf"ckpt\.pt: not a model, but {what}"):
            load_model(other)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_model(tmp_path / "other")
    with pytest.raises(ArtifactError, match=r"this folder has no config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("length", [2**31, 2**63, 2**64 - 1, 100_000_001])
def test_row_65_a_huge_header_allocates_nothing(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" * 8)
    with pytest.raises(ArtifactError, match="header too large"):
        load_model(path)


ARRAY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,' + b"9" * 5000 + b"]}}",
        b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}',
        b'{"a":%b,"a":%b}' % ((json.dumps(ARRAY).encode(),) * 2),
        b'{"__metadata__":{"x":"1","x":"2"},"a":%b}' % json.dumps(ARRAY).encode(),
        {"a": ARRAY, "b": ARRAY},
        {"a": ARRAY, "b": {**ARRAY, "data_offsets": [4, 12]}},
        {"a": {**ARRAY, "data_offsets": [4, 12]}},
        {"a": {**ARRAY, "data_offsets": [0, 2**62]}},
        *({"a": {**ARRAY, "shape": s}} for s in ([-1], [2.0], [True], [2**63, 2**63], ["2"])),
        *({"a": {**ARRAY, "dtype": d}} for d in ("f32", "O", "X", "|O", "C64", "I4", "F32 ")),
        {"a": {**ARRAY, "dtype": "U64", "shape": [1]}},
    ],
)
def test_row_66_row_67_row_68_row_69_bad_headers_are_refused(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\2\0\0\0\0\0\0\0{}" + b"\0" * 8)
    rewritten(path, lambda _: header)
    with pytest.raises(
        ArtifactError, match=r"model\.safetensors: (not a safetensors file|bad JSO)"
    ):
        read_file(path)


def resealed(path: Path, change: Any) -> None:
    """Change a file's arrays and metadata, with a fitting checksum."""
    file = read_file(path)
    arrays, metadata = dict(file.arrays), dict(file.metadata)
    change(arrays, metadata)
    number = metadata.pop("planish.format", None)
    facts = metadata if number is None else {**metadata, "planish.format": number}
    facts["planish.sha256"] = checkpoint.digest(arrays, facts)
    path.write_bytes(safetensors.numpy.save(arrays, facts))


def config_change(**options: Any) -> Any:
    def change(arrays: dict, metadata: dict) -> None:
        found = json.loads(metadata["planish.model"])
        found["config"] |= options
        metadata["planish.model"] = json.dumps(found)

    return change


def metadata_change(**options: str) -> Any:
    def change(arrays: dict, metadata: dict) -> None:
        metadata.update({f"planish.{name}": text for name, text in options.items()})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, m: a.pop("wpe.weight"), "missing: wpe.weight"),
        (lambda a, m: a.update(more=np.zeros(2)), "unexpected: more"),
        (lambda a, m: m.pop("planish.model"), "holds arrays, but no model"),
        (metadata_change(format="3"), "newer planish, in format 3; this one reads format 2"),
        (metadata_change(format="x"), "unknown format 'x'"),
        (metadata_change(model="{"), "bad JSON"),
        (metadata_change(model="[" * 100_000), "bad JSON"),
        (metadata_change(model='{"a": 1, "a": 2}'), "'a' stands twice"),
        (metadata_change(model="3"), "holds arrays, but no model"),
        (metadata_change(model='{"class": "X", "config": {}}'), "holds a X, not a TinyGPT"),
        (config_change(embed_dim=16), r"wrong shape: wte\.weight is \[\d+, 16\], got \[\d+, 8\]"),
        (config_change(num_heads=3), "num_heads=3 does not divide embed_dim=8"),
        (config_change(embed_dim=10**7), "wrong shape: h.0.attn.c_attn.weight"),
        (config_change(num_layers=10**8), "100000000 layers, but only"),
        (config_change(embed_dim=10**12), "embed_dim=1000000000000 is more than"),
        (config_change(max_seq_len=2**63), "max_seq_len=9223372036854775808 is more than"),
        (config_change(mlp="maxout"), "mlp is one of .* got 'maxout'"),
        (config_change(layers=2), "TinyGPT has no option 'layers'"),
        (config_change(embed_dim="8"), "embed_dim is a positive integer, got '8'"),
        (metadata_change(tokenizer='{"type": "bpe"}'), "not a tokenizer"),
    ],
)  # fmt: skip
def test_row_78_row_79_what_does_not_fit_is_refused(saved: Path, change: Any, message: str) -> None:
    resealed(saved, change)
    with pytest.raises(ArtifactError, match=rf"(?s)model\.safetensors: .*{message}"):
        load_model(saved)


def test_row_74_all_mistakes_are_listed(saved: Path) -> None:
    def change(arrays: dict, metadata: dict) -> None:
        del arrays["wpe.weight"], arrays["ln_f.bias"]
        arrays["ln_f.weight"] = np.zeros(3, np.float32)

    resealed(saved, change)
    with pytest.raises(ArtifactError) as caught:
        load_model(saved)
    text = str(caught.value)
    assert all(f"missing: {name}" in text for name in ("wpe.weight", "ln_f.bias"))
    assert "wrong shape: ln_f.weight is [8], got [3]" in text


# trainings that do not fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 2}, "batch is 3 in the file, 2 here"),
        ({"seed": 1}, "seed is 0 in the file, 1 here"),
        ({"clip": None}, "clip is 1.0 in the file, None here"),
        ({"optimizer": SGD(lr=1.0)}, r"optimizer is AdamW\(.*in the file, SGD\("),
        ({"model": small_model(embed_dim=4)}, "embed_dim is 8 in the file, 4 here$"),
        ({"dtype": "f64"}, "is float32.* in the file, float64"),
    ],
)
def test_row_78_another_training_is_refused_and_nothing_changes(
    tmp_path: Path, options: dict, message: str
) -> None:
    path = tmp_path / "training.safetensors"
    trainer = small_trainer()
    trainer.fit(TOKENS, 2)
    trainer.save(path)
    other = small_trainer(**options)
    other.fit(TOKENS, 1)
    before = {name: array.copy() for name, array in other.arrays.items()}
    with pytest.raises(ArtifactError, match=rf"(?s)another training:.*{message}"):
        other.resume(path)
    assert other.steps == 1
    for name, array in before.items():
        np.testing.assert_array_equal(other.arrays[name], array)


def test_row_78_a_damaged_training_is_refused(tmp_path: Path, saved: Path) -> None:
    trainer = small_trainer()
    with pytest.raises(ArtifactError, match="holds no training that could be resumed"):
        trainer.resume(saved)
    path = tmp_path / "training.safetensors"
    trainer.save(path)
    resealed(path, lambda arrays, metadata: arrays.pop("training/AdamW.m.wte.weight"))
    with pytest.raises(ArtifactError, match=r"missing: training/AdamW\.m\.wte\.weight"):
        trainer.resume(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtifactError, match=r"training\.safetensors: not a safetensors file"):
        trainer.resume(path)
    assert trainer.steps == 0


# writing


@pytest.mark.parametrize(("place", "error"), [("no/x", "there is no folder"), ("", "is a folder")])
def test_row_80_a_place_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, place: str, error: str
) -> None:
    trainer = small_trainer()
    with pytest.raises(OSError, match=error):
        trainer.fit(TOKENS, 1, checkpoint=tmp_path / place)
    assert trainer.steps == 0


def test_row_77_a_full_disk_leaves_the_old_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        pl.save(small_model(seed=1), saved)
    assert caught.value.filename == str(saved)
    assert saved.read_bytes() == old
    assert [x.name for x in saved.parent.iterdir()] == [saved.name]


KILLED = """
import os, sys, time
import planish as pl
os.fsync = lambda descriptor: (print("writing", flush=True), time.sleep(60))
pl.save(pl.TinyGPT(9, 8, 1, 2, 8), sys.argv[1])
"""


def test_row_76_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(saved: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, saved], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "writing\n"
            pl.save(small_model(), saved, TOKENIZER)  # the temporary file is in use: left alone
            assert len(list(saved.parent.iterdir())) == 2
        finally:
            process.kill()
    assert same(load_model(saved)[0], small_model()) and len(list(saved.parent.iterdir())) == 2
    pl.save(small_model(), saved, TOKENIZER)
    assert [x.name for x in saved.parent.iterdir()] == [saved.name]


def test_what_stands_at_the_path(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder"):
        pl.save(small_model(), tmp_path)
    with pytest.raises(FileNotFoundError):
        pl.save(small_model(), tmp_path / "no" / "folder" / "m.safetensors")
    target, link = tmp_path / "target", tmp_path / "link.safetensors"
    target.write_text("untouched", encoding="utf-8")
    link.symlink_to(target)
    pl.save(small_model(), link)
    assert not link.is_symlink() and target.read_text(encoding="utf-8") == "untouched"
    assert same(load_model(link)[0], small_model())
