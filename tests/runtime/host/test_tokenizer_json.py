"""A tokenizer.json as native code: it has the library's tokens, or is refused with the reason."""

from __future__ import annotations

import json
import sys
import unicodedata
import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planish.frontend.tokenizers.blob import HEAD, tokenizer_blob
from planish.frontend.tokenizers.library import LibraryTokenizer
from planish.ir.errors import ArtifactError
from tests.frontend.test_tokenizers import LIBRARY_JSON, TEXT
from tests.runtime.host.llama_files import BEGIN, END, LLAMA, QWEN, later, split, template
from tests.runtime.host.test_tokenizer import ODD, Native, call

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for Linux")
pytest.importorskip("tokenizers", reason="the extra planish[bpe] is not installed")

TEXTS = (
    TEXT,
    ODD,
    "'S 30\u00b2\u00bd \u20ac!\n\n x\x1cy\u00a0z '",
    "zq zebra 999 9991 that!\r\n",
    "\u65e5\u672c\u2003 \U0001f600",
)
# Characters that Python's Unicode has; the library's may have more
KNOWN = st.characters(exclude_categories=["Cs", "Cn"])
SPACES = " \u00a0\u0085\u2003\t\n\r"
CLOSE = st.sampled_from(SPACES + "'sStTlLvVeErRmMdD\u017f\u212aé12\u00b2\u0664\u2167!-€日\u0301😀")
ANY = st.text(KNOWN) | st.text(CLOSE, max_size=60) | st.text(KNOWN | CLOSE, max_size=60)


@cache
def both(name: str) -> tuple[LibraryTokenizer, Native]:
    """The library's, and native code."""
    ours = LibraryTokenizer(json.dumps(FILES[name]))
    return ours, Native.of(tokenizer_blob(ours))


inverted = split(LLAMA, behavior="Removed", invert=True)
FILES = {
    "Llama 3": later(), "GPT-4": later(wholes=False, pre_tokenizer=inverted),
    "Qwen 2": later(QWEN, False, post_processor=None),
    "GPT-2": json.loads(LIBRARY_JSON),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_texts_have_the_librarys_tokens(name: str) -> None:
    """Special tokens have no text, and are not found in one."""
    ours, native = both(name)
    assert native.fault() is None
    for text in TEXTS:
        ids = ours.encode(text).tolist()
        assert native.encode(text.encode()) == ids
        assert native.encode(text.encode(), "prompt") == ours.prompt(text).tolist()
        assert native.decode(ids).decode() == text
    assert native.encode(b"", "prompt") == ours.prompt("").tolist()
    (*_, last) = ours.end
    assert native.decode([last]) == b"" and ours.decode([last]) == ""
    text = "a" + json.loads(ours.source)["added_tokens"][-1]["content"]
    assert last in ours.encode(text) and last not in native.encode(text.encode())


def test_whole_words_are_tokens_whatever_is_merged() -> None:
    (ours, native), (_, merged) = both("Llama 3"), both("GPT-4")
    for text in ("zq", " zebra", "999", "'S"):
        (token,) = native.encode(text.encode())
        assert [token] == ours.encode(text).tolist() and len(merged.encode(text.encode())) > 1


@pytest.mark.parametrize("name", ["Llama 3", "Qwen 2"])
@settings(max_examples=400)
@given(ANY)
def test_any_text_is_cut_as_the_library_does(name: str, text: str) -> None:
    assume(BEGIN not in text and END not in text)  # the library looks for these first
    is_cut_alike(name, text)


@pytest.mark.parametrize("name", ["Llama 3", "Qwen 2"])
def test_every_character_is_cut_from_others_as_the_library_does(name: str) -> None:
    known = [chr(x) for x in range(sys.maxunicode) if unicodedata.category(chr(x)) not in "CsCn"]
    some = [*known[:0x3000], *known[0x3000::16]]
    for begin in range(0, len(some), 1 << 12):
        part = some[begin : begin + (1 << 12)]
        is_cut_alike(name, "".join(f"a{x} {x}1{x}\n'{x}s{x}{x}" for x in part))


def is_cut_alike(name: str, text: str) -> None:
    """Words end where those of the library do, and make its tokens."""
    ours, native = both(name)
    data, ends, at = text.encode(), [], 0
    while at < len(data):
        at = call("cut", native.blob, data, at, len(data))
        ends.append(at)
    found = ours._library.pre_tokenizer.pre_tokenize_str(text)
    assert ends == np.cumsum([len(word) for word, _ in found]).tolist()
    assert native.encode(data) == ours.encode(text).tolist()


@settings(max_examples=300)
@given(st.data())
def test_damage_that_hides_its_checksum_leads_nowhere(data: st.DataObject) -> None:
    ours, native = both("Llama 3")
    words = np.frombuffer(native.blob.raw, "<u4").copy()
    at = data.draw(st.integers(2, HEAD // 4 - 1) | st.integers(2, len(words) - 1))
    words[at] = data.draw(st.integers(0, 2**32 - 1) | st.sampled_from([0, 2**32 - 1, len(words)]))
    words[1] = zlib.adler32(words[2:].tobytes())
    found = Native.of(words.tobytes())
    if found.fault() is None:
        found.encode(f"{ODD} zq 9991 'LL\r\n".encode())
        found.decode(list(range(len(ours))))


REFUSED: dict[str, tuple[str, Any, str]] = {
    "nothing cuts": (
        "pre_tokenizer",
        {"type": "Sequence", "pretokenizers": []},
        "pre_tokenizer is None, not Split",
    ),
    "another pattern": ("pre_tokenizer", split(r"\\d+"), "pre_tokenizer cuts at"),
    "another way": ("pre_tokenizer", split(LLAMA, invert=True), "pre_tokenizer cuts at"),
    "four parts": (
        "pre_tokenizer",
        {"type": "Sequence", "pretokenizers": split(LLAMA)["pretokenizers"] * 2},
        "pre_tokenizer has 4 parts, not a Split and another",
    ),
    "a space before": ("pre_tokenizer.add_prefix_space", True, "is True, not False"),
    "Llama 2": ("model.byte_fallback", True, "model.byte_fallback is True, not False"),
    "another model": ("model.type", "Unigram", "model.type is 'Unigram', not 'BPE'"),
    "a normalizer": ("normalizer", {"type": "NFC"}, "normalizer is 'NFC', not None"),
    "cut": ("truncation", {"max_length": 8}, "truncation is {'max_length': 8}"),
    "no decoder": ("decoder", None, "decoder is None, not ByteLevel"),
    "two before": ("post_processor", template(BEGIN, BEGIN, "A"), "more than a token before"),
    "one after": ("post_processor", template(BEGIN, "A", BEGIN), "more than a token before"),
    "Roberta": ("post_processor", {"type": "RobertaProcessing"}, "is 'RobertaProcessing'"),
    "a word": ("added_tokens", [{"content": "cat", "id": 300}], "added token 'cat' is no special"),
    "no bytes": ("model.vocab", {"a": 0}, "ids are 0 to 1, each once"),
    "no merges": ("model.merges", None, "no vocab and merges"),
    "nothing": ("model", 3, "has no model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_tokenizer_json_is_refused_and_told_why(name: str) -> None:
    place, value, why = REFUSED[name]
    facts = json.loads(LIBRARY_JSON)
    *above, last = place.split(".")
    (facts[above[0]] if above else facts)[last] = value
    with pytest.raises(ArtifactError) as told:
        tokenizer_blob(LibraryTokenizer(json.dumps(facts)))
    assert why in str(told.value) and "\n" not in str(told.value)
    assert "leave it out of a library (--tokenizer none)" in str(told.value)
