"""Tokenizers: round trips, GPT-2's own tokens, files, streaming, and what bad files get."""

from __future__ import annotations

import json
import struct
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planish as pl
from planish.frontend.text import CharTokenizer
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.bpe import ALPHABET, BytePairTokenizer
from planish.frontend.tokenizers.library import LibraryTokenizer
from planish.frontend.tokenizers.llama2c import ScoreTokenizer
from planish.frontend.tokenizers.merging import merged
from planish.frontend.tokenizers.stored import (
    fits,
    read_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
)
from planish.frontend.tokenizers.words import words
from planish.ir.errors import ArtifactError, DataError, DTypeError, TokenError

ANY = st.text(st.characters(exclude_categories=["Cs"]))
TEXT = "the quick brown fox, the lazy dog; it's naïve: 42 € the the\n\n  thé 日本 " * 3
LEARNT = BytePairTokenizer.train(TEXT, 300)


def scores(*words: bytes) -> ScoreTokenizer:
    """A vocabulary of llama2.c: bytes, and these words, the first the best."""
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{i:02X}>".encode() for i in range(256))]
    listed = [*pieces, *words]
    return ScoreTokenizer(tuple(listed), tuple([0.0] * 259 + [-1.0 * i for i in range(len(words))]))


SCORES = scores(b" t", b"he", b" the", b" ", b"t", b"h", b"e", "é".encode(), b"a", b"  ")


@pytest.fixture(scope="module")
def gpt2(data_dir: Path) -> Tokenizer:
    return read_tokenizer(data_dir / "gpt2-bpe")


# round trips


@pytest.mark.parametrize("tokenizer", [LEARNT, SCORES], ids=["bpe", "llama2.c"])
@given(text=ANY)
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer.prompt(text)) == text
    read = tokenizer.reader()
    pieces = [read(x) for x in ids]
    assert "".join(pieces) + read.rest() == text
    assert not any("\ufffd" in x for x in pieces) or "\ufffd" in text


@given(text=ANY)
@settings(max_examples=30)
def test_every_text_comes_back_from_gpt2(gpt2: Tokenizer, text: str) -> None:
    assert gpt2.decode(gpt2.encode(text)) == text


@pytest.mark.parametrize("tokenizer", [LEARNT, SCORES], ids=["bpe", "llama2.c"])
@given(ids=st.lists(st.integers(0, 258), max_size=20))
def test_streams_of_any_tokens_are_their_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    read = tokenizer.reader()
    assert "".join(map(read, ids)) + read.rest() == tokenizer.decode(ids)


@pytest.mark.parametrize("tokenizer", [CharTokenizer("ab é"), LEARNT, SCORES], ids=repr)
def test_json_round_trip(tokenizer: Tokenizer) -> None:
    assert tokenizer_from_json(tokenizer.to_json()) == tokenizer


def test_an_odd_space_and_a_start_token() -> None:
    assert SCORES.encode("the the").tolist() == [261, 261]
    assert SCORES.encode(" é").tolist() == [268, 266] and SCORES.decode([268, 266]) == " é"
    assert SCORES.prompt("").tolist() == [1] and SCORES.encode("").size == 0
    assert SCORES.decode([261]) == "the" == SCORES.decode([1, 261])
    assert SCORES.reader([1])([261]) == "the" and SCORES.reader([1, 267])([261]) == " the"
    assert SCORES.encode("日").tolist() == [262, *(3 + x for x in "日".encode())]


def test_bytes_of_llama2c_are_no_words() -> None:
    """What looks like a byte's name in a text is that text."""
    tokenizer = scores(b" ", b"<", b"0", b"x", b"4", b"1", b">", b"<0", b"<0x", b"<0x4", b"<0x41")
    ids = tokenizer.encode("<0x41>")
    assert tokenizer.decode(ids) == "<0x41>" and len(ids) == 3


# merging and learning


def test_the_best_pair_goes_first_and_the_leftmost_of_equals() -> None:
    merges = {(0, 0): (0.0, 1), (1, 0): (1.0, 2), (1, 1): (2.0, 3)}
    assert merged([0] * 5, merges) == [1, 2] and merged([0] * 4, merges) == [3]
    assert merged([], merges) == [] and merged([7], merges) == [7]


@given(st.lists(st.integers(0, 2), max_size=30))
def test_merging_is_the_obvious_loop(tokens: list[int]) -> None:
    merges = {(0, 1): (0.0, 3), (1, 2): (1.0, 4), (3, 2): (2.0, 5), (4, 4): (2.0, 6)}
    slow = list(tokens)
    while True:
        pairs = list(pairwise(slow))
        known = [(merges[x][0], at) for at, x in enumerate(pairs) if x in merges]
        if not known:
            break
        at = min(known)[1]
        slow[at : at + 2] = [merges[pairs[at]][1]]
    assert merged(tokens, merges) == slow


