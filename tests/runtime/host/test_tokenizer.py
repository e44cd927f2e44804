"""Tokenizers as native code against Python's, on any text; damaged bytes; what is refused."""

from __future__ import annotations

import ctypes
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.frontend.text import CharTokenizer
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.blob import HEAD, tokenizer_blob
from planish.frontend.tokenizers.bpe import END_OF_TEXT, BytePairTokenizer
from planish.frontend.tokenizers.llama2c import ScoreTokenizer
from planish.frontend.tokenizers.stored import read_tokenizer
from planish.ir.errors import DataError
from planish.runtime.elf import loaded
from planish.runtime.host import letters, libc, merging, tokenizer, vocab
from planish.runtime.host.compiler import Source, baseline, host_text, source_of
from planish.runtime.llvm import compile_text
from planish.runtime.target import Target
from tests.frontend.test_tokenizers import scores

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for Linux")

WRAPPED = """
@export
def fault(vocab: Vocab, size: i64) -> Text:
    return vocab_fault(vocab, size)

@export
def encode(vocab: Vocab, data: Text, length: i64, ids: Ptr[i32], room: i64, wrong: Wrong) -> i64:
    return encode_text(vocab, data, length, ids, room, wrong)

@export
def prompt(vocab: Vocab, data: Text, length: i64, ids: Ptr[i32], room: i64, wrong: Wrong) -> i64:
    return encode_prompt(vocab, data, length, ids, room, wrong)

@export
def decode(vocab: Vocab, id: i32, before: Ptr[i32], out: Ptr[u8], room: i64) -> i64:
    return decode_token(vocab, id, before, out, room)

@export
def cut(vocab: Vocab, data: Text, at: i64, length: i64) -> i64:
    count = i64(vocab.kind_count)
    return later_word_end(words_at(vocab, vocab.kinds), count, i64(vocab.digits), data, at, length)

@export
def why(vocab: Vocab, code: i64, data: Text, wrong: Wrong, message: Ptr[u8], size: i64) -> None:
    explain(vocab, code, data, wrong, message, size)
"""
P, N = ctypes.c_void_p, ctypes.c_int64
SIGNATURES = {
    "fault": (ctypes.c_char_p, P, N), "encode": (N, P, P, N, P, N, P),
    "prompt": (N, P, P, N, P, N, P), "decode": (N, P, ctypes.c_int32, P, P, N),
    "why": (None, P, N, P, P, P, N), "cut": (N, P, P, N, N),
}  # fmt: skip


@cache
def code() -> tuple[Any, dict[str, Callable[..., Any]]]:
    target = baseline(Target.host())
    sources = [
        *map(source_of, (libc, letters, merging, vocab, tokenizer)),
        Source("test.py", WRAPPED),
    ]
    found = loaded([compile_text(host_text(sources), target)], target)
    functions = {
        name: ctypes.CFUNCTYPE(*kinds)(found.address(name)) for name, kinds in SIGNATURES.items()
    }
    return found, functions


def call(name: str, *given: Any) -> Any:
    return code()[1][name](*given)


@dataclass(frozen=True)
class Native:
    """A tokenizer in native code; its bytes end where a page could."""

    blob: Any
    size: int

    @classmethod
    def of(cls, data: bytes) -> Native:
        return cls(ctypes.create_string_buffer(data, len(data)), len(data))

    def fault(self) -> bytes | None:
        return call("fault", self.blob, self.size)

    def encode(self, data: bytes, how: str = "encode", room: int | None = None) -> list[int] | str:
        room = 4 * len(data) + 8 if room is None else room
        ids, wrong = np.full(room + 1, -7, np.int32), np.zeros(3, np.int64)
        count = call(how, self.blob, data, len(data), ids.ctypes.data, room, wrong.ctypes.data)
        assert ids[room] == -7
        if count >= 0:
            return ids[: min(room, count)].tolist()
        message = ctypes.create_string_buffer(200)
        call("why", self.blob, count, data, wrong.ctypes.data, message, 200)
        return message.value.decode()

    def decode(self, ids: list[int], before: int = -1) -> bytes:
        last, found = ctypes.c_int32(before), b""
        for token in ids:
            out = ctypes.create_string_buffer(600)
            size = call("decode", self.blob, token, ctypes.byref(last), out, 600)
            found += out.raw[:size]
        return found


