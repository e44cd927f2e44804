"""Products by integers in groups: kernels against `ref`, bit for bit where A is bytes."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import DTypeError, ShapeError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.loop_text import kernel_text
from planish.ir.node import OPS, Node
from planish.ir.types import TensorType
from planish.passes.pipelines import FAST
from planish.runtime.interpret import run_plan
from planish.runtime.kernels.scaled import nibble_rows, tile_of
from planish.runtime.lower import lower
from planish.runtime.plan import Plan
from planish.runtime.program import Program
from planish.runtime.target import Target
from tests.runtime.native import here, need_other_code

RNG = np.random.default_rng(0)
SIZES = [  # rows, depth, columns, group
    (1, 32, 1, 32), (1, 64, 16, 8), (1, 128, 130, 64), (2, 64, 15, 32), (5, 128, 65, 128),
    (6, 96, 33, 32), (7, 64, 64, 64), (13, 64, 17, 16), (31, 32, 129, 32), (3, 12, 5, 6),
]  # fmt: skip


def leaf(op: str, name: str, dtype: t.DType, *shape: int) -> Node:
    return OPS[op](name=name, type=TensorType(dtype, shape))


def activations(kind: t.DType, *shape: int) -> np.ndarray:
    """All values of i8, the ends often; or floats."""
    if kind == t.f32:
        return RNG.standard_normal(shape).astype(np.float32)
    ends = RNG.choice(np.array([-128, 127], np.int8), shape)
    return np.where(RNG.random(shape) < 0.3, ends, RNG.integers(-128, 128, shape, np.int8))


def dense(kind: t.DType, m: int, k: int, n: int, group: int, name: str = "") -> Graph:
    """x @ w.T, where w [n, k] is stored as groups of i4."""
    x = leaf("input", f"x{name}", kind, m, k)
    w = leaf("param", f"w{name}", t.i4, n, k // group, group)
    s = leaf("param", f"s{name}", t.bf16, n, k // group, 1)
    b, scale = (
        OPS["transpose"](OPS["reshape"](a, shape=(n, a.type.size // n)), perm=(1, 0))
        for a in (w, s)
    )
    weights = RNG.integers(-8, 8, w.shape).astype(t.i4.numpy)
    scales = RNG.standard_normal(s.shape).astype(t.bf16.numpy)
    y = OPS["scaled_matmul"](x, b, scale)
    return Graph("f", (x,), (y,), {f"w{name}": weights, f"s{name}": scales})


def many(kind: t.DType) -> tuple[Graph, list[np.ndarray]]:
    """All sizes in one graph."""
    parts = [dense(kind, *size, name=str(i)) for i, size in enumerate(SIZES)]
    ends = [(part.inputs, part.outputs) for part in parts]
    params = {name: a for part in parts for name, a in part.params.items()}
    inputs, outputs = (sum((part[i] for part in ends), ()) for i in (0, 1))
    return Graph("many", inputs, outputs, params), [activations(kind, *x.shape) for x in inputs]


def labels(plan: Plan) -> list[str]:
    return [step.label.split(".")[-1] for step in plan.steps]


@pytest.mark.parametrize("name", ["host", "x86-64-v4", "x86-64-v3", "x86-64-v2"])
@pytest.mark.parametrize("kind", [t.i8, t.f32], ids=str)
def test_products_of_all_sizes(name: str, kind: t.DType) -> None:
    """The bits of `ref` for bytes where there is an fma; the same bits at 1 and 2 threads."""
    target = here(name)
    graph, arrays = many(kind)
    need_other_code(FAST.run(graph), target)
    plan, want = lower(FAST.run(graph), target), evaluate(graph, *arrays)
    one, two = (Program(plan, target, threads=n)(*arrays) for n in (1, 2))
    exact = kind == t.i8 and target.has_fma
    for x, y, z, a in zip(one, two, want, arrays, strict=True):
        np.testing.assert_array_equal(x, y)
        size = 0 if exact else 1e-6 * np.abs(a.astype(np.float64)).sum() * 32
        np.testing.assert_allclose(x, z, 0, size)


@pytest.mark.parametrize("name", ["znver4", "x86-64-v3", "x86-64-v2", "aarch64:neoverse-n1"])
@pytest.mark.parametrize("size", [(1, 64, 33, 32), (7, 32, 20, 16), (3, 12, 5, 6)])
def test_kernels_by_the_loop_interpreter(name: str, size: tuple[int, int, int, int]) -> None:
    for kind in (t.i8, t.f32):
        graph = dense(kind, *size)
        x = activations(kind, *size[:2])
        got, want = run_plan(lower(FAST.run(graph), Target.parse(name)), x), evaluate(graph, x)
        np.testing.assert_allclose(got[0], want[0], 0, 0 if kind == t.i8 else 1e-4)


def test_weights_are_stored_as_nibbles_beside_their_scales() -> None:
    """Nothing else of them is kept: half a byte each, and four bytes for each group."""
    plan = lower(FAST.run(dense(t.i8, 1, 128, 256, 64)), Target.parse("x86-64-v3"))
    assert [x.nbytes for x in plan.params] == [128 * 256 // 2 + 256 * 128 // 64 * 4]
    assert labels(plan) == ["scaled_matmul"]


def test_rows_of_words() -> None:
    """Scales first, then eight steps of k in a word, low halves before high ones."""
    b = np.arange(-8, 8).reshape(16, 1).astype(t.i4.numpy)
    rows = nibble_rows(b, np.float32([[0.5], [-2.0]]).astype(t.bf16.numpy))
    assert rows.shape == (4, 1)
    np.testing.assert_array_equal(rows[[0, 2], 0].view(np.float32), [0.5, -2.0])
    assert [hex(x) for x in rows[[1, 3], 0]] == ["0x73625140", "0xfbead9c8"]


def test_weights_that_are_arguments_are_read_where_they_lie() -> None:
    x, w = leaf("input", "x", t.i8, 3, 16), leaf("input", "w", t.i4, 16, 21)
    s = leaf("input", "s", t.bf16, 2, 21)
    graph = Graph("f", (x, w, s), (OPS["scaled_matmul"](x, w, s),))
    arrays = (
        activations(t.i8, 3, 16),
        RNG.integers(-8, 8, (16, 21)).astype(t.i4.numpy),
        activations(t.f32, 2, 21).astype(t.bf16.numpy),
    )
    plan = lower(FAST.run(graph), Target.host())
    np.testing.assert_allclose(Program(plan)(*arrays), evaluate(graph, *arrays)[0], 1e-6, 1e-4)
    assert labels(plan) == ["scaled_matmul"]


@pytest.mark.parametrize("sign", [-128, 127])
@pytest.mark.parametrize("weight", [-8, 7])
def test_the_largest_sums_fit_in_halves(sign: int, weight: int) -> None:
    """Of chunks of products, in 16 bits; where each takes an instruction there are none."""
    graph = dense(t.i8, 3, 256, 20, 128)
    params = {**graph.params, "w": np.full_like(graph.params["w"], weight)}
    graph, x = Graph("f", graph.inputs, graph.outputs, params), np.full((3, 256), sign, np.int8)
    for name, halves in (("x86-64-v3", True), ("znver4", False)):
        plan = lower(FAST.run(graph), Target.parse(name))
        np.testing.assert_allclose(run_plan(plan, x)[0], evaluate(graph, x)[0], 1e-6)
        assert ("dpbusw" in kernel_text(plan.steps[-1].kernel)) is halves


def test_the_epilogue_is_in_the_kernel() -> None:
    graph = dense(t.i8, 5, 64, 33, 32)
    r = leaf("input", "r", t.f32, 5, 33)
    y = OPS["tanh"](graph.outputs[0] * 1e-4 + r)
    graph = Graph("f", (*graph.inputs, r), (y,), graph.params)
    arrays = activations(t.i8, 5, 64), activations(t.f32, 5, 33)
    plan = lower(FAST.run(graph), Target.host())
    assert len(plan.steps) == 1
    np.testing.assert_allclose(Program(plan)(*arrays), evaluate(graph, *arrays)[0], 1e-5, 1e-5)


@pytest.mark.parametrize("name", ["x86-64-v4", "x86-64-v3", "aarch64:neoverse-n1"])
def test_tiles_fit_in_registers(name: str) -> None:
    target = Target.parse(name)
    lanes = target.lanes(t.f32)
    for rows in (1, 2, 64, None):
        mr, nr = tile_of(target, rows, 4096, lanes)
        assert (mr + 2) * (nr // lanes) + 3 <= target.vector_registers
        assert mr == 1 if rows == 1 else mr <= (rows or 12)


@pytest.mark.parametrize(
    "types, message",
    [
        ((t.f32, t.f32, t.bf16, 16, 2), "takes a of f32 or i8"),
        ((t.i8, t.i4, t.f32, 16, 2), "scales of bf16"),
        ((t.i8, t.i4, t.bf16, 8, 2), "a is .*, k.*, b .*k, n.*, scale"),
        ((t.i8, t.i4, t.bf16, 16, 3), "3 groups do not divide k = 16"),
    ],
)
def test_what_it_refuses(types: tuple, message: str) -> None:
    a, b, scale, k, groups = types
    with pytest.raises((DTypeError, ShapeError), match=message):
        OPS["scaled_matmul"](
            leaf("input", "a", a, 3, 16), leaf("input", "b", b, k, 5),
            leaf("input", "s", scale, groups, 5),
        )  # fmt: skip
