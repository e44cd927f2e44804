"""Writing generators as artifacts that need no Python: a library, an object file, a header.

pl.Generator(model, pipeline="int8").save("tinygpt.so", tokenizer)      # and tinygpt.h
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.blob import tokenizer_blob
from planish.frontend.tokenizers.stored import fits
from planish.ir.errors import ArtifactError, DataError
from planish.ir.later import later

shipping = later("planish.runtime.ship.generator")

EMITS = {"so": ".so", "exe": "", "obj": ".o", "header": ".h"}  # and the suffix of what is written
WEIGHTS = ("embed", "file")


def save_generator(
    maker: Any, path: Path, tokenizer: Tokenizer | None, weights: str, prefix: str
) -> None:
    """Write a generator; what the arguments mean stands at `Generator.save`."""
    known = ", ".join(filter(None, EMITS.values()))
    if path.suffix not in EMITS.values():
        raise ArtifactError(f"{path}: generators are saved as {known}, or without a suffix")
    if path.suffix == EMITS["exe"] and tokenizer is None:
        raise ArtifactError(f"{path}: a program for the shell needs a tokenizer")
    check_names(path, weights, prefix)
    if maker.batch != 1 or maker.options or maker.greedy:
        raise ArtifactError("a generator is saved for one text, without options, not greedy")
    if tokenizer is not None and not fits(tokenizer, maker.vocab_size):
        raise DataError(f"the tokenizer has {len(tokenizer)} tokens, the model {maker.vocab_size}")
    programs = {"prefill": maker.prefill, "decode": maker.decode}
    origins = [x.origin for x in programs.values()]
    more = {
        **origins[0].facts,
        "graph": hashlib.sha256("".join(x.graph for x in origins).encode()).hexdigest(),
        "tokenizer": None if tokenizer is None else tokenizer.to_json(),
    }
    kind = shipping.ShippedGenerator if path.suffix else shipping.ShippedProgram
    shipped = kind(
        programs=programs, more=more, prefix=prefix, context=maker.context,
        vocabulary=maker.vocab_size, piece=maker.piece,
        words=b"" if tokenizer is None else tokenizer_blob(tokenizer),
    )  # fmt: skip
    if path.suffix == EMITS["header"]:
        shipped.save_header(path)
    else:
        shipped.save(path, inside=weights == "embed")


def check_names(path: Path, weights: str, prefix: str) -> None:
    """Refuse what artifacts of host code cannot be called."""
    if weights not in WEIGHTS:
        raise DataError(f"weights are one of {', '.join(WEIGHTS)}, got {weights!r}")
    if not prefix.isidentifier() or not prefix.isascii():
        raise DataError(f"a prefix is letters, digits and _, got {prefix!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}")
