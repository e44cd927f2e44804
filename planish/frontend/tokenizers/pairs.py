"""`tokenizer.json` as byte pairs of our own, for native code: the kinds of GPT-2, GPT-4, Llama 3.

    found = byte_pairs(text)

They differ in where they cut a text, and in whether a word that is a token is one in any case. The
pairs give the tokens that the library gives. But special tokens are never looked for in a text:
it is data, also where it reads <|endoftext|>. All else that the file may say, and that would give
other tokens, is refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from planish.frontend.strict import strict_json
from planish.frontend.tokenizers.bpe import ALPHABET, BytePairTokenizer, parsed_merges, vocabulary
from planish.ir.errors import ArtifactError

# What else a file of these kinds says: allowed values, the first where nothing is said
WHOLE = {"normalizer": (None,), "truncation": (None,), "padding": (None,)}
CUT = {"type": ("ByteLevel",), "add_prefix_space": (False,), "use_regex": (True,)}
MODEL = {
    "type": ("BPE",), "dropout": (None, 0.0), "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""), "byte_fallback": (False,), "ignore_merges": (False, True),
}  # fmt: skip
LATER = {"type": ("ByteLevel",)}
AROUND = {"type": ("ByteLevel", "TemplateProcessing")}
# The pattern of GPT-4, of which Llama 3's is a copy, and the most digits that it keeps together;
# it says what a word is, or, inverted, what is removed between words
BEFORE, AFTER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
LLAMA = f"{BEFORE}{{1,3}}{AFTER}"
PATTERNS = {LLAMA: 3, f"{BEFORE}{AFTER}": 1}
WAYS = (("Isolated", False), ("Removed", True))


class Found(NamedTuple):
    """A tokenizer, its tokens without a text, and the words of a later pattern.

    `digits` is the most that a word has, 0 where words are GPT-2's; `wholes` are the tokens of
    which a word is made by itself, whatever is merged.
    """

    tokenizer: BytePairTokenizer
    special: frozenset[int]
    digits: int
    wholes: tuple[int, ...]


def byte_pairs(source: str) -> Found:
    """The same tokenizer; ArtifactError says what it does otherwise."""
    facts = strict_json("tokenizer.json", source)
    if not isinstance(facts, dict) or not isinstance(facts.get("model"), dict):
        raise ArtifactError("tokenizer.json has no model")
    _only("", facts, WHOLE)
    _only("model", facts["model"], MODEL)
    digits = _cut(facts.get("pre_tokenizer"))
    _only("decoder", facts.get("decoder"), LATER)
    if facts.get("post_processor") is not None:
        for x in _members(facts["post_processor"], "processors"):
            _only("post_processor", x, AROUND)
    table, merges = facts["model"].get("vocab"), facts["model"].get("merges")
    if not isinstance(table, dict) or not isinstance(merges, list):
        raise ArtifactError("its model has no vocab and merges")
    special = {x["content"]: x["id"] for x in facts.get("added_tokens") or [] if _is_special(x)}
    tokens = vocabulary({**table, **special})
    if lacking := [x for x in ALPHABET if x not in table]:
        raise ArtifactError(f"its vocab lacks {len(lacking)} bytes, such as {lacking[0]!r}")
    lines = [" ".join(x) if isinstance(x, list) else x for x in merges]
    wholes = [x for x in table.values() if x not in special.values()]
    return Found(
        BytePairTokenizer(tokens, parsed_merges(lines)), frozenset(special.values()), digits,
        tuple(wholes) if facts["model"].get("ignore_merges") else (),
    )  # fmt: skip


def _cut(found: Any) -> int:
    """The most digits of a word by a known pattern, 0 for GPT-2's, which is that of the library."""
    members = _members(found, "pretokenizers")
    if len(members) == 1:
        _only("pre_tokenizer", members[0], CUT)
        return 0
    split, *others = members or [None]
    _only("pre_tokenizer", split, {"type": ("Split",)})
    if len(others) != 1:
        raise ArtifactError(f"its pre_tokenizer has {len(members)} parts, not a Split and another")
    _only("pre_tokenizer", others[0], {**CUT, "use_regex": (False,)})
    pattern = split.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if (
        not isinstance(regex, str)
        or regex not in PATTERNS
        or (split.get("behavior"), split.get("invert", False)) not in WAYS
    ):
        raise ArtifactError(f"its pre_tokenizer cuts at {str(regex or pattern)!r:.60}")
    return PATTERNS[regex]


def _members(found: Any, name: str) -> list[Any]:
    """The parts of a sequence, or what is by itself."""
    parts = found.get(name) if isinstance(found, dict) and found.get("type") == "Sequence" else None
    return parts if isinstance(parts, list) else [found]


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
