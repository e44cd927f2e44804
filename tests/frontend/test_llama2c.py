"""llama2.c's checkpoints: the text that llama2.c documents, and what bad files get."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish as pl
from planish.frontend.cli.entry import run
from planish.frontend.formats.llama2c import HEADER, is_llama2c
from planish.ir.errors import ArtifactError, UnsupportedError

# what `run stories260K.bin -z tok512.bin -t 0.0 -n 200` prints, by llama2.c's own test
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high.\nLily's "
    "mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. She said, "
    "\"I want to play with your ball, but I can't find it.\"\nLily was sad and didn't know what to "
    "do. She said, \"I'm sorry, Lily. I didn't know what to do.\"\nLily didn't want to help her "
    "mom, so she"
)
SIZES = {"width": 8, "hidden": 12, "layers": 2, "heads": 4, "groups": 2, "vocab": 20, "context": 16}


def arrays(tied: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights in llama2.c's names."""
    w, h, n, v = (SIZES[x] for x in ("width", "hidden", "layers", "vocab"))
    keys = w // SIZES["heads"] * SIZES["groups"]
    shapes = {
        "embedding": (v, w), "rms_att": (n, w), "wq": (n, w, w), "wk": (n, keys, w),
        "wv": (n, keys, w), "wo": (n, w, w), "rms_ffn": (n, w), "w1": (n, h, w), "w2": (n, w, h),
        "w3": (n, h, w), "rms_final": (w,), "freq_cis": (SIZES["context"], 2),
        **({} if tied else {"classifier": (v, w)}),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(x, np.float32) for name, x in shapes.items()}


NEW_ORDER = ("rms_att", "rms_ffn", "rms_final", "embedding", "wq", "wk", "wv", "wo", "w1", "w2",
             "w3", "classifier")  # fmt: skip


def packed(weights: dict[str, np.ndarray], version: int = 0, **changes: int) -> bytes:
    """A checkpoint of llama2.c, as its export.py writes it."""
    sizes = {**SIZES, **changes}
    tied = "classifier" not in weights
    if version == 0:
        sizes["vocab"] *= 1 if tied else -1
        return HEADER.pack(*sizes.values()) + b"".join(x.tobytes() for x in weights.values())
    head = struct.pack("<Ii", 0x616B3432, version) + HEADER.pack(*sizes.values()) + bytes([tied])
    body = b"".join(weights[x].tobytes() for x in NEW_ORDER if x in weights)
    return head.ljust(256, b"\0") + body


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


def test_stories260k_writes_the_documented_text(data_dir: Path) -> None:
    model, none = pl.load_model(data_dir / "stories260K.bin")
    tokenizer = pl.read_tokenizer(data_dir / "tok512.bin")
    assert none is None and model.count_parameters() == 260_032
    told: list[str] = []
    text = pl.generate_text(model, tokenizer, "", 200, temperature=0, stream=told.append)
    assert text == STORY == "".join(told) and len(tokenizer.encode(STORY)) == 200
    more = pl.generate_text(model, tokenizer, "Once upon a", 20, temperature=0)
    assert len(more) > 40 and STORY.startswith("Once upon a" + more)


def test_the_same_at_the_command_line(
    data_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    story, words = str(data_dir / "stories260K.bin"), str(data_dir / "tok512.bin")
    given = ["--prompt", "", "--temperature", "0", "-n", "30"]
    assert run(["generate", story, "--tokenizer", words, *given]) == 0
    out = capsys.readouterr().out
    assert STORY.startswith(out.removesuffix("\n")) and len(out) > 60
    assert run(["generate", story, *given]) == 2
    assert "has no tokenizer; name one with --tokenizer" in capsys.readouterr().err
    assert run(["info", story]) == 0
    assert "260,032" in capsys.readouterr().out
    assert run(["graph", story, "--out", str(tmp_path / "g.txt")]) == 0
    assert run(["compare", story, "--pipelines", "O2", "--seconds", "0.01"]) == 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("version", [0, 1])
def test_weights_come_where_they_belong(path: Path, tied: bool, version: int) -> None:
    weights = arrays(tied)
    path.write_bytes(packed(weights, version))
    model = pl.TinyGPT.from_pretrained(path)
    state = model.state_dict()
    assert model.config["tie_head"] is tied and ("lm_head.weight" in state) is not tied
    stacked = np.concatenate([weights[x][1] for x in ("wq", "wk", "wv")])
    np.testing.assert_array_equal(state["h.1.attn.c_attn.weight"], stacked)
    for ours, theirs in (
        ("wte.weight", weights["embedding"]), ("ln_f.weight", weights["rms_final"]),
        ("h.0.ln_1.weight", weights["rms_att"][0]), ("h.1.mlp.c_fc.weight", weights["w3"][1]),
        ("h.1.mlp.c_gate.weight", weights["w1"][1]), ("h.0.mlp.c_proj.weight", weights["w2"][0]),
    ):  # fmt: skip
        np.testing.assert_array_equal(state[ours], theirs)
    if not tied:
        np.testing.assert_array_equal(state["lm_head.weight"], weights["classifier"])


def test_weights_stay_in_the_file(path: Path) -> None:
    path.write_bytes(packed(arrays(True)))
    state = pl.TinyGPT.from_pretrained(path).state_dict()
    assert not state["wte.weight"].flags.owndata and not state["wte.weight"].flags.writeable
    assert np.shares_memory(state["h.0.mlp.c_fc.weight"], state["h.0.mlp.c_fc.weight"].base)


def test_options_win(path: Path) -> None:
    path.write_bytes(packed(arrays(True)))
    assert pl.TinyGPT.from_pretrained(path, dropout=0.25).config["dropout"] == 0.25


WHOLE = packed(arrays(True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE[:-1], "speaks of 4,796 bytes, the file has 4,795"),
        (WHOLE + b"\0" * 4, "speaks of 4,796 bytes, the file has 4,800"),
        (WHOLE[:30], "the file has 30"),
        (packed(arrays(True), context=2**24), "the file has 4,796"),
        (packed(arrays(True), layers=2**24, hidden=2**24, width=2**24), "the file has 4,796"),
        (packed(arrays(False))[:-80], "the file has"),
        (packed(arrays(True), 1)[:200], "cut inside of its header"),
        (packed(arrays(True), 1)[:-4], "speaks of 4,896 bytes, the file has 4,892"),
        (packed(arrays(True), 1, heads=0), "no header of llama2.c"),
        (packed(arrays(True), 1, layers=-1), "no header of llama2.c"),
        (packed(arrays(True), 1, heads=3), "the file has|num_heads=3 does not divide"),
        (packed(arrays(True), heads=3), "not a model"),
        (packed(arrays(True), layers=-2), "not a model"),
        (b"", "not a model"),
        (b"just text, and more of it" * 9, "not a model"),
        (b"PK\3\4" + b"\0" * 99, "not a model"),
    ],
)
def test_bad_files_are_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"model\.bin: .*({message})"):
        pl.load_model(path)


def test_quantized_checkpoints_are_refused(path: Path) -> None:
    path.write_bytes(packed(arrays(True), 2))
    with pytest.raises(UnsupportedError, match=r"model\.bin: llama2.c's format 2; formats 0 and 1"):
        pl.load_model(path)


@pytest.mark.parametrize("head", [b"", b"x" * 27, b"x" * 28, bytes(28)])
def test_what_is_no_header(head: Any) -> None:
    assert not is_llama2c(head)
