"""Products in bf16: kernels against `ref`, and the bf16 pipeline on a model."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

import planish as pl
from planish.ir import types as t
from planish.ir.errors import TargetError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.ops.leaf import input_
from planish.ir.types import TensorType
from planish.passes.bf16 import Bf16
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import FAST, PIPELINES
from planish.runtime.interpret import run_plan
from planish.runtime.kernels import gemm
from planish.runtime.lower import lower
from planish.runtime.plan import Plan
from planish.runtime.program import Program
from planish.runtime.target import Target
from tests.runtime.native import here, need_other_code

RNG = np.random.default_rng(0)
TARGETS = ("host", "znver4", "x86-64-v3")  # matrix unit if there is one; vdpbf16ps; shifts and fma
SIZES = [
    (1, 1, 1), (1, 40, 130), (2, 2, 15), (5, 31, 16), (6, 32, 17), (7, 33, 64), (13, 64, 65),
    (16, 63, 32), (17, 65, 31), (31, 128, 33), (33, 96, 48), (64, 34, 129),
]  # fmt: skip


def halves(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(t.bf16.numpy)


def leaf(op: str, name: str, *shape: int) -> Node:
    return OPS[op](name=name, type=TensorType(t.bf16, shape))


def turned(x: Node) -> Node:
    return OPS["transpose"](x, perm=(1, 0))


def product(a: Node, b: Node) -> Node:
    return OPS["matmul"](a, b, out=t.f32)


def close(got: tuple[np.ndarray, ...], want: tuple[np.ndarray, ...]) -> None:
    """Sums of exact products differ by the order of their roundings only."""
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, 1e-5, 2e-6 * np.abs(y).max(initial=1.0))


def run(graph: Graph, target: Target, *arrays: np.ndarray) -> Plan:
    """Native code agrees with `ref`; the plan."""
    after = FAST.run(graph)
    need_other_code(after, target)
    plan = lower(after, target)
    got = Program(plan, target, threads=1)(*arrays)
    close(got if isinstance(got, tuple) else (got,), evaluate(graph, *arrays))
    return plan


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("weights", [True, False])
def test_products_of_all_sizes(name: str, weights: bool) -> None:
    """Tails of rows, columns and depth, odd depths padded; weights packed ahead or B packed now."""
    inputs, outputs, arrays, params = [], [], [], {}
    for i, (m, k, n) in enumerate(SIZES):
        a, w = leaf("input", f"a{i}", m, k), leaf("param" if weights else "input", f"w{i}", n, k)
        inputs.append(a)
        arrays.append(halves(m, k))
        if weights:
            params[f"w{i}"] = halves(n, k)
        else:
            inputs.append(w)
            arrays.append(halves(n, k))
        outputs.append(product(a, turned(w)))
    run(Graph("many", tuple(inputs), tuple(outputs), params), here(name), *arrays)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("m, k, n", [(1, 6, 33), (7, 33, 20), (17, 34, 16)])
def test_kernels_by_the_loop_interpreter(name: str, m: int, k: int, n: int) -> None:
    a, w = leaf("input", "a", m, k), leaf("param", "w", n, k)
    y = OPS["tanh"](product(a, turned(w)))
    graph = Graph("f", (a,), (y, OPS["cast"](y, dtype=t.bf16)), {"w": halves(n, k)})
    x, after, target = halves(m, k), FAST.run(graph), Target.parse(name)
    need_other_code(after, target)
    got, rounded = run_plan(lower(after, target), x)
    (want, _) = evaluate(graph, x)
    close((got,), (want,))
    np.testing.assert_array_equal(rounded, got.astype(t.bf16.numpy))


def labels(plan: Plan) -> list[str]:
    return [step.label.split(".")[-1] for step in plan.steps]


def test_rows_are_read_where_pairs_lie_side_by_side() -> None:
    """Whole rows, parts of them from an even place, merged heads; else they are copied first."""
    a, w = leaf("input", "a", 2, 4, 6, 16), leaf("param", "w", 64, 20)
    heads = OPS["reshape"](OPS["transpose"](a, perm=(0, 2, 1, 3)), shape=(12, 64))
    x = halves(2, 4, 6, 16)
    host = Target.host()
    params = {"w": halves(64, 20)}
    assert labels(run(Graph("f", (a,), (product(heads, w),), params), host, x)) == ["matmul"]
    b, v = leaf("input", "b", 64, 80), halves(64, 80)
    for start, copied in ((0, False), (2, False), (3, True)):
        part = OPS["slice"](b, starts=(0, start), stops=(64, start + 64), steps=(1, 1))
        plan = run(Graph("f", (b,), (product(part, w),), params), host, v)
        assert labels(plan) == ["matmul rows", "matmul"][not copied :]
    plan = run(Graph("f", (b,), (product(turned(b), w),), params), host, v)
    assert labels(plan) == ["matmul rows", "matmul"]


def test_a_copy_of_rows_is_shared() -> None:
    x = input_(name="x", type=TensorType(t.f32, (9, 32)))
    a, v, w = OPS["cast"](x, dtype=t.bf16), leaf("param", "v", 32, 8), leaf("param", "w", 32, 24)
    params = {"v": halves(32, 8), "w": halves(32, 24)}
    graph = Graph("f", (x,), (product(a, v), product(a, w)), params)
    plan = run(graph, Target.host(), RNG.standard_normal((9, 32)).astype(np.float32))
    assert labels(plan) == ["matmul rows", "matmul", "matmul"]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    "k, m, n", [(2, 3, 5), (34, 96, 33), (64, 17, 64), (130, 40, 20), (7, 6, 5)]
)
def test_gradients_of_weights(name: str, k: int, m: int, n: int) -> None:
    """The depth is the row axis of both: pairs of rows of each become rows of words."""
    x, dy = leaf("input", "x", k, m), leaf("input", "dy", k, n)
    graph = Graph("f", (x, dy), (product(turned(x), dy), product(turned(dy), x)))
    plan = run(graph, here(name), halves(k, m), halves(k, n))
    rows = [step.args[-1].type for step in plan.steps if step.label == "matmul rows"]
    assert rows and all(x.dtype == (t.bf16 if k % 2 else t.u32) for x in rows)
    got, want = run_plan(plan, *(xs := (halves(k, m), halves(k, n)))), evaluate(graph, *xs)
    close(got, want)


@pytest.mark.parametrize("name", [*TARGETS, "sapphirerapids"])
@pytest.mark.parametrize(
    "k, m, n", [(32, 1, 64), (64, 33, 65), (70, 24, 64), (130, 17, 80), (33, 16, 64)]
)
def test_strips_of_a_transposed_operand(
    name: str, k: int, m: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a matrix unit they are rows, of whole blocks of words with zeros at the end."""
    monkeypatch.setattr(gemm, "STRIPS", 0)
    monkeypatch.setattr(gemm, "SWAPPED", 60)
    x, dy = leaf("input", "x", k, m), leaf("input", "dy", k, n)
    graph = FAST.run(Graph("f", (x, dy), (product(turned(x), dy), product(turned(dy), x))))
    arrays, target = (halves(k, m), halves(k, n)), Target.parse(name)
    need_other_code(graph, target)
    plan, want = lower(graph, target), evaluate(graph, *arrays)
    close(run_plan(plan, *arrays), want)
    strips = [p for s in plan.steps for p in s.kernel.params if p.name == "strips"]
    assert strips and {len(p.shape) for p in strips} == {2 if target.has_matrix else 3}
    with suppress(TargetError):
        target.require_host()
        one, two = (Program(plan, target, threads=threads)(*arrays) for threads in (1, 2))
        close(one, want)
        np.testing.assert_array_equal(np.concatenate(one, None), np.concatenate(two, None))