def test_what_is_learnt() -> None:
    tokenizer = BytePairTokenizer.train("low low low lower newest newest widest", 262)
    told = tokenizer.vocab[256:]
    assert told[:2] == ("lo", "low") and "est" in told
    assert len(BytePairTokenizer.train("abab", 999)) == 257, "a pair that stands there once"
    assert BytePairTokenizer.train(TEXT, 300) == LEARNT
    assert len(LEARNT.encode(TEXT)) < len(TEXT.encode())
    assert sorted(LEARNT.vocab[:256]) == sorted(ALPHABET) and LEARNT.vocab[0] == "!"


def test_learning_is_the_obvious_loop() -> None:
    """Counting all pairs anew after each merge learns the same."""
    pieces = [[LEARNT.vocab[LEARNT.byte_tokens[x]] for x in word.encode()] for word in words(TEXT)]
    order = {text: token for token, text in enumerate(LEARNT.vocab)}
    for merge in LEARNT.merges:
        counts: dict[tuple[str, str], int] = {}
        for piece in pieces:
            for pair in pairwise(piece):
                counts[pair] = counts.get(pair, 0) + 1
        assert merge == min(counts, key=lambda x: (-counts[x], order[x[0]], order[x[1]]))
        for piece in pieces:
            at = 0
            while at < len(piece) - 1:
                if (piece[at], piece[at + 1]) == merge:
                    piece[at : at + 2] = ["".join(merge)]
                at += 1


@pytest.mark.parametrize(
    ("size", "kind"), [(255, DataError), (300.0, DTypeError), (True, DTypeError)]
)
def test_sizes_that_are_refused(size: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="vocab_size is"):
        BytePairTokenizer.train("ab", size)


def test_words() -> None:
    """The published pattern of GPT-2, piece by piece."""
    text = "I'll  say'S 30²½ €!\n\n x\x1cy\u00a0z '"
    assert list(words(text)) == ["I", "'ll", " ", " say", "'", "S", " 30²½", " €!", "\n\n", " x",
                                 "\x1c", "y", "\u00a0", "z", " '"]  # fmt: skip
    assert list(words("a   ")) == ["a", "   "] and list(words("")) == []


@given(ANY)
def test_words_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text


def test_a_long_word_takes_no_long_time() -> None:
    word = "ab" * 50_000
    assert LEARNT.decode(LEARNT.encode(word)) == word


# GPT-2's


def test_tokens_of_gpt2(gpt2: Tokenizer) -> None:
    text = "Hello world, naïve €! I'll  pay\n\n 30²  日本"
    wanted = [15496, 995, 11, 41492, 10432, 0, 314, 1183, 220, 1414, 628, 1542, 31185, 220, 10545,
              245, 98, 17312, 105]  # fmt: skip
    assert gpt2.encode(text).tolist() == wanted and len(gpt2) == 50257
    assert gpt2.prompt("").tolist() == [50256] == list(gpt2.end)
    assert gpt2.decode([50256]) == "<|endoftext|>"
    assert 50256 not in gpt2.encode("<|endoftext|>"), "a text cannot end itself"


def test_shakespeare_in_gpt2s_tokens(gpt2: Tokenizer, data_dir: Path) -> None:
    """nanoGPT states how many tokens its two halves have: 301,966 and 36,059."""
    text = (data_dir / "tinyshakespeare.txt").read_text("utf-8")
    at = int(len(text) * 0.9)
    assert len(gpt2.encode(text[:at])) == 301_966 and len(gpt2.encode(text[at:])) == 36_059


# files


def test_files_of_gpt2(tmp_path: Path, gpt2: Tokenizer, data_dir: Path) -> None:
    for name in ("encoder.json", "vocab.bpe"):
        assert read_tokenizer(data_dir / "gpt2-bpe" / name) == gpt2
    save_tokenizer(LEARNT, tmp_path)
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        assert read_tokenizer(path) == LEARNT
    (tmp_path / "mine").write_text(LEARNT.to_json(), "utf-8")
    assert read_tokenizer(tmp_path / "mine") == LEARNT
    with pytest.raises(DataError, match="has no form that others read"):
        save_tokenizer(CharTokenizer("ab"), tmp_path)


def test_merges_of_dos(tmp_path: Path) -> None:
    save_tokenizer(LEARNT, tmp_path)
    merges = tmp_path / "merges.txt"
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))
    assert read_tokenizer(tmp_path) == LEARNT


def packed(tokenizer: ScoreTokenizer) -> bytes:
    """llama2.c's file of a tokenizer."""
    pairs = zip(tokenizer.pieces, tokenizer.scores, strict=True)
    return struct.pack("<i", 99) + b"".join(struct.pack("<fi", s, len(p)) + p for p, s in pairs)


