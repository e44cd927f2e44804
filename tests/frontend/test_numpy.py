"""planish.numpy against NumPy: traced and interpreted, and at once on arrays."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4)).astype(np.float32)
Y = RNG.normal(size=(3, 4)).astype(np.float32)
P = np.abs(X) + 0.5
I = np.array([[1, 2], [0, 7]], np.int32)  # noqa: E741
B = X > 0

SAME = {  # NumPy has the function under the same name, with the same arguments
    "abs": (X,), "add": (X, Y), "ceil": (X,), "cos": (X,), "cosh": (X,), "divide": (X, P),
    "equal": (I, I.T), "exp": (X,), "exp2": (X,), "expm1": (X,), "floor": (X,),
    "floor_divide": (X, P), "greater": (X, Y), "greater_equal": (X, Y), "hypot": (X, Y),
    "isfinite": (X,), "isinf": (X,), "isnan": (X,), "less": (X, Y), "less_equal": (X, Y),
    "log": (P,), "log10": (P,), "log1p": (P,), "log2": (P,), "logaddexp": (X, Y),
    "logical_and": (B, ~B), "logical_not": (B,), "logical_or": (B, ~B), "logical_xor": (B, B),
    "maximum": (X, Y), "minimum": (X, Y), "multiply": (X, Y), "negative": (X,),
    "not_equal": (X, Y), "positive": (X,), "reciprocal": (P,), "remainder": (X, P),
    "round": (X,), "sign": (X,), "sin": (X,), "sinh": (X,), "sqrt": (P,), "square": (X,),
    "subtract": (X, Y), "tan": (X,), "tanh": (X,), "trunc": (X,), "bitwise_and": (I, I.T),
    "bitwise_or": (B, ~B), "bitwise_xor": (I, I.T), "invert": (I,), "where": (B, X, Y),
    "matmul": (X, Y.T), "dot": (X, Y[0]), "outer": (X[0], Y[:, 0]), "swapaxes": (X, 0, 1),
    "ravel": (X,), "transpose": (X,), "mod": (X, P), "moveaxis": (X[None], 0, -1),
    "expand_dims": (X, 1), "squeeze": (X[:, None],), "broadcast_to": (X[0], (3, 4)),
    "flip": (X,), "tril": (X,), "triu": (X,), "argmax": (X,), "count_nonzero": (B,),
    "take_along_axis": (X, np.array([[1, 0, 2, 1]]), 0),
    "full_like": (X, 3), "ones_like": (X,), "zeros_like": (I,), "isclose": (X, X + 1e-9),
}  # fmt: skip

CASES = {
    "clip": lambda m: m.clip(X, -0.5, 0.5),
    "clip above": lambda m: m.clip(X, None, 0.5),
    "sum": lambda m: m.sum(X, axis=1),
    "sum of bools": lambda m: m.sum(B),
    "prod": lambda m: m.prod(P, axis=0, keepdims=True),
    "max": lambda m: m.max(X, axis=(0, 1)),
    "min": lambda m: m.min(X, axis=-1),
    "mean": lambda m: m.mean(I, axis=0),
    "var": lambda m: m.var(X, axis=1, correction=1),
    "std": lambda m: m.std(X, axis=0),
    "any": lambda m: m.any(B, axis=0),
    "all": lambda m: m.all(B, axis=1),
    "argmin": lambda m: m.argmin(X, axis=1),
    "concat": lambda m: m.concat([X, Y], axis=1),
    "concat flat": lambda m: m.concat([X, Y], axis=None),
    "stack": lambda m: m.stack([X, Y], axis=-1),
    "split": lambda m: m.concat(m.split(X, 2, axis=1)[::-1], axis=1),
    "split at": lambda m: m.concat(m.split(X, [1, 3], axis=1)[1:], axis=1),
    "roll": lambda m: m.roll(X, -3, axis=1),
    "repeat": lambda m: m.repeat(X, 2, axis=0),
    "tile": lambda m: m.tile(X, (2, 1)),
    "pad": lambda m: m.pad(X, ((1, 0), (0, 2)), constant_values=7),
    "pad evenly": lambda m: m.pad(X, 1),
    "permute_dims": lambda m: m.permute_dims(X, (1, 0)),
    "reshape": lambda m: m.reshape(X, (2, -1)),
    "take": lambda m: m.take(X, np.array([2, 0]), axis=1),
    "tensordot": lambda m: m.tensordot(X, Y, axes=([0, 1], [0, 1])),
    "tensordot of one": lambda m: m.tensordot(X, Y.T, axes=1),
    "einsum": lambda m: m.einsum("ij,kj->ki", X, Y),
    "einsum batch": lambda m: m.einsum("bij,bjk->bik", X[:, :2, None], Y[:, None, :3]),
    "einsum of one": lambda m: m.einsum("ij->j", X),
    "vecdot": lambda m: m.vecdot(X, Y) if m is pnp else (X * Y).sum(-1),
    "matmul vector": lambda m: m.matmul(X[0], Y.T),
    "matmul vectors": lambda m: m.matmul(X[0], Y[0]),
    "eye": lambda m: m.eye(3, 4, k=1),
    "arange": lambda m: m.arange(2, 11, 3),
    "arange of floats": lambda m: m.arange(0.0, 1.0, 0.3),
    "linspace": lambda m: m.linspace(-1, 1, num=5),
    "full": lambda m: m.full((2, 2), 1.5),
    "ones": lambda m: m.ones((2,)),
    "meshgrid": lambda m: m.stack(m.meshgrid(X[0], Y[:, 0])),
    "where of numbers": lambda m: m.where(B, 1.0, 2),
    "pow": lambda m: m.pow(P, 2.5),
    "matrix_transpose": lambda m: m.matrix_transpose(X[None]),
    "unstack": lambda m: m.unstack(X, axis=1)[1] if m is pnp else X[:, 1],
    "asarray": lambda m: m.asarray([[1, 2], [3, 4]]),
}


def same(found: object, wanted: object) -> None:
    """Equal within f32 rounding, in shape, and a NumPy array."""
    assert type(found) is np.ndarray
    assert found.shape == np.shape(wanted)
    assert found.dtype.kind == np.asarray(wanted).dtype.kind
    assert found.dtype != np.float64
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", SAME)
def test_a_function_is_numpys_at_once_and_traced(name: str) -> None:
    args = SAME[name]
    wanted = getattr(np, name)(*args)
    same(getattr(pnp, name)(*args), wanted)
    arrays = [x for x in args if isinstance(x, np.ndarray)]
    rest = args[len(arrays) :]
    graph = pl.trace(lambda *xs: getattr(pnp, name)(*xs, *rest), *arrays)
    same(pl.interpret(graph, *arrays), wanted)


@pytest.mark.parametrize("name", CASES)
def test_a_call_is_numpys(name: str) -> None:
    same(CASES[name](pnp), np.asarray(CASES[name](_NumPy())))


@pytest.mark.parametrize("name", CASES)
def test_a_call_inside_a_trace_gives_the_same(name: str) -> None:
    graph = pl.trace(lambda x: CASES[name](pnp), X)
    same(pl.interpret(graph, X), np.asarray(CASES[name](_NumPy())))


class _NumPy:
    """NumPy with the standard's names that it lacks before 2.1."""

    def __getattr__(self, name: str):
        def var(x, axis=None, correction=0):
            return np.var(x, axis, ddof=correction)

        return {"var": var}.get(name) or getattr(np, name)