def test_sums_of_bf16_are_rounded_once() -> None:
    a, b = leaf("input", "a", 3, 300), leaf("input", "b", 300, 5)
    run(Graph("f", (a, b), (OPS["matmul"](a, b),)), Target.host(), halves(3, 300), halves(300, 5))


# batch, heads, groups of keys, queries, keys, width, width of values, causal, by time
ATTENTION = [
    (1, 2, 2, 5, 5, 32, 32, True, False),
    (2, 4, 2, 33, 33, 32, 48, True, True),
    (1, 2, 1, 40, 70, 64, 64, True, True),
    (1, 1, 1, 64, 64, 64, 16, False, False),
    (1, 2, 2, 4, 100, 32, 20, True, False),
    (1, 2, 2, 70, 40, 32, 64, True, True),
    (1, 1, 1, 16, 8, 48, 48, True, True),
]


@pytest.mark.parametrize("name", TARGETS)
def test_attention_of_bf16(name: str) -> None:
    """Weights of values are rounded to bf16 by the matrix unit, and kept as f32 elsewhere."""
    inputs, outputs, arrays = [], [], []
    for i, (b, h, g, n, m, d, e, causal, by_time) in enumerate(ATTENTION):
        shapes = ((b, h, n, d), (b, g, m, d), (b, g, m, e))
        operands = [leaf("input", f"{x}{i}", *s) for x, s in zip("qkv", shapes, strict=True)]
        inputs += operands
        arrays += [halves(*s) for s in shapes]
        attrs = {"causal": causal, "out": t.f32, "time_first": by_time}
        outputs.append(OPS["attention"](*operands, **attrs))
    graph = Graph("many", tuple(inputs), tuple(outputs))
    target = here(name)
    need_other_code(graph, target)
    plan = lower(graph, target)
    for x, y in zip(Program(plan, threads=2)(*arrays), evaluate(graph, *arrays), strict=True):
        np.testing.assert_allclose(x, y, 0, 4e-3 * np.abs(y).max())
    small = Graph("one", tuple(inputs[:3]), (outputs[0],))
    (x,), (y,) = run_plan(lower(small, target), *arrays[:3]), evaluate(small, *arrays[:3])
    np.testing.assert_allclose(x, y, 0, 4e-3 * np.abs(y).max())


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return pl.TinyGPT(
        vocab_size=65, embed_dim=48, num_layers=2, num_heads=4, max_seq_len=24, dropout=0.0, seed=0
    )


