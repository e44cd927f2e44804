"""Attention and its gradient, where the sample table does not reach."""

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import DTypeError, IRError, ShapeError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.types import TensorType
from tests.ir.test_ops_nn import arg, expanded, floats, run


def naive_attention(q, k, v, first, causal, scale):
    """One query at a time, by the definition."""
    y = np.zeros((*q.shape[:3], v.shape[3]))
    shared = q.shape[1] // k.shape[1]
    for b, h, i in np.ndindex(q.shape[:3]):
        end = min(max(first + i + 1, 0), k.shape[2]) if causal else k.shape[2]
        keys, values = k[b, h // shared, :end], v[b, h // shared, :end]
        if end:
            weights = np.exp(scale * (keys.astype(float) @ q[b, h, i]))
            y[b, h, i] = weights @ values / weights.sum()
    return y


@pytest.mark.parametrize(
    ("h", "g", "n", "m", "offset", "causal"),
    [
        (2, 2, 3, 3, None, False),
        (2, 2, 3, 3, None, True),
        (4, 2, 3, 5, None, True),  # grouped, the queries are the last ones
        (4, 1, 2, 6, 3, True),  # one key head, in the middle of a cache
        (3, 3, 1, 7, 0, True),  # the first step of a decode
        (2, 1, 4, 2, None, True),  # more queries than keys: the first two see nothing
        (2, 1, 2, 4, 9, True),  # beyond the cache everything is seen
        (4, 2, 2, 5, (3, 0), True),  # each of the batch has its own
    ],
)
def test_attention_is_what_its_definition_says(h, g, n, m, offset, causal):
    q, k, v = floats(2, h, n, 4), floats(2, g, m, 4, seed=1), floats(2, g, m, 3, seed=2)
    extra = () if offset is None else (np.array(offset, np.int32),)
    firsts = [m - n] * 2 if offset is None else np.broadcast_to(offset, 2)
    rows = zip(q[:, None], k[:, None], v[:, None], firsts, strict=True)
    wanted = np.concatenate([naive_attention(*row, causal, 0.5) for row in rows])
    for value in (run, expanded):
        y = value("attention", q, k, v, *extra, causal=causal)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_attention_of_symbolic_lengths():
    b, n, m = Dim("B", 4), Dim("T", 8), Dim("S", 8)
    q, k, v = (
        OPS["input"](name=name, type=TensorType(t.f32, (b, heads, size, 4)))
        for name, heads, size in (("q", 4, n), ("k", 2, m), ("v", 2, m))
    )
    y = OPS["attention"](q, k, v, causal=True)
    body = y.op.expand(q, k, v, **y.attrs)
    qs, ks, vs = floats(3, 4, 2, 4), floats(3, 2, 5, 4, seed=1), floats(3, 2, 5, 4, seed=2)
    one, other = evaluate(Graph("f", (q, k, v), (y, body)), qs, ks, vs)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_attention_names_what_does_not_fit():
    q, k = arg(t.f32, 1, 4, 5, 8), arg(t.f32, 1, 3, 5, 8)
    attention = OPS["attention"]
    with pytest.raises(ShapeError, match="4 query heads are no multiple of 3 key heads"):
        attention(q, k, k)
    with pytest.raises(ShapeError, match="widths of q and k differ, 8 != 6"):
        attention(q, arg(t.f32, 1, 4, 5, 6), arg(t.f32, 1, 4, 5, 6))
    with pytest.raises(ShapeError, match="batches of q and k differ, 1 != 2"):
        attention(q, arg(t.f32, 2, 4, 5, 8), arg(t.f32, 2, 4, 5, 8))
    with pytest.raises(IRError, match="only with causal=True"):
        attention(q, q, q, 3)
    with pytest.raises(DTypeError, match="offset is an integer scalar"):
        attention(q, q, q, arg(t.f32), causal=True)
    with pytest.raises(DTypeError, match=r"one for each of a batch of 1, got i32.2."):
        attention(q, q, q, arg(t.i32, 2), causal=True)
    with pytest.raises(IRError, match="dropout takes a key as the last operand"):
        attention(q, q, q, dropout=0.5)
    with pytest.raises(IRError, match="arrays and an offset at most, got 1 more"):
        attention(q, q, q, arg(t.i32), arg(t.i32), causal=True)
    with pytest.raises(DTypeError, match="takes a key, which is u32"):
        attention(q, q, q, arg(t.i32), causal=True, dropout=0.5)
    with pytest.raises(IRError, match="dropout is a number from 0 to 1"):
        attention(q, q, q, arg(t.u32, 2), dropout=1.5)


def test_the_gradient_of_attention_names_what_does_not_fit():
    q, k, gradient = arg(t.f32, 1, 4, 5, 8), arg(t.f32, 1, 2, 6, 8), OPS["attention_grad"]
    with pytest.raises(ShapeError, match=r"dy is f32\[1, 4, 5, 8\], got f32\[1, 4, 5, 7\]"):
        gradient(q, k, k, arg(t.f32, 1, 4, 5, 7))
    with pytest.raises(IRError, match="merged takes as many queries as keys"):
        gradient(q, k, k, q, merged=True)