def test_extras() -> None:
    same(pnp.softmax(X), np.exp(X) / np.exp(X).sum(-1, keepdims=True))
    same(pnp.log_softmax(X, axis=0), X - np.log(np.exp(X).sum(0)))
    same(pnp.logsumexp(X, axis=1), np.log(np.exp(X).sum(1)))
    same(pnp.sigmoid(X), 1 / (1 + np.exp(-X)))
    same(pnp.rsqrt(P), 1 / np.sqrt(P))
    same(pnp.one_hot(np.array([1, 0]), 3), np.eye(3)[[1, 0]])
    same(pnp.update_slice(X, Y[:1, :2], 2, 1)[2], [X[2, 0], *Y[0, :2], X[2, 3]])
    same(pnp.dynamic_slice(X, [1, 2], [2, 2]), X[1:, 2:])
    assert pnp.zeros((2, 3)).dtype == np.float32
    assert pnp.arange(3).dtype == np.int64
    assert pnp.asarray([1.0]).dtype == np.float32
    assert pnp.astype(X, pnp.bfloat16).dtype == pnp.bfloat16


def test_created_arrays_are_tensors_inside_a_trace() -> None:
    graph = pl.trace(
        lambda x: pnp.tril(pnp.ones(x.shape)) + pnp.arange(x.shape[1]), pl.spec(("B", "T"))
    )
    assert not graph.params
    np.testing.assert_array_equal(pl.interpret(graph, X), np.tril(np.ones((3, 4))) + np.arange(4))


def test_what_depends_on_data_is_refused() -> None:
    for function in (pnp.nonzero, pnp.unique_values, pnp.unique, pnp.argwhere):
        with pytest.raises(NotImplementedError, match="depends on data"):
            pl.trace(lambda x, f=function: f(x), X)
        with pytest.raises(NotImplementedError, match="a static graph cannot have"):
            function(X)


REFUSED = {
    "concat of nothing": lambda: pnp.concat([]),
    "stack": lambda: pnp.stack([X, X[0]]),
    "split": lambda: pnp.split(X, 3, axis=1),
    "squeeze": lambda: pnp.squeeze(X, axis=0),
    "einsum letters": lambda: pnp.einsum("ii->i", X),
    "einsum sizes": lambda: pnp.einsum("ij,jk->ik", X, Y),
    "tensordot": lambda: pnp.tensordot(X, Y, axes=1),
    "arange": lambda: pnp.arange(0, 5, 0),
    "matmul scalar": lambda: pnp.matmul(X, np.float32(2)),
    "meshgrid": lambda: pnp.meshgrid(X[0], X[0], indexing="yx"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        REFUSED[name]()
    assert isinstance(caught.value, pl.PlanishError)


def test_special_values_follow_ieee() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1e-40, -0.0], np.float32)
    np.testing.assert_array_equal(pnp.maximum(odd, 0.0), np.maximum(odd, 0))
    np.testing.assert_array_equal(pnp.softmax(np.array([1e30, 1e30], np.float32)), [0.5, 0.5])
