"""What golden cases cannot say of passes: sizes, sharing, scale, refusals."""

import time

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Loc, Node
from planish.ir.parse import parse
from planish.ir.types import TensorType
from planish.passes.autodiff import grad
from planish.passes.cse import cse
from planish.passes.example import example_arrays, with_example_params
from planish.passes.expand import expand
from planish.passes.fold import fold
from planish.passes.fuse import fuse, kernels
from planish.passes.lift import LiftParams
from planish.passes.measure import bytes_moved, flops, live_bytes
from planish.passes.pipelines import PIPELINES
from planish.passes.pushup import pushup
from planish.passes.remat import LEVELS, Remat, recomputed
from planish.passes.rewrite import readers
from planish.passes.rules_values import exact
from planish.passes.simplify import simplify
from tests.golden import same_numbers


def arg(name: str, *shape: int) -> Node:
    return OPS["input"](name=name, type=TensorType(t.f32, shape))


def gelu(x):
    return OPS["gelu"](x, approximate="tanh")


def silu(x):
    return x * OPS["sigmoid"](x)


def relu(x):
    return OPS["maximum"](x, 0.0)


def mlp(depth: int, rows: int = 64, width: int = 32, function=gelu) -> Graph:
    """A deep MLP with a scalar loss."""
    rng = np.random.default_rng(0)
    params = {f"w{i}": rng.standard_normal((width, width), np.float32) for i in range(depth)}
    x = y = arg("x", rows, width)
    for name, array in params.items():
        w = OPS["param"](name=name, type=TensorType(t.f32, array.shape))
        y = OPS["add"](y, function(OPS["matmul"](y, w)) @ w)
    return Graph("mlp", (x,), (OPS["sum"](OPS["square"](y)),), params)


@pytest.mark.parametrize("step", [simplify, fold, cse, expand, pushup, Remat()])
def test_a_pass_with_nothing_to_do_returns_the_graph_itself(step):
    x = arg("x", 4)
    graph = Graph("f", (x,), (OPS["tanh"](x),))
    assert step(graph) is graph


def test_untouched_nodes_are_shared():
    x = arg("x", 4)
    kept = OPS["exp"](x)
    graph = Graph("f", (x,), (kept, OPS["neg"](OPS["neg"](kept))))
    assert simplify(graph).outputs == (kept, kept)


def test_a_deep_chain_takes_no_more_sweeps(monkeypatch):
    sweeps = []
    monkeypatch.setattr("planish.passes.simplify.readers", lambda g: sweeps.append(g) or readers(g))
    x = y = arg("x", 8, 8)
    for _ in range(12):
        y = OPS["tanh"](OPS["transpose"](OPS["matmul"](y, x), perm=(1, 0)))
    simplify(Graph("f", (x,), (y,)))
    assert len(sweeps) <= 3


def test_nodes_that_rules_make_keep_the_place_in_the_model():
    here = Loc("model.py", 3)
    x = arg("x", 4, 4)
    node = OPS["softmax"](x, axis=1).at(here)
    made = [n for n in expand(Graph("f", (x,), (node,))).nodes if n.op.name != "input"]
    assert {n.loc for n in made} == {here}


def test_a_chain_of_5000_nodes_is_linear_in_every_pass():
    x = y = arg("x", 8)
    for i in range(2500):
        y = OPS["mul"](OPS["neg" if i % 2 else "tanh"](y), 0.9)
    started = time.perf_counter()
    after = PIPELINES["O2"].run(Graph("chain", (x,), (y,)))
    assert time.perf_counter() - started < 60  # it would be hours if a pass were quadratic
    assert kernels(after) < 200


def test_a_diamond_of_2_to_the_40_paths():
    x = y = arg("x", 2)
    for _ in range(40):
        y = OPS["mul"](OPS["add"](OPS["tanh"](y), y), 0.5)
    graph = Graph("diamond", (x,), (y,))
    same_numbers(graph, PIPELINES["O2"].run(graph))


def test_200_arguments():
    inputs = tuple(arg(f"x{i}", 3) for i in range(200))
    total = inputs[0]
    for x in inputs[1:]:
        total = OPS["add"](total, x)
    graph = Graph("sum", inputs, (total,))
    same_numbers(graph, PIPELINES["O2"].run(graph))


def test_row_36_a_terabyte_is_not_folded():
    one = OPS["const"](value=1.0, dtype=t.f32)
    huge = OPS["exp"](OPS["broadcast"](one, shape=(1 << 19, 1 << 19)))
    assert fold(Graph("f", (), (OPS["sum"](huge),))).params == {}


def test_a_lookup_outside_its_table_is_left_to_the_program():
    table = OPS["param"](name="w", type=TensorType(t.f32, (4, 2)))
    found = OPS["take"](table, OPS["const"](value=9, dtype=t.i64), axis=0)
    graph = Graph("f", (), (found, OPS["neg"](table)), {"w": np.ones((4, 2), np.float32)})
    after = fold(graph)
    assert [x.op.name for x in after.outputs] == ["take", "param"]


def test_folded_weights_replace_those_they_were_made_from():
    graph = with_example_params(
        parse("""graph f(%x: bf16[2, 4]) {
  %w = param : f32[4, 4]
  %0 = cast(%w, dtype=bf16) : bf16[4, 4]
  %1 = matmul(%x, %0) : bf16[2, 4]
  return %1
}""")
    )
    after = fold(graph)
    assert list(after.params) == ["w.cast"] and not after.params["w.cast"].flags.writeable


