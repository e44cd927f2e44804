"""Tests of text, tokenizers and batches, and of what bad text gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.frontend import data
from planish.frontend.text import CharTokenizer, default_corpus, read_text
from planish.frontend.tokenizers.stored import tokenizer_from_json
from planish.ir.errors import ArtifactError, DataError, DTypeError, TokenError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXT)
def test_decode_undoes_encode(text: str) -> None:
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.shape == (len(text),)
    assert tokenizer.decode(ids) == text
    assert set(ids.tolist()) == set(range(tokenizer.vocab_size))


@given(TEXT)
def test_json_round_trip(text: str) -> None:
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer_from_json(tokenizer.to_json()) == tokenizer


def test_ids_follow_code_points() -> None:
    tokenizer = CharTokenizer.from_text("hello")
    assert tokenizer.characters == "ehlo" and tokenizer.vocab_size == len(tokenizer) == 4
    assert tokenizer.encode("hole").tolist() == [1, 3, 2, 0]
    assert tokenizer.decode([1, 3, 2, 0]) == "hole" and tokenizer.decode(3) == "o"
    assert tokenizer.encode("").shape == (0,) and tokenizer.decode([]) == ""
    assert CharTokenizer("ba").encode("ab").tolist() == [1, 0]


def test_an_unknown_character_is_named() -> None:
    tokenizer = CharTokenizer.from_text("abc")
    with pytest.raises(DataError, match=r"character 'é' \(U\+00E9\) at position 2 is not in .* 3"):
        tokenizer.encode("abé")
    with pytest.raises(DataError, match=r"'\\x00' \(U\+0000\)"):
        tokenizer.encode("\0")
    with pytest.raises(DTypeError, match="takes a str, got bytes"):
        tokenizer.encode(b"ab")  # type: ignore[arg-type]


def test_ids_outside_the_vocabulary_are_refused() -> None:
    tokenizer = CharTokenizer.from_text("abc")
    with pytest.raises(TokenError, match="token id 3 at position 1 is outside 0 <= id < 3"):
        tokenizer.decode([0, 3])
    with pytest.raises(TokenError, match="token id -1 at position 0"):
        tokenizer.decode(np.array([-1]))
    for ids in ([0.0], [True], "ab"):
        with pytest.raises(DTypeError, match="token ids are integers"):
            tokenizer.decode(ids)
    with pytest.raises(DataError, match="decode each row"):
        tokenizer.decode(np.zeros((1, 2), np.int32))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"type": "bpe"}', "[" * 100_000,
                                  '{"type": "char", "characters": 3}',
                                  '{"type": "char", "characters": "aa"}',
                                  '{"type": "char", "characters": "\\ud800"}'])  # fmt: skip
def test_json_that_is_no_tokenizer(text: str) -> None:
    with pytest.raises(ArtifactError, match="tokenizer"):
        tokenizer_from_json(text)


def test_text_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("a\r\nb\rc\nd\0é".encode())
    assert read_text(path) == "a\r\nb\rc\nd\0é"
    assert read_text(path, newline="\n") == "a\nb\nc\nd\0é"
    assert "\0" in CharTokenizer.from_text(read_text(path)).characters


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; at least 2 characters"),
        (b"abc\xff\xfed", "not UTF-8 at byte 3 "),
        (b"ab\xed\xa0\x80", "not UTF-8 at byte 2 "),
        ("é".encode()[:1], "not UTF-8 at byte 0 .*unexpected end"),
        (b"\xef\xbb\xbfabc", "byte order mark at byte 0"),
        ("abc".encode("utf-16"), "at byte 0 .* begins like UTF-16"),
    ],
)
def test_bad_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.txt: .*{message}"):
        read_text(path)


def test_bad_text_on_request(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"\xef\xbb\xbfa\xffb")
    assert read_text(path, errors="replace") == "a�b"
    assert read_text(path, errors="ignore") == "ab"
    with pytest.raises(DataError, match="errors is strict, replace or ignore"):
        read_text(path, errors="surrogateescape")


def test_lone_surrogates_are_no_characters() -> None:
    with pytest.raises(DataError, match=r"position 1 of the text is a lone surrogate \(U\+DC80\)"):
        CharTokenizer.from_text("a\udc80")
    with pytest.raises(DataError, match="at least 1 character"):
        CharTokenizer.from_text("")


def test_the_default_corpus_is_english() -> None:
    text = default_corpus()
    assert len(text) > 200_000
    assert text.count(" the ") > 2_000
    assert CharTokenizer.from_text(text).vocab_size < 256


def test_batches_depend_on_seed_and_step_alone() -> None:
    tokens = np.arange(100, dtype=np.int32)

    def batch(seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = np.zeros((2, 5, 8), np.int32)
        data.random_batch(tokens, seed, step, x, y)
        return x, y

    x, y = batch(3, 7)
    np.testing.assert_array_equal(y, x + 1)
    np.testing.assert_array_equal(x, batch(3, 7)[0])
    assert not np.array_equal(x, batch(3, 8)[0]) and not np.array_equal(x, batch(4, 7)[0])
    assert x[:, 0].tolist() == [11, 0, 0, 42, 73]  # the same on every machine and NumPy
    seen = np.concatenate([batch(0, step)[1].ravel() for step in range(300)])
    assert seen.min() == 1 and seen.max() == 99


@given(st.integers(2, 200), st.integers(1, 4), st.integers(1, 9))
def test_windows_predict_every_token_once(n: int, batch: int, context: int) -> None:
    tokens = np.arange(n, dtype=np.int32)
    found = []
    for x, y, count in data.windows(tokens, batch, context):
        assert x.shape == y.shape == (batch, context)
        real = y != data.IGNORED
        assert real.sum() == count
        np.testing.assert_array_equal(y[real], x[real] + 1)
        found += y[real].tolist()
    assert found == list(range(1, n))


def test_split_and_length() -> None:
    train, validation = data.split(np.arange(20), 0.1)
    assert len(train) == 18 and validation.tolist() == [18, 19]
    with pytest.raises(DataError, match="0 <= fraction < 1"):
        data.split(train, 1.0)
    data.check_length(train, 17)
    with pytest.raises(DataError, match="has 18 tokens; a context of 18 needs at least 19"):
        data.check_length(train, 18)


def test_tokens_are_checked() -> None:
    assert data.as_tokens([0, 4], 5).dtype == np.int32
    with pytest.raises(TokenError, match="token id 5 at position 1 is outside 0 <= id < 5"):
        data.as_tokens([0, 5], 5)
    for bad in (2**31, -(2**63), -1):
        with pytest.raises(TokenError, match=f"token id {bad} at position 0"):
            data.as_tokens([bad])
    with pytest.raises(DTypeError, match="integers, got float64"):
        data.as_tokens([0.5])
    with pytest.raises(DTypeError, match=r"got a text: tokenizer.encode\(text\) has them"):
        data.as_tokens("To be")
    with pytest.raises(DTypeError, match="integers, got bool"):
        data.as_tokens([True])
    with pytest.raises(DataError, match="one sequence"):
        data.as_tokens(np.zeros((2, 2), np.int32))
