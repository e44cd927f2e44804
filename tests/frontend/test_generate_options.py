"""Generation: min_p and repetition_penalty, native where they are on, absent where they are off."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend.generate import Generator, generator_for
from planish.frontend.sampling import Sampling
from planish.frontend.text import CharTokenizer
from planish.frontend.writing import generate_text
from planish.ir.errors import DataError
from tests.frontend.test_generate import PROMPT, VOCAB, small

ROWS = [[1, 2, 3, 4], [7], [9, 9, 0]]


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return small()


def penalised(model: pl.TinyGPT, prompt: list[int], count: int, penalty: float) -> list[int]:
    """Greedy text by the interpreter, with the penalty as the paper has it."""
    graph = pl.trace(model, pl.spec((1, "T"), "i32"))
    text = list(prompt)
    for _ in range(count):
        logits = pl.interpret(graph, np.array([text], np.int32), dtype="f64")[0, -1].copy()
        for token in set(text):
            logits[token] *= penalty if logits[token] < 0 else 1 / penalty
        text.append(int(logits.argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("penalty", [1.4, 3.0, 0.6])
def test_repetition_is_penalised(model: pl.TinyGPT, penalty: float) -> None:
    wanted = [penalised(model, row, 14, penalty) for row in ROWS]
    options = {"temperature": 0, "repetition_penalty": penalty}
    assert wanted[0] != model.generate(ROWS[0], 14, temperature=0).tolist()
    for row, text in zip(ROWS, wanted, strict=True):
        assert model.generate(row, 14, **options).tolist() == text
        assert model.generate(row, 14, use_cache=False, **options).tolist() == text
    assert [x.tolist() for x in model.generate(ROWS, 14, **options)] == wanted


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_with_options_are_what_they_are_alone(model: pl.TinyGPT, threads: int) -> None:
    options = {"min_p": 0.05, "repetition_penalty": 1.3, "sliding_window": True}
    alone = [
        model.generate(row, 50, seed=s, **options).tolist()
        for row, s in zip(ROWS, (4, 5, 6), strict=True)
    ]
    found = model.generate(ROWS, 50, seed=[4, 5, 6], threads=threads, **options)
    assert [x.tolist() for x in found] == alone
    again = model.generate(ROWS, 50, seed=[4, 5, 6], use_cache=False, **options)
    assert [x.tolist() for x in again] == alone


def test_a_prompt_in_pieces_counts_as_seen(
    model: pl.TinyGPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planish.frontend.generate.PIECE", 6.0 * model.count_parameters())
    maker = Generator(model, threads=1, options=["repetition_penalty"])
    assert maker.piece == 3
    settings = Sampling(0, repetition_penalty=2.0)
    (found,) = np.concatenate(list(maker.stream([1, 2, 3, 4, 5, 6, 7], 9, settings)), 1)
    assert found.tolist() == penalised(model, [1, 2, 3, 4, 5, 6, 7], 9, 2.0)


def test_min_p_of_1_leaves_the_likeliest(model: pl.TinyGPT) -> None:
    greedy = model.generate(PROMPT, 18, temperature=0).tolist()
    assert model.generate(PROMPT, 18, min_p=1.0, seed=1).tolist() == greedy
    free = [model.generate(PROMPT, 18, min_p=p, seed=1).tolist() for p in (None, 0, 1e-6)]
    assert free[0] == free[1] == free[2] != greedy


def test_options_that_are_off_are_not_compiled(model: pl.TinyGPT) -> None:
    plain = generator_for(model)
    assert plain.options == Sampling(min_p=0, repetition_penalty=1).options == ()
    assert generator_for(model, options=Sampling(min_p=0.1).options) is not plain
    both = Generator(model, options=("repetition_penalty", "min_p"))
    assert both.options == ("min_p", "repetition_penalty")
    names = {slot.name for slot in both.decode.plan.inputs} - {
        slot.name for slot in plain.decode.plan.inputs
    }
    assert names == {"min_p", "repetition_penalty", "seen"}
    assert not [s for s in both.decode.plan.steps if s.label.startswith("copy")]
    whole = np.concatenate(list(both.stream(PROMPT, 18, Sampling(), seed=3)), 1)[0]
    assert whole.tolist() == model.generate(PROMPT, 18, seed=3).tolist()
    with pytest.raises(pl.DataError, match=r"min_p needs a Generator made with options=..min_p"):
        plain.stream(PROMPT, 3, Sampling(min_p=0.5))
    with pytest.raises(pl.DataError, match="options are some of min_p, repetition_penalty, got"):
        Generator(model, options=["top_a"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_p": -0.1}, ValueError, "min_p is a number of 0 <= min_p <= 1, got -0.1"),
        ({"min_p": 1.5}, ValueError, "min_p is a number of 0 <= min_p <= 1, got 1.5"),
        ({"min_p": float("nan")}, ValueError, "min_p is a number of 0 <= min_p <= 1, got nan"),
        ({"min_p": "a"}, TypeError, "min_p is a number, got str 'a'"),
        ({"repetition_penalty": 0}, ValueError, "repetition_penalty is a finite number above 0"),
        ({"repetition_penalty": -1.2}, ValueError, "above 0, where 1 changes nothing, got -1.2"),
        ({"repetition_penalty": float("nan")}, ValueError, "repetition_penalty is a finite number"),
        ({"repetition_penalty": float("inf")}, ValueError, "repetition_penalty is a finite number"),
        ({"repetition_penalty": True}, TypeError, "repetition_penalty is a number, got bool True"),
    ],
)
def test_options_that_are_refused(
    model: pl.TinyGPT, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        model.generate(PROMPT, 3, **options)
    assert isinstance(caught.value, pl.PlanishError)


def test_text_takes_them_too(model: pl.TinyGPT) -> None:
    tokenizer = CharTokenizer("abcdefghijk")
    options = {"seed": 1, "min_p": 0.1, "repetition_penalty": 1.5}
    text = generate_text(model, tokenizer, "bcde", 18, **options)
    assert text == tokenizer.decode(model.generate(PROMPT, 18, **options))
    assert len(tokenizer) == VOCAB


def test_the_likeliest_token_by_a_program_of_its_own() -> None:
    model = small()
    greedy, any_ = Generator(model, greedy=True), Generator(model)
    assert len(greedy.decode.plan.steps) < len(any_.decode.plan.steps)
    found = [np.concatenate(list(g.stream([[1, 2]], 4, Sampling(0.0))), 1) for g in (greedy, any_)]
    assert (found[0] == found[1]).all()
    assert (model.generate([1, 2], 4, temperature=0) == found[0][0]).all()
    with pytest.raises(DataError, match=r"a greedy Generator has temperature 0, not 0\.5"):
        greedy.stream([[1, 2]], 4, Sampling(0.5))
    state = model.state_dict()
    model.load_state_dict({**state, "ln_f.weight": state["ln_f.weight"] * np.float32(np.nan)})
    with pytest.raises(DataError, match="NaN logits at step 1"):
        model.generate([1, 2], 4, temperature=0)
