"""GGUF: round trips, llama.cpp and its tools as judges where they are installed, bad files."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import planish as pl
from planish.frontend.cli.entry import run
from planish.frontend.formats.gguf_blocks import KINDS, NAMED, WRITTEN, Kind
from planish.frontend.formats.gguf_file import read_gguf, write_gguf
from planish.frontend.text import CharTokenizer
from planish.frontend.tokenizers.bpe import BytePairTokenizer
from planish.ir.errors import ArtifactError, DataError, UnsupportedError

TEXT = "First Citizen: Before we proceed any further, hear me speak. " * 9
TOKENIZER = BytePairTokenizer.train(TEXT, 280)
LLAMA = {"positions": "rope", "norm": "rms", "mlp": "swiglu", "bias": False, "num_kv_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {}, "gpt2 untied": {"tie_head": False, "norm_eps": 1e-6, "bias": False},
    "llama": LLAMA, "llama untied": {**LLAMA, "tie_head": False, "rope_base": 500.0},
    "llama interleaved": {**LLAMA, "rope_interleaved": True, "hidden_dim": 40},
    "llama linear": {**LLAMA, "head_dim": 10, "attn_bias": True,
                     "rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "llama 3": {**LLAMA, "head_dim": 16, "mlp_bias": True, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}},
}  # fmt: skip
IDS = TOKENIZER.encode("First Citizen: speak.")


def model_of(vocab: int = len(TOKENIZER), **options: Any) -> pl.TinyGPT:
    """A small model with opinions."""
    model = pl.TinyGPT(vocab, 32, 2, 4, 64, dropout=0.0, **options)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.array = (p.array + 0.1 * rng.standard_normal(p.array.shape)).astype(np.float32)
    return model


def logits(model: pl.TinyGPT) -> np.ndarray:
    return pl.compile(model, pl.spec((1, len(IDS)), "i32"))(IDS[None])[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "apart"), [("f32", 1e-5), ("f16", 5e-3), ("q8_0", 0.1)])
def test_what_is_saved_comes_back(tmp_path: Path, family: str, dtype: str, apart: float) -> None:
    model, path = model_of(**FAMILIES[family]), tmp_path / "m.gguf"
    kinds = model.save_gguf(path, dtype, TOKENIZER)
    assert {kinds["blk.0.attn_norm.weight"], kinds["blk.0.ffn_up.weight"]} == {"f32", dtype}
    found, tokenizer = pl.load_model(path)
    assert tokenizer == TOKENIZER
    for name in ("norm_eps", "rope_base", "tie_head", "max_seq_len", "embed_dim"):
        assert found.config[name] == model.config[name]
    wanted = logits(model)
    assert np.abs(logits(found) - wanted).max() < apart * np.abs(wanted).max()
    kept = found.save_gguf(tmp_path / "again.gguf", dtype, TOKENIZER)
    assert kept == kinds
    if dtype in ("f32", "f16"):
        assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


def test_odd_rows_are_stored_as_f16(tmp_path: Path) -> None:
    kinds = model_of(**LLAMA, hidden_dim=40).save_gguf(tmp_path / "m.gguf", "q4_0")
    assert kinds["blk.0.ffn_down.weight"] == "f16" and kinds["blk.0.ffn_up.weight"] == "q4_0"
    assert pl.load_model(tmp_path / "m.gguf")[1] is None


def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    model_of().save_gguf(tmp_path / "m.gguf", "f32")
    state = pl.TinyGPT.from_pretrained(tmp_path / "m.gguf").state_dict()
    assert not any(x.flags.owndata or x.flags.writeable for x in state.values())


def test_stories_go_through_every_kind(tmp_path: Path, data_dir: Path) -> None:
    """The tokenizer comes along; 8 bits tell the same beginning."""
    model = pl.TinyGPT.from_pretrained(data_dir / "stories260K.bin")
    tokenizer = pl.read_tokenizer(data_dir / "tok512.bin")
    path = tmp_path / "s.gguf"
    for dtype in ("f32", "f16", "q8_0"):
        model.save_gguf(path, dtype, tokenizer)
        found, words = pl.load_model(path)
        told = pl.generate_text(found, words, "", 30, temperature=0)
        assert told == pl.generate_text(model, tokenizer, "", 30, temperature=0)
    assert words.encode("naïve").tolist() == tokenizer.encode("naïve").tolist()


def test_padding_of_a_vocabulary_is_no_token(tmp_path: Path) -> None:
    model_of(320).save_gguf(tmp_path / "m.gguf", "f32", TOKENIZER)
    found, tokenizer = pl.load_model(tmp_path / "m.gguf")
    assert tokenizer == TOKENIZER and found.config["vocab_size"] == 320


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    model_of().save_gguf(path, "q8_0", TOKENIZER)
    assert run(["generate", str(path), "--prompt", "First", "-n", "3", "--temperature", "0"]) == 0
    assert run(["info", str(path)]) == 0
    assert "GGUF" in capsys.readouterr().out


# numbers in blocks

NUMBERS = st.floats(-1e4, 1e4, width=32)


@given(hnp.arrays(np.float32, (2, 64), elements=NUMBERS))
def test_blocks_are_near_what_they_hold(x: np.ndarray) -> None:
    largest = np.abs(x.reshape(-1, 32)).max(-1).repeat(32).reshape(x.shape)
    for name, steps in (("q8_0", 127), ("q4_0", 8)):
        kind = NAMED[name]
        raw = np.frombuffer(WRITTEN[name](x), np.uint8)
        assert len(raw) == x.size // kind.block * kind.size
        apart = np.abs(kind.decode(raw, x.shape) - x)
        assert (apart <= largest * (1.02 / steps) + 1e-4).all()


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_blocks_have_the_bytes_of_the_gguf_package(name: str) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf, the judge, is not installed")
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    x[0] = 0
    wanted = gguf.quants.quantize(x, getattr(gguf.GGMLQuantizationType, name.upper()))
    assert WRITTEN[name](x) == wanted.tobytes()
    found = NAMED[name].decode(np.frombuffer(wanted.tobytes(), np.uint8), x.shape)
    theirs = gguf.quants.dequantize(wanted, getattr(gguf.GGMLQuantizationType, name.upper()))
    np.testing.assert_array_equal(found, theirs)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_any_bytes_are_the_numbers_of_the_gguf_package(kind: Kind) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf, the judge, is not installed")
    theirs = gguf.GGMLQuantizationType[kind.name.upper()]
    assert (theirs, gguf.GGML_QUANT_SIZES[theirs]) == (kind.code, (kind.block, kind.size))
    rng = np.random.default_rng(kind.code)
    raw = rng.integers(0, 256, (6, 4 * kind.size), np.uint8)
    with np.errstate(all="ignore"):  # some scales are infinite, or none
        wanted = gguf.quants.dequantize(raw, theirs)
        found = kind.decode(raw.reshape(-1), (6, 4 * kind.block))
    np.testing.assert_array_equal(found.astype(np.float32), wanted)


# llama.cpp


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_runs_ours(tmp_path: Path, family: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model, path = model_of(**FAMILIES[family]), tmp_path / "m.gguf"
    model.save_gguf(path, "f32", TOKENIZER)
    theirs = llama_cpp.Llama(str(path), logits_all=True, n_ctx=64, verbose=False, n_threads=1)
    assert theirs.tokenize(b"First Citizen: speak.", add_bos=False) == IDS.tolist()
    theirs.eval(IDS.tolist())
    wanted, found = logits(model), np.array(theirs.scores[: len(IDS)])
    assert (
        np.abs(found - wanted).max() < 2e-3 * np.abs(wanted).max()
    )  # their GELU is a table in f16


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_we_read_what_llama_cpp_quantizes(tmp_path: Path, name: str) -> None:
    """Its tool puts q6_k and others beside what it is asked for; numbers are those of gguf."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    gguf = pytest.importorskip("gguf", reason="the package gguf, the judge, is not installed")
    model = pl.TinyGPT(len(TOKENIZER), 256, 1, 4, 32, dropout=0.0, **{**LLAMA, "hidden_dim": 256})
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    model.save_gguf(ours, "f32", TOKENIZER)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    paths = str(ours).encode(), str(theirs).encode()
    assert llama_cpp.llama_model_quantize(*paths, ctypes.byref(options)) == 0
    found, judge = read_gguf(theirs).tensors, gguf.GGUFReader(theirs).tensors
    kinds = {x.kind.name for x in found.values()}
    assert {"f32", name[:4].lower()} <= kinds and "f16" not in kinds
    for tensor in judge:
        wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(found[tensor.name].read(), wanted)
    loaded, tokenizer = pl.load_model(theirs)
    wanted = logits(model)
    assert tokenizer == TOKENIZER
    assert np.abs(logits(loaded) - wanted).max() < 0.2 * np.abs(wanted).max()