def test_files_of_llama2c(tmp_path: Path, data_dir: Path) -> None:
    path = tmp_path / "tok.bin"
    path.write_bytes(packed(SCORES))
    assert read_tokenizer(path) == SCORES
    tokenizer = read_tokenizer(data_dir / "tok512.bin")
    assert len(tokenizer) == 512
    assert tokenizer.prompt("Once upon a time").tolist() == [1, 403, 407, 261, 378]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tok.bin", packed(SCORES)[:-1], "token 268 has 2 bytes, but 1 are left"),
        ("tok.bin", packed(SCORES)[:-7], "cut inside of token 268"),
        ("tok.bin", b"", "has 259 tokens or more"),
        ("m.st", struct.pack("<Q", 2) + b"{}" + bytes(99), "but a model or weights .safetensors"),
        ("m.gguf", b"GGUF" + b"\3" * 99, r"no tokenizer, but a model \(GGUF\); a"),
        ("m.zip", b"PK\3\4" * 99, "but an archive"),
        ("m.so", b"\x7fELF" * 99, "but a program or a library"),
        ("tok.bin", b"just text" * 99, "not a tokenizer of llama2.c, or cut"),
        ("tok.bin", packed(SCORES).replace(b"<0x07>", b"<0x08>"), "are not <0x00> to <0xFF>"),
        ("tok.bin", packed(SCORES)[:4] + b"\0\0\xc0\x7f" + packed(SCORES)[8:], "not a finite"),
        ("tok.bin", struct.pack("<ifi", 9, 0.0, 2**31 - 1) + b"x" * 9, "token 0 has 2147483647"),
        ("tok.bin", struct.pack("<ifi", 9, 0.0, -5) + b"x" * 9, "token 0 has -5 bytes"),
        ("a.json", b'{"type": "x"}', "its type is 'x', known are char"),
        ("a.json", b'{"type": "bpe", "vocab": ["a", 3], "merges": []}', "no list of texts"),
        ("a.json", b'{"type": "bpe", "vocab": ["a", "a"], "merges": []}', "stands twice"),
        ("a.json", b'{"type": "bpe", "vocab": ["a"], "merges": ["a a"]}', "lacks, such as 'aa'"),
        ("a.json", b'{"type": "bpe", "vocab": ["a"], "merges": ["aa"]}', "two texts with a space"),
        ("a.json", b'{"type": "llama2.c", "pieces": ["a"], "scores": [1]}', "259 tokens or more"),
        ("a.json", b'{"type": "llama2.c", "pieces": 3, "scores": [1]}', "not a tokenizer"),
        ("a.json", b'{"type": "tokenizers", "json": 3}', "no text"),
        ("a.json", b'{"type": "char"}', "not a tokenizer: KeyError"),
        ("a.json", b'{"type": "char", "type": "char"}', "'type' stands twice"),
        ("a.json", b"{" * 100_000, "bad JSON"),
        ("a.json", b'{"a":' * 100_000, "bad JSON"),
        ("a.json", b'{"\xff": 1}', "it is not text"),
        ("vocab.json", b'{"a": 0, "b": 2}', "'b' has 2 where 1 is next"),
        ("vocab.json", b'{"a": 0, "b": 0}', "'b' has 0 where 1 is next"),
        ("vocab.json", b'{"a": 0, "b": "1"}', "no integer"),
        ("vocab.json", b'{"a": 0, "b": true}', "no integer"),
        ("vocab.json", b'{"a": 0, "b": 1}', "merges need 2 tokens"),
    ],
)  # fmt: skip
def test_files_that_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\nc a\n")
    with pytest.raises(ArtifactError, match=rf"(?s)(merges\.txt|{name}): .*{message}"):
        read_tokenizer(tmp_path / name)


def test_halves_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"this folder has no tokenizer: none of vocab\.json"):
        read_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}", "utf-8")
    with pytest.raises(FileNotFoundError, match=r"merges\.txt, the other half"):
        read_tokenizer(tmp_path / "vocab.json")
    with pytest.raises(FileNotFoundError):
        read_tokenizer(tmp_path / "none")


def test_what_has_no_token() -> None:
    tokenizer = BytePairTokenizer(("a", "b", "<|endoftext|>"), ())
    assert tokenizer.decode(tokenizer.encode("ab")) == "ab"
    with pytest.raises(DataError, match="lacks byte 0x63, which 'abc' needs"):
        tokenizer.encode("abc")
    with pytest.raises(TokenError, match="token id 3 at position 1 is outside 0 <= id < 3"):
        tokenizer.decode([0, 3])
    for found in (tokenizer, SCORES):
        with pytest.raises(DataError, match=r"position 1 .* a lone surrogate \(U\+DC80"):
            found.encode("a\udc80")
        with pytest.raises(DTypeError, match="encode takes a str, got bytes"):
            found.encode(b"a")  # type: ignore[arg-type]


