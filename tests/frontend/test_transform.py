"""grad, value_and_grad and vjp: at once, traced, nested, compiled."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp
from planish import nn

X = np.array([0.5, -1.0, 2.0, 3.0], np.float32)
Y = np.array([1.0, 2.0, -1.0, 0.5], np.float32)


def loss(x, y):
    return (pnp.tanh(x) * y).sum()


def test_gradients_at_once() -> None:
    wanted = (1 - np.tanh(X) ** 2) * Y
    np.testing.assert_allclose(pl.grad(loss)(X, Y), wanted, rtol=1e-5)
    dx, dy = pl.grad(loss, wrt=(0, -1))(X, Y)
    np.testing.assert_allclose(dx, wanted, rtol=1e-5)
    np.testing.assert_allclose(dy, np.tanh(X), rtol=1e-5)
    value, found = pl.value_and_grad(loss)(X, Y)
    np.testing.assert_allclose(value, (np.tanh(X) * Y).sum(), rtol=1e-5)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_gradients_trace_compile_and_nest() -> None:
    graph = pl.trace(pl.value_and_grad(loss, wrt=1), pl.spec(4), pl.spec(4))
    assert (graph.name, graph.treedef) == ("value_and_grad_loss", ("0", "1"))
    assert [n.attrs["name"] for n in graph.inputs] == ["x", "y"]
    np.testing.assert_allclose(pl.interpret(graph, X, Y)[1], np.tanh(X), rtol=1e-5)
    _, found = pl.compile(graph)(X, Y)
    np.testing.assert_allclose(found, np.tanh(X), rtol=1e-5)

    def cubes(x):
        return (x**3).sum()

    second = pl.grad(lambda x: pl.grad(cubes)(x).sum())
    np.testing.assert_allclose(second(X), 6 * X, rtol=1e-5)


def test_an_outer_tensor_is_a_constant_of_the_inner_function() -> None:
    def outer(x):
        h = pnp.tanh(x)
        return pl.grad(lambda w: (w * h).sum())(h)  # h, not 2 h: the closure is not differentiated

    np.testing.assert_allclose(pl.interpret(pl.trace(outer, X), X), np.tanh(X), rtol=1e-6)


def test_arguments_may_be_trees_and_have_aux() -> None:
    def fn(p, x):
        y = p["w"] * x + p["b"][0]
        return (y * y).mean(), {"y": y, "count": x.shape[0]}

    params = {"w": X, "b": [Y]}
    found, aux = pl.grad(fn, has_aux=True)(params, X)
    y = X * X + Y
    np.testing.assert_allclose(found["w"], 2 * y * X / 4, rtol=1e-5)
    np.testing.assert_allclose(found["b"][0], y / 2, rtol=1e-5)
    np.testing.assert_allclose(aux["y"], y)
    assert aux["count"] == 4


def test_an_unused_argument_has_a_zero_gradient() -> None:
    np.testing.assert_array_equal(pl.grad(lambda x, y: x.sum(), wrt=1)(X, Y), np.zeros(4))


def test_gradients_of_a_model_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))

    def fit(x):
        return (model(x) ** 2).sum()

    value, found = pl.value_and_grad(fit, wrt=model)(X[None])
    assert list(found) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    state = model.state_dict()
    hidden = np.tanh(X @ state["0.weight"].T + state["0.bias"])
    out = hidden @ state["2.weight"].T + state["2.bias"]
    np.testing.assert_allclose(value, (out**2).sum(), rtol=1e-4)
    np.testing.assert_allclose(found["2.weight"], (2 * out * hidden)[None], rtol=1e-4)
    graph = pl.trace(pl.value_and_grad(fit, wrt=model), pl.spec(("B", 4)))
    assert set(graph.params) == set(state)


def test_vjp_pulls_cotangents_back() -> None:
    (square, _), pull = pl.vjp(lambda x: (x * x, pnp.sin(x)), X)
    np.testing.assert_allclose(square, X * X)
    np.testing.assert_allclose(pull((Y, X))[0], 2 * X * Y + np.cos(X) * X, rtol=1e-5)
    graph = pl.trace(lambda x: pl.vjp(pnp.exp, x)[1](x)[0], X)
    np.testing.assert_allclose(pl.interpret(graph, X), X * np.exp(X), rtol=1e-6)


REFUSED = {
    "not a scalar": (lambda: pl.grad(lambda x: x)(X), "returns f32[4]; only floating-point"),
    "an integer": (lambda: pl.grad(lambda x: x.argmax())(X), "returns i64[]"),
    "by an integer": (lambda: pl.grad(lambda i: i.sum() * 1.0)(np.arange(3)), "i64[3]"),
    "through argmax": (lambda: pl.grad(lambda x: x.argmax() * 1.0)(X), "argmax"),
    "two results": (lambda: pl.grad(lambda x: (x.sum(), x))(X), "has_aux=True"),
    "no such argument": (lambda: pl.grad(loss, wrt=2)(X, Y), "wrt=2"),
    "wrt": (lambda: pl.grad(loss, wrt="x"), "an argument's number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_row_39_what_has_no_gradient_is_refused(name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(TypeError) as caught:
        call()
    assert isinstance(caught.value, pl.GradientError)
    assert words in str(caught.value)


def test_keys_give_the_same_numbers_again() -> None:
    key = pl.random.key(7)
    np.testing.assert_array_equal(pl.random.uniform(key, (3,)), pl.random.uniform(key, (3,)))
    first, second = pl.random.split(key)
    assert not np.array_equal(pl.random.uniform(first, 8), pl.random.uniform(second, 8))
    graph = pl.trace(lambda k: pl.random.normal(k, (5000,), mean=3.0, std=2.0), key)
    found = pl.interpret(graph, key)
    assert abs(found.mean() - 3) < 0.1
    assert abs(found.std() - 2) < 0.1
    whole = pl.random.randint(key, (1000,), -3, 4)
    assert (whole.min(), whole.max()) == (-3, 3)
    chosen = pl.random.categorical(key, np.broadcast_to(np.log([0.1, 0.9]), (2000, 2)).astype("f4"))
    assert 0.85 < chosen.mean() < 0.95
    with pytest.raises(TypeError):
        pl.random.key(1.5)
