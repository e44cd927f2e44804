"""Tokenizers of Llama 3 in GGUF's facts: as the tokenizer.json that says the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.formats.gguf_blocks import NAMED
from planish.frontend.formats.gguf_file import read_gguf, write_gguf
from planish.frontend.formats.gguf_words import CONTROL, NORMAL, tokenizer_of
from planish.frontend.tokenizers.library import LibraryTokenizer
from planish.ir.errors import ArtifactError
from tests.runtime.host.llama_files import BEGIN, END, later

pytest.importorskip("tokenizers", reason="the extra planish[bpe] is not installed")
TEXTS = ("", "'Sit zebra: 999 9991\r\n", "naïve\u00a0日本 zq!\n\n the ", f"a{END}b")


def facts_of(file: dict, start: bool | None = None) -> dict:
    """What llama.cpp's converter writes of such a tokenizer.json."""
    words = [*file["model"]["vocab"], BEGIN, END]
    types = np.full(len(words), NORMAL, np.int32)
    types[-2:] = CONTROL
    found = {
        "model": "gpt2", "pre": "llama-bpe", "tokens": words, "token_type": types,
        "merges": [" ".join(x) for x in file["model"]["merges"]],
        "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1,
        **({} if start is None else {"add_bos_token": start}),
    }  # fmt: skip
    return {f"tokenizer.ggml.{name}": value for name, value in found.items()}


def test_a_tokenizer_of_llama_3_is_the_librarys(tmp_path: Path) -> None:
    want, path = LibraryTokenizer(json.dumps(later())), tmp_path / "m.gguf"
    pl.TinyGPT(len(want), 16, 1, 2, 32, positions="rope", norm="rms", mlp="swiglu").save_gguf(path)
    file = read_gguf(path)
    tensors = {n: (x.read(), NAMED["f32"]) for n, x in file.tensors.items()}
    write_gguf(path, {**file.facts, **facts_of(later())}, tensors)
    model, found = pl.load_model(path)
    assert len(found) == len(want) == model.config["vocab_size"]
    for text in TEXTS:
        assert found.encode(text).tolist() == want.encode(text).tolist()
        assert found.prompt(text).tolist() == want.prompt(text).tolist()
        assert found.decode(found.encode(text)) == want.decode(want.encode(text))
    pl.Generator(model).save(tmp_path / "x.o", found)  # and it is one of artifacts


def test_no_start_where_the_file_wants_none() -> None:
    found = tokenizer_of(Path("x"), facts_of(later(), start=False))
    assert found is not None and found.prompt("the").tolist() == found.encode("the").tolist()


def test_what_the_library_refuses_names_the_file() -> None:
    facts = facts_of(later()) | {"tokenizer.ggml.merges": ["q zq"]}
    with pytest.raises(ArtifactError, match=r"^m\.gguf: not a tokenizer: "):
        tokenizer_of(Path("m.gguf"), facts)
