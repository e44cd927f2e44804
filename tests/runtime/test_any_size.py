"""Kernels that differ in sizes only are one, which is told them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp
from planish.ir.dims import Dim, is_multiple
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.groups import classify
from planish.ir.loop_eval import run_kernel
from planish.ir.loops import For, Kernel, Store
from planish.ir.node import OPS, Node
from planish.ir.ops.leaf import input_
from planish.ir.types import TensorType, bf16, f16, f32
from planish.passes.pipelines import PIPELINES
from planish.runtime.build import modules_of
from planish.runtime.codegen.functions import Ahead, Functions
from planish.runtime.codegen.kernel import kernel_function
from planish.runtime.interpret import run_plan
from planish.runtime.kernels.any_size import General, of_matrix, of_rows, of_sums
from planish.runtime.kernels.pack import pack_kernel
from planish.runtime.kernels.rows import lane_width
from planish.runtime.kernels.words import WORDS, before_words, column_words
from planish.runtime.lower import lower
from planish.runtime.nests import Nests
from planish.runtime.plan import Plan
from planish.runtime.target import Target
from tests.ir.nests import J, T, buffer
from tests.runtime.native import check

HOST, WIDE = Target.host(), Target.parse("x86-64-v4")


def leaf(*shape: int) -> Node:
    return input_(name="x", type=TensorType(f32, shape))


def body(*inputs: Node, makes: Node) -> Graph:
    return Graph("f", inputs, (makes,))


def updated(*xs: pl.Tensor) -> tuple[pl.Tensor, ...]:
    return tuple(pnp.exp(x) * 0.5 for x in xs)


def summed(*xs: pl.Tensor) -> tuple[pl.Tensor, ...]:
    return tuple((x * x).sum(0) for x in xs)


def product(x: pl.Tensor, *ws: pl.Tensor) -> tuple[pl.Tensor, ...]:
    return tuple(x @ w.T for w in ws)


def plan_of(fn: Callable, shapes: list[tuple[int, ...]], target: Target = HOST) -> Plan:
    return lower(PIPELINES["O2"].run(pl.trace(fn, *map(pl.spec, shapes))), target)


@pytest.mark.parametrize(
    ("fn", "shapes", "name", "sizes"),
    [
        (updated, [(6, 48), (5, 16)], "exp_mul", [(6, 3), (5, 1)]),
        (updated, [(2, 3, 48), (5, 16)], "exp_mul", [(6, 3), (5, 1)]),
        (updated, [(48,), (2064,)], "exp_mul", [(1, 3), (1, 129)]),
        (summed, [(6, 64), (9, 192)], "sum", [(6, 1), (9, 3)]),
        (summed, [(64, 1024), (128, 640)], "sum_parts", [(2, 16), (4, 10)]),
        (product, [(3, 128), (64, 128), (128, 128)], "pack", [(2, 1), (2, 2)]),
    ],
)
def test_steps_of_other_sizes_have_one_kernel(
    fn: Callable, shapes: list[tuple[int, ...]], name: str, sizes: list[tuple[int, int]]
) -> None:
    steps = [x for x in plan_of(fn, shapes, WIDE).steps if x.kernel.name == name]
    assert len({id(x.kernel) for x in steps}) == 1
    assert sorted(tuple(dict(x.sizes).values()) for x in steps) == sorted(sizes)


@pytest.mark.parametrize(
    ("fn", "shapes", "name"),
    [
        (updated, [(6, 48), (5, 17)], "exp_mul"),  # something is left over in one
        (summed, [(6, 64), (9, 65)], "sum"),  # and sums of 65 have other lanes
        (product, [(3, 128), (64, 128), (100, 128)], "pack"),
    ],
)
def test_sizes_that_leave_a_rest_have_a_kernel_of_their_own(
    fn: Callable, shapes: list[tuple[int, ...]], name: str
) -> None:
    steps = [x for x in plan_of(fn, shapes, WIDE).steps if x.kernel.name == name]
    assert len({id(x.kernel) for x in steps}) == 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (updated, [(6, 48), (5, 16), (300, 160), (5, 17), (1, 32), (32, 1), (1, 1)]),
        (updated, [(48,), (2064,), (1024,), (17,), (1,)]),
        (summed, [(6, 64), (9, 192), (64, 1024), (33, 1024), (128, 640), (9, 65)]),
        (product, [(130, 128), (64, 128), (128, 128), (33, 128), (1, 128)]),
    ],
)
def test_they_compute_what_evaluate_does(
    fn: Callable, shapes: list[tuple[int, ...]], threads: int
) -> None:
    graph = pl.trace(fn, *map(pl.spec, shapes))
    random = np.random.default_rng(1)
    arrays = [random.standard_normal(shape).astype("f4") for shape in shapes]
    program = pl.compile(graph, pipeline="O2", threads=threads)
    for given in (program(*arrays), run_plan(plan_of(fn, shapes), *arrays)):
        for found, right in zip(given, evaluate(graph, *arrays), strict=True):
            np.testing.assert_allclose(found, right, rtol=2e-5, atol=2e-5)


def test_names_of_sizes_are_a_kernel_s_own() -> None:
    """A program may have sizes of the same names, and other values."""
    graph = pl.trace(
        lambda x, y: (pnp.exp(x) * 0.5, pnp.tanh(y) * 2.0),
        pl.spec((6, 48)),
        pl.spec((pl.Dim("rows", max=9), 48)),
    )
    program = pl.compile(graph, pipeline="O2", threads=1)
    assert sorted(bool(x.sizes) for x in program.plan.steps) == [False, True]
    x, y = np.ones((6, 48), "f4"), np.ones((2, 48), "f4")
    for given in (program(x, y), run_plan(program.plan, x, y)):
        for found, right in zip(given, evaluate(graph, x, y), strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-6)


@pytest.mark.parametrize("name", ["rows", "columns", "B"])
def test_a_size_that_is_a_value_is_the_program_s(name: str) -> None:
    """Whatever its name: one that a kernel of all sizes has, too, would be mistaken for that."""
    graph = pl.trace(lambda x, y: y * x.shape[0], pl.spec((name, 4)), pl.spec((16, 32)))
    program = pl.compile(graph, threads=1)
    x, y = np.ones((7, 4), "f4"), np.ones((16, 32), "f4")
    for found in (program(x, y), *run_plan(program.plan, x, y)):
        np.testing.assert_array_equal(found, 7 * y)


def test_one_function_whoever_calls_it() -> None:
    """What is too small to share, and what threads share, is guessed and called in the same way."""
    texts: list[str] = []
    functions = Functions(HOST, texts.append)
    graph = PIPELINES["O2"].run(pl.trace(updated, pl.spec((2, 16)), pl.spec((999, 1600))))
    plan = lower(graph, HOST, None, Ahead(functions, ()).add, functions.nests)
    modules = modules_of(plan, HOST, functions)
    assert set(modules.schedule.runs) == {"one", "shared"} and len(set(modules.symbols)) == 1
    assert "".join(texts).count("define void @") == 1


def test_what_is_known_of_a_step_is_of_its_sizes() -> None:
    plan, nests = plan_of(updated, [(64, 48), (32, 48)]), Nests()
    found = [nests.of(x.kernel, x.sizes) for x in plan.steps]
    assert sorted(x.trips.value for x in found) == [32, 64]  # type: ignore[attr-defined]
    assert found[0].apart == found[1].apart == {"p0": 1, "out0": 1}
    program = pl.compile(pl.trace(updated, pl.spec((64, 48)), pl.spec((32, 48))), threads=1)
    counted = program.bind(np.ones((64, 48), "f4"), np.ones((32, 48), "f4")).work()
    assert sorted(x.flops for x in counted) == [2 * 32 * 48, 2 * 64 * 48]


def test_lanes_of_many_columns_are_as_many_as_of_a_number() -> None:
    assert lane_width(64 * Dim("n"), 16, True) == lane_width(640, 16, True) == 64
    assert lane_width(32 * Dim("n"), 16, True) == 32
    assert lane_width(Dim("n"), 16, True) == lane_width(64 * Dim("n"), 16, False) == 16


def test_a_body_without_sizes() -> None:
    x, y = leaf(2, 3, 32), leaf(1, 1, 32)
    found = of_rows(body(y, leaf(7), x, makes=OPS["add"](y, x)), (2, 3, 32), (1, 16))
    assert found is not None
    assert [str(x.type) for x in found.body.inputs] == [
        "f32[1, 16*columns]",
        "f32[rows, 16*columns]",
    ]
    assert (found.sizes, found.reads) == ((("rows", 6), ("columns", 2)), (0, 2))


@pytest.mark.parametrize(
    "makes",
    [
        lambda x: OPS["add"](x, leaf(3, 64)),  # sees one of the axes that would be one
        lambda x: OPS["add"](x, OPS["transpose"](x, perm=(1, 0, 2))),
        lambda x: OPS["sum"](x, axes=(0,)),
        lambda x: OPS["sum"](x, axes=(2,)),
        lambda x: OPS["sum"](x, axes=(2,), keep=True),
    ],
)
def test_what_sees_several_axes_keeps_its_sizes(makes: Callable[[Node], Node]) -> None:
    x = leaf(3, 3, 64)
    assert of_rows(body(x, makes=makes(x)), x.shape, (1, 16)) is None


def test_sums_come_in_whole_blocks() -> None:
    def found(*shape: int, unit: int = 1) -> General | None:
        x = leaf(*shape)
        sums = body(x, makes=OPS["sum"](x, axes=(0,)))
        return of_sums(sums, classify(sums), WIDE, unit)

    assert found(5, 64) and found(64, 64, unit=32)
    assert not found(5, 32) and not found(5, 65) and not found(65, 64, unit=32)


@pytest.mark.parametrize(
    ("makes", "stored"),
    [
        (lambda x: x, "f32[64*rows, 16*columns]"),
        (lambda x: OPS["transpose"](x, perm=(1, 0)), "f32[16*columns, 64*rows]"),
        (lambda x: OPS["reshape"](x, shape=(64, 8, 16)), None),
        (lambda x: OPS["reshape"](x, shape=(1024, 8)), "f32[64*rows, columns]"),
        (lambda x: OPS["slice"](x, starts=(0, 0), stops=(63, 128), steps=(1, 1)), None),
        (lambda x: OPS["flip"](x, axes=(0,)), None),
        (lambda x: OPS["mul"](x, x), None),
        (lambda x: OPS["cast"](x, dtype=f16), "f32[64*rows, 16*columns]"),
        (
            lambda x: OPS["transpose"](OPS["cast"](x, dtype=f16), perm=(1, 0)),
            "f32[16*columns, 64*rows]",
        ),
    ],
)
def test_a_packed_operand_is_a_matrix(makes: Callable[[Node], Node], stored: str | None) -> None:
    x = leaf(64, 128)
    b = makes(x)
    found = of_matrix(body(leaf(1), x, makes=b), b, (64, 16))
    assert (found and str(found.body.inputs[0].type)) == stored
    assert found is None or found.reads == (1,)


@pytest.mark.parametrize(
    ("shape", "turned", "stored"),
    [
        ((256, 32), False, "bf16[128*rows, 16*columns]"),
        ((30, 256), True, "bf16[columns, 128*rows]"),
        ((192, 32), False, None),  # a word stays one, where blocks of rows are not whole
    ],
)
def test_words_of_a_matrix_are_packed_likewise(
    shape: tuple[int, int], turned: bool, stored: str | None
) -> None:
    x = input_(name="x", type=TensorType(bf16, shape))
    b = column_words(OPS["transpose"](x, perm=(1, 0)) if turned else x)
    found = of_matrix(body(x, makes=b), b, (64, 16))
    assert (found and str(found.body.inputs[0].type)) == stored
    assert before_words(WORDS[2](x, x)) is None
    if found is None:
        return
    makes = [pack_kernel(g, not turned, 16, "pack") for g in (body(x, makes=b), found.body)]
    words = np.random.default_rng(0).integers(0, 1 << 16, shape, "u2").view(bf16.numpy)
    results = []
    for made, sizes in zip(makes, ({}, dict(found.sizes)), strict=True):
        results.append(np.zeros(b.shape[0] * 32, "u4"))
        given = [words if kind == "in" else results[-1] for kind, _ in made.args]
        run_kernel(made.kernel, given, sizes, [])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("vectors", "rest", "masked"), [(16, 0, False), (24, 0, True), (16, 1, True)]
)
def test_nothing_is_left_over_of_whole_vectors(vectors: int, rest: int, masked: bool) -> None:
    """Where the extent itself says that they are."""
    extent, size = T * vectors + rest, 3 * vectors + rest
    x, y = buffer("x", extent), buffer("y", extent)
    loop = For(J, extent, "vector", (Store(y, (J,), x[J] * 2.0),), 16)
    kernel = Kernel("f", (x, y), ("y",), (), (loop,))
    assert ("masked" in kernel_function(kernel, kernel.dims, "f", WIDE, {})) == masked
    array = np.arange(size, dtype="f4")
    check(kernel, array, np.zeros(size, "f4"), dims={"T": 3})


def test_whether_a_number_divides_a_size() -> None:
    n, m = Dim("n"), Dim("m")
    assert is_multiple(64, 16) and is_multiple(0, 16) and is_multiple(32 * n + 16 * m * n, 16)
    assert not is_multiple(65, 16) and not is_multiple(n, 16) and not is_multiple(16 * n + 1, 16)
