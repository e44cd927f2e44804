"""Which bodies are kernels, of which kind, and why others are none."""

import pytest

import planish.ir.ops  # noqa: F401 - fills the op table
from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.graph import Graph
from planish.ir.groups import Group, body_of, classify, classify_nodes
from planish.ir.node import OPS, Node
from planish.ir.types import TensorType

T = Dim("T", max=16)


def arg(name: str, *shape, dtype=t.f32) -> Node:
    return OPS["input"](name=name, type=TensorType(dtype, shape))


X, Y, W, B, S = arg("x", 4, 3), arg("y", 4, 3), arg("w", 3, 5), arg("b", 5), arg("s")


def kind_of(*outputs: Node) -> Group:
    """The kind of the body that computes `outputs` from all inputs they need."""
    leaves = [n for n in Graph("f", (), outputs).nodes if n.op.name == "input"]
    return classify(Graph("f", tuple(leaves), outputs))


def sum_(x: Node, *axes: int, keep: bool = False) -> Node:
    return OPS["sum"](x, axes=axes or None, keep=keep)


def turned(x: Node) -> Node:
    return OPS["transpose"](x, perm=(1, 0))


def softmax(x: Node) -> Node:
    e = OPS["exp"](x - OPS["max"](x, axes=(x.type.rank - 1,), keep=True))
    return e / sum_(e, x.type.rank - 1, keep=True)


def test_pull_shaped_nodes_are_a_map() -> None:
    table, ids = arg("table", 7, 3), arg("ids", 4, dtype=t.i32)
    assert kind_of(X + Y, OPS["tanh"](X)).kind == "map"
    assert kind_of(OPS["take"](table, ids, axis=0) + X).kind == "map"
    assert kind_of(turned(X)).kind == "map"
    assert kind_of(OPS["const"](value=1.0, dtype=t.f32)).kind == "map"


def test_outputs_of_a_map_have_one_shape() -> None:
    assert kind_of(X + Y, turned(X)).reason == (
        "outputs add : f32[4, 3] and transpose : f32[3, 4] differ in shape"
    )


def test_a_matmul_with_views_before_and_elementwise_after_is_a_contraction() -> None:
    group = kind_of(OPS["tanh"](X @ W + B) * S)
    assert (group.kind, group.anchor.op.name) == ("contraction", "matmul")
    halves = OPS["cast"](arg("h", 5, 3, dtype=t.bf16), dtype=t.f32)
    z = X @ turned(halves)
    assert kind_of(z).kind == kind_of(z + B, OPS["exp"](z)).kind == "contraction"


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ((OPS["tanh"](X) @ W,), "tanh : f32[4, 3] stands before an operand of matmul : f32[4, 5]"),
        ((softmax(X @ W),), "max : f32[4, 1] does not fit beside matmul : f32[4, 5]"),
        ((X @ W @ arg("v", 5, 2),), "matmul : f32[4, 2] does not fit beside matmul : f32[4, 5]"),
        (
            (turned(X @ W),),
            "transpose : f32[5, 4] is not elementwise of the shape of matmul : f32[4, 5]",
        ),
        (
            (X @ W + arg("r", 2, 4, 5),),
            "add : f32[2, 4, 5] is not elementwise of the shape of matmul : f32[4, 5]",
        ),
        ((X @ W, B + 1.0), "output add : f32[5] has not the shape of matmul : f32[4, 5]"),
    ],
)
def test_what_does_not_fit_a_contraction(outputs: tuple[Node, ...], reason: str) -> None:
    assert kind_of(*outputs) == Group(None, reason)


def test_last_axis_reductions_are_a_row() -> None:
    group = kind_of(softmax(X + Y))
    assert (group.kind, group.rows, len(group.reductions)) == ("row", (4,), 2)
    assert kind_of(sum_(X, 1)).kind == "row"
    assert kind_of(X + Y, softmax(X + Y)).kind == "row"
    symbolic = arg("x", 2, T, T)
    assert kind_of(softmax(symbolic)).rows == (2, T)