def test_we_read_what_the_gguf_package_writes(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf, the judge, is not installed")
    model_of().save_gguf(tmp_path / "ours.gguf", "f32", TOKENIZER)
    ours = read_gguf(tmp_path / "ours.gguf")
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "gpt2")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_feed_forward_length(128)
    writer.add_layer_norm_eps(1e-5)
    writer.add_string("general.description", "naïve")
    writer.add_array("general.tags", ["a", "b"])
    for name, tensor in ours.tensors.items():
        writer.add_tensor(name, np.array(tensor.read()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = pl.TinyGPT.from_pretrained(tmp_path / "theirs.gguf").state_dict()
    for name, array in pl.TinyGPT.from_pretrained(tmp_path / "ours.gguf").state_dict().items():
        np.testing.assert_array_equal(found[name], array)


# what is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mlp": "gelu_erf"}, "not mlp='gelu_erf'"),
        ({"scale_by_layer": True}, "scale_by_layer=True"),
        ({"positions": "sinusoidal"}, "not as gpt2 for its positions='sinusoidal'"),
    ],
)
def test_models_that_llama_cpp_would_run_otherwise(
    tmp_path: Path, options: dict, words: str
) -> None:
    with pytest.raises(UnsupportedError, match=words):
        model_of(**options).save_gguf(tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dtype is one of f32, f16, q4_0, q8_0, bf16, got 'q6_k'"):
        model_of().save_gguf(tmp_path / "m.gguf", "q6_k")
    with pytest.raises(DataError, match="has no form in GGUF"):
        model_of(2).save_gguf(tmp_path / "m.gguf", "f16", CharTokenizer("ab"))
    for number in (np.nan, 1e5):
        model = model_of()
        model.ln_f.weight.array = np.full(32, number, np.float32)
        model.save_gguf(tmp_path / "m.gguf", "q8_0")
        model.h[1].mlp.c_fc.weight.array = np.full((128, 32), number, np.float32)
        with pytest.raises(DataError, match=r"c_fc\.weight has numbers that q8_0 has not"):
            model.save_gguf(tmp_path / "m.gguf", "q8_0")
    with pytest.raises(DataError, match="the tokenizer has 280 tokens, the model 100"):
        model_of(100).save_gguf(tmp_path / "m.gguf", "f16", TOKENIZER)


FACTS = {
    "general.architecture": "gpt2", "gpt2.context_length": 8, "gpt2.embedding_length": 32,
    "gpt2.block_count": 1, "gpt2.attention.head_count": 2, "gpt2.feed_forward_length": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        ({"general.architecture": "bloom"}, UnsupportedError, "is 'bloom'; gpt2 and llama"),
        ({"gpt2.expert_count": 8}, UnsupportedError, "does not know: gpt2.expert_count=8"),
        ({"gpt2.block_count": 0}, ArtifactError, "gpt2.block_count is a positive integer, got 0"),
        ({"gpt2.block_count": 2**31}, ArtifactError, "num_layers=2147483648 is more than"),
        ({"gpt2.attention.layer_norm_epsilon": "x"}, ArtifactError, "a number of at least 0"),
        ({"gpt2.embedding_length": 2**28}, ArtifactError, "wrong shape: token_embd.weight"),
        ({}, ArtifactError, "missing: blk.0.attn_qkv.weight"),
        ({}, ArtifactError, "unexpected: more"),
    ],
)
def test_facts_that_do_not_fit(
    tmp_path: Path, facts: dict, kind: type[Exception], words: str
) -> None:
    zeros = np.zeros((5, 32), np.float32)
    tensors = {"token_embd.weight": (zeros, NAMED["f32"]), "more": (zeros, NAMED["q8_0"])}
    write_gguf(tmp_path / "m.gguf", {**FACTS, **facts}, tensors)
    with pytest.raises(kind, match=rf"(?s)m\.gguf: .*{words}"):
        pl.TinyGPT.from_pretrained(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'; planish has none and"),
        ({"rope.scaling.factor": 2.0}, "does not know: llama.rope.scaling.factor=2.0"),
        ({"attention.value_length": 4}, "llama.attention.value_length is 4; planish has 8 only"),
    ],
)
def test_facts_of_llama_that_are_refused(tmp_path: Path, facts: dict, words: str) -> None:
    path = tmp_path / "m.gguf"
    model_of(**LLAMA).save_gguf(path, "f32")
    file = read_gguf(path)
    changed = {**file.facts, **{f"llama.{name}": value for name, value in facts.items()}}
    write_gguf(path, changed, {n: (x.read(), NAMED["f32"]) for n, x in file.tensors.items()})
    with pytest.raises(UnsupportedError, match=words):
        pl.TinyGPT.from_pretrained(path)


