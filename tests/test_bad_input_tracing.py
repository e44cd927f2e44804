"""Bad input while tracing: one test for each row of the table, by its number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish as pl
import planish.nn.functional as F
import planish.numpy as pnp
from planish.frontend.context import current
from tests.refusal import refusal, says

X = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
HERE = Path(__file__).name


def refused(kind: type[Exception], fn: Any, *words: str, specs: tuple = (X,)) -> None:
    """Tracing `fn` is refused at its line, with these words."""
    says(refusal(kind, pl.trace, fn, *specs), HERE + ":", *words)


def native(fn: Any, *arrays: np.ndarray) -> Any:
    """`fn` compiled for these arrays, and run on them."""
    return pl.compile(fn, *arrays)(*arrays)


def test_row_01_if() -> None:
    def relu(x):
        if x.max() > 0:
            return x
        return -x

    line = relu.__code__.co_firstlineno + 1
    words = f"{HERE}:{line}, in relu: if x.max() > 0:"
    refused(TypeError, relu, "`if`", "bool[]", "pnp.where(condition, a, b)", words)


def test_row_02_while() -> None:
    def halve(x):
        while (x > 1).any():
            x = x / 2
        return x

    refused(TypeError, halve, "`while`", "bool[]", "in halve: while (x > 1).any():")


@pytest.mark.parametrize("fn", [float, int, lambda x: x.item(), np.asarray, np.array, list.append])
def test_row_03_values(fn: Any) -> None:
    if fn is list.append:
        refused(TypeError, lambda x: np.array([x, x]), "needs the value of a traced f32[3, 4]")
    else:
        refused(TypeError, lambda x: fn(x[0, 0]), "needs the value of a traced f32[]")


@pytest.mark.parametrize(
    "fn", [lambda x: x[x > 0], lambda x: x.nonzero(), pnp.nonzero, pnp.unique_values]
)
def test_row_04_shapes_that_depend_on_data(fn: Any) -> None:
    refused(NotImplementedError, lambda x: fn(x), "shape that depends on data", "pnp.where")


def test_row_05_numpy_functions() -> None:
    found = native(lambda x: np.tanh(x) + np.ones(4, np.float32) * np.maximum(x, 2), X)
    np.testing.assert_allclose(found, np.tanh(X) + np.maximum(X, 2), rtol=1e-6)
    refused(TypeError, lambda x: np.arctan(x), "np.arctan has no traced form", "tanh")
    refused(TypeError, lambda x: np.frompyfunc(abs, 1, 1)(x), "has no traced form")
    refused(TypeError, lambda x: np.add(x, x, out=np.zeros((3, 4))), "y = array + tensor")
    refused(TypeError, lambda x: np.add.reduce(x), "np.add.reduce is not traced")


def test_row_06_assignment() -> None:
    def assign(x):
        x[0] = 1
        return x

    refused(TypeError, assign, "x = x.at[0].set(...)", "in assign: x[0] = 1")


def test_row_07_augmented_assignment_rebinds() -> None:
    def more(x):
        x += 1
        return x

    before = X.copy()
    np.testing.assert_array_equal(native(more, X), before + 1)
    np.testing.assert_array_equal(X, before)


def test_row_08_closed_over_arrays_are_constants_of_trace_time() -> None:
    bias = np.ones(4, np.float32)
    program = pl.compile(lambda x: x + bias, X)
    bias[:] = 100
    np.testing.assert_array_equal(program(X), X + 1)


def test_row_09_side_effects_run_once() -> None:
    seen = []
    program = pl.compile(lambda x: seen.append(1) or x + 1, X)
    program(X), program(X)
    assert seen == [1]
    with pytest.warns(UserWarning, match=r"random generator .* now constants of the program"):
        pl.trace(lambda x: x + np.random.rand(), X)


def test_row_10_a_tensor_of_another_trace() -> None:
    kept: list[Any] = []

    def first(x):
        kept.append(x)
        return x

    def second(x):
        return x + kept[0]

    pl.trace(first, X)
    refused(TypeError, second, "f32[3, 4]", "the trace of 'first'", "the trace of 'second'")
    says(refusal(TypeError, lambda: kept[0] + 1), "after that trace ended")


def test_row_11_inner_sizes() -> None:
    specs = (pl.spec((2, 3)), pl.spec((2, 3)))
    words = "matmul(f32[2, 3], f32[2, 3]): inner sizes differ, 3 != 2"
    refused(ValueError, lambda x, y: x @ y, words, specs=specs)


def test_row_12_shapes_that_do_not_fit() -> None:
    refused(ValueError, lambda x: x + x[:2], "[3, 4], [2, 4] do not broadcast")
    refused(ValueError, lambda x: x.reshape(5, 2), "[3, 4] (12 elements) to [5, 2] (10 elements)")
    refused(ValueError, lambda x: x.reshape(-1, -1), "[-1, -1]", "at most one -1")


def test_row_13_axes_and_indices() -> None:
    refused(IndexError, lambda x: x.sum(axis=2), "axis 2 is outside an array of 2 axes")
    refused(IndexError, lambda x: x[3], "index 3 is out of range for axis 0 of size 3")
    refused(IndexError, lambda x: x[:, -5], "index -5 is out of range for axis 1 of size 4")
    refused(IndexError, lambda x: x[[0, 7]], "index 7 is out of range for axis 0")


def test_row_14_mixed_dtypes() -> None:
    specs = pl.spec(2, "f32"), pl.spec(2, "i32"), pl.spec(2, "f16")
    graph = pl.trace(lambda x, i, h: (x + i, h * 2.5, i / 2, h + x), *specs)
    assert [str(x.dtype) for x in graph.outputs] == ["f32", "f16", "f32", "f32"]
    refused(TypeError, lambda x: x + np.ones(4), "float64[4]", "array.astype(np.float32)")


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ("text", "str"),
        (np.array(["a"]), "<U1"),
        (np.array([{}]), "object"),
        (np.ones(4) * 1j, "complex128"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64[D]"),
    ],
)
def test_row_15_what_is_no_number(other: Any, name: str) -> None:
    refused(TypeError, lambda x: x + other, name)
    with pytest.raises(TypeError, match=name.replace("[", r"\[")):
        pl.trace(lambda x: x, other)


def test_row_16_zero_sizes() -> None:
    empty = np.zeros((0, 4), np.float32)
    total, product, shape, rows = native(
        lambda x: (x.sum(axis=0), x.prod(), x * 2, F.softmax(x, axis=-1)), empty
    )
    assert total.tolist() == [0] * 4 and product == 1 and shape.shape == rows.shape == (0, 4)
    np.testing.assert_array_equal(native(lambda x: x @ x.T, np.zeros((3, 0), np.float32)), 0)
    for fn in (lambda x: x.max(axis=0), lambda x: x.min(axis=0), lambda x: x.argmax(axis=0)):
        refused(ValueError, fn, "f32[0, 4] has no elements along axis 0", specs=(empty,))


def test_row_17_arrays_that_no_memory_holds() -> None:
    for shape in ((2**32, 2**32), (2**21, 2**21, 2**21)):
        words = f"{np.prod(shape, dtype=object)} elements, more than can be addressed"
        says(refusal(ValueError, pl.spec, shape), words)
        refused(ValueError, lambda x, s=shape: pnp.broadcast_to(x[0, 0], s), words)
    refused(ValueError, lambda x: x[0, 0] + pnp.zeros((2**31, 2**31)), "more than can be addressed")


def test_row_17_more_memory_than_there_is() -> None:
    wide = pl.compile(lambda x: pnp.broadcast_to(x[0, 0], (2**24, 2**24)), X)
    words = "output 0 of fn f32 (16777216, 16777216) takes 1,048,576.0 GiB, more than the"
    says(refusal(ValueError, wide, X), words, "GiB that this process may use")
    inside = pl.compile(lambda x: ((x @ x.T) @ x).sum(), pl.spec(("T", 4)))
    long = np.broadcast_to(X[0], (2**20, 4))
    says(refusal(MemoryError, inside, long), "the memory of fn for T=1048576 takes 4,096")


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """`x` in every layout that NumPy has."""
    wide = np.zeros((6, 8), np.float32)
    wide[::2, ::2] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    locked = x.copy()
    locked.flags.writeable = False
    return {
        "not contiguous": wide[::2, ::2],
        "Fortran": np.asfortranarray(x),
        "negative strides": x[::-1, ::-1].copy()[::-1, ::-1],
        "unaligned": unaligned,
        "read-only": locked,
    }


def test_row_18_layouts() -> None:
    program = pl.compile(lambda x: x * 2 + x.sum(axis=0), X)
    wanted = program(X)
    for name, array in layouts(X).items():
        np.testing.assert_array_equal(program(array), wanted, name)
        np.testing.assert_array_equal(native(lambda x, a=array: x + a, X), X + X, name)
    repeated = np.broadcast_to(X[0], (3, 4))
    np.testing.assert_array_equal(program(repeated), program(repeated.copy()))


def test_row_19_nan_inf_and_denormals() -> None:
    tiny = np.array([1e-40, -1e-45, np.inf, -np.inf, np.nan], np.float32)
    found = native(lambda x: (x * 0.5, x - x, pnp.maximum(x, 0), x / x), tiny)
    with np.errstate(invalid="ignore"):
        wanted = tiny * np.float32(0.5), tiny - tiny, np.maximum(tiny, 0), tiny / tiny
    np.testing.assert_array_equal(found, wanted)
    rows = np.array([[1e30, 1e30], [-np.inf, -np.inf], [np.nan, 0]], np.float32)
    found = native(lambda x: F.softmax(x, axis=-1), rows)
    assert found[0].tolist() == [0.5, 0.5]
    assert found[1].tolist() == [0, 0], "a row that is masked completely has no weight at all"
    assert np.isnan(found[2]).all()


def test_row_20_long_chains_diamonds_and_many_arguments() -> None:
    def chain(x):
        for _ in range(5000):
            x = x + 1
        return x

    def diamond(x):
        for _ in range(40):
            x = x * 0.5 + x
        return x

    one = np.ones(3, np.float32)
    np.testing.assert_array_equal(native(chain, one), one + 5000)
    np.testing.assert_allclose(native(diamond, one), one * 1.5**40, rtol=1e-5)
    many = [one] * 200
    np.testing.assert_array_equal(native(lambda *xs: sum(xs[1:], xs[0]), *many), one * 200)


def test_row_21_the_users_exception() -> None:
    class Mine(BaseException):
        pass

    def fail(x):
        raise Mine("as it is")

    with pytest.raises(Mine, match=r"^as it is$") as caught:
        pl.trace(fail, X)
    assert caught.traceback[-1].name == "fail"
    assert current() is None
    pl.trace(lambda x: x, X)


def test_row_22_odd_names(tmp_path: Path) -> None:
    name = 'a"b\n%c\0\\'

    def model(x):
        return pnp.tanh(x) + 1

    model.__name__ = name
    graph = pl.trace(model, pl.spec(3, name=name))
    assert str(pl.parse(str(graph))) == str(graph)
    program = pl.compile(graph)
    np.testing.assert_array_equal(program(np.zeros(3, np.float32)), np.ones(3))
    assert name not in program.llvm_ir
    says(refusal(ValueError, program, np.zeros(4, np.float32)), "argument 0 (")
    graph.draw(tmp_path / "odd.dot")
    text = (tmp_path / "odd.dot").read_text(encoding="utf-8")
    assert name not in text and "\0" not in text
    pl.save_graph(graph, tmp_path / "odd")
    assert str(pl.load_graph(tmp_path / "odd")) == str(graph)
