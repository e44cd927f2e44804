"""Tracing: arguments, results, symbolic sizes, closures, side effects."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp
from planish.frontend.context import current

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_trace_prints_what_was_written() -> None:
    def mlp(x, w, b):
        return pnp.tanh(x @ w + b)

    graph = pl.trace(mlp, pl.spec((4, 8)), pl.spec((8, 3)), pl.spec(3))
    assert str(graph) == (
        "graph mlp(%x: f32[4, 8], %w: f32[8, 3], %b: f32[3]) {\n"
        "  %0 = matmul(%x, %w) : f32[4, 3]\n"
        "  %1 = add(%0, %b) : f32[4, 3]\n"
        "  %2 = tanh(%1) : f32[4, 3]\n"
        "  return %2\n"
        "}"
    )


def test_results_come_back_in_the_form_of_the_function() -> None:
    one = pl.trace(lambda x: x + 1, X)
    pair = pl.trace(lambda x: (x, x * 2), X)
    named = pl.trace(lambda x: {"loss": x.sum(), "more": [x, x]}, X)
    single = pl.trace(lambda x: (x + 1,), X)
    assert (one.treedef, pair.treedef) == (None, ("0", "1"))
    assert named.treedef == ("loss", "more/0", "more/1")
    assert pl.interpret(one, X).shape == (2, 3)
    assert isinstance(pl.interpret(pair, X), tuple)
    found = pl.interpret(named, X)
    assert found["loss"] == 15.0
    np.testing.assert_array_equal(found["more"][1], X)
    assert len(pl.interpret(single, X)) == 1


def test_arguments_may_be_trees() -> None:
    params = {"w": X, "b": [X[0], X[1]]}
    graph = pl.trace(lambda p, x: p["w"] * x + p["b"][1], params, pl.spec((2, 3)))
    assert [n.attrs["name"] for n in graph.inputs] == ["p.w", "p.b.0", "p.b.1", "x"]
    np.testing.assert_array_equal(pl.interpret(graph, params, X), X * X + X[1])


def test_constants_may_be_returned() -> None:
    graph = pl.trace(lambda x: (X, 1.5, x.shape[0]), pl.spec(("T",)))
    array, number, size = pl.interpret(graph, np.zeros(7, np.float32))
    np.testing.assert_array_equal(array, X)
    assert (float(number), int(size)) == (1.5, 7)


def test_names_of_arguments_come_from_the_signature_or_the_spec() -> None:
    graph = pl.trace(lambda x, *rest: x, X, pl.spec(2, name="odd name"), X)
    assert [n.attrs["name"] for n in graph.inputs] == ["x", "odd name", "rest1"]
    assert str(pl.parse(str(graph))) == str(graph)


def test_symbolic_sizes_compute() -> None:
    def fn(x):
        batch, length = x.shape
        pos = pnp.arange(length) + batch
        return x.reshape(batch * length), x[:, : length - 1], pos, x / length

    graph = pl.trace(fn, pl.spec(("B", "T")))
    assert [str(t) for t in graph.output_types] == [
        "f32[B*T]", "f32[B, T-1]", "i64[T]", "f32[B, T]",
    ]  # fmt: skip
    flat, cut, pos, scaled = pl.interpret(graph, X)
    np.testing.assert_array_equal(pos, [2, 3, 4])
    np.testing.assert_allclose(scaled, X / 3)
    assert (flat.shape, cut.shape) == ((6,), (2, 2))


def test_decidable_questions_about_sizes_are_answered() -> None:
    seen = []

    def fn(x):
        length = x.shape[0]
        seen.extend([length == length, length > 0, length <= 64, length == 0, length < 65])
        seen.extend([min(length, 64) is length, length + 1 > length])
        return x

    pl.trace(fn, pl.spec(pl.Dim("T", max=64)))
    assert seen == [True, True, True, False, True, True, True]


UNDECIDED = {
    "equal": lambda n: n == 1,
    "less": lambda n: n < 8,
    "other": lambda n: n != 2,
    "range": lambda n: range(n),
    "float": lambda n: float(n),
    "remainder": lambda n: n % 2,
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_undecidable_questions_about_sizes_are_refused(name: str) -> None:
    with pytest.raises(pl.TraceError, match="T"):
        pl.trace(lambda x: x if UNDECIDED[name](x.shape[0]) else -x, pl.spec(("T",)))


def test_a_branch_on_a_size_says_what_to_do() -> None:
    with pytest.raises(TypeError) as caught:
        pl.trace(lambda x: x if x.shape[0] > 8 else -x, pl.spec(("T",)))
    assert "`T > 8` is true for some sizes and false for others" in str(caught.value)
    assert "give pl.Dim a max that decides it" in str(caught.value)


def test_slices_must_fit_for_every_size() -> None:
    table = np.zeros((64, 2), np.float32)

    with pytest.raises(pl.ShapeError, match="slice bound T, which may be 128, does not fit"):
        pl.trace(lambda t, x: t[: x.shape[0]], table, pl.spec(pl.Dim("T", max=128)))
    graph = pl.trace(lambda t, x: t[: x.shape[0]], table, pl.spec("T"))
    assert pl.interpret(graph, table, X[0]).shape == (3, 2)
    with pytest.raises(ValueError, match="65"):
        pl.interpret(graph, table, np.zeros(65, np.float32))
    with pytest.raises(pl.ShapeError, match="slice bound 4 does not fit axis 0 of size T"):
        pl.trace(lambda x: x[:4], pl.spec("T"))


def test_one_maximum_counts_for_all_specs() -> None:
    graph = pl.trace(lambda x, y: x + y, pl.spec("T"), pl.spec(pl.Dim("T", max=9)))
    assert [s.max for s in graph.symbols] == [9]
    with pytest.raises(pl.ShapeError, match="max=9 in one spec and max=8 in another"):
        pl.trace(lambda x, y: x, pl.spec(pl.Dim("T", max=9)), pl.spec(pl.Dim("T", max=8)))


BAD_SPECS = {
    "dtype": (TypeError, lambda: pl.spec(3, "complex64"), "complex64"),
    "no dtype": (TypeError, lambda: pl.spec(3, "f33"), "'f33' is not supported"),
    "dtype None": (TypeError, lambda: pl.spec(3, None), "None is not supported"),
    "negative": (ValueError, lambda: pl.spec((3, -1)), "-1"),
    "float": (ValueError, lambda: pl.spec(2.5), "2.5"),
    "too large": (ValueError, lambda: pl.spec((2**40, 2**40)), "more than can be addressed"),
    "name": (ValueError, lambda: pl.spec(("a b",)), "a b"),
    "argument": (TypeError, lambda: pl.trace(lambda x: x, 3), "functools.partial"),
    "object array": (TypeError, lambda: pl.trace(lambda x: x, np.array([{}])), "object"),
    "string array": (TypeError, lambda: pl.trace(lambda x: x, np.array(["a"])), "<U1"),
}


@pytest.mark.parametrize("name", BAD_SPECS)
def test_bad_specs_are_refused(name: str) -> None:
    kind, call, words = BAD_SPECS[name]
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize("result", [None, "text", len], ids=["None", "text", "function"])
def test_bad_results_are_refused(result) -> None:
    with pytest.raises(TypeError, match="a traced function returns an array"):
        pl.trace(lambda x: result, X)


def test_huge_results_are_refused_before_they_exist() -> None:
    with pytest.raises(ValueError, match=r"more than can be addressed"):
        pl.trace(lambda x: pnp.broadcast_to(x, (2**31, 2**31, 2, 3)), X)


def test_closed_over_arrays_are_constants_of_trace_time() -> None:
    bias = np.ones(3, np.float32)
    graph = pl.trace(lambda x: x + bias, X)
    bias[:] = 100
    np.testing.assert_array_equal(pl.interpret(graph, X), X + 1)
    assert list(graph.params) == ["const"]


def test_an_array_changed_between_two_uses_is_two_constants() -> None:
    def fn(x):
        a = np.ones(3, np.float32)
        y = x + a
        a[0] = 5
        return y + a + a

    graph = pl.trace(fn, X)
    assert len(graph.params) == 2
    np.testing.assert_array_equal(pl.interpret(graph, X), X + np.array([11, 3, 3]))


RANDOM = """
import sys, warnings, numpy as np, planish as pl
warnings.simplefilter("error")
pl.trace(lambda x: x + 1, pl.spec((3,)))
assert "numpy.random" not in sys.modules  # it takes 10 ms
if sys.argv[1] == "own":
    pl.trace(lambda x: x + np.random.default_rng(0).random(3, np.float32), pl.spec((3,)))
