"""The pipelines int8 and int4 on a trained model: accuracy, bytes, generation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.frontend.generate import Generator, graphs
from planish.frontend.sampling import Sampling
from planish.passes.fuse import kernels
from planish.passes.measure import weight_bytes
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES
from planish.runtime.lower import lower
from planish.runtime.target import Target

STEPS, CONTEXT, PIECES = 300, 32, 64  # some 2 s of training

OPERANDS = (np.zeros((1, 2), np.uint32), *Sampling(0.0).operands(65))

Trained = tuple[pl.TinyGPT, np.ndarray]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A small model after some training, and pieces of text that were kept from it."""
    text = pl.default_corpus()
    tokenizer = pl.CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    kept = PIECES * CONTEXT
    model = pl.TinyGPT(
        tokenizer.vocab_size, embed_dim=64, num_layers=2, num_heads=4, max_seq_len=CONTEXT,
        dropout=0.0,
    )  # fmt: skip
    pl.Trainer(model, pl.optim.AdamW(lr=3e-3), batch=12).fit(ids[:-kept], STEPS, progress=False)
    return model, ids[-kept:].reshape(PIECES, CONTEXT)


def log_probabilities(model: pl.TinyGPT, tokens: np.ndarray, name: str, threads: int) -> np.ndarray:
    """Of every token at every place."""
    program = pl.compile(model, pl.spec(tokens.shape, "i32"), pipeline=name, threads=threads)
    x = program(tokens).astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_accuracy_on_a_trained_model(trained: Trained) -> None:
    """Perplexity within 0.5 %, mean KL divergence at most 0.002, the same top token in 98 %."""
    model, tokens = trained
    exact, small, again = (
        log_probabilities(model, tokens, name, threads)
        for name, threads in (("O2", 2), ("int8", 1), ("int8", 2))
    )
    np.testing.assert_array_equal(small, again)
    following = tokens[:, 1:, None]
    losses = [-np.take_along_axis(x[:, :-1], following, -1).mean() for x in (exact, small)]
    assert losses[0] < 0.75 * np.log(exact.shape[-1])  # it has learnt something
    assert np.exp(losses[1] - losses[0]) <= 1.005
    assert (np.exp(exact) * (exact - small)).sum(-1).mean() <= 0.002
    assert (exact.argmax(-1) == small.argmax(-1)).mean() >= 0.98


def test_accuracy_of_four_bits(trained: Trained) -> None:
    """Perplexity within 3 %, in 0.16 of the bytes; the same bits at any number of threads."""
    model, tokens = trained
    exact, one, two = (
        log_probabilities(model, tokens, name, threads)
        for name, threads in (("O2", 2), ("int4", 1), ("int4", 2))
    )
    np.testing.assert_array_equal(one, two)
    losses = [-np.take_along_axis(x[:, :-1], tokens[:, 1:, None], -1).mean() for x in (exact, one)]
    assert np.exp(losses[1] - losses[0]) <= 1.03
    after = PIPELINES["int4"].run(pl.trace(model, pl.spec((1, CONTEXT), "i32")))
    norms = sum(4 * x.array.size for x in model.parameters() if x.array.ndim == 1)
    matrices = 4 * model.count_parameters() - norms
    tables = sum(x.weight.array.size for x in (model.wte, model.wpe))
    assert weight_bytes(after) - norms < 0.141 * (matrices - 4 * tables) + 1.07 * tables


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_generation_of_a_trained_model(trained: Trained, name: str) -> None:
    """Greedy tokens by the cache are those without it; the graphs of both read one table."""
    model, tokens = trained
    found = [
        model.generate(tokens[0, :8], 20, temperature=0.0, pipeline=name, use_cache=cached)
        for cached in (True, False)
    ]
    np.testing.assert_array_equal(*found)


