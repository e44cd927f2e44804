"""The benchmarks' figures that need no measurement: what a run takes at least, and tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import planish as pl
from planish.runtime.roof import LEVELS, Reading, Roof

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bounds
import compare
import reference
import table
from peers import ours
from peers.case import Case
from turns import Contestant
from workloads import CONFIGS, Config

NANO = CONFIGS["nano"]


def model_of(c: Config) -> pl.TinyGPT:
    return pl.TinyGPT(c.vocab, c.width, c.layers, c.heads, c.context, dropout=0.0)


def test_a_prompt_takes_at_least_what_a_program_for_it_computes() -> None:
    """Of the last layer that is keys and values, and one row of all else."""
    c = NANO
    program = pl.compile(model_of(c).last_logits, pl.spec((1, c.prefill), "i32"), threads=1)
    work = program.bind(np.zeros((1, c.prefill), np.int32)).work()
    done, least = sum(x.flops for x in work), bounds.operations("prefill", c)
    assert 0.9 * done < least < done
    assert least < 0.9 * bounds.operations("train", replace(c, batch=1)) / 3


def test_each_dtype_has_its_peak() -> None:
    readings = tuple(Reading(name, 1 << (14 + n), 1e15) for n, name in enumerate(LEVELS))
    roof = Roof(2, 100e9, 200e9, 400e9, readings, 1e-6)
    f32, *others = (bounds.bound(roof, "prefill", NANO, x) for x in ("f32", "bf16", "int8", "int4"))
    assert [round(f32 / x, 6) for x in others] == [2, 4, 4]
    assert bounds.bound(replace(roof, int8=1e9), "prefill", NANO, "int8") == f32


def contestant(name: str, ready: float, *times: float) -> Contestant:
    return Contestant(name, None, None, ready=ready, version="1", quiet=[*times])  # type: ignore


def document(cpu: str = "A", threads: int = 2) -> dict:
    """What `compare.py` writes of one case."""
    found = [
        contestant("planish", 0.5, 2e-3, 1e-3, 3e-3),
        contestant("torch", 0.1, 8e-3),
        contestant("torch.compile", 15.0, 4e-3),
    ]
    rows = compare.rows_of("nano", Case("prefill", "f32", NANO, threads), found, 1e-3)
    return {"date": "2026-11-26", "cpu": cpu, "threads": threads, "rows": rows}


def test_ratios_of_times_and_of_compiling(capsys: pytest.CaptureFixture[str]) -> None:
    rows = document()["rows"]
    names = ("times_torch", "times_best_peer", "ready_times_compile")
    assert [rows[0][x] for x in names] == pytest.approx([4, 2, 30])
    compare.show(rows, {})
    assert capsys.readouterr().out.splitlines()[0].split()[-3:] == ["4.00", "2.00", "30.00"]
    text = table.table([document(), document()])
    rows_of_text = [line.split()[3:] for line in text.splitlines() if line.startswith("nano")]
    first = ["2.00", "1.00", "torch.compile", "4.00", "2.00", "8.00", "4.00"]
    assert rows_of_text[0] == first and rows_of_text[-1] == ["0.50", "15.0", "30.0"]
    alone = {**document(), "rows": rows[:2]}
    assert "until ready" not in table.table([alone])


def test_a_table_is_of_one_machine() -> None:
    for other, what in ((document("B"), "B, 2 threads"), (document(threads=1), "A, 1 threads")):
        with pytest.raises(ValueError, match=f"got documents of A, 2 threads and of {what}"):
            table.table([document(), other])


def test_the_first_token_is_that_of_the_likeliest_logit() -> None:
    """The contestant's call, judged by float64; another token is seen to be wrong."""
    c = replace(NANO, layers=1, width=32, heads=2, context=16, prefill=16)
    case = Case("first", "f32", c, 1)
    assert case.ids.shape == (1, 15) and case.steps == 0 and "first" in c.workloads
    made = ours.contestant(case, "")()()
    judge = reference.Judge(case)
    assert judge.error([float(x) for x in np.ravel(made)]) == 0
    assert judge.error([float((np.ravel(made)[0] + 1) % c.vocab)]) > 1e-3
    assert judge.error([0.0, 0.0]) == np.inf
    assert bounds.operations("first", c) < bounds.operations("prefill", c)
