"""Bad files, texts and command lines: one test for each row of the table, by its number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish as pl
from planish.frontend.cli import main
from tests.frontend.small import CONTEXT, TEXT, TOKENIZER, small_model, small_trainer
from tests.refusal import refusal, says

MODEL = "model.safetensors"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file of a model."""
    pl.save(small_model(), tmp_path / MODEL, TOKENIZER)
    return tmp_path / MODEL


@pytest.fixture
def planish(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(x) for x in arguments])
        return ended.value.code, *capsys.readouterr()  # type: ignore[return-value]

    return run


def writers(path: Path) -> dict[str, Callable[[], Any]]:
    """Everything that writes a file."""
    graph = pl.trace(lambda x: x + 1, pl.spec(3))
    return {
        "save": lambda: pl.save(small_model(), path),
        "save_graph": lambda: pl.save_graph(graph, path),
        "trainer": lambda: small_trainer().save(path),
        "gguf": lambda: small_model().save_gguf(path),
    }


@pytest.mark.parametrize("name", ["save", "save_graph", "trainer", "gguf"])
def test_row_80_what_stands_at_the_path(name: str, tmp_path: Path) -> None:
    folder, target = tmp_path / "folder.safetensors", tmp_path / "target"
    folder.mkdir()
    with pytest.raises(OSError, match=r"folder\.safetensors is a folder"):
        writers(folder)[name]()
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"pipe\.safetensors is a device or a pipe"):
        writers(pipe)[name]()
    assert pipe.is_fifo()
    pipe.unlink()
    target.write_text("mine")
    link, old = tmp_path / "link.safetensors", tmp_path / "old.safetensors"
    link.symlink_to(target)
    old.write_text("old")
    for path in (link, old):
        writers(path)[name]()
        assert not path.is_symlink() and path.stat().st_size > 100
    assert target.read_text() == "mine"
    assert {x.name for x in tmp_path.iterdir()} == {folder.name, "target", link.name, old.name}


def test_row_80_of_the_command_line(planish: Command, tmp_path: Path) -> None:
    code, out, error = planish("train", "--out", tmp_path, "--steps", 0)
    assert (code, out) == (2, "") and f"{tmp_path} is a folder" in error


@pytest.mark.parametrize("text", ["", "a", TEXT[:CONTEXT]])
def test_row_81_a_corpus_that_is_too_short(text: str) -> None:
    words = f"has {len(text)} tokens; a context of {CONTEXT} needs at least {CONTEXT + 1}"
    says(refusal(ValueError, lambda: small_trainer().fit(text, 1)), words)


def test_row_81_a_corpus_of_one_character(planish: Command, tmp_path: Path) -> None:
    text = tmp_path / "text"
    for words, told in (
        ("", "at least 2 characters are needed"),
        ("a" * 999, "repeats one character, 'a'"),
        ("ab", "a context of 64 needs at least 65"),
    ):
        text.write_text(words)
        code, out, error = planish("train", "--text", text, "--out", tmp_path / MODEL)
        assert (code, out) == (2, "") and told in error
        assert not (tmp_path / MODEL).exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"abc\xffdef", "not UTF-8 at byte 3"),
        (b"\xef\xbb\xbfabc", "byte order mark at byte 0"),
        (b"ab\xed\xa0\x80", "not UTF-8 at byte 2"),
        ("abc".encode("utf-16"), "not UTF-8 at byte 0"),
    ],
)
def test_row_82_a_corpus_that_is_not_utf8(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    read = pl.read_text
    says(refusal(ValueError, read, path), "bad.txt", words, "errors=")
    assert isinstance(read(path, errors="replace"), str)
    path.write_bytes(b"a\0b")
    assert read(path) == "a\0b", "NUL is a character"
    says(refusal(ValueError, pl.CharTokenizer.from_text, "a\udc80"), "lone surrogate", "position 1")


def test_row_83_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "dos.txt"
    path.write_bytes(b"a\r\nb\r\n" * 9)
    text = pl.read_text(path)
    assert text == "a\r\nb\r\n" * 9 and pl.read_text(path, newline="\n") == "a\nb\n" * 9
    tokenizer = pl.CharTokenizer.from_text(text)
    model = pl.TinyGPT(len(tokenizer), 8, 1, 2, CONTEXT, dropout=0.0)
    small_trainer(model, tokenizer=tokenizer).fit(text, 1)
    written = pl.generate_text(model, tokenizer, "a\r\n", 3, seed=0)
    assert len(written) == 3 and set(written) <= set("ab\r\n")


def test_row_84_a_character_outside_the_vocabulary(planish: Command, model: Path) -> None:
    words = "character 'é' (U+00E9) at position 1 is not in the vocabulary"
    says(refusal(ValueError, TOKENIZER.encode, "té"), words)
    says(refusal(ValueError, pl.generate_text, small_model(), TOKENIZER, "té", 1), words)
    code, out, error = planish("generate", model, "--prompt", "té")
    assert (code, out) == (2, "") and words in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--colour"], "--colour"),
        (["paint"], "no such command 'paint'"),
        (["generate", "no.safetensors", "--prompt", "x"], "no such file: no.safetensors"),
        (["train", "--text", "no.txt", "--out", MODEL], "no.txt"),
        (["generate", __file__, "--prompt", "x"], "not a model: no safetensors file"),
        (["train", "--out", MODEL, "--preset", "huge"], "huge"),
    ],
)
def test_row_85_mistakes_at_the_command_line(
    planish: Command, arguments: list[str], words: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, error = planish(*arguments)
    assert (code, out) == (2, "") and words in error
    assert error.count("\n") == 1 and error.startswith("planish")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_row_85_a_closed_pipe(model: Path) -> None:
    command = [sys.executable, "-m", "planish", "generate", str(model), "--prompt", "the",
               "-n", "2000", "--slide"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_row_85_output_that_is_no_terminal(planish: Command, model: Path) -> None:
    code, out, error = planish("generate", model, "--prompt", "the", "-n", "2", "--seed", "1")
    written = pl.generate_text(small_model(), TOKENIZER, "the", 2, seed=1)
    assert (code, out, error) == (0, f"the{written}\n", ""), "no colours, no progress bar"
    assert np.all([c.isprintable() or c == "\n" for c in out])