def test_lift_refuses_names_that_do_not_fit():
    graph = mlp(1)
    with pytest.raises(IRError, match="lift: mlp has no param 'v'"):
        LiftParams(("v",))(graph)
    both = Graph("f", graph.inputs, graph.outputs, {**graph.params, "x": np.ones(1)})
    with pytest.raises(IRError, match="lift: f already has an input 'x'"):
        LiftParams(("x",))(both)


def test_the_last_row_costs_one_row():
    graph = mlp(4)
    y = next(n for n in graph.nodes if n.op.name == "square").inputs[0]
    last = OPS["slice"](y, starts=(63, 0), stops=(64, 32))
    whole = Graph("mlp", graph.inputs, (last,), graph.params)
    after = PIPELINES["O2"].run(whole)
    assert flops(after) * 60 < flops(PIPELINES["O1"].run(whole))
    same_numbers(whole, after)


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_recomputing_saves_memory_and_no_contraction_runs_twice(level: int):
    graph = PIPELINES["O1"].run(grad(mlp(6), [f"w{i}" for i in range(6)]))
    after = recomputed(graph, 0, LEVELS[level])

    def matmuls(g: Graph) -> int:
        return sum(n.op.name == "matmul" for n in g.nodes)

    assert live_bytes(after) < live_bytes(graph) and matmuls(after) == matmuls(graph)
    arrays = example_arrays(graph)
    for a, b in zip(evaluate(graph, *arrays), evaluate(after, *arrays), strict=True):
        np.testing.assert_array_equal(a, b)


def test_remat_stops_at_the_budget_and_fusion_does_not_undo_it():
    deep = mlp(6, function=lambda x: OPS["tanh"](OPS["tanh"](x)))
    graph = PIPELINES["O1"].run(grad(deep, [f"w{i}" for i in range(6)]))
    peak = live_bytes(fuse(graph))
    least = live_bytes(fuse(Remat(budget=1)(graph)))
    assert least < 0.8 * peak
    assert Remat(budget=peak)(graph) is graph
    assert live_bytes(fuse(Remat(budget=least)(graph))) == least


@pytest.mark.parametrize("function", [gelu, OPS["sin"], relu, silu])
def test_operands_of_products_are_not_kept_and_no_kernel_is_added(function):
    graph = PIPELINES["O1"].run(grad(mlp(6, function=function), [f"w{i}" for i in range(6)]))
    after = Remat(little=1)(graph)
    assert kernels(fuse(after)) == kernels(fuse(graph))
    assert live_bytes(fuse(after)) < 0.85 * live_bytes(fuse(graph))
    arrays = example_arrays(graph)
    for a, b in zip(evaluate(graph, *arrays), evaluate(after, *arrays), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_returned_is_kept_anyway():
    x, w = arg("x", 64, 32), arg("w", 32, 32)
    product = x @ w
    y = OPS["sin"](product)
    later = OPS["transpose"](y, perm=(1, 0)) @ product
    loss = OPS["sum"](y)
    graph = Graph("f", (x, w), (loss, later, y))
    assert Remat(little=1)(graph) is graph
    assert Remat(little=1)(Graph("f", (x, w), (loss, later))).nodes != graph.nodes


def test_what_is_alive_depends_on_the_order():
    x = arg("x", 1024)
    long = [OPS["sin"](x), OPS["cos"](x)]
    short = [OPS["sum"](y) for y in long]
    graph = Graph("f", (x,), tuple(short))
    assert live_bytes(graph) < 1.1 * 4096
    assert live_bytes(graph, nodes=(x, *long, *short)) > 1.9 * 4096


def test_measures_of_a_product():
    a, b = arg("a", 4, 8), arg("b", 8, 16)
    graph = Graph("f", (a, b), (OPS["tanh"](OPS["matmul"](a, b)),))
    assert flops(graph) == 2 * 4 * 8 * 16 + 4 * 16
    assert bytes_moved(graph) == 4 * (4 * 8 + 8 * 16 + 4 * 16 * 3)
    assert live_bytes(graph) == 4 * 4 * 16 * 2
    fused = PIPELINES["O2"].run(graph)
    assert flops(fused) == flops(graph) and live_bytes(fused) == 4 * 4 * 16


def test_exact_casts_hold_every_value():
    for source in t.DTYPES.values():
        for target in t.DTYPES.values():
            if source.bits <= 8 and exact(source, target):
                values = np.arange(256).astype(np.uint8).view(np.int8).astype(source.numpy)
                back = values.astype(target.numpy).astype(source.numpy)
                np.testing.assert_array_equal(back, values, f"{source} {target}")
    assert not exact(t.i32, t.f32) and exact(t.f16, t.f32) and not exact(t.f16, t.bf16)


def test_equal_kernels_share_their_body() -> None:
    """Wherever they come from; others do not."""
    x = OPS["input"](name="x", type=TensorType(t.f32, (8, 8)))
    for scope, function in (("h.0", "tanh"), ("h.1", "tanh"), ("h.2", "exp")):
        w = OPS["input"](name=f"w.{scope}", type=TensorType(t.f32, (8, 8)))
        x = OPS[function](x @ w).at(Loc("model.py", 7, scope=scope))
    graph = fuse(Graph("g", tuple(n for n in Graph("g", (), (x,)).nodes if not n.inputs), (x,)))
    first, second, other = (n.attrs["body"] for n in graph.nodes if n.op.kind == "fused")
    assert first is second and other is not first
