"""Generation: caches against recomputation, seeds, batches, windows, and what is refused."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest

import planish as pl
from planish.frontend.generate import Generator, generator_for
from planish.frontend.sampling import Sampling, row_keys
from planish.frontend.text import CharTokenizer
from planish.frontend.writing import generate_text, held_back
from planish.runtime.order import written

VOCAB, CONTEXT = 11, 24
PROMPT = [1, 2, 3, 4]


def small(seed: int = 0, **options: object) -> pl.TinyGPT:
    """A tiny model whose weights are large enough to have opinions."""
    model = pl.TinyGPT(VOCAB, 16, 2, 2, CONTEXT, dropout=0.0, seed=seed, **options)
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        p.array = (p.array + 0.3 * rng.standard_normal(p.array.shape)).astype(np.float32)
    return model


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return small()


def test_greedy_is_the_argmax_of_the_interpreter(model: pl.TinyGPT) -> None:
    graph = pl.trace(model, pl.spec((1, "T"), "i32"))
    seen = list(PROMPT)
    for _ in range(6):
        logits = pl.interpret(graph, np.array([seen], np.int32), dtype="f64")
        seen.append(int(logits[0, -1].argmax()))
    assert model.generate(PROMPT, 6, temperature=0).tolist() == seen[4:]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cache_changes_nothing(model: pl.TinyGPT, temperature: float) -> None:
    options = {"temperature": temperature, "seed": 5, "top_k": 8, "top_p": 0.95}
    cached = model.generate(PROMPT, 20, **options)
    assert cached.dtype == np.int32 and cached.shape == (20,)
    assert cached.tolist() == model.generate(PROMPT, 20, use_cache=False, **options).tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "rope", "norm": "rms", "mlp": "swiglu", "num_kv_heads": 1, "bias": False},
        {"positions": "sinusoidal", "tie_head": False},
    ],
    ids=["llama", "sinusoidal"],
)
def test_the_family_generates(options: dict) -> None:
    model = small(**options)
    cached = model.generate(PROMPT, 12, temperature=0)
    assert cached.tolist() == model.generate(PROMPT, 12, temperature=0, use_cache=False).tolist()


def test_a_seed_decides_at_any_thread_count(model: pl.TinyGPT) -> None:
    one, again, two, other = (
        model.generate(PROMPT, 20, seed=s, threads=t).tolist()
        for s, t in ((1, 1), (1, 1), (1, 2), (2, 1))
    )
    assert one == again == two != other
    assert model.generate(PROMPT, 20).tolist() != model.generate(PROMPT, 20).tolist()


def test_a_row_does_not_depend_on_its_batch(model: pl.TinyGPT) -> None:
    prompts = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    batch = model.generate(prompts, 15, seed=[5, 6, 7])
    turned = model.generate(prompts[::-1], 15, seed=[7, 6, 5])
    alone = [model.generate(p, 15, seed=s) for p, s in zip(prompts, (5, 6, 7), strict=True)]
    assert batch.shape == (3, 15)
    assert batch.tolist() == turned[::-1].tolist() == [x.tolist() for x in alone]
    spread = model.generate(prompts[[0, 0, 0]], 15, seed=5)
    assert spread[0].tolist() == alone[0].tolist()
    assert spread[1].tolist() != spread[0].tolist() != spread[2].tolist()


def test_a_prompt_in_pieces(model: pl.TinyGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.frontend.generate.PIECE", 6.0 * model.count_parameters())
    maker = Generator(model, threads=1)
    assert maker.piece == 3
    walk = maker.stream(np.array([[1, 2, 3, 4, 5, 6, 7, 8]]), 9, Sampling(temperature=0))
    assert np.concatenate(list(walk), 1)[0].tolist() == (
        model.generate([1, 2, 3, 4, 5, 6, 7, 8], 9, temperature=0).tolist()
    )


def test_a_step_has_few_kernels(model: pl.TinyGPT) -> None:
    steps = generator_for(model).decode.plan.steps
    per_layer = [s.label for s in steps if s.label.startswith("h.1.")]
    assert len(per_layer) <= 7
    assert not [s.label for s in steps if s.label.startswith("copy")]
    updates = [s for s in steps if s.label.endswith("update_slice")]
    found = [slot.kind for s in updates for slot in written(s)]
    # of each layer q beside its keys and values; and the token
    assert found == ["temp", "output", "output"] * 2 + ["output"]


def test_the_stream_has_every_token_in_order(model: pl.TinyGPT) -> None:
    told: list[int] = []
    found = model.generate(PROMPT, 12, seed=3, stream=told.append)
    assert told == found.tolist() and type(told[0]) is int
    rows: list[np.ndarray] = []
    found = model.generate(np.array([PROMPT] * 3), 5, seed=3, stream=rows.append)
    assert np.stack(rows, 1).tolist() == found.tolist()
    with pytest.raises(TypeError, match="stream is a function"):
        model.generate(PROMPT, 2, stream=3)


def test_stop_tokens(model: pl.TinyGPT) -> None:
    found = model.generate(PROMPT, 20, seed=3).tolist()
    cut = model.generate(PROMPT, 20, seed=3, stop=found[7]).tolist()
    assert cut == found[: found.index(found[7]) + 1]
    rows = model.generate(np.array([PROMPT] * 3), 20, seed=3).tolist()
    ends = [rows[0][2], rows[1][5]]
    cut = model.generate(np.array([PROMPT] * 3), 20, seed=3, stop=ends).tolist()
    listed = model.generate([PROMPT] * 3, 20, seed=3, stop=ends)
    for row, own, whole in zip(cut, listed, rows, strict=True):
        at = next((i for i, x in enumerate(whole) if x in ends), len(whole) - 1)
        assert row == (whole[: at + 1] + [whole[at]] * 20)[: len(row)]
        assert own.tolist() == whole[: at + 1] and own.dtype == np.int32
    with pytest.raises(TypeError, match="a stop token is a whole number"):
        model.generate(PROMPT, 2, stop="x")
    with pytest.raises(IndexError, match="token id 11"):
        model.generate(PROMPT, 2, stop=VOCAB)


def test_a_sliding_window_goes_on(model: pl.TinyGPT) -> None:
    found = model.generate(PROMPT, 70, temperature=0, sliding_window=True).tolist()
    assert found[:20] == model.generate(PROMPT, 20, temperature=0).tolist()
    last = (PROMPT + found)[12:24]
    assert found[20:32] == model.generate(last, 12, temperature=0).tolist()
    assert len(found) == 70
    long = model.generate([1] * 100, 3, temperature=0, sliding_window=True)
    assert long.tolist() == model.generate([1] * 12, 3, temperature=0).tolist()


def test_new_weights_are_seen(model: pl.TinyGPT) -> None:
    changing = small()
    before = changing.generate(PROMPT, 15, temperature=0)
    kept = generator_for(changing)
    assert generator_for(changing) is kept
    changing.load_state_dict(small(seed=1).state_dict())
    assert not kept.is_current()
    after = changing.generate(PROMPT, 15, temperature=0)
    assert after.tolist() == small(seed=1).generate(PROMPT, 15, temperature=0).tolist()
    assert after.tolist() != before.tolist()


def test_training_is_seen() -> None:
    model = pl.TinyGPT(VOCAB, 16, 1, 2, CONTEXT, dropout=0.0)
    before = generator_for(model)
    trainer = pl.Trainer(model, batch=2, context=8)
    tokens = np.arange(100) % VOCAB
    trainer.fit(tokens, steps=2)
    assert not before.is_current() and generator_for(model).is_current()
    trainer.step(np.zeros((2, 8), np.int32), np.zeros((2, 8), np.int32))
    assert generator_for(model).is_current()


def test_generators_are_not_copied(model: pl.TinyGPT) -> None:
    generator_for(model)
    twin = copy.deepcopy(model)
    assert not twin.__dict__["_generators"] and model.__dict__["_generators"]
    assert not pickle.loads(pickle.dumps(model.__dict__["_generators"]))


def test_a_model_keeps_few_generators() -> None:
    model = small()
    for batch in range(1, 8):
        generator_for(model, batch=batch)
    assert [key[-1] for key in model.__dict__["_generators"]] == [4, 5, 6, 7]


# What is refused


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([], ValueError, "the prompt is empty; give at least 1 token"),
        ([[]], ValueError, "the prompt is empty"),
        ([0.0, 1.0], TypeError, "token ids are integers, got float64"),
        ([True], TypeError, "token ids are integers, got bool"),
        ("To", TypeError, r"integers, got a text: tokenizer.encode\(text\) has them"),
        (["To", "be"], TypeError, "prompt 0: token ids are integers, got a text"),
        ([1, VOCAB], IndexError, "token id 11 at position 1 is outside 0 <= id < 11"),
        ([-1], IndexError, "token id -1 at position 0"),
        ([2**31], IndexError, "token id 2147483648 at position 0"),
        ([-(2**63)], IndexError, "token id -9223372036854775808"),
        ([[1, 2], []], ValueError, "prompt 1: the prompt is empty; give at least 1 token"),
        ([[1, 2], [3, VOCAB]], IndexError, "prompt 1: token id 11 at position 1"),
        ([[1, 2], [3.0]], TypeError, "prompt 1: token ids are integers, got float64"),
        ([[1, 2], "ab"], TypeError, "prompt 1: token ids are integers"),
        ([[1, 2], 3], ValueError, r"prompt 1: a prompt is \[time\], got \[\]"),
        ([[[1], [2, 3]]], ValueError, "prompt 0: no array of tokens"),
        ([[1], [1] * (CONTEXT + 1)], ValueError, "prompt 1: the prompt has 25 tokens"),
        ([[1], [1] * (CONTEXT - 2)], ValueError, "prompt 1: .* of 24: at most 2 fit"),
        (3, ValueError, r"a prompt is \[time\] or \[batch, time\], got \[\]"),
        ([1] * (CONTEXT + 1), ValueError, "the prompt has 25 tokens, the model's context is 24"),
        ([1] * CONTEXT, ValueError, "24 tokens of prompt and 3 new ones exceed .* it is full"),
        ([1] * (CONTEXT - 2), ValueError, "exceed the context of 24: at most 2 fit"),
        ("abc", TypeError, "token ids are integers"),
    ],
)
def test_prompts_that_are_refused(
    model: pl.TinyGPT, ids: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        model.generate(ids, 3)
    assert isinstance(caught.value, pl.PlanishError)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_new_tokens": -1}, ValueError, "max_new_tokens is at least 0, got -1"),
        ({"max_new_tokens": 2.5}, TypeError, "max_new_tokens is a whole number, got float 2.5"),
        ({"max_new_tokens": True}, TypeError, "max_new_tokens is a whole number, got bool"),
        ({"temperature": -1}, ValueError, "temperature is a finite number of at least 0, got -1"),
        ({"temperature": float("nan")}, ValueError, "temperature is a finite number"),
        ({"temperature": float("inf")}, ValueError, "temperature is a finite number"),
        ({"temperature": "hot"}, TypeError, "temperature is a number, got str 'hot'"),
        ({"top_k": 0}, ValueError, "top_k is at least 1, or None for all tokens, got 0"),
        ({"top_k": -3}, ValueError, "top_k is at least 1"),
        ({"top_k": 1.5}, TypeError, "top_k is a whole number"),
        ({"top_p": 0}, ValueError, "top_p is a number of 0 < top_p <= 1, got 0"),
        ({"top_p": 1.1}, ValueError, "top_p is a number"),
        ({"top_p": float("nan")}, ValueError, "top_p is a number"),
        ({"seed": 1.5}, TypeError, "a seed is an integer, got float"),
        ({"seed": -1}, ValueError, r"a seed is an integer of 0 <= seed < 2\*\*64, got -1"),
        ({"seed": 2**64}, ValueError, "a seed is an integer of .* got 18446744073709551616"),
        ({"seed": [-3]}, ValueError, "a seed is an integer of .* got -3"),
        ({"seed": [1, 2]}, ValueError, "2 seeds for 1 rows"),
        ({"threads": 0}, ValueError, "threads must be a whole number of at least 1, got 0"),
        ({"pipeline": "O9"}, ValueError, "O9"),
    ],
)
def test_options_that_are_refused(
    model: pl.TinyGPT, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        model.generate(PROMPT, **options)
    assert isinstance(caught.value, pl.PlanishError)


def test_no_tokens(model: pl.TinyGPT) -> None:
    assert model.generate(PROMPT, 0).tolist() == []
    assert model.generate([1] * CONTEXT, 0).tolist() == []
    assert model.generate(np.array([PROMPT, PROMPT]), 0).shape == (2, 0)
    assert [x.tolist() for x in model.generate([PROMPT, [1]], 0)] == [[], []]


def test_the_last_place_of_the_context(model: pl.TinyGPT) -> None:
    assert len(model.generate([1] * (CONTEXT - 1), 1)) == 1
    assert len(model.generate([1], CONTEXT - 1)) == CONTEXT - 1


def test_cold_is_greedy_whatever_the_seed(model: pl.TinyGPT) -> None:
    greedy = model.generate(PROMPT, 20, temperature=0, seed=1).tolist()
    assert greedy == model.generate(PROMPT, 20, temperature=1e-30, seed=2).tolist()
    assert greedy == model.generate(PROMPT, 20, temperature=1.0, top_k=1, seed=3).tolist()


def test_ties_go_to_the_lowest_id() -> None:
    model = small()
    for p in model.parameters():
        p.array = np.zeros_like(p.array)
    assert model.generate([5], 4, temperature=0).tolist() == [0, 0, 0, 0]


def test_top_k_above_the_vocabulary_is_all_of_it(model: pl.TinyGPT) -> None:
    wide = model.generate(PROMPT, 20, seed=1, top_k=10**12).tolist()
    assert wide == model.generate(PROMPT, 20, seed=1).tolist()
    assert wide == model.generate(PROMPT, 20, seed=1, top_k=VOCAB, top_p=1.0).tolist()


@pytest.mark.parametrize("use_cache", [True, False])
def test_nan_logits_stop(use_cache: bool) -> None:
    model = small()
    table = model.wpe.weight.array.copy()
    table[len(PROMPT) + 1] = np.nan  # the place of the second new token
    model.wpe.weight.array = table
    told: list[int] = []
    with pytest.raises(pl.DataError, match="NaN logits at step 3: no token can be drawn"):
        model.generate(PROMPT, 15, seed=1, use_cache=use_cache, stream=told.append)
    assert len(told) == 2


def test_threads_do_not_mix(model: pl.TinyGPT) -> None:
    wanted = [model.generate(PROMPT, 18, seed=s).tolist() for s in range(4)]
    found: dict[int, list[int]] = {}

    def work(seed: int) -> None:
        for _ in range(3):
            found[seed] = model.generate(PROMPT, 18, seed=seed).tolist()

    workers = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert [found[s] for s in range(4)] == wanted


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_generates(model: pl.TinyGPT) -> None:
    wanted = model.generate(PROMPT, 10, seed=1).tolist()
    child = os.fork()
    if child == 0:
        try:
            same = model.generate(PROMPT, 10, seed=1).tolist() == wanted
            fresh = small().generate(PROMPT, 10, seed=1, threads=2).tolist() == wanted
            os._exit(0 if same and fresh else 1)
        finally:
            os._exit(2)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def test_ctrl_c_ends_it_and_the_next_call_works(model: pl.TinyGPT) -> None:
    wanted = model.generate(PROMPT, 18, seed=1).tolist()
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.generate(PROMPT, 10**9, sliding_window=True)
    assert model.generate(PROMPT, 18, seed=1).tolist() == wanted


# Text


def test_text(model: pl.TinyGPT) -> None:
    tokenizer = CharTokenizer("abcdefghijk")
    text = generate_text(model, tokenizer, "bcde", 18, seed=1)
    assert text == tokenizer.decode(model.generate(PROMPT, 18, seed=1))
    told: list[str] = []
    stop = text[5:8]
    cut = generate_text(model, tokenizer, "bcde", 18, seed=1, stop=stop, stream=told.append)
    assert cut == text[: text.index(stop)] == "".join(told)
    with pytest.raises(pl.DataError, match="stop strings are texts of at least 1 character"):
        generate_text(model, tokenizer, "b", 2, stop=[""])
    with pytest.raises(pl.DataError, match=r"character 'Z' \(U\+005A\)"):
        generate_text(model, tokenizer, "Z", 2)
    with pytest.raises(ValueError, match="the prompt is empty"):
        generate_text(model, tokenizer, "", 2)


def test_what_may_become_a_stop_string_is_held_back() -> None:
    assert held_back("abc", ["cde"]) == 1
    assert held_back("abcd", ["cde", "bcdx"]) == 3
    assert held_back("abc", ["x"]) == held_back("abc", []) == 0


def test_keys_of_rows() -> None:
    keys = row_keys(3, 2)
    assert keys.dtype == np.uint32 and keys.shape == (2, 2)
    assert keys[0].tolist() == row_keys([3], 1)[0].tolist() != keys[1].tolist()
