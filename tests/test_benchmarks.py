"""The benchmarks' figures that need no measurement: what a run takes at least, and tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import planish as pl
from planish.runtime.roof import LEVELS, Reading, Roof

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bounds
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