TRAINED = "the quick brown fox, the lazy dog; it's naïve: 42 € the the\n\n  thé 日本 " * 3
LEARNT = BytePairTokenizer.train(TRAINED, 330)
ENDING = BytePairTokenizer((*LEARNT.vocab, END_OF_TEXT), LEARNT.merges)
SCORED = scores(
    b" t", b"he", b" the", b" ", b"t", b"h", b"e", "é".encode(), b"a", b"  ", b"\xc3", "日".encode()
)  # fmt: skip
EQUAL = ScoreTokenizer(SCORED.pieces, (0.0,) * len(SCORED.pieces))
SPACELESS = scores(b"a", b"aa", b"aaa")
LETTERS = CharTokenizer("ba é\n日😀z\0")
TOKENIZERS = {"letters": LETTERS, "learnt": LEARNT, "ending": ENDING, "scores": SCORED,
              "equal": EQUAL, "spaceless": SPACELESS}  # fmt: skip


@cache
def native(name: str) -> Native:
    found = Native.of(tokenizer_blob(TOKENIZERS[name]))
    assert found.fault() is None
    return found


ODD = (
    "the 'llé'sre've\u00a0\u3000\u2028\n\r\t\x85\x1c  1²Ⅷ٣日本😀\u0301\u200d__!'\u180e\ufeff\0aaaa"
)
ANY = st.text(st.characters(exclude_categories=["Cs"]))
TEXTS = ANY | st.text(st.sampled_from(ODD)) | st.text(st.sampled_from("the aé'"), max_size=200)


def agrees(ours: Tokenizer, theirs: Native, text: str) -> None:
    """Both encode, and read what they wrote, alike."""
    ids = ours.encode(text).tolist()
    assert theirs.encode(text.encode()) == ids
    assert theirs.encode(text.encode(), "prompt") == ours.prompt(text).tolist()
    assert theirs.decode(ids).decode() == ours.decode(ids)


@pytest.mark.parametrize("name", [x for x in TOKENIZERS if x != "letters"])
@settings(max_examples=150)
@given(TEXTS)
def test_any_text_has_pythons_tokens(name: str, text: str) -> None:
    agrees(TOKENIZERS[name], native(name), text)


@settings(max_examples=150)
@given(st.text(st.sampled_from(LETTERS.characters)))
def test_letters_have_pythons_tokens(text: str) -> None:
    agrees(LETTERS, native("letters"), text)


@settings(max_examples=150)
@given(st.text(st.sampled_from(LETTERS.characters + "!€x"), min_size=1))
def test_letters_without_a_token_are_named_as_in_python(text: str) -> None:
    try:
        wanted: Any = LETTERS.encode(text).tolist()
    except DataError as error:
        wanted = str(error)
    assert native("letters").encode(text.encode()) == wanted


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100)
@given(st.data())
def test_any_tokens_are_pythons_bytes(name: str, data: st.DataObject) -> None:
    ours = TOKENIZERS[name]
    tokens = st.integers(0, len(ours) - 1) | st.sampled_from([0, 1, 2, len(ours) - 1])
    before, ids = data.draw(st.lists(tokens)), data.draw(st.lists(tokens))
    read = ours.reader(before)
    text = read(ids) + read.rest()
    found = native(name).decode(ids, before[-1] if before else -1)
    assert found.decode("utf-8", "replace") == text


def test_every_character_is_cut_from_others_as_in_python() -> None:
    for begin in range(0, sys.maxunicode, 1 << 15):
        codes = [x for x in range(begin, begin + (1 << 15)) if not 0xD800 <= x < 0xE000]
        text = "".join(f"a{chr(x)} {chr(x)}1" for x in codes[:: 1 if begin < 1 << 17 else 64])
        assert native("learnt").encode(text.encode()) == LEARNT.encode(text).tolist()


