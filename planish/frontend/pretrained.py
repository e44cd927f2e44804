"""Loading models without knowing what is in the file."""

from __future__ import annotations

import os

from planish.frontend.checkpoint import load, read_file
from planish.frontend.models.tinygpt import TinyGPT
from planish.frontend.text import CharTokenizer


def load_model(path: str | os.PathLike[str]) -> tuple[TinyGPT, CharTokenizer | None]:
    """The model in a file written by planish, and its tokenizer where it has one."""
    file = read_file(path)
    return load(TinyGPT, file), file.tokenizer
