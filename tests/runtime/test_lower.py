"""Lowering: the kernels of a plan, run by the loop interpreter, against `evaluate`."""

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.dims import Dim, value
from planish.ir.errors import TokenError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.groups import body_of
from planish.ir.loop_eval import run_kernel
from planish.ir.node import OPS, Node
from planish.ir.ops.leaf import input_
from planish.ir.types import TensorType
from planish.passes.fuse import Fuse
from planish.runtime.interpret import run_plan as interpreted
from planish.runtime.interpret import seen_as
from planish.runtime.lower import lower
from planish.runtime.order import read, written
from planish.runtime.target import Target

RNG = np.random.default_rng(0)


def arg(name: str, *shape: object, dtype: t.DType = t.f32) -> Node:
    return input_(name=name, type=TensorType(dtype, shape))


def param(name: str, *shape: int) -> Node:
    return OPS["param"](name=name, type=TensorType(t.f32, shape))


def run_plan(graph: Graph, arrays: list[np.ndarray], target: Target) -> list[np.ndarray]:
    plan = lower(graph, target)
    dims: dict[str, int] = {}
    for node, array in zip(graph.inputs, arrays, strict=True):
        for size, n in zip(node.shape, array.shape, strict=True):
            if not isinstance(size, int):
                dims[str(size)] = n
    memory = {s: np.array(a) for s, a in zip(plan.inputs, arrays, strict=True)}
    for s in (*plan.outputs, *plan.temps):
        memory[s] = np.zeros([value(n, dims) for n in s.type.shape], s.type.dtype.numpy)
    for i, j in plan.aliases:
        memory[plan.outputs[j]] = memory[plan.inputs[i]]
    status: list = []
    for step in plan.steps:
        given = [plan.params[s.index] if s.kind == "param" else memory[s] for s in step.args]
        pairs = zip(given, step.kernel.params, strict=True)
        known = step.known(dims)
        flat = [seen_as(array, buffer, known) for array, buffer in pairs]
        run_kernel(step.kernel, flat, known, status)
    assert status == []
    return [memory[s] for s in plan.outputs]


def check(graph: Graph, *arrays: np.ndarray, rtol: float = 2e-6) -> None:
    for target in (Target.parse("x86-64-v4"), Target.parse("x86-64-v3")):
        for got, want in zip(
            run_plan(graph, list(arrays), target), evaluate(graph, *arrays), strict=True
        ):
            np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-6)
            assert got.dtype == want.dtype


