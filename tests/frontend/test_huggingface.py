"""Hugging Face's folders: numbers of NumPy, round trips, and what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import planish as pl
from planish.frontend.cli.entry import run
from planish.frontend.formats.huggingface import CONFIG, INDEX, SINGLE
from planish.frontend.tokenizers.bpe import BytePairTokenizer
from planish.ir.errors import ArtifactError, UnsupportedError
from tests.frontend import references
from tests.frontend.foreign import GPT2, LLAMA, gpt2_arrays, llama_arrays, write_folder
from tests.frontend.small import small_model

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
TOKENS = np.random.default_rng(1).integers(0, 37, 17).astype(np.int32)


def logits(model: pl.TinyGPT, tokens: np.ndarray = TOKENS, pipeline: str = "O2") -> np.ndarray:
    program = pl.compile(model, pl.spec((1, len(tokens)), "i32"), pipeline=pipeline)
    return program(tokens[None])[0]


def near_reference(found: np.ndarray, reference: Any, *given: Any) -> None:
    """At most 4 times as far from float64 as NumPy in float32 is."""
    exact = reference(*given, TOKENS, np.float64)
    plain = np.abs(reference(*given, TOKENS, np.float32) - exact).max()
    assert 0 < plain < 0.01 * np.abs(exact).max()
    assert np.abs(found - exact).max() <= 4 * plain


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 0.3),
        ({"tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 31}, 0.3),
        ({"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}, 0.3),
        ({"scale_attn_weights": False, "activation_function": "relu"}, 0.2),
        ({"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}, 0.2),
        ({"activation_function": "silu", "n_embd": 35, "n_head": 5, "vocab_size": 41}, 0.3),
        ({"activation_function": "tanh", "layer_norm_epsilon": 1e-3}, 0.3),
        ({"activation_function": "quick_gelu", "n_head": 1}, 0.3),
        ({"tie_word_embeddings": False}, 3.0),
    ],
    ids=str,
)
def test_gpt2_has_the_numbers_of_numpy(tmp_path: Path, options: dict, size: float) -> None:
    config = {**GPT2, **options}
    arrays = gpt2_arrays(config, size)
    model = pl.TinyGPT.from_pretrained(write_folder(tmp_path / "one", config, arrays))
    found = logits(model)
    near_reference(found, references.gpt2, arrays, config)
    sharded = pl.TinyGPT.from_pretrained(write_folder(tmp_path / "two", config, arrays, shards=2))
    np.testing.assert_array_equal(logits(sharded), found)


@pytest.mark.parametrize(
    "options",
    [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 6, "head_dim": None},
     {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 7e3}},
     {"head_dim": 10, "rope_scaling": {"type": "linear", "factor": 2.5}, "rms_norm_eps": 1e-2},
     {"head_dim": 2, "attention_bias": True, "rope_scaling": {"rope_type": "default"}},
     {"head_dim": 12, "rope_scaling": LLAMA3, "mlp_bias": True, "tie_word_embeddings": True},
     {"rope_theta": None, "rope_parameters": {**LLAMA3, "rope_theta": 500.0},
      "head_dim": 14, "attention_bias": True, "mlp_bias": True}],
    ids=str,
)  # fmt: skip
def test_llama_has_the_numbers_of_numpy(tmp_path: Path, options: dict) -> None:
    config = {**LLAMA, **options}
    arrays = llama_arrays(config)
    model = pl.TinyGPT.from_pretrained(write_folder(tmp_path / "one", config, arrays, shards=3))
    near_reference(logits(model), references.llama, arrays, config)
    greedy = model.generate(TOKENS[:5], 6, temperature=0)
    seen = TOKENS[:5].tolist()
    assert len(greedy) == 6
    for token in greedy:
        assert token == references.llama(arrays, config, np.array(seen), np.float64)[-1].argmax()
        seen.append(int(token))


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc")
def test_a_stretched_llama_ships_in_8_bits(tmp_path: Path) -> None:
    options = {"head_dim": 10, "attention_bias": True, "mlp_bias": True, "rope_scaling": LLAMA3}
    config = {**LLAMA, **options}
    model = pl.TinyGPT.from_pretrained(write_folder(tmp_path / "m", config, llama_arrays(config)))
    pl.Generator(model, "int8").save(tmp_path / "m.so")
    told = pl.load(tmp_path / "m.so").generate(TOKENS[:5], 9, temperature=0)
    wanted = model.generate(TOKENS[:5], 9, temperature=0, pipeline="int8")
    np.testing.assert_array_equal(told, wanted)
    assert len(told) == 9


def test_a_scaled_model_writes_what_it_predicts(tmp_path: Path) -> None:
    """The cached step scales like the whole."""
    config = {**GPT2, "scale_attn_by_inverse_layer_idx": True}
    arrays = gpt2_arrays(config)
    model = pl.TinyGPT.from_pretrained(write_folder(tmp_path / "m", config, arrays))
    seen = TOKENS[:4].tolist()
    greedy = model.generate(TOKENS[:4], 8, temperature=0)
    assert len(greedy) == 8
    for token in greedy:
        assert token == references.gpt2(arrays, config, np.array(seen), np.float64)[-1].argmax()
        seen.append(int(token))


# forms that files take


def test_names_without_a_prefix_and_buffers(tmp_path: Path) -> None:
    arrays = gpt2_arrays(GPT2)
    whole = pl.TinyGPT.from_pretrained(write_folder(tmp_path / "a", GPT2, arrays)).state_dict()
    bare = {name.removeprefix("transformer."): x for name, x in arrays.items()}
    bare |= {
        "h.0.attn.bias": np.ones((1, 1, 20, 20), np.uint8),
        "lm_head.weight": bare["wte.weight"],
    }
    bare |= {"h.0.attn.masked_bias": np.array(-1e4, np.float32)}
    found = pl.TinyGPT.from_pretrained(write_folder(tmp_path / "b", GPT2, bare)).state_dict()
    assert list(found) == list(whole)
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_widths_become_float32(tmp_path: Path, dtype: Any) -> None:
    arrays = {name: x.astype(dtype) for name, x in llama_arrays(LLAMA).items()}
    folder = write_folder(tmp_path / "m", LLAMA, {})
    (folder / SINGLE).write_bytes(safetensors.numpy.save(arrays))
    state = pl.TinyGPT.from_pretrained(folder).state_dict()
    assert {x.dtype for x in state.values()} == {np.dtype(np.float32)}
    wanted = arrays["model.embed_tokens.weight"].astype(np.float32)
    np.testing.assert_array_equal(state["wte.weight"], wanted)


def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", LLAMA, llama_arrays(LLAMA))
    state = pl.TinyGPT.from_pretrained(folder).state_dict()
    lying = [name for name, x in state.items() if not x.flags.owndata and x.base is not None]
    assert "wte.weight" in lying and "h.0.mlp.c_fc.weight" in lying


# round trips


@pytest.mark.parametrize(
    "options",
    [
        {}, {"tie_head": False, "mlp": "gelu_erf", "scale_by_layer": True}, {"bias": False},
        {"positions": "rope", "norm": "rms", "mlp": "swiglu", "bias": False, "num_kv_heads": 1},
        {"positions": "rope", "norm": "rms", "mlp": "swiglu", "bias": False, "embed_dim": 16,
         "rope_interleaved": True, "rope_base": 500.0, "tie_head": False, "norm_eps": 1e-6},
        {"positions": "rope", "norm": "rms", "mlp": "swiglu", "head_dim": 6, "num_kv_heads": 1,
         "rope_interleaved": True, "mlp_bias": False, "rope_scaling": LLAMA3},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_saved_comes_back(tmp_path: Path, options: dict) -> None:
    model = small_model(**options)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.array = (p.array + 0.3 * rng.standard_normal(p.array.shape)).astype(np.float32)
    model.save_pretrained(tmp_path / "m")
    found = pl.TinyGPT.from_pretrained(tmp_path / "m")
    given = np.arange(6, dtype=np.int32)
    np.testing.assert_allclose(logits(found, given), logits(model, given), rtol=1e-5, atol=1e-5)
    found.save_pretrained(tmp_path / "again")
    for name in (SINGLE, CONFIG):
        assert (tmp_path / "m" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"positions": "sinusoidal"}, "not as gpt2 for its positions='sinusoidal'; not as llama"),
        (
            {"positions": "rope", "norm": "rms", "mlp": "swiglu", "scale_attn": False},
            "not as llama for its scale_attn=False",
        ),
        (
            {
                "positions": "rope",
                "norm": "rms",
                "mlp": "swiglu",
                "rope_scaling": {"rope_type": "factors", "factors": [1.0, 2.0]},
            },
            "config.json has no word for factors of rotary angles",
        ),
    ],
)
def test_models_that_no_layout_holds(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        small_model(**options).save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_tokenizer_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = BytePairTokenizer.train("ab ab ab", 258)
    model = pl.TinyGPT(258, 8, 1, 2, 16, dropout=0.0)
    model.save_pretrained(tmp_path / "m", tokenizer)
    found, words = pl.load_model(tmp_path / "m")
    assert words == tokenizer and found.config["vocab_size"] == 258
    folder = str(tmp_path / "m")
    assert run(["generate", folder, "--prompt", "ab", "-n", "3", "--temperature", "0"]) == 0
    assert run(["info", folder]) == 0
    assert "Hugging Face" in capsys.readouterr().out
    assert run(["graph", folder, "--out", str(tmp_path / "g.txt")]) == 0
    assert run(["compare", folder, "--pipelines", "O2", "--seconds", "0.01"]) == 0


# what does not fit


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"activation_function": "gelu_10"},
            "activation_function is 'gelu_10'; known are gelu_new",
        ),
        ({"activation_function": 3}, "activation_function is 3"),
        ({"add_cross_attention": True}, "add_cross_attention is True; planish has False only"),
        ({"attn_pdrop": 0.2}, "one rate of dropout, the file has resid_pdrop=0.1, embd_pdrop=0.1"),
        ({"qk_norm": True}, "options that planish does not know: qk_norm=True"),
        ({"model_type": "bloom"}, "model_type is 'bloom'; models of gpt2 and llama are read"),
        ({"model_type": None}, "model_type is None"),
    ],
)
def test_row_75_options_of_gpt2_that_are_refused(tmp_path: Path, options: dict, words: str) -> None:
    folder = write_folder(tmp_path / "m", {**GPT2, **options}, gpt2_arrays(GPT2))
    with pytest.raises(UnsupportedError, match=rf"config\.json: .*{words}"):
        pl.TinyGPT.from_pretrained(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; known are silu, swish"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type is 'dynamic'; known are def"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'; known are default, lin"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 8.0}}, "rope_type is 'longrope'"),
        ({"rope_scaling": {**LLAMA3, "type": "linear"}}, "'llama3' and the type 'linear'"),
        ({"rope_scaling": {**LLAMA3, "beta_fast": 32}}, "does not know: beta_fast=32"),
        ({"rope_scaling": {**LLAMA3, "partial_rotary_factor": 0.5}}, "rotary_factor is 0.5"),
        (
            {"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "rope_scaling and rope_parameters differ",
        ),
        ({"rope_scaling": {"factor": 8.0}}, "does not know: factor=8.0"),
        ({"rope_scaling": 3}, "rope_type is 3"),
        ({"sliding_window": 4096}, "does not know: sliding_window=4096"),
    ],
)
def test_row_75_options_of_llama_that_are_refused(
    tmp_path: Path, options: dict, words: str
) -> None:
    folder = write_folder(tmp_path / "m", {**LLAMA, **options}, llama_arrays(LLAMA))
    with pytest.raises(UnsupportedError, match=rf"config\.json: .*{words}"):
        pl.TinyGPT.from_pretrained(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_layer": 10**8}, "100000000 layers, but only"),
        ({"n_layer": 10**12}, "num_layers=1000000000000 is more than"),
        ({"n_layer": 4}, "missing: transformer.h.3.attn.c_attn.weight"),
        ({"n_layer": 2}, "unexpected: transformer.h.2.attn.c_attn.weight"),
        ({"n_head": 5}, "num_heads=5 does not divide embed_dim=24"),
        ({"n_embd": 24 * 10**6}, "wrong shape: transformer.wte.weight is .*got .37, 24."),
        ({"n_inner": 10**8}, "wrong shape: transformer.h.0.mlp.c_fc.bias"),
        ({"n_positions": 2**63}, "max_seq_len=9223372036854775808 is more than"),
        ({"n_positions": 10**8}, "wrong shape: transformer.wpe.weight"),
        ({"tie_word_embeddings": False}, "missing: lm_head.weight"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is true or false, got 1"),
        ({"n_layer": "3"}, "n_layer is a positive integer, got '3'"),
        ({"n_head": True}, "n_head is a positive integer, got True"),
        ({"n_embd": -24}, "n_embd is a positive integer, got -24"),
        ({"layer_norm_epsilon": "x"}, "layer_norm_epsilon is a number of at least 0, got 'x'"),
        ({"resid_pdrop": 2.0, "embd_pdrop": 2.0, "attn_pdrop": 2.0}, "dropout rate"),
    ],
)
def test_configurations_that_do_not_fit(tmp_path: Path, options: dict, words: str) -> None:
    folder = write_folder(tmp_path / "m", {**GPT2, **options}, gpt2_arrays(GPT2))
    with pytest.raises(ArtifactError, match=rf"(?s){folder}.*: .*{words}"):
        pl.TinyGPT.from_pretrained(folder)


def test_row_74_all_mistakes_are_listed(tmp_path: Path) -> None:
    arrays = gpt2_arrays(GPT2)
    del arrays["transformer.ln_f.bias"], arrays["transformer.h.1.ln_1.weight"]
    arrays["transformer.more"] = np.zeros(2, np.float32)
    arrays["transformer.wpe.weight"] = np.zeros((20, 25), np.float32)
    arrays["transformer.h.0.ln_1.bias"] = np.zeros(24, np.int64)
    with pytest.raises(ArtifactError) as caught:
        pl.TinyGPT.from_pretrained(write_folder(tmp_path / "m", GPT2, arrays))
    for words in (
        "missing: transformer.ln_f.bias", "missing: transformer.h.1.ln_1.weight",
        "unexpected: transformer.more", "wrong dtype: transformer.h.0.ln_1.bias holds floats",
        "wrong shape: transformer.wpe.weight is [20, 24], got [20, 25]",
    ):  # fmt: skip
        assert words in str(caught.value)


def test_a_tied_head_that_is_another(tmp_path: Path) -> None:
    arrays = gpt2_arrays({**GPT2, "tie_word_embeddings": False})
    with pytest.raises(ArtifactError, match="the head is tied, but"):
        pl.TinyGPT.from_pretrained(write_folder(tmp_path / "m", GPT2, arrays))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model-00001-of-00002.safetensors": "../x.safetensors"}, "no safetensors file in here"),
        ({"model-00001-of-00002.safetensors": "/x.safetensors"}, "no safetensors file in here"),
        ({"model-00001-of-00002.safetensors": "x\0.safetensors"}, "no safetensors file in here"),
        ({"model-00001-of-00002.safetensors": "x.safetensors"}, "missing: the file x.safetensors"),
        ({"model-00001-of-00002.safetensors": 3}, "is in 3, which is no"),
        ({"model-00001-of-00002.safetensors": "model-00002-of-00002.safetensors"},
         "missing: transformer.wte.weight in model-00002"),
    ],
)  # fmt: skip
def test_row_71_an_index_names_files_beside_it(tmp_path: Path, change: dict, words: str) -> None:
    folder = write_folder(tmp_path / "m", GPT2, gpt2_arrays(GPT2), shards=2)
    safetensors.numpy.save_file(gpt2_arrays(GPT2), tmp_path / "x.safetensors")
    index = json.loads((folder / INDEX).read_text("utf-8"))
    index["weight_map"] = {n: change.get(x, x) for n, x in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index), "utf-8")
    with pytest.raises(ArtifactError, match=rf"(?s)index\.json: .*{words}"):
        pl.TinyGPT.from_pretrained(folder)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"this folder has no config\.json, so no model"):
        pl.TinyGPT.from_pretrained(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(GPT2), "utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin can run code when it is read"):
        pl.TinyGPT.from_pretrained(tmp_path)
    for text in ("{}", "[]", '{"weight_map": 3}'):
        (tmp_path / INDEX).write_text(text, "utf-8")
        with pytest.raises(ArtifactError, match="no weight_map of names and files"):
            pl.TinyGPT.from_pretrained(tmp_path)
    (tmp_path / CONFIG).write_text('{"a": 1, "a": 2}', "utf-8")
    with pytest.raises(ArtifactError, match=r"config\.json: bad JSON: 'a' stands twice"):
        pl.TinyGPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"rope_type": "linear"}, "rope_scaling of linear says factor, rope_type; got rope_type"),
        ({"rope_type": "linear", "factor": 0.0}, "linear has positive numbers, got 0.0"),
        ({"rope_type": "linear", "factor": True}, "linear has positive numbers, got True"),
        ({**LLAMA3, "factor": "8"}, "llama3 has positive numbers, got '8'"),
        ({**LLAMA3, "low_freq_factor": 4.0}, "low_freq_factor=4.0 is below high_freq_factor=4.0"),
    ],
)
def test_scalings_that_are_none(tmp_path: Path, scaling: dict, words: str) -> None:
    folder = write_folder(tmp_path / "m", {**LLAMA, "rope_scaling": scaling}, llama_arrays(LLAMA))
    with pytest.raises(ArtifactError, match=rf"^{folder}: .*{words}$"):
        pl.TinyGPT.from_pretrained(folder)


def test_heads_of_another_width_are_not_those_of_gpt2(tmp_path: Path) -> None:
    model = pl.TinyGPT(11, embed_dim=12, num_layers=1, num_heads=2, max_seq_len=8, head_dim=4)
    with pytest.raises(UnsupportedError, match="head_dim=4"):
        model.save_pretrained(tmp_path / "folder")
    with pytest.raises(UnsupportedError, match="head_dim=4"):
        model.save_gguf(tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())
