"""Functions of nodes that are traced once for operands of equal types."""

from __future__ import annotations

import numpy as np

from planish.frontend.outlined import Outlined
from planish.ir import types as t
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.types import TensorType


def node(name: str, *shape: int) -> Node:
    return OPS["input"](name=name, type=TensorType(t.f32, shape))


def moved(p: Node, g: Node, rate: Node) -> tuple[Node, ...]:
    """Two results; one of them needs no rate."""
    return p - g * rate, g + g


def test_equal_types_have_one_body_and_the_meaning_of_the_function() -> None:
    update, rate = Outlined("update", moved), node("rate")
    pairs = [(node(f"p{i}", n), node(f"g{i}", n)) for i, n in enumerate((3, 3, 4))]
    found = [x for p, g in pairs for x in update(p, g, rate)]
    bodies = [x.inputs[0].attrs["body"] for x in found[::2]]
    assert bodies[0] is bodies[1] and bodies[0] is not bodies[2]
    assert [x.op.name for x in bodies[0].outputs] == ["sub", "add"]
    inputs = (*(x for pair in pairs for x in pair), rate)
    plain = [x for p, g in pairs for x in moved(p, g, rate)]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(x.shape).astype(np.float32) for x in inputs]
    results = [evaluate(Graph("f", inputs, tuple(x)), *arrays) for x in (found, plain)]
    for x, y in zip(*results, strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_body_has_the_operands_alone_that_it_reads() -> None:
    p, g, rate = node("p", 3), node("g", 3), node("rate")
    (found,) = Outlined("double", lambda p, g, rate: (g + g,))(p, g, rate)
    assert found.op.name == "fused" and found.inputs == (g,)


def test_what_is_no_elementwise_kernel_stays_as_it_is() -> None:
    p, g = node("p", 3), node("g", 3)
    scaled = Outlined("scaled", lambda p, g: (p - g * OPS["sum"](g, axes=(0,), keep=True),))
    assert scaled(p, g)[0].op.name == "sub"
    assert Outlined("same", lambda p, g: (p,))(p, g) == (p,)
