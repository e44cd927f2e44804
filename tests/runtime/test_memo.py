"""What is asked again is not made again, and has the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp
from planish.frontend.api import compiled
from planish.frontend.judge import Judge
from planish.passes.pipelines import PIPELINES
from planish.runtime import llvm
from planish.runtime.codegen import functions
from planish.runtime.lower import Lowering
from planish.runtime.memo import Memo


def test_the_last_ones_are_kept() -> None:
    memo: Memo[str] = Memo(5, len)
    assert memo.put("a", "xx") == "xx" and memo.put("b", "yy") == "yy"
    assert memo.get("a") == "xx"  # now the newest
    memo.put("c", "zz")
    assert [memo.get(x) for x in "abc"] == ["xx", None, "zz"]
    memo.put("d", "longer than all")
    assert [memo.get(x) for x in "acd"] == [None, None, None]
    assert memo.put("e", "12345") == "12345" == memo.get("e")


@pytest.mark.usefixtures("uncached")
def test_a_second_program_takes_what_the_first_was_made_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llvm, "OBJECTS", Memo(1 << 24, len))
    monkeypatch.setattr(functions, "FUNCTIONS", Memo(1 << 24, lambda found: len(found[0])))
    graph = pl.trace(lambda x: pnp.tanh(x) @ x.T, pl.spec((8, 8)))
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    first = compiled(graph, "O2", cache=False)
    want = first(x)  # with the pool, which is compiled once for all programs
    monkeypatch.setattr(llvm, "_Module", None)
    monkeypatch.setattr(functions, "kernel_function", None)
    again = compiled(graph, "O2", cache=False)
    assert again.image.to_bytes() == first.image.to_bytes()
    assert np.array_equal(again(x), want)


def test_recipes_that_are_judged_share_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    kernel = Lowering.kernel

    def counted(self, body, *rest):  # type: ignore[no-untyped-def]
        made.append(body.name)
        return kernel(self, body, *rest)

    monkeypatch.setattr(Lowering, "kernel", counted)
    judge = Judge(pl.TinyGPT(19, 32, 1, 2, 16), np.arange(32, dtype=np.int32) % 19, 1)
    assert made
    before = len(made)
    assert judge(PIPELINES["O2"]) == judge.exact
    assert len(made) == before
