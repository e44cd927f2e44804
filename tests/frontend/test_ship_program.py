"""Programs for the shell: what Python writes, without Python; and what users get wrong."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish as pl
from planish.frontend.tokenizers.library import LibraryTokenizer
from planish.runtime.artifact import read_shared
from planish.runtime.host.abi import ABI
from planish.runtime.target import Target
from tests.frontend.small import TOKENIZER, small_model
from tests.frontend.test_llama2c import STORY
from tests.runtime.host.llama_files import later

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]
CONTEXT = 40
OPTIONS = ("min_p", "repetition_penalty")


@cache
def model() -> pl.TinyGPT:
    return small_model(max_seq_len=CONTEXT)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "tiny"
    pl.Generator(model(), options=OPTIONS).save(path, TOKENIZER)
    return path


def ran(program: Path, *given: str, **options: Any) -> tuple[int, str, str]:
    """Exit code, output and errors, in an environment without anything."""
    options = {"stdin": subprocess.DEVNULL, **options}
    if "input" in options:
        del options["stdin"]
    done = subprocess.run([program, *given], capture_output=True, env={}, check=False, **options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(("flags", "settings"), [
    (["--temperature", "0"], {"temperature": 0.0}),
    (["--temperature", "0.8", "--top-k", "5", "--seed", "1"],
     {"temperature": 0.8, "top_k": 5, "seed": 1}),
    (["--seed", "3", "--top-p", "0.9"], {"seed": 3, "top_p": 0.9}),
    (["--seed", "4", "--min-p", "0.1", "--repetition-penalty", "1.5"],
     {"seed": 4, "min_p": 0.1, "repetition_penalty": 1.5}),
])  # fmt: skip
def test_it_writes_what_python_writes(
    program: Path, flags: list[str], settings: dict[str, Any]
) -> None:
    want = "the fox" + pl.generate_text(model(), TOKENIZER, "the fox", 30, **settings) + "\n"
    for threads in ("1", "2"):
        given = [*flags, "-n", "30", "--threads", threads]
        assert ran(program, "the fox", *given) == (0, want, "")
        assert ran(program, *given, input=b"the fox") == (0, want, "")


def test_values_may_be_joined_to_options(program: Path) -> None:
    given = ["the fox", "--temperature=0.8", "--top-k=5", "--seed=1", "-n", "30"]
    want = pl.generate_text(model(), TOKENIZER, "the fox", 30, temperature=0.8, top_k=5, seed=1)
    assert ran(program, *given) == (0, f"the fox{want}\n", "")
    assert ran(program, "--tokens=0", "--", "--the=") == ran(program, "-n", "0", "--", "--the=")


def test_its_version(program: Path) -> None:
    told = f"{program}: planish {pl.__version__}, ABI {ABI}, code for {Target.host().cpu}\n"
    assert ran(program, "--version") == (0, told, "")


def test_its_length_is_what_fits(program: Path) -> None:
    code, out, _ = ran(program, "the", "--temperature", "0")
    assert code == 0 and len(out) == CONTEXT + 1
    assert ran(program, "the", "-n", "0") == (0, "the\n", "")


def test_it_tells_its_speed(program: Path) -> None:
    code, _, told = ran(program, "the", "-n", "9", "--stats", "--threads", "1")
    assert code == 0 and told.startswith("9 tokens, first after ")
    assert told.endswith(" tokens/s, 1 threads, code for " + Target.host().cpu + "\n")


def test_without_a_seed_texts_differ(program: Path) -> None:
    assert len({ran(program, "the", "--temperature", "5")[1] for _ in range(4)}) > 1


MISTAKES = [
    (["--wrong"], "unknown option, or one without its value: --wrong"),
    (["--wrong", "3"], "unknown option, see --help: --wrong"),
    (["the", "-n", "-1"], "-n is a whole number of at least 0, got -1"),
    (["the", "-n", "many"], "-n is a whole number of at least 0, got many"),
    (["the", "-n"], "unknown option, or one without its value: -n"),
    (["the", "--temperature", "hot"], "--temperature is a finite number of at least 0, got hot"),
    (["the", "--temperature", "nan"], "--temperature is a finite number of at least 0, got nan"),
    (["the", "--temperature", "-1"], "--temperature is a finite number of at least 0, got -1"),
    (["the", "--top-k", "0"], "--top-k is a whole number of at least 1, got 0"),
    (["the", "--top-p", "1.5"], "--top-p is a number of 0 < P <= 1, got 1.5"),
    (["the", "--min-p", "2"], "--min-p is a number of 0 <= P <= 1, got 2"),
    (
        ["the", "--repetition-penalty", "0"],
        "--repetition-penalty is a finite number above 0, got 0",
    ),
    (["the", "--seed", "-4"], "--seed is a whole number of at least 0, got -4"),
    (["the", "--seed", str(1 << 64)], "--seed is below 2**64, got 18446744073709551616"),
    (["the", "--threads", "0"], "--threads is a whole number of 1 to 1024, got 0"),
    (["the", "--weights", "w"], "the weights are inside, there is no use for w"),
    (["the", "fox"], "one prompt, please; the second is fox"),
    (["é"], "character 'é' (U+00E9) at position 0 is not in the vocabulary of 28 characters"),
    ([""], "the prompt is empty; give at least 1 token to begin with"),
    (
        ["the", "-n", "38"],
        "3 tokens of prompt and 38 new ones exceed the context of 40; slide (--slide) goes on with "
        "the last half of it",
    ),
    (
        ["t" * 41],
        "the prompt has 41 tokens, the context of 40 has no room for a new one; slide (--slide) "
        "reads its end",
    ),
    (["the", "-n=3"], "unknown option, or one without its value: -n=3"),
    (["the", "--stats=yes"], "there is no value for --stats"),
    (["the", "--slide="], "there is no value for --slide"),
    (["the", "--top-k=0"], "--top-k is a whole number of at least 1, got 0"),
    (["the", "--top-k="], "--top-k is a whole number of at least 1, got "),
    (["the", "--wrong=3"], "unknown option, see --help: --wrong"),
]


@pytest.mark.parametrize(("given", "why"), MISTAKES, ids=[why for _, why in MISTAKES])
def test_mistakes_are_told_in_a_line(program: Path, given: list[str], why: str) -> None:
    code, _, told = ran(program, *given)
    assert (code, told) == (2, f"error: {why}\n")


def test_a_terminal_is_asked_for_a_prompt(program: Path) -> None:
    mine, theirs = pty.openpty()
    found = ran(program, "-n", "3", stdin=theirs)
    os.close(mine)
    os.close(theirs)
    assert found == (2, "", "error: there is no prompt, see --help\n")
    code, usage, _ = ran(program, "--help")
    assert code == 0 and usage.startswith("usage: ") and "--top-k K" in usage


def test_what_cannot_be_read_is_told(program: Path, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    found = ran(program, "-n", "3", stdin=folder)
    os.close(folder)
    assert found == (1, "", "error: cannot read standard input: Is a directory\n")
    found = ran(program, "-n", "3", input=b"th\0e")
    assert found == (2, "", "error: the prompt on standard input has a byte of 0\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("asked", ["the -n 3", "--help", "--version"])
def test_what_cannot_be_written_is_told(program: Path, asked: str) -> None:
    with open("/dev/full", "wb") as full:
        command = [program, *asked.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"error: cannot write: No space left on device\n")


def test_it_needs_the_c_library_only_and_says_what_it_is(program: Path) -> None:
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0].rsplit("/", 1)[-1].split(".")[0] for line in lines.splitlines()}
    assert names <= {"linux-vdso", "libc", "libm", "libpthread", "ld-linux-x86-64",
                     "ld-linux-aarch64"}  # fmt: skip
    assert read_shared(program).facts["vocabulary"] == 28


def test_a_nano_of_int8_is_small(tmp_path: Path) -> None:
    """With all of its weights; the one that README trains has 65 characters."""
    letters = "".join(map(chr, range(32, 96))) + "\n"
    nano = pl.TinyGPT(65, embed_dim=128, num_layers=4, num_heads=4, max_seq_len=64)
    words = pl.CharTokenizer.from_text(letters)
    for target in ("x86-64-v2", "x86-64-v3", "x86-64-v4"):
        pl.Generator(nano, "int8", target=target).save(tmp_path / "nano", words)
        assert nano.count_parameters() < (tmp_path / "nano").stat().st_size < 1_500_000


@pytest.mark.usefixtures("uncached")
def test_the_same_program_has_the_same_bytes(program: Path, tmp_path: Path) -> None:
    pl.Generator(model(), options=OPTIONS).save(tmp_path / "tiny", TOKENIZER)
    assert (tmp_path / "tiny").read_bytes() == program.read_bytes()
    assert [x.name for x in tmp_path.iterdir()] == ["tiny"]


def test_weights_lie_beside_it_or_where_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    pl.Generator(model()).save(path, TOKENIZER, weights="file")
    want = ran(path, "the", "--temperature", "0")
    assert want[0] == 0
    (tmp_path / "tiny.weights").rename(tmp_path / "other")
    given = ["the", "--temperature", "0", "--weights", str(tmp_path / "other")]
    assert ran(path, *given) == want
    code, _, told = ran(path, "the")
    assert code == 1 and told.endswith("tiny.weights: No such file or directory\n")


def test_byte_pairs_are_written_as_they_come(tmp_path: Path) -> None:
    text = "naïve 日本語 the quick brown fox " * 9
    words = pl.BytePairTokenizer.train(text, 300)
    large = pl.TinyGPT(len(words), embed_dim=8, num_layers=1, num_heads=2, max_seq_len=CONTEXT)
    pl.Generator(large).save(tmp_path / "tiny", words)
    ids = large.generate(words.encode("naïve 日"), max_new_tokens=20, seed=5)
    done = subprocess.run([tmp_path / "tiny", "naïve 日", "-n", "20", "--seed", "5"],
                          capture_output=True, check=True)  # fmt: skip
    want = b"".join(words.piece(int(x)) for x in ids)
    assert done.stdout == "naïve 日".encode() + want + b"\n"


def test_words_of_llama_3_are_continued(tmp_path: Path) -> None:
    """A prompt has its start token, and words are cut and found whole as the library does."""
    pytest.importorskip("tokenizers", reason="the extra planish[bpe] is not installed")
    words = LibraryTokenizer(json.dumps(later()))
    large = pl.TinyGPT(len(words), embed_dim=8, num_layers=1, num_heads=2, max_seq_len=CONTEXT)
    pl.Generator(large).save(tmp_path / "tiny", words)
    prompt = "'Sit zebra: 999\r\n"
    given = words.prompt(prompt)
    assert given[0] == len(words) - 2 and not np.isin(given[0], given[1:])
    ids = large.generate(given, max_new_tokens=9, seed=5)
    done = subprocess.run([tmp_path / "tiny", prompt, "-n", "9", "--seed", "5"],
                          capture_output=True, check=True)  # fmt: skip
    assert done.stdout.decode("utf-8", "replace") == prompt + words.decode(ids) + "\n"


def test_stories_are_those_that_llama2c_documents(tmp_path: Path, data_dir: Path) -> None:
    loaded, _ = pl.load_model(data_dir / "stories260K.bin")
    words = pl.read_tokenizer(data_dir / "tok512.bin")
    pl.Generator(loaded).save(tmp_path / "stories", words)
    found = ran(tmp_path / "stories", "", "-n", "200", "--temperature", "0")
    assert found == (0, STORY + "\n", "")


def test_a_program_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(pl.ArtifactError, match=r"needs a tokenizer: name one \(--tokenizer FILE\)"):
        pl.Generator(model()).save(tmp_path / "tiny")
