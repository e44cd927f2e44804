"""Random ops: known answers, independence of shape, distributions, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import DTypeError, IRError, PlanishError, ShapeError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.loop_eval import run_function
from planish.ir.math import definition
from planish.ir.node import OPS
from planish.ir.ops.random import bernoulli, dropout, fold_in, random_bits, threefry, uniform
from planish.ir.types import TensorType

u32 = np.uint32
KEY = np.array([7, 11], u32)

# key, counter, first word: from the known answers of Random123 (kat_vectors, threefry2x32 20)
KNOWN = [
    ((0, 0), (0, 0), 0x6B200159),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), 0x1CB996FC),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), 0xC4923A9C),
]


def drawn(name: str, key: np.ndarray = KEY, **attrs: Any) -> np.ndarray:
    """A random op on a key, by the interpreter."""
    node = OPS["input"](name="key", type=TensorType(t.u32, (2,)))
    return evaluate(Graph("g", (node,), (OPS[name](node, **attrs),)), key)[0]


@pytest.mark.parametrize(("key", "counter", "word"), KNOWN)
def test_threefry_gives_the_published_words(key: tuple, counter: tuple, word: int) -> None:
    with np.errstate(over="ignore"):
        assert threefry(np.array(key, u32), *map(u32, counter)) == word
    found = run_function(definition("threefry", t.u32), *map(u32, (*key, *counter)))
    assert found == word


def test_element_i_does_not_depend_on_the_shape() -> None:
    long = drawn("random_bits", shape=(24,))
    np.testing.assert_array_equal(drawn("random_bits", shape=(2, 3, 4)).ravel(), long)
    np.testing.assert_array_equal(drawn("random_bits", shape=(7,)), long[:7])


def test_folded_keys_are_new() -> None:
    keys = [random_bits.ref(fold_in.ref(KEY, n), shape=(4,)) for n in range(50)]
    assert len({tuple(k) for k in keys}) == 50
    assert not np.intersect1d(np.concatenate(keys), random_bits.ref(KEY, shape=(100,))).size
    node = OPS["input"](name="key", type=TensorType(t.u32, (2,)))
    graph = Graph("g", (node,), (fold_in(node, -1), fold_in(node, 2**32 - 1)))
    first, second = evaluate(graph, KEY)
    np.testing.assert_array_equal(first, second)  # the lower 32 bits count


def test_distributions_have_their_moments() -> None:
    flat = drawn("uniform", shape=(40000,))
    assert flat.min() >= 0 and flat.max() < 1 and flat.dtype == np.float32
    assert abs(flat.mean() - 0.5) < 0.01 and abs(flat.var() - 1 / 12) < 0.003
    bell = drawn("normal", shape=(40000,)).astype(np.float64)
    assert np.isfinite(bell).all() and abs(bell.mean()) < 0.02 and abs(bell.var() - 1) < 0.03
    assert abs((bell**3).mean()) < 0.05 and abs((bell**4).mean() - 3) < 0.2
    assert abs(drawn("bernoulli", p=0.3, shape=(40000,)).mean() - 0.3) < 0.01
    assert not drawn("bernoulli", p=0.0, shape=(999,)).any()
    assert drawn("bernoulli", p=1.0, shape=(999,)).all()


def test_dropout_keeps_the_mean() -> None:
    x = np.ones((200, 200), np.float32)
    node = OPS["input"](name="x", type=TensorType(t.f32, x.shape))
    key = OPS["input"](name="key", type=TensorType(t.u32, (2,)))
    (y,) = evaluate(Graph("g", (node, key), (dropout(node, key, rate=0.25),)), x, KEY)
    assert set(np.unique(y)) == {np.float32(0), np.float32(4 / 3)}
    assert abs(y.mean() - 1) < 0.01


def test_what_is_no_key_is_refused() -> None:
    three = OPS["input"](name="k", type=TensorType(t.u32, (3,)))
    floats = OPS["input"](name="k", type=TensorType(t.f32, (2,)))
    key = OPS["input"](name="k", type=TensorType(t.u32, (2,)))
    refused = [
        (ShapeError, lambda: random_bits(three, shape=(2,))),
        (DTypeError, lambda: random_bits(floats, shape=(2,))),
        (ShapeError, lambda: random_bits(key, shape=(-2,))),
        (DTypeError, lambda: uniform(key, shape=(2,), dtype="f16")),
        (IRError, lambda: fold_in(key, 1.5)),
        (IRError, lambda: bernoulli(key, p=float("nan"), shape=(2,))),
        (IRError, lambda: bernoulli(key, p=1.1, shape=(2,))),
        (IRError, lambda: dropout(floats, key, rate=-0.1)),
    ]
    for kind, call in refused:
        with pytest.raises(kind) as caught:
            call()
        assert isinstance(caught.value, PlanishError)
