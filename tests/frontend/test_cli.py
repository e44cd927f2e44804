"""The command line: what commands do, what they print where, and how they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.checkpoint import read_file
from planish.frontend.cli.entry import COMMANDS, run
from planish.frontend.pretrained import load_model
from planish.frontend.text import CharTokenizer
from planish.frontend.tokenizers.bpe import BytePairTokenizer

TEXT = "To flatten and smooth metal by hammering. " * 12
TINY = ["--width", "16", "--layers", "1", "--heads", "2", "--context", "16", "--batch", "2"]
PLANISH = [sys.executable, "-m", "planish"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "my book.txt"
    path.write_text(TEXT, "utf-8")
    return path


@pytest.fixture(scope="module")
def model(text: Path) -> Path:
    path = text.with_name("model.safetensors")
    made = pl.TinyGPT(19, 16, 1, 2, 16, dropout=0.0)
    pl.save(made, path, CharTokenizer.from_text(TEXT))
    return path


def failing(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    """The one line that a command line that fails says, on standard error."""
    assert run(list(map(str, arguments))) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err.strip()


def test_the_example_text_has_the_models_vocabulary() -> None:
    assert len(CharTokenizer.from_text(TEXT)) == 19


# train


def test_train_and_resume(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    assert run(["train", "--text", str(text), "--steps", "6", "--out", str(whole), *TINY]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("6 steps in ") and "validation" in out and str(whole) in out
    assert err == ""  # not a terminal: no progress bar
    trained, tokenizer = load_model(whole)
    assert tokenizer == CharTokenizer.from_text(TEXT) and trained.config["max_seq_len"] == 16
    assert run(["train", "--text", str(text), "--steps", "6", "--out", str(whole), *TINY,
                "--resume"]) == 0  # fmt: skip
    assert capsys.readouterr().out.startswith("0 steps in ")
    other = failing(capsys, "train", "--out", whole, "--steps", 9, *TINY, "--resume")
    assert "was trained with other tokens" in other
    less = failing(capsys, "train", "--text", text, "--out", whole, "--steps", 5, *TINY, "--resume")
    assert "has had 6 steps already, --steps is 5" in less
    missing = failing(capsys, "train", "--text", text, "--out", parts, "--steps", 5, "--resume")
    assert missing == f"planish: no such file: {parts}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (b"", "empty; at least 2 characters are needed to train"),
        (b"too short", "has 8 tokens; a context of 16 needs at least 17"),
        (b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "repeats one character, 'a': nothing to learn"),
        (b"abc\xff" * 20, "not UTF-8 at byte 3"),
        (b"\xef\xbb\xbfabc" * 20, "a byte order mark at byte 0"),
    ],
)
def test_texts_that_are_refused(
    words: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(words)
    line = failing(capsys, "train", "--text", path, "--out", tmp_path / "m.safetensors", *TINY)
    assert message in line
    assert not (tmp_path / "m.safetensors").exists()


def test_train_in_bf16(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of float32 that are near those of a training in float32, but not the same."""
    paths = tmp_path / "wide.safetensors", tmp_path / "mixed.safetensors"
    for path, options in zip(paths, ([], ["--bf16"]), strict=True):
        given = ["--text", str(text), "--steps", "3", "--out", str(path), *TINY, *options]
        assert run(["train", *given]) == 0
    capsys.readouterr()
    wide, mixed = (load_model(path)[0].state_dict() for path in paths)
    assert {x.dtype for x in mixed.values()} == {np.dtype(np.float32)}
    apart = max(np.abs(x - mixed[name]).max() for name, x in wide.items())
    assert 0 < apart < 0.01


def test_bad_options_of_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.safetensors"
    assert "is a folder" in failing(capsys, "train", "--out", tmp_path)
    assert "there is no folder" in failing(capsys, "train", "--out", tmp_path / "no" / "m")
    assert "no.txt" in failing(capsys, "train", "--out", out, "--text", tmp_path / "no.txt")
    wrong = failing(capsys, "train", "--out", out, "--width", 10, "--heads", 4)
    assert "num_heads=4 does not divide embed_dim=10" in wrong
    assert "threads must be a whole number" in failing(capsys, "train", "--out", out, *TINY,
                                                       "--threads", 0)  # fmt: skip


