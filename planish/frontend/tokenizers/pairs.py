"""`tokenizer.json` as byte pairs of our own, for native code: GPT-2's kind, and nothing like it.

    pairs, special = byte_pairs(text)      # a BytePairTokenizer; ids of tokens that have no text

The pairs give the tokens that the library gives. But special tokens are never looked for in a text:
it is data, also where it reads <|endoftext|>. All else that the file may say, and that would give
other tokens, is refused.
"""

from __future__ import annotations

from typing import Any

from planish.frontend.strict import strict_json
from planish.frontend.tokenizers.bpe import ALPHABET, BytePairTokenizer, parsed_merges, vocabulary
from planish.ir.errors import ArtifactError

# What else a file of GPT-2's kind says: allowed values, the first where nothing is said
WHOLE = {"normalizer": (None,), "truncation": (None,), "padding": (None,)}
CUT = {"type": ("ByteLevel",), "add_prefix_space": (False,), "use_regex": (True,)}
MODEL = {
    "type": ("BPE",), "dropout": (None, 0.0), "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""), "byte_fallback": (False,), "ignore_merges": (False,),
}  # fmt: skip
LATER = {"type": ("ByteLevel",)}


def byte_pairs(source: str) -> tuple[BytePairTokenizer, frozenset[int]]:
    """The same tokenizer, and its special tokens; ArtifactError says what it does otherwise."""
    facts = strict_json("tokenizer.json", source)
    if not isinstance(facts, dict) or not isinstance(facts.get("model"), dict):
        raise ArtifactError("tokenizer.json has no model")
    _only("", facts, WHOLE)
    _only("model", facts["model"], MODEL)
    _only("pre_tokenizer", facts.get("pre_tokenizer"), CUT)
    _only("decoder", facts.get("decoder"), LATER)
    if facts.get("post_processor") is not None:
        _only("post_processor", facts["post_processor"], LATER)
    table, merges = facts["model"].get("vocab"), facts["model"].get("merges")
    if not isinstance(table, dict) or not isinstance(merges, list):
        raise ArtifactError("its model has no vocab and merges")
    special = {x["content"]: x["id"] for x in facts.get("added_tokens") or [] if _is_special(x)}
    tokens = vocabulary({**table, **special})
    if lacking := [x for x in ALPHABET if x not in table]:
        raise ArtifactError(f"its vocab lacks {len(lacking)} bytes, such as {lacking[0]!r}")
    lines = [" ".join(x) if isinstance(x, list) else x for x in merges]
    return BytePairTokenizer(tokens, parsed_merges(lines)), frozenset(special.values())


def _is_special(token: Any) -> bool:
    """True; refused is a word of its own, for which a text is searched."""
    if not token.get("special"):
        raise ArtifactError(f"its added token {token.get('content')!r:.40} is no special one")
    return True


def _only(where: str, found: Any, allowed: dict[str, tuple[Any, ...]]) -> None:
    """Refuse what is not one of the allowed values."""
    if not isinstance(found, dict):
        raise ArtifactError(f"its {where} is {found!r:.40}, not {allowed['type'][0]}")
    for name, values in allowed.items():
        value = found.get(name, values[0])
        if value not in values:
            value = value["type"] if isinstance(value, dict) and "type" in value else value
            place = ".".join(filter(None, (where, name)))
            raise ArtifactError(f"its {place} is {value!r:.40}, not {values[0]!r}")