def rand(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_map_with_broadcast() -> None:
    x, b = arg("x", 5, 19), arg("b", 19)
    check(Graph("f", (x, b), (OPS["tanh"](x + b) * x,)), rand(5, 19), rand(19))


def test_one_axis_in_chunks() -> None:
    x = arg("x", 2500)
    check(Graph("f", (x,), (x * 2.0,)), rand(2500))


def test_scalar_output() -> None:
    x = arg("x")
    check(Graph("f", (x,), (x + 1.0,)), rand())


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("keep", [False, True])
def test_reductions(axes: tuple, keep: bool) -> None:
    x = arg("x", 3, 5, 37)
    y = OPS["sum"](x, axes=axes, keep=keep)
    z = OPS["max"](x, axes=axes, keep=keep)
    check(Graph("f", (x,), (y, z)), rand(3, 5, 37), rtol=1e-5)


@pytest.mark.parametrize("m,k,n", [(1, 1, 1), (7, 5, 9), (13, 32, 64), (6, 3, 65), (1, 40, 130)])
def test_matmul(m: int, k: int, n: int) -> None:
    a, b = arg("a", m, k), arg("b", k, n)
    check(Graph("f", (a, b), (OPS["matmul"](a, b),)), rand(m, k), rand(k, n), rtol=1e-4)


def test_matmul_with_transposed_weight_packed_when_compiled() -> None:
    x, w = arg("x", 2, 3, 8), param("w", 70, 8)
    turned = OPS["transpose"](w, perm=(1, 0))
    y = OPS["matmul"](x, turned)
    body, operands = body_of((turned, y), (y,), "linear")
    graph = Graph("f", (x,), (OPS["fused"](*operands, body=body),), {"w": rand(70, 8)})
    check(graph, rand(2, 3, 8), rtol=1e-4)
    plan = lower(graph, Target.parse("x86-64-v4"))
    assert [p.ndim for p in plan.params] == [3] and len(plan.steps) == 1


def test_a_computed_matrix_is_packed_where_long_panels_are_read_often() -> None:
    steps = []
    for rows, depth in ((256, 768), (255, 768), (256, 192)):
        a, b = arg("a", rows, depth), arg("b", depth, 128)
        graph = Graph("f", (a, b), (OPS["matmul"](a, b),))
        steps.append(len(lower(graph, Target.parse("x86-64-v4")).steps))
    assert steps == [2, 1, 1]


def test_a_sum_lies_where_its_first_term_was() -> None:
    """Where nobody reads that later, nor at another place than its own."""
    x, w = arg("x", 11, 12), arg("w", 12, 12)

    def in_place(*outputs: Node) -> int:
        """Steps that write what they read; the numbers are right."""
        graph = Fuse()(Graph("f", (x, w), outputs))
        arrays = [RNG.standard_normal(n.shape).astype(np.float32) for n in (x, w)]
        target = Target.parse("x86-64-v3")
        for got, want in zip(
            run_plan(graph, arrays, target), evaluate(graph, *arrays), strict=True
        ):
            np.testing.assert_allclose(got, want, 1e-4, 1e-3)
        steps = lower(graph, target).steps
        return sum(not set(written(step)).isdisjoint(read(step)) for step in steps)

    total = x @ w
    for _ in range(3):
        total = total + x @ (w * 2.0)
    assert in_place(OPS["sum"](total, axes=(1,))) == 3
    assert in_place(total) == 2  # the last one is a result
    apart = total + OPS["flip"](total, axes=(0,)) @ w
    assert in_place(OPS["sum"](apart, axes=(1,))) == 3
    kept = total + x @ (w * 3.0)
    later = OPS["sum"](total * OPS["flip"](kept, axes=(0,)), axes=(1,))
    assert in_place(OPS["sum"](kept, axes=(1,)), later) == 3


def test_symbolic_batch_and_length() -> None:
    x, w = arg("x", Dim("B"), Dim("T"), 8), param("w", 8, 40)
    y = OPS["matmul"](x, w)
    graph = Graph("f", (x,), (OPS["tanh"](y) + 1.0,), {"w": rand(8, 40)})
    check(graph, rand(2, 5, 8), rtol=1e-4)


def test_attention_reads_merged_projection() -> None:
    qkv = arg("qkv", 2, 5, 48)
    parts = []
    for i in range(3):
        x = OPS["slice"](qkv, starts=(0, 0, 16 * i), stops=(2, 5, 16 * i + 16), steps=(1, 1, 1))
        x = OPS["reshape"](x, shape=(2, 5, 4, 4))
        parts.append(OPS["transpose"](x, perm=(0, 2, 1, 3)))
    y = OPS["attention"](*parts, causal=True)
    y = OPS["reshape"](OPS["transpose"](y, perm=(0, 2, 1, 3)), shape=(2, 5, 16))
    check(Graph("f", (qkv,), (y,)), rand(2, 5, 48), rtol=1e-5)


def test_update_of_a_donated_input_writes_the_slice_only() -> None:
    cache, new, at = arg("cache", 2, 8, 4), arg("new", 2, 1, 4), arg("at", dtype=t.i32)
    zero = OPS["const"](value=0, dtype=t.i32)
    y = OPS["update_slice"](cache, new, zero, at, zero)
    graph = Graph("f", (cache, new, at), (y, y * 2.0), aliases=((0, 0),))
    check(graph, rand(2, 8, 4), rand(2, 1, 4), np.asarray(3, np.int32))


def test_rows_of_a_donated_input_are_written_each_at_its_place() -> None:
    cache, new, at = arg("cache", 3, 2, 8, 4), arg("new", 3, 2, 1, 4), arg("at", 3, dtype=t.i32)
    y = OPS["update_slice"](cache, new, 0, 0, at, 0)
    graph = Graph("f", (cache, new, at), (y,), aliases=((0, 0),))
    places = np.array([3, 0, 7], np.int32)
    check(graph, rand(3, 2, 8, 4), rand(3, 2, 1, 4), places)
    plan = lower(graph, Target.parse("x86-64-v4"))
    (step,) = plan.steps
    assert [slot.name for slot in step.args] == ["output 0", "at", "new"]  # cache is not read
    places[1] = 8
    with pytest.raises(TokenError, match="axis 2 start: index 8 at position 1 of at"):
        interpreted(plan, rand(3, 2, 8, 4), rand(3, 2, 1, 4), places)


def test_argmax_take_and_scatter() -> None:
    x, i = arg("x", 6, 21), arg("i", 4, dtype=t.i32)
    rows = OPS["take"](x, i, axis=0)
    graph = Graph(
        "f", (x, i), (OPS["argmax"](rows, axis=1), OPS["scatter_add"](x, i, rows, axis=0))
    )
    check(graph, rand(6, 21), np.array([5, 0, 5, 2], np.int32))


def test_thresholds() -> None:
    x, k = arg("x", 3, 50), arg("k", dtype=t.i32)
    p = arg("p")
    graph = Graph("f", (x, k), (OPS["kth_largest"](x, k),))
    check(graph, rand(3, 50), np.asarray(7, np.int32))
    graph = Graph("f", (x, p), (OPS["nucleus"](x, p),))
    probs = np.abs(rand(3, 50))
    check(graph, probs / probs.sum(-1, keepdims=True), np.asarray(0.7, np.float32))


def test_concat_beside_another_result() -> None:
    x, y = arg("x", 3, 4), arg("y", 3, 2)
    joined = OPS["concat"](x, y, axis=1)
    graph = Graph("body", (x, y), (joined, OPS["tanh"](joined)))
    fused = OPS["fused"](x, y, body=graph)
    parts = tuple(OPS["get"](fused, index=i) for i in range(2))
    check(Graph("f", (x, y), parts), rand(3, 4), rand(3, 2))


@pytest.mark.parametrize("pieces", [(1, 5), (32, 32, 32), (7, 1, 20)])
def test_concat_runs_piece_by_piece(pieces: tuple[int, ...]) -> None:
    xs = [arg(f"x{i}", 3, 4, n) for i, n in enumerate(pieces)]
    turned = OPS["transpose"](arg("h", 3, 2, 4, 16), perm=(0, 2, 1, 3))
    heads = OPS["reshape"](turned, shape=(3, 4, 32))
    y = OPS["concat"](*xs, heads, axis=2)
    body, operands = body_of((turned, heads, y), (y,), "join")
    fused = OPS["fused"](*operands, body=body)
    inputs = (*xs, turned.inputs[0])
    check(Graph("f", inputs, (fused,)), *(rand(3, 4, n) for n in pieces), rand(3, 2, 4, 16))