else:
    pl.trace(lambda x: x + np.random.rand(), pl.spec((3,)))
"""


@pytest.mark.parametrize("whose", ["own", "global"])
def test_randomness_that_is_imported_while_tracing(whose: str) -> None:
    command = [sys.executable, "-c", RANDOM, whose]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert ("UserWarning: NumPy's global random generator was used" in told) == (whose == "global")
    assert told.count("Error") == 0


def test_numpys_global_randomness_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="now constants of the program"):
        pl.trace(lambda x: x + np.random.rand(), X)


def test_side_effects_happen_once() -> None:
    calls = []
    graph = pl.trace(lambda x: calls.append(1) or x + 1, X)
    pl.interpret(graph, X), pl.interpret(graph, X)
    assert calls == [1]


def test_the_users_exception_passes_through() -> None:
    class Mine(Exception):
        pass

    def fail(x):
        raise Mine("as it is")

    with pytest.raises(Mine, match=r"^as it is$"):
        pl.trace(fail, X)
    assert current() is None
    pl.trace(lambda x: x, X)


def test_long_chains_diamonds_and_many_arguments() -> None:
    def chain(x):
        for _ in range(5000):
            x = x + 1
        return x

    def diamond(x):
        for _ in range(40):
            x = x + x
        return x

    np.testing.assert_array_equal(pl.interpret(pl.trace(chain, X), X), X + 5000)
    assert len(pl.trace(diamond, X).nodes) == 41
    many = pl.trace(lambda *xs: sum(xs[1:], xs[0]), *[X] * 200)
    np.testing.assert_array_equal(pl.interpret(many, *[X] * 200), X * 200)


def test_odd_names_are_escaped() -> None:
    name = 'a"b\n%c\0'
    graph = pl.trace(lambda x: x + 1, pl.spec(3, name=name))
    assert pl.parse(str(graph)).inputs[0].attrs["name"] == name


def test_zero_sizes_work() -> None:
    empty = np.zeros((0, 3), np.float32)
    total, shape = pl.interpret(pl.trace(lambda x: (x.sum(axis=0), x * 2), empty), empty)
    np.testing.assert_array_equal(total, [0, 0, 0])
    assert shape.shape == (0, 3)


def test_donated_arguments_become_results() -> None:
    graph = pl.trace(lambda x, s: (x.sum(), s + x), X, X, donate={1: 1})
    assert graph.aliases == ((1, 1),)
    with pytest.raises(pl.ShapeError, match="cannot be donated"):
        pl.trace(lambda x, s: (x.sum(), s), X, X, donate={1: 0})


def test_compiled_functions_keep_the_form_of_results() -> None:
    program = pl.compile(lambda x, p: {"y": x * p["w"], "s": x.sum()}, X, {"w": X})
    found = program(X, {"w": X})
    np.testing.assert_allclose(found["y"], X * X)
    assert found["s"] == 15.0
    with pytest.raises(TypeError, match="takes no specs"):
        pl.compile(pl.trace(lambda x: x + 1, X), X)


def test_arguments_that_are_missing_are_named() -> None:
    with pytest.raises(pl.TraceError, match=r"TinyGPT takes tokens, too: give a pl.spec\(shape"):
        pl.compile(pl.TinyGPT(9, 8, 1, 2, 8))
    with pytest.raises(pl.TraceError, match=r"fn takes y, too"):
        pl.grad(lambda x, y: (x * y).sum())(np.ones(3, np.float32))
    assert len(pl.trace(lambda x, y=2: x * y, pl.spec((3,))).inputs) == 1


def test_import_is_light() -> None:
    heavy = ("numpy", "llvmlite", "networkx")
    code = f"import planish, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_loads() -> None:
    for name in pl.__all__:
        assert getattr(pl, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = pl.nonsense