def test_a_row_may_hold_rows_of_different_lengths_and_drop_the_last_axis() -> None:
    mean = sum_(X, 1)
    assert kind_of(mean + sum_(arg("z", 4, 9), 1)).kind == "row"
    assert kind_of(X - OPS["reshape"](mean, shape=(4, 1))).kind == "row"
    spread = OPS["broadcast"](OPS["reshape"](mean, shape=(4, 1)), shape=(4, 3))
    assert kind_of(X * spread).kind == "row"


def test_a_value_of_each_row_is_not_read_along_the_last_axis() -> None:
    square = arg("q", 4, 4)
    reason = "sub : f32[4, 4] leaves the rows [4] of sum : f32[4]"
    assert kind_of(square - sum_(square, 1)).reason == reason
    assert kind_of(turned(softmax(square))).reason.startswith("transpose : f32[4, 4] leaves")


def test_rank_one_and_full_reductions() -> None:
    line = arg("v", 9)
    group = kind_of(line / sum_(line))
    assert (group.kind, group.rows) == ("row", ())
    assert kind_of(sum_(X)).kind == "reduce"
    assert kind_of(sum_(X * Y) / 12.0).kind == "reduce"


def test_reductions_over_leading_axes_are_a_reduce() -> None:
    group = kind_of(sum_(X * Y, 0), sum_(X, 0) * 2.0)
    assert (group.kind, len(group.reductions)) == ("reduce", 2)
    other = kind_of(sum_(X, 0), sum_(arg("z", 5, 3), 0)).reason
    assert other == "sum : f32[3] and sum : f32[3] reduce different shapes or axes"
    nested = sum_(X - sum_(X, 0), 0)
    assert kind_of(nested).reason == "sum : f32[3] reads another reduction, over axes (0,)"
    assert kind_of(sum_(X, 0), X + Y).reason == (
        "output add : f32[4, 3] has not the shape of sum : f32[3]"
    )


def test_a_special_op_takes_views_only() -> None:
    ids = arg("ids", 4, dtype=t.i32)
    grown = OPS["scatter_add"](arg("t", 3, 4), ids, turned(X), axis=1)
    assert kind_of(grown).kind == "special"
    assert kind_of(grown + 1.0).reason == "scatter_add : f32[3, 4] is not the only output"
    heads = arg("q", 2, 2, 4, 3)
    assert kind_of(OPS["attention"](heads, heads, heads, causal=True)).kind == "special"
    assert kind_of(OPS["attention"](heads * 2.0, heads, heads)).reason == (
        "mul : f32[2, 2, 4, 3] stands before an operand of attention : f32[2, 2, 4, 3]"
    )


def test_composites_and_kernels_are_no_part_of_a_kernel() -> None:
    assert kind_of(OPS["gelu"](X)).reason == (
        "gelu : f32[4, 3] is a composite without a kernel of its own; it must be expanded first: "
        "end your passes with a pipeline that does so, as in 'prune{ratio=0.5},O2'"
    )
    body, operands = body_of((z := X + Y,), (z,), "k")
    assert kind_of(OPS["fused"](*operands, body=body)).reason.endswith("is already a kernel")


def test_a_body_takes_in_constants_and_leaves_the_rest_outside() -> None:
    size = OPS["cast"](OPS["size"](size=T), dtype=t.f32)
    weight = OPS["param"](name="w", type=TensorType(t.f32, (3,)))
    inner = OPS["tanh"](X)
    z = inner * 2.0 + weight / size
    body, operands = body_of(Graph("f", (X,), (z,)).nodes, (z,), "k")
    assert operands == (X, weight)
    assert [x.attrs["name"] for x in body.inputs] == ["p0", "p1"]
    assert {n.op.name for n in body.nodes} == {"input", "const", "size", "cast"} | {
        "tanh",
        "mul",
        "div",
        "add",
    }
    body, operands = body_of((z,), (z,), "k")
    assert [x.op.name for x in operands] == ["mul", "div"]
    assert classify_nodes((inner, z), (z,)).kind == classify(body).kind == "map"