@pytest.mark.parametrize("file", ["gpt2-bpe", "tok512.bin"])
def test_shakespeare(file: str, data_dir: Path) -> None:
    ours = read_tokenizer(data_dir / file)
    theirs = Native.of(tokenizer_blob(ours))
    assert theirs.fault() is None
    text = (data_dir / "tinyshakespeare.txt").read_text(encoding="utf-8")
    for piece in (text[:50000], text[400000:450000], ODD, TRAINED, " a" * 5000 + "z" * 20000, ""):
        agrees(ours, theirs, piece)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100)
@given(st.binary(max_size=12))
def test_what_is_not_utf8_is_refused_where_it_begins(name: str, data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        before = len(data[: error.start].decode())
        wanted = f"the text is not UTF-8 at byte {error.start}, after {before} characters"
        assert native(name).encode(data) == wanted


def test_a_byte_without_a_token_is_named() -> None:
    short = BytePairTokenizer(("a", "b", "Ġ", "Ã"), ())
    said = Native.of(tokenizer_blob(short)).encode("ab aé".encode())
    assert said == "the vocabulary of 4 tokens lacks byte 0xA9, in the character at position 4"


def test_tokens_without_room_are_counted() -> None:
    assert native("learnt").encode(b"q!", room=1) == LEARNT.encode("q!").tolist()[:1]
    wrong = ctypes.create_string_buffer(24)
    for how, count in (("encode", 2), ("prompt", 3)):
        assert call(how, native("spaceless").blob, b"a", 1, None, 0, wrong) == count
    last = ctypes.c_int32(-1)
    blob = native("learnt").blob
    assert call("decode", blob, len(LEARNT) - 1, ctypes.byref(last), None, 0) > 1
    assert call("decode", blob, len(LEARNT), ctypes.byref(last), None, 0) == -1
    assert call("decode", blob, -1, ctypes.byref(last), None, 0) == -1


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150)
@given(st.data())
def test_damage_is_found(name: str, data: st.DataObject) -> None:
    blob = bytearray(tokenizer_blob_of(name))
    at = data.draw(st.integers(0, HEAD + 40) | st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    assert Native.of(bytes(blob)).fault()
    whole = tokenizer_blob_of(name)
    assert Native.of(whole[: data.draw(st.integers(0, len(whole) - 1))]).fault()


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150)
@given(st.data())
def test_damage_that_hides_its_checksum_leads_nowhere(name: str, data: st.DataObject) -> None:
    words = np.frombuffer(tokenizer_blob_of(name), "<u4").copy()
    at = data.draw(st.integers(2, HEAD // 4 - 1) | st.integers(2, len(words) - 1))
    words[at] = data.draw(st.integers(0, 2**32 - 1) | st.sampled_from([0, 2**32 - 1, len(words)]))
    words[1] = zlib.adler32(words[2:].tobytes())
    found = Native.of(words.tobytes())
    if found.fault() is None:
        found.encode("the é  thé 'll 42aaa".encode())
        found.decode(list(range(len(TOKENIZERS[name]))))


def test_kinds_in_which_a_space_is_none_are_refused() -> None:
    """A word would end where it begins, and the next one begin there again, without end."""
    words = np.frombuffer(tokenizer_blob_of("learnt"), "<u4").copy()
    kinds = words[words[14] // 4 :][: words[15]]
    kinds[:] = kinds & ~np.uint32(3)  # others
    words[1] = zlib.adler32(words[2:].tobytes())
    assert "tables do not fit" in str(Native.of(words.tobytes()).fault())


@cache
def tokenizer_blob_of(name: str) -> bytes:
    return tokenizer_blob(TOKENIZERS[name])


def test_the_same_tokenizer_gives_the_same_bytes() -> None:
    for name, ours in TOKENIZERS.items():
        assert tokenizer_blob(ours) == tokenizer_blob_of(name)
