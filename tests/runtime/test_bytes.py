"""Products of bytes: kernels against `ref`, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.loop_verify import DOTS
from planish.ir.loops import Scalar, walk
from planish.ir.node import OPS, Node
from planish.ir.types import TensorType
from planish.passes.pipelines import FAST
from planish.runtime.interpret import run_plan
from planish.runtime.lower import lower
from planish.runtime.plan import Plan
from planish.runtime.program import Program
from planish.runtime.target import Target
from tests.runtime.native import assembly, here, need_other_code

RNG = np.random.default_rng(0)
TARGETS = ("host", "x86-64-v4", "x86-64-v3", "x86-64-v2")  # in all that runs here
SIZES = [
    (1, 1, 1), (1, 40, 130), (1, 384, 65), (2, 2, 15), (5, 31, 16), (6, 32, 17), (7, 33, 64),
    (13, 64, 65), (16, 63, 32), (17, 65, 31), (31, 128, 33), (33, 96, 48), (64, 34, 129),
]  # fmt: skip


def bytes_of(*shape: int) -> np.ndarray:
    """All values of i8, the ends often: sums of their products saturate 16 bits."""
    found = RNG.integers(-128, 128, shape, np.int8)
    ends = RNG.choice(np.array([-128, 127], np.int8), shape)
    return np.where(RNG.random(shape) < 0.5, ends, found)


def leaf(op: str, name: str, *shape: int) -> Node:
    return OPS[op](name=name, type=TensorType(t.i8, shape))


def turned(x: Node) -> Node:
    return OPS["transpose"](x, perm=(1, 0))


def product(a: Node, b: Node) -> Node:
    return OPS["matmul"](a, b, out=t.i32)


def run(graph: Graph, target: Target, *arrays: np.ndarray) -> Plan:
    """Native code at 1 and 2 threads has the bits of `ref`; the plan."""
    plan, want = lower(FAST.run(graph), target), evaluate(graph, *arrays)
    for threads in (1, 2):
        got = Program(plan, target, threads=threads)(*arrays)
        for x, y in zip(got if isinstance(got, tuple) else (got,), want, strict=True):
            np.testing.assert_array_equal(x, y)
    return plan


def labels(plan: Plan) -> list[str]:
    return [step.label.split(".")[-1] for step in plan.steps]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("weights", [True, False])
def test_products_of_all_sizes(name: str, weights: bool) -> None:
    """Tails of rows, columns and depth; weights packed ahead or B packed now."""
    inputs, outputs, arrays, params = [], [], [], {}
    for i, (m, k, n) in enumerate(SIZES):
        a, w = leaf("input", f"a{i}", m, k), leaf("param" if weights else "input", f"w{i}", n, k)
        inputs.append(a)
        arrays.append(bytes_of(m, k))
        if weights:
            params[f"w{i}"] = bytes_of(n, k)
        else:
            inputs.append(w)
            arrays.append(bytes_of(n, k))
        outputs.append(product(a, turned(w)))
    graph, target = Graph("many", tuple(inputs), tuple(outputs), params), here(name)
    need_other_code(FAST.run(graph), target)
    run(graph, target, *arrays)


@pytest.mark.parametrize("name", [*TARGETS, "znver4", "aarch64:neoverse-n1"])
@pytest.mark.parametrize("m, k, n", [(1, 6, 33), (7, 36, 20), (17, 34, 16)])
def test_kernels_by_the_loop_interpreter(name: str, m: int, k: int, n: int) -> None:
    a, w = leaf("input", "a", m, k), leaf("param", "w", n, k)
    graph = Graph("f", (a,), (product(a, turned(w)),), {"w": bytes_of(n, k)})
    x = bytes_of(m, k)
    got, want = run_plan(lower(FAST.run(graph), Target.parse(name)), x), evaluate(graph, x)
    np.testing.assert_array_equal(got[0], want[0])


def test_batches_and_orders_of_operands() -> None:
    a, b = leaf("input", "a", 2, 3, 9, 20), leaf("input", "b", 3, 20, 17)
    w, c = leaf("param", "w", 20, 33), leaf("input", "c", 40, 20)
    outs = (
        product(a, b),
        product(a, w),
        product(turned(w), turned(c)),
        product(turned(turned(c)), w),
    )
    arrays = bytes_of(2, 3, 9, 20), bytes_of(3, 20, 17), bytes_of(40, 20)
    run(Graph("f", (a, b, c), outs, {"w": bytes_of(20, 33)}), Target.host(), *arrays)


def test_rows_are_read_where_words_lie_side_by_side() -> None:
    """Whole rows and parts of them from a multiple of four; else they are copied first."""
    b, w, v = leaf("input", "b", 64, 80), leaf("param", "w", 64, 20), bytes_of(64, 80)
    for start, copied in ((0, False), (4, False), (2, True)):
        part = OPS["slice"](b, starts=(0, start), stops=(64, start + 64), steps=(1, 1))
        graph = Graph("f", (b,), (product(part, w),), {"w": bytes_of(64, 20)})
        assert labels(run(graph, Target.host(), v)) == ["matmul rows", "matmul"][not copied :]


def test_a_weight_is_stored_once_as_bytes() -> None:
    """In panels of words, with one row more where sums start with what unsigned bytes add."""
    a, w = leaf("input", "a", 9, 40), leaf("param", "w", 128, 40)
    graph = Graph("f", (a,), (product(a, turned(w)),), {"w": bytes_of(128, 40)})
    for name, rows in (
        ("znver4", 11),
        ("x86-64-v4", 11),
        ("x86-64", 10),
        ("aarch64:neoverse-n1", 10),
    ):
        plan = lower(FAST.run(graph), Target.parse(name))
        (panels,) = plan.params
        assert panels.dtype == np.uint32 and panels.shape[1] == rows and labels(plan) == ["matmul"]


def rounded(x: Node) -> Node:
    """What `quantize` makes of x: by a scale of 1, at most 127."""
    return OPS["quantize"](x, 1.0, dtype=t.i8)


def floats(name: str, *shape: int) -> Node:
    return OPS["input"](name=name, type=TensorType(t.f32, shape))


def dots(plan: Plan) -> set[str]:
    """What multiplies words in the kernels of a plan."""
    found = [x for step in plan.steps for x in walk(step.kernel.body)]
    return {x.op for x in found if isinstance(x, Scalar) and x.op in DOTS}


@pytest.mark.parametrize("least", [-128, -127, 127])
@pytest.mark.parametrize("weight", [-128, -127, 127])
def test_sums_of_the_largest_products(least: int, weight: int) -> None:
    """Two at a time they are from -32,768 to 32,512; of many rows and of one."""
    for rows in (1, 5):
        a, w = leaf("input", "a", rows, 64), leaf("param", "w", 32, 64)
        weights = {"w": np.full((32, 64), weight, "i1")}
        graph = Graph("f", (a,), (product(a, turned(w)),), weights)
        for name in ("x86-64-v3", "x86-64-v2"):
            plan = run(graph, here(name), np.full((rows, 64), least, np.int8))
            assert dots(plan) == {"dpflip"}


def test_what_is_no_weight_has_no_sums_to_start_with() -> None:
    a, b, w = (leaf(*x, 24, 32) for x in (("input", "a"), ("input", "b"), ("param", "w")))
    outs, weights = (product(a, turned(w)), product(a, turned(b))), {"w": bytes_of(24, 32)}
    graph, target = Graph("f", (a, b), outs, weights), here("x86-64-v3")
    plan = run(graph, target, bytes_of(24, 32), bytes_of(24, 32))
    assert dots(plan) == {"dpflip", "dpbssd"}


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("x86-64-v3", "dpflip"), ("znver1", "dpflip"), ("x86-64-v2", "dpflip"),
        ("x86-64", "dpbssd"), ("x86-64-v4", "dpflip"), ("znver4", "dpbusd"),
        ("aarch64:neoverse-n1", "dpbssd"),
    ],
)  # fmt: skip
def test_what_multiplies_quantized_rows(name: str, wanted: str) -> None:
    x, w = floats("x", 64, 384), leaf("param", "w", 256, 384)
    graph = Graph("f", (x,), (product(rounded(x), turned(w)),), {"w": bytes_of(256, 384)})
    target = Target.parse(name)
    plan = lower(FAST.run(graph), target)
    assert dots(plan) == {wanted}
    if wanted == "dpflip":
        lines = assembly(plan.steps[-1].kernel, target)
        assert sum("pmaddubsw" in line for line in lines) >= 8
        assert not any("pmaddubsw" in line and "rsp" in line for line in lines)
