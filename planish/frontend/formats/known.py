"""Which kind of file a model is in, seen from its first bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from planish.frontend.checkpoint import load, read_file
from planish.frontend.formats.gguf import load_gguf
from planish.frontend.formats.gguf_file import MAGIC, read_gguf
from planish.frontend.formats.gguf_words import tokenizer_of
from planish.frontend.formats.huggingface import load_folder
from planish.frontend.formats.llama2c import is_llama2c, load_llama2c
from planish.frontend.formats.nanogpt import is_nanogpt, load_nanogpt
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.stored import tokenizer_in_folder
from planish.ir.errors import ArtifactError, UnsupportedError

HEAD = 64  # bytes that are looked at
OTHERS = {  # how files begin that people take for models, and what these are
    b"\x7fELF": "a program or a library: run it, or load it with pl.load",
    b"PK": "an archive, as PyTorch's are of pickled objects, never read: save safetensors",
    b"\x80": "pickled objects, which are never read: save safetensors",
}


def kind_of(path: Path) -> str:
    """Hugging Face (a folder), safetensors, GGUF or llama2.c; ArtifactError for anything else.

    UnsupportedError for ONNX, which is not even opened.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if path.is_dir():
        return "Hugging Face"
    if not path.is_file():
        raise ArtifactError(f"{path}: not a file")
    if path.suffix.lower() == ".onnx":
        raise UnsupportedError(
            f"{path}: ONNX is not read; export the model to a Hugging Face folder, safetensors or "
            "GGUF"
        )
    if path.suffix == ".safetensors":
        return "safetensors"
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if head[:4] == MAGIC:
        return "GGUF"
    if is_llama2c(head):
        return "llama2.c"
    if head[8:9] == b"{":
        return "safetensors"
    for begin, what in OTHERS.items():
        if head.startswith(begin):
            raise ArtifactError(f"{path}: not a model, but {what}")
    raise ArtifactError(f"{path}: not a model: no safetensors file, and none of GGUF or llama2.c")


def load_known(cls: type, path: Path, **options: Any) -> tuple[Any, Callable[[], Tokenizer | None]]:
    """The model in a file or folder, and what reads the tokenizer that comes with it."""
    kind = kind_of(path)
    if kind == "Hugging Face":
        return load_folder(cls, path, **options), lambda: tokenizer_in_folder(path)
    if kind == "GGUF":
        gguf = read_gguf(path)
        return load_gguf(cls, path, gguf, **options), partial(tokenizer_of, path, gguf.facts)
    if kind == "llama2.c":
        return load_llama2c(cls, path, **options), lambda: None
    file = read_file(path)
    if is_nanogpt(file):
        return load_nanogpt(cls, file, **options), lambda: None
    return load(cls, file, **options), lambda: file.tokenizer
