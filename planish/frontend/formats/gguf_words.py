"""Tokenizers in GGUF's facts: byte pairs of GPT-2 and Llama 3, and scores as llama2.c has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.bpe import BytePairTokenizer, parsed_merges
from planish.frontend.tokenizers.library import LibraryTokenizer
from planish.frontend.tokenizers.llama2c import BYTES, END, FIRST, START, UNKNOWN, ScoreTokenizer
from planish.frontend.tokenizers.pairs import LLAMA
from planish.ir.errors import ArtifactError, DataError, PlanishError, UnsupportedError

NAME = "tokenizer.ggml."
NORMAL, UNKNOWN_TYPE, CONTROL, BYTE = 1, 2, 3, 6  # llama.cpp's types of tokens
SPACE = "▁"
SPLITS = ("gpt-2", "default", "gpt2")  # names of the way that GPT-2 cuts text
LATER = ("llama-bpe", "llama-v3", "llama3")  # and of the way of Llama 3
NONE = ("none", "no_vocab")


def tokenizer_facts(tokenizer: Tokenizer | None, vocab_size: int) -> dict[str, Any]:
    """The facts that tell llama.cpp about a tokenizer."""
    if tokenizer is None:
        return {NAME + "model": "none"}
    if isinstance(tokenizer, BytePairTokenizer):
        found = _pairs(tokenizer)
    elif isinstance(tokenizer, ScoreTokenizer):
        found = _scores(tokenizer)
    else:
        raise DataError(
            f"{tokenizer!r} has no form in GGUF, which knows byte pairs and scores; without a "
            "tokenizer the file has none, and whoever reads it works with token ids"
        )
    missing = vocab_size - len(tokenizer)
    if missing < 0:
        raise DataError(f"the tokenizer has {len(tokenizer)} tokens, the model {vocab_size}")
    found["tokens"] += [f"[PAD{i}]" for i in range(missing)]
    padding = np.full(missing, CONTROL, np.int32)
    found["token_type"] = np.concatenate([found["token_type"], padding])
    if "scores" in found:
        found["scores"] = np.concatenate([found["scores"], np.zeros(missing, np.float32)])
    return {NAME + name: value for name, value in found.items()}


def _pairs(tokenizer: BytePairTokenizer) -> dict[str, Any]:
    types = np.full(len(tokenizer), NORMAL, np.int32)
    ends = {f"{x}_token_id": token for token in tokenizer.end for x in ("bos", "eos")}
    types[list(tokenizer.end)] = CONTROL
    return {
        "model": "gpt2", "pre": "gpt-2", "tokens": list(tokenizer.vocab), "token_type": types,
        "merges": [" ".join(x) for x in tokenizer.merges], "add_bos_token": False, **ends,
    }  # fmt: skip


def _scores(tokenizer: ScoreTokenizer) -> dict[str, Any]:
    types = np.full(len(tokenizer), NORMAL, np.int32)
    types[UNKNOWN], types[[START, END]], types[BYTES:FIRST] = UNKNOWN_TYPE, CONTROL, BYTE
    try:
        words = [x.decode("utf-8").replace(" ", SPACE) for x in tokenizer.pieces[FIRST:]]
    except UnicodeDecodeError as error:
        raise DataError(f"a token is no whole text, which GGUF wants: {error}") from error
    names = [*("<unk>", "<s>", "</s>"), *(x.decode() for x in tokenizer.pieces[BYTES:FIRST])]
    return {
        "model": "llama", "pre": "default", "tokens": [*names, *words], "token_type": types,
        "scores": np.array(tokenizer.scores, np.float32), "bos_token_id": START,
        "eos_token_id": END, "unknown_token_id": UNKNOWN, "add_bos_token": True,
        "add_eos_token": False, "add_space_prefix": True,
    }  # fmt: skip


def tokenizer_of(path: Path, facts: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer that facts tell of, if there is one."""
    model = facts.get(NAME + "model", "none")
    if model in NONE:
        return None
    tokens = facts.get(NAME + "tokens")
    if not isinstance(tokens, list):
        raise ArtifactError(f"{path}: the tokenizer has no list of tokens")
    tokens = tokens[: len(tokens) - len(_tail(tokens))]
    try:
        if model == "gpt2" and facts.get(NAME + "pre", "default") in SPLITS:
            return BytePairTokenizer(tuple(tokens), parsed_merges(facts.get(NAME + "merges", [])))
        if model == "gpt2" and facts.get(NAME + "pre") in LATER:
            return _later(tokens, facts)
        if model == "llama":
            return _from_scores(tokens, facts.get(NAME + "scores"))
    except PlanishError as error:
        raise ArtifactError(f"{path}: {error}") from error
    raise UnsupportedError(
        f"{path}: its tokenizer is {model!r:.60}, cut like {facts.get(NAME + 'pre')!r:.60}; gpt2 "
        "cut like gpt-2 or llama-bpe, and llama, are read; --tokenizer names another"
    )


def _later(tokens: list[str], facts: dict[str, Any]) -> LibraryTokenizer:
    """Byte pairs of texts that are cut as Llama 3 does: the tokenizer.json that says the same."""
    types = facts.get(NAME + "token_type")
    if not isinstance(types, np.ndarray) or len(types) < len(tokens):
        raise ArtifactError("the tokenizer has no type for each token")
    parsed_merges(merges := facts.get(NAME + "merges", []))
    special = [int(x) for x in np.flatnonzero(types[: len(tokens)] == CONTROL)]
    start = facts.get(NAME + "bos_token_id") if facts.get(NAME + "add_bos_token", True) else None
    cut = {"type": "Split", "pattern": {"Regex": LLAMA}, "behavior": "Isolated", "invert": False}
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                "use_regex": False}  # fmt: skip
    rest = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    found = LibraryTokenizer(json.dumps({
        "version": "1.0", "normalizer": None,
        "added_tokens": [{"id": n, "content": tokens[n], "special": True, **rest} for n in special],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, as_bytes]},
        "post_processor": _beginning(tokens[start], start) if start in special else None,
        "decoder": as_bytes,
        "model": {"type": "BPE", "vocab": {x: n for n, x in enumerate(tokens)}, "merges": merges,
                  "ignore_merges": True},
    }))  # fmt: skip
    len(found)  # read now: a mistake in it shows here
    return found


def _beginning(token: str, number: int) -> dict[str, Any]:
    """What puts a token before each text, or two."""
    begin = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": x, "type_id": 0}} for x in "AB")
    return {
        "type": "TemplateProcessing", "single": [begin, first], "pair": [begin, first, second],
        "special_tokens": {token: {"id": token, "ids": [int(number)], "tokens": [token]}},
    }  # fmt: skip


def _tail(tokens: list[str]) -> list[str]:
    """The padding at the end of a vocabulary, in order."""
    count = 0
    while count < len(tokens) and tokens[-1 - count].startswith("[PAD"):
        count += 1
    found = tokens[len(tokens) - count :]
    return found if found == [f"[PAD{i}]" for i in range(count)] else []


def _from_scores(tokens: list[str], scores: Any) -> ScoreTokenizer:
    if not isinstance(scores, np.ndarray) or len(scores) < len(tokens):
        raise ArtifactError("the tokenizer has no score for each token")
    pieces = [x.replace(SPACE, " ").encode() for x in tokens]
    return ScoreTokenizer(tuple(pieces), tuple(scores[: len(tokens)].astype(float).tolist()))
