"""The definitions of network ops, and their gradients, are one kernel each."""

import pytest

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.graph import Graph
from planish.ir.groups import classify
from planish.ir.node import OPS
from planish.ir.types import TensorType
from planish.passes.autodiff import vjp
from planish.passes.cse import cse
from planish.passes.expand import Expand

B, T = Dim("B", max=4), Dim("T", max=16)


def arg(name, dtype, *shape):
    return OPS["input"](name=name, type=TensorType(dtype, shape))


X, W, BIAS = arg("x", t.f32, B, T, 8), arg("w", t.f32, 8), arg("b", t.f32, 8)
CASES = [
    ("softmax", (X,), "row"),
    ("softmax", (arg("x", t.f32, B, 2, T, T),), "row"),
    ("log_softmax", (X,), "row"),
    ("layer_norm", (X, W, BIAS), "row"),
    ("rms_norm", (X, W), "row"),
    ("relu", (X,), "map"),
    ("silu", (X,), "map"),
    ("gelu", (X,), "map"),
    ("rope", (arg("x", t.f32, B, 2, T, 8), arg("at", t.i32, T)), "map"),
]


@pytest.mark.parametrize(("name", "inputs", "kind"), CASES, ids=lambda x: str(x)[:60])
def test_a_definition_and_its_gradient_are_one_kernel(name, inputs, kind):
    forward = Graph(name, inputs, (OPS[name](*inputs),))
    backward = vjp(forward, ["x"])
    backward = backward.with_outputs(backward.outputs[1:])
    for graph in (forward, backward):
        group = classify(cse(Expand(keep=())(graph)))
        assert group.kind == kind, group.reason
