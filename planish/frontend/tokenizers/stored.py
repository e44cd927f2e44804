"""Tokenizers as JSON, as they travel in the metadata of models, and in files of others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planish.frontend.strict import strict_json
from planish.frontend.text import CharTokenizer
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.bpe import BytePairTokenizer, parsed_merges, vocabulary
from planish.frontend.tokenizers.library import LibraryTokenizer
from planish.frontend.tokenizers.llama2c import ScoreTokenizer, read_llama2c
from planish.ir.errors import ArtifactError, DataError, PlanishError
from planish.ir.files import read_small, write_atomically

# The "type" in the JSON -> what makes a tokenizer of its facts
TYPES: dict[str, Callable[[dict[str, Any]], Tokenizer]] = {
    "char": CharTokenizer.from_facts,
    "bpe": BytePairTokenizer.from_facts,
    "llama2.c": ScoreTokenizer.from_facts,
    "tokenizers": LibraryTokenizer.from_facts,
}
# Vocabularies, and the merges that stand beside them
PAIRS = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
LIBRARY = "tokenizer.json"
# What may be named by mistake, and the bytes at a place that give it away
OTHERS = (
    ("a model or weights (safetensors)", 8, b"{"), ("a model (GGUF)", 0, b"GGUF"),
    ("an archive", 0, b"PK"), ("a program or a library", 0, b"\x7fELF"),
)  # fmt: skip


def tokenizer_from_json(text: str) -> Tokenizer:
    """The tokenizer that `to_json` wrote; ArtifactError if it is none."""
    return _from_facts(strict_json("tokenizer", text))


def _from_facts(facts: Any) -> Tokenizer:
    kind = facts.get("type") if isinstance(facts, dict) else None
    if kind not in TYPES:
        raise ArtifactError(
            f"not a tokenizer: its type is {kind!r:.60}, known are {', '.join(TYPES)}"
        )
    try:
        return TYPES[kind](facts)
    except PlanishError as error:
        raise ArtifactError(f"not a tokenizer: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ArtifactError(f"not a tokenizer: {error!r:.200}") from error


def read_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer in a file, or in a folder that has one.

    JSON of planish; GPT-2's vocab.json with merges.txt beside it, or encoder.json with vocab.bpe
    (either file may be named); tokenizer.json (extra `planish[bpe]`); llama2.c's tokenizer file.
    ArtifactError for what is none of these, is no regular file, or has more than 256 MiB.
    """
    source = Path(path)
    if source.is_dir():
        found = tokenizer_in_folder(source)
        if found is None:
            wanted = ", ".join([*PAIRS, LIBRARY])
            raise ArtifactError(f"{source}: this folder has no tokenizer: none of {wanted}")
        return found
    beside = {merges: vocab for vocab, merges in PAIRS.items()}.get(source.name)
    if beside is not None:
        return _pair(source.with_name(beside), source)
    try:
        data = read_small(source)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; a tokenizer is wanted here") from error
    if data.lstrip()[:1] != b"{":
        return _binary(source, data)
    facts = strict_json(source, _utf8(source, data))
    try:
        if "type" in facts and not isinstance(facts["type"], int):
            return _from_facts(facts)
        if isinstance(facts.get("model"), dict):
            return _checked(LibraryTokenizer(_utf8(source, data)))
    except PlanishError as error:
        raise _named(source, error) from error
    return _pair(source, source.with_name(PAIRS.get(source.name, "merges.txt")))


def _binary(source: Path, data: bytes) -> Tokenizer:
    """llama2.c's tokenizer; where there is none, what else these bytes look like is told."""
    try:
        return read_llama2c(source, data)
    except ArtifactError:
        for what, at, mark in OTHERS:
            if data[at:].startswith(mark):
                raise ArtifactError(
                    f"{source}: no tokenizer, but {what}; a tokenizer is a JSON file, GPT-2's two "
                    "files, or llama2.c's"
                ) from None
        raise


def tokenizer_in_folder(folder: Path) -> Tokenizer | None:
    """The tokenizer among the files of a folder, if there is one."""
    for vocab, merges in PAIRS.items():
        if (folder / vocab).is_file() and (folder / merges).is_file():
            return _pair(folder / vocab, folder / merges)
    source = folder / LIBRARY
    return read_tokenizer(source) if source.is_file() else None


def _checked(tokenizer: LibraryTokenizer) -> LibraryTokenizer:
    """The tokenizer, read now: a mistake in it shows here."""
    len(tokenizer)
    return tokenizer


def _pair(vocab: Path, merges: Path) -> BytePairTokenizer:
    """The tokenizer in GPT-2's two files."""
    for path in (vocab, merges):
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}, the other half of this tokenizer")
    table = strict_json(vocab, _utf8(vocab, read_small(vocab)))
    lines = _utf8(merges, read_small(merges)).split("\n")
    lines = [x.removesuffix("\r") for x in lines]
    if lines[0].startswith("#version"):
        lines = lines[1:]
    try:
        if not isinstance(table, dict):
            raise ArtifactError("not a vocabulary: no table of tokens and their ids")
        tokens = vocabulary(table)
    except ArtifactError as error:
        raise ArtifactError(f"{vocab}: {error}") from error
    try:
        return BytePairTokenizer(tokens, parsed_merges([x for x in lines if x]))
    except ArtifactError as error:
        raise ArtifactError(f"{merges}: {error}") from error


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer the way that others read it: byte-pair ones and those of the library."""
    if isinstance(tokenizer, BytePairTokenizer):
        table = {text: token for token, text in enumerate(tokenizer.vocab)}
        lines = ["#version: 0.2", *map(" ".join, tokenizer.merges), ""]
        write_atomically(folder / "vocab.json", json.dumps(table, ensure_ascii=False).encode())
        write_atomically(folder / "merges.txt", "\n".join(lines).encode())
    elif isinstance(tokenizer, LibraryTokenizer):
        write_atomically(folder / LIBRARY, tokenizer.source.encode())
    else:
        raise DataError(
            f"{tokenizer!r} has no form that others read; leave it out, and keep it with pl.save"
        )


def fits(tokenizer: Tokenizer, vocab_size: int) -> bool:
    """Whether a model with this vocabulary can be meant for the tokenizer.

    Byte-pair vocabularies are often padded to a multiple of 64 or 128; those tokens have no text.
    """
    count = len(tokenizer)
    most = count if isinstance(tokenizer, CharTokenizer) else -(-count // 128) * 128
    return count <= vocab_size <= most


def _utf8(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: not a tokenizer, it is not text: {error}") from error


def _named(path: Path, error: PlanishError) -> PlanishError:
    """The error, with the name of the file."""
    return type(error)(f"{path}: {error}")
