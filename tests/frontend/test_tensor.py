"""Tensors behave like NumPy arrays as far as shapes go, and refuse what needs values."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp
from planish.frontend.tensor import Tensor

X = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def run(fn, *arrays):
    """`fn` traced on the arrays and interpreted."""
    return pl.interpret(pl.trace(fn, *arrays), *arrays)


def refusal(kind: type[Exception], fn, *specs) -> str:
    """The message with which tracing `fn` is refused."""
    with pytest.raises(kind) as caught:
        pl.trace(fn, *(specs or (pl.spec((3, 4)),)))
    assert isinstance(caught.value, pl.PlanishError)
    return str(caught.value)


BINARY = {
    "add": lambda x, y: x + y,
    "subtract from a number": lambda x, y: 2 - x * y,
    "divide": lambda x, y: x / (y * y + 1),
    "floor": lambda x, y: x // 2 + y % 3,
    "square": lambda x, y: x**2 + y**3,
    "root": lambda x, y: abs(x) ** 0.5 - y,
    "compare": lambda x, y: ((x > y) & (x <= 4)) | ~(x == y) ^ (y != 1),
    "matmul": lambda x, y: x @ y.T,
    "negate": lambda x, y: -x + +y,
}


@pytest.mark.parametrize("name", BINARY)
def test_operators_mean_what_they_mean_in_numpy(name: str) -> None:
    y = X[::-1] * 0.5
    found = run(BINARY[name], X, y)
    np.testing.assert_allclose(found, BINARY[name](X, y), rtol=1e-6)


METHODS = {
    "sum": lambda x: x.sum(axis=1),
    "sum keepdims": lambda x: x.sum(axis=(0, 1), keepdims=True),
    "mean": lambda x: x.mean(axis=-1, keepdims=True),
    "var": lambda x: x.var(axis=0, ddof=1),
    "std": lambda x: x.std(),
    "max": lambda x: x.max(axis=1) - x.min(axis=1),
    "prod": lambda x: x.prod(axis=0),
    "argmax": lambda x: x.argmax(axis=1),
    "argmin": lambda x: x.argmin(),
    "any": lambda x: (x > 5).any(axis=0),
    "all": lambda x: (x > -9).all(),
    "clip": lambda x: x.clip(-1, 2),
    "astype": lambda x: x.astype("int32"),
    "reshape": lambda x: x.reshape(2, -1),
    "reshape to a tuple": lambda x: x.reshape((6, 2)),
    "transpose": lambda x: x.T,
    "transpose axes": lambda x: x.reshape(3, 2, 2).transpose(0, 2, 1),
    "swapaxes": lambda x: x.reshape(1, 3, 4).swapaxes(0, 1),
    "flatten": lambda x: x.flatten(),
    "squeeze": lambda x: x[None].squeeze(0),
    "round": lambda x: (x / 4).round(),
    "unpack": lambda x: sum(row * i for i, row in enumerate(x)),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_mean_what_they_mean_in_numpy(name: str) -> None:
    found, wanted = run(METHODS[name], X), METHODS[name](X)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert found.shape == np.shape(wanted)


KEYS = {
    "0": np.s_[0],
    "-1, 2": np.s_[-1, 2],
    "1:": np.s_[1:],
    ":, -1": np.s_[:, -1],
    "::2, ::-1": np.s_[::2, ::-1],
    "::-2, 3:0:-2": np.s_[::-2, 3:0:-2],
    "..., 0": np.s_[..., 0],
    "None, :, 1:3": np.s_[None, :, 1:3],
    "..., None": np.s_[..., None],
    "list": np.s_[[2, 0, -1]],
    ":, list": np.s_[:, [1, -1]],
    "0, list": np.s_[0, [1, 2]],
    "array of two axes": np.s_[np.array([[0, 1], [2, 0]])],
    "empty": np.s_[5:],
    "clamped": np.s_[-100:2],
    "NumPy integer": np.s_[:, np.int64(1)],
    "nothing": np.s_[()],
}


@pytest.mark.parametrize("name", KEYS)
def test_static_indices_mean_what_they_mean_in_numpy(name: str) -> None:
    np.testing.assert_array_equal(run(lambda x: x[KEYS[name]], X), X[KEYS[name]])


def test_an_index_may_be_a_tensor() -> None:
    rows = np.array([2, 0], np.int32)
    np.testing.assert_array_equal(run(lambda x, i: x[i], X, rows), X[rows])
    np.testing.assert_array_equal(run(lambda x, i: x[1, i[0]], X, rows), X[1, 2])


def test_at_gives_a_changed_copy() -> None:
    x = X.copy()
    x[0], x[1:, 2], x[-1, -1] = 1, [5, 6], x[-1, -1] * 3

    def changed(x: Tensor) -> Tensor:
        y = x.at[0].set(1).at[1:, 2].set(np.array([5, 6])).at[-1, -1].multiply(3)
        return y

    np.testing.assert_array_equal(run(changed, X), x)
    np.testing.assert_array_equal(run(lambda x: x.at[x > 0].set(0), X), np.where(X > 0, 0, X))
    added = run(lambda x, i: x.at[i].add(1.0), X, np.array([0, 0]))
    np.testing.assert_array_equal(added, X + np.array([[2.0], [0], [0]]))


def test_shape_dtype_and_size_are_those_of_numpy() -> None:
    seen = {}

    def look(x: Tensor) -> Tensor:
        seen.update(shape=x.shape, dtype=x.dtype, ndim=x.ndim, size=x.size, len=len(x))
        return x

    pl.trace(look, X)
    assert seen == {"shape": (3, 4), "dtype": np.float32, "ndim": 2, "size": 12, "len": 3}


NEEDS_VALUE = {
    "if": lambda x: x if x.sum() > 0 else -x,
    "and": lambda x: x.any() and x,
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "item": lambda x: x.sum().item(),
    "asarray": lambda x: np.asarray(x),
    "NumPy function": lambda x: np.concatenate([x, x]),
    "range": lambda x: range(x.argmax()),
    "in": lambda x: 1.0 in x,
    "tolist": lambda x: x.tolist(),
}


@pytest.mark.parametrize("name", NEEDS_VALUE)
def test_what_needs_a_value_is_refused_at_the_users_line(name: str) -> None:
    text = refusal(TypeError, NEEDS_VALUE[name])
    assert "needs the value of a traced" in text
    assert "test_tensor.py:" in text


def test_a_branch_is_refused_with_the_whole_story() -> None:
    def clamp(x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x

    line = clamp.__code__.co_firstlineno + 1
    assert refusal(pl.TraceError, clamp) == (
        "`if`, `while`, `and`, `or`, `not` or bool() needs the value of a traced bool[], which is "
        "known only when the compiled program runs; use pnp.where(condition, a, b) to choose, "
        f"& | ~ to combine\n  test_tensor.py:{line}, in clamp: if x.sum() > 0:"
    )


def test_while_is_refused_and_not_unrolled() -> None:
    def halve(x: Tensor) -> Tensor:
        while x.max() > 1:
            x = x / 2
        return x

    assert "while" in refusal(TypeError, halve)


def test_masks_as_indices_are_refused() -> None:
    text = refusal(NotImplementedError, lambda x: x[x > 0])
    assert "depends on data" in text
    assert "pnp.where(mask, x, other)" in text


def test_numpy_functions_are_traced_or_refused() -> None:
    x = np.abs(X) + 1
    ones = np.ones(3, np.float32)
    found = run(lambda x: np.tanh(x) + ones @ np.maximum(x, 2), x)
    np.testing.assert_allclose(found, np.tanh(x) + ones @ np.maximum(x, 2), rtol=1e-6)
    assert "np.arctanh has no traced form" in refusal(TypeError, lambda x: np.arctanh(x))
    assert "np.add.reduce is not traced" in refusal(TypeError, lambda x: np.add.reduce(x))


def test_assignment_is_refused_with_the_functional_form() -> None:
    def assign(x: Tensor) -> Tensor:
        x[0] = 1
        return x

    assert "write x = x.at[0].set(...), or pnp.where(mask, new, x)" in refusal(TypeError, assign)


def test_augmented_assignment_rebinds() -> None:
    x = X.copy()

    def increase(x: Tensor) -> Tensor:
        y = x
        x += 1
        return x * 10 + y

    np.testing.assert_array_equal(run(increase, x), (X + 1) * 10 + X)
    np.testing.assert_array_equal(x, X)


def test_a_numpy_array_does_not_take_a_tensor_in_place() -> None:
    def accumulate(x: Tensor) -> Tensor:
        total = np.zeros((3, 4), np.float32)
        total += x
        return total

    assert "write y = array + tensor" in refusal(TypeError, accumulate)


def test_a_tensor_that_leaked_is_refused_naming_both_traces() -> None:
    kept = []

    def first(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    def second(x: Tensor) -> Tensor:
        return x + kept[0]

    pl.trace(first, X)
    text = refusal(TypeError, second)
    assert "the trace of 'first'" in text
    assert "the trace of 'second'" in text
    with pytest.raises(pl.TraceError, match=r"after that trace ended"):
        kept[0] + 1


WRONG_SHAPES = {
    "matmul": (ValueError, lambda x: x @ x, "matmul(f32[3, 4], f32[3, 4]): inner sizes differ"),
    "broadcast": (ValueError, lambda x: x + x[:2], "shapes [3, 4], [2, 4] do not broadcast"),
    "reshape": (ValueError, lambda x: x.reshape(5, 2), "[3, 4] (12 elements) to [5, 2]"),
    "two -1": (ValueError, lambda x: x.reshape(-1, -1), "at most one -1"),
    "-1 that does not fit": (ValueError, lambda x: x.reshape(5, -1), "no multiple of 5"),
    "axis": (IndexError, lambda x: x.sum(axis=2), "axis 2 is outside an array of 2 axes"),
    "doubled axis": (IndexError, lambda x: x.sum(axis=(1, -1)), "name an axis twice"),
    "index": (IndexError, lambda x: x[3], "index 3 is out of range for axis 0 of size 3"),
    "negative index": (IndexError, lambda x: x[:, -5], "index -5 is out of range for axis 1"),
    "index array": (IndexError, lambda x: x[[0, 7]], "index 7 is out of range for axis 0"),
    "too many indices": (IndexError, lambda x: x[0, 0, 0], "too many indices: 3"),
    "maximum of nothing": (ValueError, lambda x: x[3:].max(axis=0), "max"),
    "concat": (ValueError, lambda x: pnp.concat([x, x[:, 1:]]), "differ beside axis 0"),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_shapes_that_do_not_fit_are_refused_while_tracing(name: str) -> None:
    kind, fn, words = WRONG_SHAPES[name]
    text = refusal(kind, fn)
    assert words in text
    assert "test_tensor.py:" in text


def test_mixed_dtypes_follow_the_documented_rule() -> None:
    def dtype(fn) -> str:
        specs = pl.spec(2, "f32"), pl.spec(2, "i32"), pl.spec(2, "f16"), pl.spec(2, "bf16")
        return str(pl.trace(fn, *specs).outputs[0].dtype)

    assert dtype(lambda x, i, h, b: x + i) == "f32"  # NumPy would say f64
    assert dtype(lambda x, i, h, b: x * 2.5) == "f32"
    assert dtype(lambda x, i, h, b: x * np.float64(2.5)) == "f32"  # a Python float in effect
    assert dtype(lambda x, i, h, b: h + 1) == "f16"
    assert dtype(lambda x, i, h, b: h + b) == "f32"
    assert dtype(lambda x, i, h, b: i / 2) == "f32"
    assert dtype(lambda x, i, h, b: i + True) == "i32"
    assert dtype(lambda x, i, h, b: x * [1.0, 2.0]) == "f32"
    assert dtype(lambda x, i, h, b: x.astype("f64") + x) == "f64"
    text = refusal(TypeError, lambda x: x + np.ones(4))
    assert "float64[4]" in text
    assert "array.astype(np.float32)" in text


BAD_PARTNERS = ["text", np.array(["a"]), np.array([object()]), np.ones(4) * 1j, {"a": 1},
                np.array(["2020-01-01"], "datetime64[D]")]  # fmt: skip


@pytest.mark.parametrize("partner", BAD_PARTNERS, ids=lambda x: str(getattr(x, "dtype", type(x))))
def test_unsupported_operands_are_refused_by_name(partner) -> None:
    text = refusal(TypeError, lambda x: x + partner)
    named = getattr(partner, "dtype", type(partner).__name__)
    assert str(named) in text


def test_none_is_equal_to_no_tensor() -> None:
    assert run(lambda x: x if x is not None and (x != None) else -x, X) is not None  # noqa: E711


def test_arrays_of_any_layout_are_constants() -> None:
    wide = np.arange(48, dtype=">f4").reshape(4, 12)
    repeated = np.broadcast_to(X[0], (3, 4))
    for array in (wide[:3, ::3], np.asfortranarray(X), X[::-1, ::-1], repeated):
        found = run(lambda x, a=array: x + a, X)
        np.testing.assert_array_equal(found, X + array.astype(np.float32))


def test_every_node_knows_its_line() -> None:
    def model(x: Tensor) -> Tensor:
        return pnp.tanh(x) + 1

    nodes = [n for n in pl.trace(model, X).nodes if n.inputs]
    line = model.__code__.co_firstlineno + 1
    assert {(n.loc.file, n.loc.line, n.loc.function) for n in nodes} == {(__file__, line, "model")}


def test_a_repr_has_no_values() -> None:
    seen = []
    pl.trace(lambda x: seen.append(repr(x)) or x, pl.spec(("T", 3)))
    assert seen == ["Tensor(f32[T, 3], traced in 'fn')"]