def test_bytes_of_the_weights(trained: Trained) -> None:
    """All matrices and tables are bytes, and each is stored once, but for the head's table."""
    model, _ = trained
    for name, graph in graphs(model, 1, CONTEXT).items():
        after = PIPELINES["int8"].run(graph)
        wide = [
            n for n, x in after.params.items() if x.ndim > 1 and x.itemsize > 1 and x.size > 512
        ]
        assert wide == [], name
        params = sum(x.nbytes for x in lower(after, Target.host()).params)
        head = model.wte.weight.array.size
        before = 4 * model.count_parameters()
        assert params < 0.26 * before + 1.3 * head + 12 * 64 * 2 * 8, name


@pytest.mark.parametrize("name, more", [("decode", 2), ("prefill", 2)])
def test_scales_are_found_in_the_kernels_around(trained: Trained, name: str, more: int) -> None:
    """Two kernels a layer are added: rows of attention and of GELU have no kernel of their own."""
    model, _ = trained
    graph = graphs(model, 1, CONTEXT)[name]
    before, after = (kernels(PIPELINES[p].run(graph)) for p in ("O2", "int8"))
    assert after == before + more * len(model.h)


def test_four_bits_are_the_same_compiled_again(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is a cache of programs, too; and from a file."""
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "cache"))
    model, tokens = trained
    one, two = (pl.compile(model, pl.spec(tokens.shape, "i32"), pipeline="int4") for _ in "12")
    np.testing.assert_array_equal(one(tokens), two(tokens))
    one.save(tmp_path / "small.so")
    np.testing.assert_array_equal(pl.load(tmp_path / "small.so")(tokens), one(tokens))


def test_caches_of_bytes(trained: Trained) -> None:
    """Generation keeps keys and values as bytes, with which tokens are nearly always the same."""
    model, tokens = trained
    found = [
        model.generate(tokens[:8, :8], 24, temperature=0.0, pipeline=name)
        for name in ("int8", "int8_cache")
    ]
    assert np.mean(found[0] == found[1]) > 0.9
    state = Generator(model, "int8_cache").begin(tokens[:1, :8], (*OPERANDS,))
    kinds = [x.dtype for x in state if x.ndim == 4]
    assert kinds == [np.int8, np.float32] * 2 * len(model.h)


@pytest.mark.parametrize("name", ["decode", "prefill"])
@pytest.mark.parametrize("threads", [1, 2])
def test_caches_of_bytes_are_those_of_the_interpreter(
    trained: Trained, name: str, threads: int
) -> None:
    """The same bits in the integers, and nearly in what attention makes of them."""
    model, tokens = trained
    graph = Pipeline.parse("simplify,cse,quantize_caches").run(
        graphs(model, 1, CONTEXT, (), greedy=True)[name]
    )
    rng = np.random.default_rng(0)
    given = [np.zeros(x.shape, x.dtype.numpy) for x in graph.inputs[:-1]]
    for x in given:
        if x.ndim == 4:  # integers, then scales
            x[...] = rng.integers(-127, 128, x.shape) if x.dtype == np.int8 else 0.01
    given[1][...] = 5
    last = graph.inputs[-1]
    given.append(tokens[:1, :7] if name == "prefill" else np.zeros(last.shape, last.dtype.numpy))
    program = pl.compile(graph, pipeline="expand,fuse", threads=threads)
    expected = pl.interpret(graph, *given)
    flat = [x for pair in program(*[x.copy() for x in given])[2] for x in pair]
    wanted = [x for pair in expected[2] for x in pair]
    for (got, scale), (want, exact) in zip(flat, wanted, strict=True):
        np.testing.assert_allclose(scale, exact, 1e-5)
        assert np.abs(got.astype(int) - want.astype(int)).max() <= 1  # ties of rounding
        assert (got != want).mean() < 1e-3


def test_attention_reads_bytes(trained: Trained) -> None:
    """No kernel writes a cache as floats."""
    model, _ = trained
    after = PIPELINES["int8_cache"].run(graphs(model, 1, CONTEXT)["decode"])
    bodies = [x.attrs["body"] for x in after.nodes if x.op.kind == "fused"]
    reads = [x for x in bodies if any(n.op.name == "attention" for n in x.nodes)]
    assert len(reads) == len(model.h)
    for body in reads:
        assert [x.dtype.name for x in body.inputs].count("i8") == 2