TOKENS = RNG.integers(0, 65, (2, 19)).astype(np.int32)


def test_logits_of_a_model(model: pl.TinyGPT) -> None:
    """Within 1 % of the largest logit, where f32 is within 1e-6; at any number of threads."""
    want = pl.interpret(model, TOKENS, dtype="f64")
    for name, error in (("O2", 1e-6), ("bf16", 1e-2)):
        found = [
            pl.compile(model, pl.spec(("B", "T"), "i32"), pipeline=name, threads=threads)(TOKENS)
            for threads in (1, 2)
        ]
        np.testing.assert_array_equal(*found)
        assert np.abs(found[0] - want).max() < error * np.abs(want).max()


def test_weights_are_stored_once_as_bf16(model: pl.TinyGPT) -> None:
    """Panels of words, and the table; no matrix of f32 but that of the positions."""
    graph = PIPELINES["bf16"].run(pl.trace(model, pl.spec((1, "T"), "i32")))
    wide = [x for x in graph.params.values() if x.ndim == 2 and x.dtype == np.float32]
    assert [x.shape for x in wide] == [(24, 48)]
    tables = [x for x in graph.params.values() if x.shape == model.wte.weight.array.shape]
    assert [str(x.dtype) for x in tables] == ["bfloat16"]  # it is read by rows, and is the head
    plan = lower(graph, Target.host())
    assert {x.dtype for x in plan.params if x.ndim == 3} == {np.dtype(np.uint32)}


def test_activations_are_rounded_where_they_are_made(model: pl.TinyGPT) -> None:
    graph = pl.trace(model, pl.spec((1, 16), "i32"))
    wide, narrow = (
        len(lower(PIPELINES[p].run(graph), Target.host()).steps) for p in ("O2", "bf16")
    )
    assert wide == narrow


def test_the_pipeline_as_text() -> None:
    text = str(PIPELINES["bf16"])
    assert ",bf16,cse,fold," in text and Pipeline.parse(text) == PIPELINES["bf16"]
    assert Pipeline.parse('bf16{skip="h.*"}').passes == (Bf16(skip="h.*"),)
