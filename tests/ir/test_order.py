"""The order in which nodes run."""

from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.ir.ops.elementwise import abs_, add, exp, mul, neg, sin
from planish.ir.ops.indexing import concat
from planish.ir.ops.leaf import input_
from planish.ir.ops.reduction import sum_
from planish.ir.ops.view import reshape
from planish.ir.order import run_order
from planish.ir.types import TensorType


def arg(name: str) -> Node:
    return input_(name=name, type=TensorType(t.f32, (4,)))


def test_the_longest_operand_goes_first():
    x = arg("x")
    short = exp(x)
    long = neg(abs_(sin(x)))
    total = add(short, long)
    order = run_order(Graph("f", (x,), (total,)))
    assert [n.op.name for n in order] == ["input", "sin", "abs", "neg", "exp", "add"]


def test_results_that_are_ready_first_are_finished_first():
    x = arg("x")
    first = exp(x)
    late = neg(abs_(first))
    order = run_order(Graph("f", (x,), (late, first)))
    assert order.index(first) < order.index(late) and set(order) == {x, first, *late.inputs, late}


def test_operands_come_before_users_at_any_depth():
    x = y = arg("x")
    for i in range(5000):
        y = add(neg(y), x if i % 3 else y)
    graph = Graph("f", (x,), (y,))
    order = run_order(graph)
    place = {node: i for i, node in enumerate(order)}
    assert len(order) == len(set(order)) == len(graph.nodes)
    assert all(place[i] < place[node] for node in order for i in node.inputs)


def test_what_others_kept_waiting_moves_up():
    """As in a backward pass: small sums of what a chain makes are due at the end only."""
    x = y = arg("x")
    sums, products = [], []
    for _ in range(4):
        y = sin(y)
        sums.append(sum_(y, axes=(0,), keep=True))
    for z in reversed(sums):
        products.append(neg(z))
    order = run_order(Graph("f", (x,), (add(y, concat(*products, axis=0)),)))
    names = [n.op.name for n in order if n.op.name in ("sin", "sum")]
    assert names == ["sin", "sum"] * 4


def test_a_large_result_waits():
    """The outer product would be alive for the whole chain; what it is made of is alive anyway."""
    x = arg("x")
    y = exp(x)
    wide = mul(reshape(y, shape=(4, 1)), y)
    for _ in range(3):
        y = sin(y)
    order = run_order(Graph("f", (x,), (add(wide, y),)))
    assert order.index(wide) > order.index(y)