def header(*parts: bytes, tensors: int = 0, facts: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, facts) + b"".join(parts)


def word(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def info(name: bytes, sizes: list[int], kind: int = 0, offset: int = 0) -> bytes:
    head = word(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
    return head + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"GGUF", ArtifactError, "cut: the version takes 4 bytes, 0 are left"),
        (header(version=1), UnsupportedError, "GGUF of version 1; 2 and 3 are read"),
        (header(version=3 << 24), UnsupportedError, "little endian"),
        (header(facts=2**63), ArtifactError, "cut: a key takes"),
        (header(tensors=2**64 - 1), ArtifactError, "cut: the name of a tensor takes"),
        (header(struct.pack("<Q", 2**63), facts=1), ArtifactError, "a key takes 9,223,372"),
        (header(word(b"\xff"), facts=1), ArtifactError, "a key is not UTF-8"),
        (header(word(b"a"), struct.pack("<I", 13), facts=1), ArtifactError, "unknown type 13"),
        (header(word(b"a"), struct.pack("<IIQ", 9, 8, 2**61), facts=1), ArtifactError, "strings"),
        (header(word(b"a"), struct.pack("<IIQ", 9, 4, 2**62), facts=1), ArtifactError, "cut: 'a'"),
        (header(word(b"a"), struct.pack("<IIQ", 9, 9, 1), facts=1), ArtifactError, "type 9"),
        (header(*[word(b"a") + struct.pack("<IB", 0, 1)] * 2, facts=2), ArtifactError, "'a' st"),
        (header(info(b"a", [2**40]), tensors=1), ArtifactError, "cut: tensor 'a' ends at"),
        (header(info(b"a", [2**63, 2**63]), tensors=1), ArtifactError, "cut: tensor 'a' ends at"),
        (header(info(b"a", []), tensors=1), ArtifactError, "'a' has 0 axes"),
        (header(info(b"a", [1] * 5), tensors=1), ArtifactError, "'a' has 5 axes"),
        (header(info(b"a", [0]), tensors=1), ArtifactError, r"of f32 has the sizes \[0\]"),
        (header(info(b"a", [31], 8), tensors=1), ArtifactError, r"of q8_0 has the sizes \[31\]"),
        (header(info(b"a", [32], 99), tensors=1), UnsupportedError, "of ggml's kind 99; f32, f16"),
        (header(info(b"a", [1], 0, 8), tensors=1), ArtifactError, "is at 8, the one before"),
        (header(info(b"a", [8]), info(b"b", [8]), b"\0" * 99, tensors=2), ArtifactError, "'b' is"),
        (header(*[info(b"a", [8])] * 2, tensors=2), ArtifactError, "tensor 'a' stands twice"),
        (header(b"\0" * 99), ArtifactError, "bytes follow the last tensor"),
        (header(word(b"general.alignment"), struct.pack("<II", 4, 7), facts=1), ArtifactError,
         "general.alignment is 7"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(
    tmp_path: Path, content: bytes, kind: type[Exception], words: str
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(kind, match=rf"m\.gguf: .*{words}"):
        pl.load_model(path)


def test_row_64_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    model_of(40).save_gguf(path, "q4_0")
    whole = path.read_bytes()
    for at in {*range(40), *np.random.default_rng(0).integers(40, len(whole) - 32, 60).tolist()}:
        path.write_bytes(whole[:at])
        with pytest.raises(ArtifactError, match=r"m\.gguf: (no whole GGUF file|not a model)"):
            pl.load_model(path)


def test_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    model_of().save_gguf(path, "f32", TOKENIZER)
    file = read_gguf(path)
    tensors = {n: (x.read(), NAMED["f32"]) for n, x in file.tensors.items()}
    for facts, kind, words in (
        ({"pre": "dbrx"}, UnsupportedError, "its tokenizer is 'gpt2', cut like 'dbrx'; gpt2 cut"),
        ({"pre": "llama3", "token_type": 3}, ArtifactError, "no type for each token"),
        ({"model": "bert"}, UnsupportedError, "its tokenizer is 'bert'"),
        ({"merges": ["x"]}, ArtifactError, "merge 1 is two texts"),
        ({"tokens": 3}, ArtifactError, "no list of tokens"),
        ({"model": "llama"}, ArtifactError, "no score for each token"),
    ):
        changed = {**file.facts, **{f"tokenizer.ggml.{n}": x for n, x in facts.items()}}
        write_gguf(path, changed, tensors)
        assert pl.TinyGPT.from_pretrained(path).config["vocab_size"] == len(TOKENIZER)
        with pytest.raises(kind, match=words):
            pl.load_model(path)
