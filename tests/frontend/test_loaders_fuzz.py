"""Bytes changed at random: loaders refuse, in one of our errors, quickly, without much memory.

Whatever is changed, a file is either refused or loads as a model of the size that it had: weights
of formats without a checksum may differ. A few hundred mutations run always, 10,000 in the slow
group.
"""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import planish as pl
from planish.frontend.formats.huggingface import CONFIG, INDEX, SINGLE
from planish.frontend.tokenizers.bpe import BytePairTokenizer
from planish.ir.errors import PlanishError
from tests.frontend.foreign import GPT2, LLAMA, gpt2_arrays, llama_arrays, write_folder
from tests.frontend.small import TOKENIZER, small_model
from tests.frontend.test_llama2c import arrays as llama2c_arrays
from tests.frontend.test_llama2c import packed
from tests.frontend.test_tokenizers import SCORES
from tests.frontend.test_tokenizers import packed as packed_tokenizer

LEARNT = BytePairTokenizer.train("the quick brown fox, the lazy dog " * 3, 262)
LARGEST = 32 << 20  # bytes that refusing a file of some kilobytes may take
LONGEST = 5.0  # seconds that one file may take, on a busy machine
SPECIAL = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 10**9]

BEGINNINGS = [b"", b"GGUF", b"GGUF\3\0\0\0", b"24ka\1\0\0\0", b"\2\0\0\0\0\0\0\0{"]
WORDS = ["9" * 20, "-1", "1e9", "null", "[", "{", '"', "\\u0000"]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def ours(path: Path) -> Path:
    pl.save(small_model(), path, TOKENIZER)
    return path


def gguf(path: Path) -> Path:
    pl.TinyGPT(262, 32, 1, 2, 8, dropout=0.0).save_gguf(path, "q8_0", LEARNT)
    return path


def nanogpt(path: Path) -> Path:
    state = {f"transformer.{n}": x for n, x in small_model().state_dict().items()}
    safetensors.numpy.save_file(state, path, {"n_head": "2"})
    return path


def gpt2_words(path: Path) -> None:
    model = pl.TinyGPT(262, 32, 1, 2, 8, dropout=0.0)
    model.save_pretrained(path, LEARNT)


# a file of each kind: how it is written, which of its files is changed
MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "planish": (lambda p: ours(p / "m.safetensors"), "m.safetensors"),
    "nanogpt": (lambda p: nanogpt(p / "m.safetensors"), "m.safetensors"),
    "llama2.c": (lambda p: written(p / "m.bin", packed(llama2c_arrays(True))), "m.bin"),
    "llama2.c 1": (lambda p: written(p / "m.bin", packed(llama2c_arrays(False), 1)), "m.bin"),
    "gguf": (lambda p: gguf(p / "m.gguf"), "m.gguf"),
    "gpt2 weights": (lambda p: write_folder(p, GPT2, gpt2_arrays(GPT2)), SINGLE),
    "gpt2 config": (lambda p: write_folder(p, GPT2, gpt2_arrays(GPT2)), CONFIG),
    "llama config": (lambda p: write_folder(p, LLAMA, llama_arrays(LLAMA)), CONFIG),
    "index": (lambda p: write_folder(p, LLAMA, llama_arrays(LLAMA), shards=2), INDEX),
    "vocab.json": (gpt2_words, "vocab.json"),
    "merges.txt": (gpt2_words, "merges.txt"),
}
TOKENIZERS = {
    "llama2.c": packed_tokenizer(SCORES), "bpe": LEARNT.to_json().encode(),
    "scores": SCORES.to_json().encode(), "char": TOKENIZER.to_json().encode(),
}  # fmt: skip


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed: flipped, set, cut, doubled, or a number put in."""
    found = bytearray(data)
    head = int(rng.choice([64, 1024, len(data)]))  # headers are where lengths are
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, min(head, len(found)))))
        kind = rng.integers(0, 7)
        if kind == 0 and found:
            found[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            found[at : at + 1] = rng.bytes(1)
        elif kind == 2:
            del found[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            found[at:at] = found[at : at + int(rng.integers(1, 40))]
        elif kind == 4:
            found[at : at + 8] = struct.pack("<Q", int(rng.choice(np.array(SPECIAL, np.uint64))))
        elif kind == 5:
            found[at:at] = str(rng.choice(WORDS)).encode()
        else:
            del found[at:]
    return bytes(found)


def survives(load: Callable[[], object]) -> bool:
    """Whether a file loads; anything but a refusal of ours fails the test, as does much memory."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        load()
        return True
    except (PlanishError, OSError):
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < LARGEST, f"{peak:,} bytes"
        assert time.perf_counter() - started < LONGEST


def attack(name: str, folder: Path, seed: int, count: int) -> list[bool]:
    make, file = MODELS[name]
    make(folder)
    whole, path = (folder / file).read_bytes(), folder / file
    target = path if path.parent == folder and name in BY_FILE else folder
    assert survives(lambda: pl.load_model(target)), "the file as it was"
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        path.write_bytes(mutated(whole, rng))
        found.append(survives(lambda: pl.load_model(target)))
    return found


BY_FILE = {"planish", "nanogpt", "llama2.c", "llama2.c 1", "gguf"}


@pytest.mark.parametrize("name", MODELS)
def test_changed_models(name: str, tmp_path: Path) -> None:
    loaded = attack(name, tmp_path, 0, 40)
    assert not all(loaded)
    if name == "planish":
        assert not any(loaded), "the checksum sees every change"


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_changed_models_at_length(name: str, tmp_path: Path) -> None:
    assert not all(attack(name, tmp_path, 1, 900))


def attack_tokenizer(name: str, folder: Path, seed: int, count: int) -> list[bool]:
    rng, path, found = np.random.default_rng(seed), folder / "tokenizer", []
    for _ in range(count):
        path.write_bytes(mutated(TOKENIZERS[name], rng))
        found.append(survives(lambda: pl.read_tokenizer(path).prompt("the é")))
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
def test_changed_tokenizers(name: str, tmp_path: Path) -> None:
    assert not all(attack_tokenizer(name, tmp_path, 0, 40))


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_changed_tokenizers_at_length(name: str, tmp_path: Path) -> None:
    assert not all(attack_tokenizer(name, tmp_path, 1, 500))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=99).map(str.encode)),
       start=st.sampled_from(BEGINNINGS),
       name=st.sampled_from(["m.safetensors", "m.gguf", "m.bin", "m"]))  # fmt: skip
def test_any_bytes_are_no_model(tmp_path: Path, content: bytes, start: bytes, name: str) -> None:
    path = written(tmp_path / name, start + content)
    assert not survives(lambda: pl.load_model(path))
    survives(lambda: pl.read_tokenizer(path))
