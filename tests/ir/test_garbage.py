"""The garbage collector waits while programs are made, and goes on after."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import planish as pl
from planish.ir.garbage import uncollected
from planish.ir.graph import Graph

X = np.ones((2, 3), np.float32)


def watching(seen: list[bool], error: Exception | None = None) -> pl.Pipeline:
    """A pass that notes whether there is a collector, then fails if it is given an error."""

    def watch(graph: Graph) -> Graph:
        seen.append(gc.isenabled())
        if error is not None:
            raise error
        return graph

    return pl.Pipeline(watch) + pl.PIPELINES["O0"]


def test_it_waits_for_a_compiler_and_goes_on() -> None:
    seen: list[bool] = []
    assert gc.isenabled()
    pl.compile(lambda x: x + 1, X, pipeline=watching(seen), cache=False)
    assert seen == [False]
    assert gc.isenabled()


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(ValueError, match="no"):
        pl.compile(lambda x: x + 1, X, pipeline=watching([], ValueError("no")), cache=False)
    assert gc.isenabled()


def test_one_that_is_switched_off_stays_so() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