def test_which_models_a_tokenizer_fits() -> None:
    assert fits(CharTokenizer("ab"), 2) and not fits(CharTokenizer("ab"), 128)
    assert fits(LEARNT, len(LEARNT)) and fits(LEARNT, 384)
    assert not fits(LEARNT, 385) and not fits(LEARNT, len(LEARNT) - 1)


# the library's


LIBRARY_JSON = json.dumps({
    "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
    "added_tokens": [{"id": 300, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
                      "rstrip": False, "normalized": False, "special": True}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                      "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                "use_regex": True},
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
              "vocab": {x: i for i, x in enumerate([*LEARNT.vocab, "<|endoftext|>"])},
              "merges": [list(x) for x in LEARNT.merges]},
})  # fmt: skip


@pytest.fixture
def library(tmp_path: Path) -> LibraryTokenizer:
    """The learnt vocabulary as a tokenizer.json."""
    pytest.importorskip("tokenizers", reason="the extra planish[bpe] is not installed")
    (tmp_path / "tokenizer.json").write_text(LIBRARY_JSON, "utf-8")
    found = read_tokenizer(tmp_path)
    assert isinstance(found, LibraryTokenizer)
    return found


def test_the_library_agrees_with_us(library: LibraryTokenizer, tmp_path: Path) -> None:
    assert len(library) == 301 and library.end == (300,)
    for text in (TEXT, "'S 30²½ €!\n\n x\x1cy\u00a0z '", "日本\u2003 \U0001f600", ""):
        assert library.encode(text).tolist() == LEARNT.encode(text).tolist()
        ids = library.encode(text)
        read = library.reader()
        assert library.decode(ids) == text == "".join(map(read, ids)) + read.rest()
    assert library.prompt("").tolist() == [300]
    assert tokenizer_from_json(library.to_json()) == library
    save_tokenizer(library, tmp_path / ".")
    assert read_tokenizer(tmp_path / "tokenizer.json") == library


def test_a_tokenizer_json_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra planish[bpe] is not installed")
    (tmp_path / "tokenizer.json").write_text('{"model": {}}', "utf-8")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: not a tokenizer"):
        read_tokenizer(tmp_path)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "tokenizer.json").write_text(LIBRARY_JSON, "utf-8")
    with pytest.raises(DataError, match=r"pip install 'planish\[bpe\]'"):
        read_tokenizer(tmp_path)


# in models and in writing


@pytest.mark.parametrize("tokenizer", [LEARNT, SCORES], ids=["bpe", "llama2.c"])
def test_tokenizers_travel_with_models(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = pl.TinyGPT(len(tokenizer), 8, 1, 2, 32, dropout=0.0)
    pl.save(model, tmp_path / "m.safetensors", tokenizer)
    assert pl.load_model(tmp_path / "m.safetensors")[1] == tokenizer


@pytest.mark.parametrize("tokenizer", [LEARNT, SCORES], ids=["bpe", "llama2.c"])
def test_writing_shows_whole_characters(tokenizer: Tokenizer) -> None:
    """A model without opinions draws bytes of all kinds: what is shown is what is returned."""
    model = pl.TinyGPT(len(tokenizer), 8, 1, 2, 64, dropout=0.0)
    told: list[str] = []
    text = pl.generate_text(model, tokenizer, "é", 50, seed=3, stream=told.append)
    ids = model.generate(tokenizer.prompt("é"), 50, seed=3)
    ids = ids[: min(np.flatnonzero(np.isin(ids, tokenizer.end)), default=50)]
    read = tokenizer.reader(tokenizer.prompt("é"))
    assert "".join(told) == text == read(ids) + read.rest() and "\ufffd" in text


def test_a_token_that_ends_texts_ends_the_text() -> None:
    """The head is made to want token 2, `</s>`, wherever the last token was a "t"."""
    model = pl.TinyGPT(len(SCORES), 8, 1, 2, 16, dropout=0.0, tie_head=False)
    for p in model.parameters():
        p.array = np.zeros(p.array.shape, np.float32)
    wte = np.zeros((len(SCORES), 8), np.float32)
    wte[263, 0], wte[269 - 1, 1], wte[1, 1] = 9, 9, 9  # "t", "  ", <s>
    head = np.zeros((len(SCORES), 8), np.float32)
    head[2, 0] = head[263, 1] = 9
    model.wte.weight.array, model.lm_head.weight.array = wte, head
    model.ln_f.weight.array = np.ones(8, np.float32)
    assert model.generate(SCORES.prompt(""), 3, temperature=0).tolist()[:2] == [263, 2]
    assert pl.generate_text(model, SCORES, "", 3, temperature=0) == "t"
