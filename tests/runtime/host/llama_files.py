"""Files like Llama 3's tokenizer.json, with a small vocabulary."""

from __future__ import annotations

import json
from typing import Any

from planish.frontend.tokenizers.pairs import AFTER, BEFORE
from tests.frontend.test_tokenizers import LEARNT, LIBRARY_JSON

LLAMA, QWEN = BEFORE + "{1,3}" + AFTER, BEFORE + AFTER  # as their files have them
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
WHOLE = ["zq", "\u0120zebra", "999", "\u0120the\u0120", "!\u010a", "'S", "\u00e6\u0139\u00a5"]


def special(token: int, content: str) -> dict[str, Any]:
    rest = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": content, "special": True, **rest}


def split(pattern: str, **facts: Any) -> dict[str, Any]:
    """The part of a tokenizer.json that cuts text."""
    first = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
             "invert": False, **facts}  # fmt: skip
    second = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": False}  # fmt: skip
    return {"type": "Sequence", "pretokenizers": [first, second]}


def template(*pieces: str) -> dict[str, Any]:
    """What puts tokens around a text, which is "A"."""
    ids = {BEGIN: 0, END: 1}
    base = len(LEARNT.vocab) + len(WHOLE)
    single = [{"Sequence": {"id": "A", "type_id": 0}} if x == "A" else
              {"SpecialToken": {"id": x, "type_id": 0}} for x in pieces]  # fmt: skip
    known = {x: {"id": x, "ids": [base + n], "tokens": [x]} for x, n in ids.items()}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    rest = {"pair": pair, "special_tokens": known}
    return {"type": "TemplateProcessing", "single": single, **rest}


def later(pattern: str = LLAMA, wholes: bool = True, **facts: Any) -> dict[str, Any]:
    """A file like Llama 3's, with a small vocabulary."""
    found = json.loads(LIBRARY_JSON)
    vocab = {x: i for i, x in enumerate([*LEARNT.vocab, *WHOLE])}
    found["model"] |= {"vocab": vocab, "ignore_merges": wholes}
    found["added_tokens"] = [special(len(vocab), BEGIN), special(len(vocab) + 1, END)]
    bytes_only = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
                  "use_regex": True}  # fmt: skip
    around = {"type": "Sequence", "processors": [bytes_only, template(BEGIN, "A")]}
    return {**found, "pre_tokenizer": split(pattern), "post_processor": around, **facts}
