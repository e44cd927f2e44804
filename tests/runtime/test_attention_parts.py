"""Attention of one query to a long cache, in pieces."""

from __future__ import annotations

import re

import numpy as np
import pytest

import planish as pl
from planish.frontend.next_token import graphs
from planish.frontend.tensor import apply
from planish.ir.evaluate import evaluate
from planish.ir.loop_text import kernel_text
from planish.runtime.interpret import run_plan

RNG = np.random.default_rng(0)


def arrays(batch: int, heads: int, groups: int, keys: int, width: int = 24) -> list[np.ndarray]:
    shapes = ((batch, heads, 1, 16), (batch, groups, keys, 16), (batch, groups, keys, width))
    return [RNG.standard_normal(s).astype(np.float32) for s in shapes]


@pytest.mark.parametrize("pos", [-1, 0, 1, 255, 256, 257, 511, 600, 699])
@pytest.mark.parametrize(("heads", "groups"), [(3, 3), (4, 2)])
def test_pieces_are_what_the_whole_is(pos: int, heads: int, groups: int) -> None:
    given = (*arrays(2, heads, groups, 700), np.int32(pos))
    graph = pl.trace(lambda q, k, v, n: apply("attention", q, k, v, n, causal=True), *given)
    one, two = (pl.compile(graph, threads=n) for n in (1, 2))
    assert [s.label.split()[-1] for s in two.plan.steps] == ["parts", "sum"]
    found = two(*given)
    assert (found == one(*given)).all()
    np.testing.assert_allclose(found, evaluate(graph, *given)[0], rtol=2e-5, atol=2e-6)
    if pos == 257:
        (slow,) = run_plan(two.plan, *map(np.asarray, given))
        np.testing.assert_allclose(slow, found, rtol=1e-4, atol=1e-6)


def test_a_row_does_not_depend_on_its_place_in_the_batch() -> None:
    q, k, v = arrays(3, 2, 2, 512)
    pos = np.array([40, 300, 511], np.int32)
    program = pl.compile(lambda *x: apply("attention", *x, causal=True), q, k, v, pos)
    whole = program(q, k, v, pos)
    alone = pl.compile(lambda *x: apply("attention", *x, causal=True), q[:1], k[:1], v[:1], pos[:1])
    for r in range(3):
        assert (alone(*(x[r : r + 1] for x in (q, k, v, pos)))[0] == whole[r]).all()


@pytest.mark.parametrize("context", [64, 600])
def test_scales_of_caches_are_multiplied_once_a_row(context: int) -> None:
    """Not with each of its bytes; that tokens are right says `tests/frontend/test_int8.py`."""
    graph = graphs(pl.TinyGPT(65, 32, 1, 2, context), 1, 16, greedy=True)["decode"]
    kernels = pl.compile(graph, pipeline="int8_cache").kernels
    (text,) = (kernel_text(x) for x in kernels if re.fullmatch("attention(_parts)?", x.name))
    assert text.count(": i8[") == 2
    assert not re.search(r"f32\(p\d\w*\[[^]]*\]\) \* p", text.replace("dot[0] += p0", ""))


def test_a_short_cache_is_read_at_once() -> None:
    given = (*arrays(1, 2, 2, 511), np.int32(500))
    program = pl.compile(lambda *x: apply("attention", *x, causal=True), *given)
    assert len(program.plan.steps) == 1


def test_long_contexts_decode_as_they_would_without_a_cache() -> None:
    model = pl.TinyGPT(65, embed_dim=32, num_layers=2, num_heads=1, max_seq_len=600)
    ids = RNG.integers(0, 65, 520)
    cached, plain = (
        model.generate(ids, 6, temperature=0, use_cache=cache) for cache in (True, False)
    )
    assert (cached == plain).all()