def test_train_by_byte_pairs(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    wanted = ["train", "--text", str(text), "--out", str(out), *TINY, "--tokenizer", "bpe"]
    assert run([*wanted, "--vocab", "270", "--steps", "2"]) == 0
    model, tokenizer = load_model(out)
    assert tokenizer == BytePairTokenizer.train(TEXT[: len(TEXT) * 9 // 10], 270)
    assert model.config["vocab_size"] == 270
    assert run([*wanted, "--vocab", "270", "--steps", "2", "--resume"]) == 0
    capsys.readouterr()
    assert run(["generate", str(out), "--prompt", "To ☃", "-n", "4", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("To ☃")
    other = failing(capsys, *wanted, "--vocab", 271, "--steps", 9, "--resume")
    assert "was trained with other tokens" in other
    assert "vocab_size is at least 256" in failing(capsys, *wanted, "--vocab", 9)
    given = ["train", "--out", out, *TINY, "--vocab", 300]
    assert "--vocab goes with --tokenizer bpe" in failing(capsys, *given)


def test_train_accumulates(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    wanted = ["train", "--text", str(text), "--out", str(out), "--steps", "2", *TINY]
    assert run([*wanted, "--accumulate", "2"]) == 0
    assert json.loads(read_file(out).metadata["planish.training"])["accumulate"] == 2
    assert run([*wanted, "--accumulate", "0"]) == 2


# generate


def test_generate(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["generate", str(model), "--prompt", "To ", "-n", "9", "--seed", "4"]
    assert run(wanted) == 0
    first = capsys.readouterr()
    assert first.err == "" and len(first.out) == 3 + 9 + 1 and first.out.startswith("To ")
    assert run([*wanted, "--pipeline", "O1", "--threads", "1"]) == 0
    assert capsys.readouterr().out == first.out
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(CharTokenizer.from_text(TEXT).to_json(), "utf-8")
    assert run([*wanted, "--tokenizer", str(tokenizer)]) == 0
    assert capsys.readouterr().out == first.out
    assert run(["generate", str(model), "--prompt", "T", "-n", "40", "--slide"]) == 0
    assert len(capsys.readouterr().out) == 42
    assert run(["generate", str(model), "--prompt", "To flatten", "--temperature", "0"]) == 0
    assert len(capsys.readouterr().out) == 16 + 1
    assert run([*wanted, "-n", "0"]) == 0
    assert capsys.readouterr().out == "To \n"


def test_generate_as_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["generate", str(model), "--prompt", "To ", "-n", "9", "--seed", "4"]
    options = ["--min-p", "0.1", "--repetition-penalty", "1.2"]
    assert run([*wanted, *options]) == 0
    text = capsys.readouterr().out
    assert run([*wanted, *options, "--threads", "1", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == "" and found["prompt"] + found["text"] + "\n" == text
    tokenizer = CharTokenizer.from_text(TEXT)
    assert tokenizer.decode(found["tokens"]) == found["text"] and len(found["tokens"]) == 9
    assert found["seconds"] > 0 and found["tokens_per_second"] == 9 / found["seconds"]
    assert found["threads"] == 1 and found["model"] == str(model)
    assert run([*wanted, "--json", "--stop", found["text"][0]]) == 0
    assert json.loads(capsys.readouterr().out)["tokens_per_second"] >= 0


def test_bad_options_of_generate(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*options: object) -> str:
        return failing(capsys, "generate", model, *options)

    assert "character 'Z' (U+005A) at position 0" in told("--prompt", "Z")
    assert "the prompt is empty" in told("--prompt", "")
    assert "has room for 14 more tokens, not for 50; --slide" in told("--prompt", "To", "-n", 50)
    assert "max_new_tokens is at least 0, got -1" in told("--prompt", "To", "-n", -1)
    assert "temperature is a finite number" in told("--prompt", "T", "--temperature", "nan")
    assert "top_k is at least 1" in told("--prompt", "To", "--top-k", 0)
    assert "0 <= min_p <= 1, got 2.0" in told("--prompt", "To", "--min-p", 2)
    assert "above 0" in told("--prompt", "To", "--repetition-penalty", -1, "--json")
    assert "unknown pipeline or pass 'O7'" in told("--prompt", "To", "--pipeline", "O7")
    assert "'x' is not a valid integer" in told("--prompt", "To", "-n", "x")
    assert "not a" in told("--prompt", "To", "--tokenizer", text)
    bare = tmp_path / "bare.safetensors"
    pl.save(pl.TinyGPT(19, 16, 1, 2, 16), bare)
    assert "has no tokenizer" in failing(capsys, "generate", bare, "--prompt", "To")
    assert "not a model" in failing(capsys, "generate", text, "--prompt", "To")
    assert failing(capsys, "generate", "no.safetensors", "--prompt", "x") == (
        "planish: no such file: no.safetensors"
    )


# graph, compare, info


def test_graph(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["graph", str(model), "--out", "-"]) == 0
    printed = capsys.readouterr().out
    assert pl.parse(printed).name == "TinyGPT"
    for name, options in (
        ("traced.txt", []),
        ("expanded.txt", ["--after", "expand"]),
        ("fused.txt", ["--pipeline", "O2"]),
        ("decode.dot", ["--pipeline", "O2", "--of", "decode"]),
    ):
        assert run(["graph", str(model), "--out", str(tmp_path / name), *options]) == 0
    assert (tmp_path / "traced.txt").read_text("utf-8") == printed
    assert "layer_norm" not in (tmp_path / "expanded.txt").read_text("utf-8")
    assert "fused" in (tmp_path / "fused.txt").read_text("utf-8")
    assert (tmp_path / "decode.dot").read_text("utf-8").startswith("digraph")
    assert "exclude each other" in failing(
        capsys, "graph", model, "--out", "-", "--after", "cse", "--pipeline", "O1"
    )
    assert "its passes are simplify, fold" in failing(
        capsys, "graph", model, "--out", "-", "--after", "nothing"
    )
    assert "not 'x.jpg'" in failing(capsys, "graph", model, "--out", tmp_path / "x.jpg")


def test_compare(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["compare", str(model), "--pipelines", "O0,O2", "--seconds", "0"]
    assert run([*wanted, "--text", str(text), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = found["rows"]
    assert found["input"] == [1, 16] and first["pipeline"] == "O0"
    assert second["kernels"] < first["kernels"] and second["error"] < 1e-5
    expected = pl.perplexity(*[load_model(model)[0]], load_model(model)[1].encode(TEXT))
    for row in (first, second):
        assert np.isclose(row["perplexity"], expected, rtol=0.02)
    assert run(["compare", str(model), "--pipelines", "O2; simplify,expand", "--seconds", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["pipeline", "O2", "simplify,expand"]
    assert "--pipelines names none" in failing(capsys, "compare", model, "--pipelines", ",")


def test_compare_layers(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["compare", str(model), "--pipelines", "O2,int8", "--seconds", "0", "--layers"]
    assert run([*wanted, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"]["O2"] == [] and found["rows"][1]["weights"] < found["rows"][0]["weights"]
    assert {x["bits"] for x in found["layers"]["int8"]} == {8, 32}
    assert run(wanted) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "no pass of it changes weights" in lines and any(x.startswith("all ") for x in lines)


def test_info(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["planish"] == pl.__version__ and found["threads"] >= 1
    assert run(["info", str(model), "--memory", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["vocab_size"] == 19
    for memory in found["memory"].values():
        assert memory["arena"] >= memory["lower_bound"] > 0
        assert memory["ratio_without_lingering"] <= 1.15
        assert memory["ratio"] == round(memory["arena"] / memory["lower_bound"], 3)
        assert memory["arena"] - memory["lingering"] <= 1.15 * memory["lower_bound"]
    assert found["kv_caches"] == 2 * 16 * 16 * 4
    process = found["process"]
    assert process["peak"] is None or process["peak"] > process["before"] > 0
    assert "train" not in found["memory"]
    assert run(["info", str(model)]) == 0
    assert "parameters" in capsys.readouterr().out
    assert "--memory needs a MODEL" in failing(capsys, "info", "--memory")
    assert "--train is about --memory" in failing(capsys, "info", model, "--train", 2)


# All commands


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert f"Usage: planish {name}" in out and f"\n    planish {name}" in out and err == ""
    assert import_module(f"planish.frontend.cli.{name}").command.name == "command"


def test_help_of_the_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS) and "Examples:" in out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"planish, version {pl.__version__}\n"


def test_warnings_are_one_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    env = {**os.environ, "PLANISH_CACHE": str(tmp_path / "cache")}
    command = [*PLANISH, "generate", str(model), "--prompt", "the", "-n", "3"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"planish: warning: {tmp_path / 'cache'} is not a folder: programs are")


def test_help_imports_little() -> None:
    code = "import sys, planish.frontend.cli; print('numpy' in sys.modules, 'rich' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False False\n"


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(capsys, "generat") == (
        "planish: no such command 'generat'; did you mean generate? (see planish --help)"
    )
    assert "choose from demo, train" in failing(capsys, "xyz")
    assert "--bad" in failing(capsys, "info", "--bad")
    assert "Missing option '--out'" in failing(capsys, "train")
    assert "a seed is an integer of 0 <= s" in failing(capsys, "train", "--out", "x", "--seed", -1)
    assert "Missing argument 'MODEL'" in failing(capsys, "graph", "--out", "-")


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_a_bad_number_of_threads(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANISH_THREADS", text)
    assert "PLANISH_THREADS must be a whole number of at least 1" in failing(capsys, "info")


def test_a_full_disk_is_no_mistake(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device", "x.txt")

    monkeypatch.setattr(Path, "write_text", full)
    line = failing(capsys, "graph", model, "--out", tmp_path / "x.txt", code=1)
    assert line == "planish: x.txt: No space left on device"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_closed_pipe_is_quiet(model: Path) -> None:
    command = [*PLANISH, "graph", str(model), "--out", "-", "--pipeline", "O2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 1 and error == b""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_with_130_and_saves(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    command = [*PLANISH, "train", "--text", str(text), "--out", str(out), "--steps", "100000000",
               "--checkpoint-every", "20", *TINY]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for _ in range(600):
            if out.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.decode().split("\n") == ["", "planish: interrupted", ""]
    assert load_model(out)[0].config["max_seq_len"] == 16


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: planish") and "  train " in out and err == ""


def test_an_unknown_target_is_a_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANISH_TARGET", "vax")
    assert "unknown target 'vax'; known are host" in failing(capsys, "info")
