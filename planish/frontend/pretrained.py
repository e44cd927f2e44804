"""Loading models without knowing what is in the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from planish.frontend.formats.known import load_known
from planish.frontend.models.tinygpt import TinyGPT
from planish.frontend.tokenizers.base import Tokenizer


def load_model(path: str | os.PathLike[str], **options: Any) -> tuple[TinyGPT, Tokenizer | None]:
    """The model in a file or folder, and its tokenizer where it has one.

    What may stand at `path`, and the options, are those of `TinyGPT.from_pretrained`.
    """
    model, tokenizer = load_known(TinyGPT, Path(path), **options)
    return model, tokenizer()
