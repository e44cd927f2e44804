"""Fusion: how many kernels there are, that they are legal, and that no number changes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planish.ir.ops  # noqa: F401 - fills the op table
from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import IRError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.groups import body_of, classify
from planish.ir.node import OPS, Loc, Node
from planish.ir.parse import parse
from planish.ir.text import graph_text
from planish.ir.types import TensorType
from planish.ir.verify import verify
from planish.passes.autodiff import grad
from planish.passes.cse import cse
from planish.passes.example import example_arrays
from planish.passes.expand import Expand
from planish.passes.fuse import Fuse, explain, kernels
from planish.passes.fuse.partition import FARTHEST, MOST_BUFFERS, MOST_NODES
from planish.passes.pipelines import CLEAN


def arg(name: str, *shape, dtype=t.f32) -> Node:
    return OPS["input"](name=name, type=TensorType(dtype, shape))


def traced(*outputs: Node, aliases: tuple = ()) -> Graph:
    """A graph of these outputs, its inputs by name."""
    leaves = [n for n in Graph("f", (), outputs).nodes if n.op.name == "input"]
    inputs = tuple(sorted(leaves, key=lambda n: n.attrs["name"]))
    return Graph("f", inputs, outputs, aliases=aliases)


def graph_of(*outputs: Node, aliases: tuple = ()) -> Graph:
    """The same, ready for fusion."""
    return cse(Expand()(traced(*outputs, aliases=aliases)))


def gradient(loss: Node) -> Graph:
    """The gradient of `loss` for all floating-point inputs, ready for fusion."""
    forward = traced(loss)
    names = [x.attrs["name"] for x in forward.inputs if x.dtype.is_float]
    return CLEAN.run(grad(forward, names))


def bodies(graph: Graph) -> list[Graph]:
    """What each node of a fused graph computes."""
    found = []
    for node in graph.nodes:
        if node.op.kind == "fused":
            found.append(node.attrs["body"])
        elif node.op.kind not in ("leaf", "get"):
            found.append(body_of((node,), (node,), node.op.name)[0])
    return found


def kinds(graph: Graph) -> dict[str, int]:
    """How many kernels of each kind."""
    return dict(Counter(str(classify(body).kind) for body in bodies(graph)))


def fused(graph: Graph) -> Graph:
    """The fused graph, checked: legal kernels, equal numbers, readable text."""
    after = Fuse()(graph)
    verify(after)
    for body in bodies(after):
        group = classify(body)
        assert group.kind is not None, group.reason
        assert len(body.inputs) + len(body.outputs) <= MOST_BUFFERS
    arrays = example_arrays(graph)
    found = evaluate(after, *arrays)
    for a, b in zip(evaluate(graph, *arrays), found, strict=True):
        np.testing.assert_array_equal(a, b)
    text = graph_text(after)
    assert graph_text(parse(text, graph.params)) == text
    assert graph_text(Fuse()(graph)) == text
    return after


def turned(x: Node) -> Node:
    return OPS["transpose"](x, perm=(1, 0))


X, Y, G, B = arg("x", 6, 4), arg("y", 6, 4), arg("g", 4), arg("b", 4)
UP, DOWN, WIDE = arg("up", 8, 4), arg("down", 4, 8), arg("wide", 8)


def mlp(x: Node) -> Node:
    return OPS["gelu"](x @ turned(UP) + WIDE) @ turned(DOWN) + B


NORMED = OPS["rms_norm"](X, G)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ((mlp(X),), {"contraction": 2}),
        ((OPS["softmax"](X, axis=1),), {"row": 1}),
        ((OPS["layer_norm"](X, G, B),), {"row": 1}),
        ((OPS["rms_norm"](X, G),), {"row": 1}),
        ((OPS["logsumexp"](X, axes=(1,)),), {"row": 1}),
        ((X + Y, OPS["layer_norm"](X + Y, G, B)), {"row": 1}),
        ((mlp(OPS["layer_norm"](X, G, B)),), {"contraction": 2}),
        ((mlp(NORMED), NORMED), {"row": 1, "contraction": 2}),
        ((NORMED @ turned(UP), NORMED @ DOWN), {"row": 1, "contraction": 2}),
        ((mlp(NORMED) + NORMED,), {"row": 1, "contraction": 2}),
        ((X + mlp(X), OPS["layer_norm"](X + mlp(X), G, B)), {"contraction": 2, "row": 1}),
        ((OPS["silu"](X @ turned(UP)) * (Y @ turned(UP)),), {"contraction": 2}),
        ((OPS["mse"](X, Y),), {"reduce": 1}),
        ((OPS["tanh"](X) + Y, OPS["tanh"](X)), {"map": 1}),
        ((turned(X + Y),), {"map": 1}),
        ((X, OPS["const"](value=2.0, dtype=t.f32)), {}),
    ],
)
def test_how_many_kernels(outputs: tuple[Node, ...], expected: dict[str, int]) -> None:
    after = fused(graph_of(*outputs))
    assert kinds(after) == expected
    assert kernels(after) == sum(expected.values())


def test_symbolic_sizes() -> None:
    size = Dim("T", max=16)
    x = arg("x", size, 4)
    assert kinds(fused(graph_of(OPS["layer_norm"](x + x * 2.0, G, B)))) == {"row": 1}
    last = OPS["cast"](OPS["size"](size=size), dtype=t.f32)
    assert kinds(fused(graph_of(OPS["sum"](x, axes=(0,)) / last))) == {"reduce": 1}


def attention_block(x: Node, layer: int) -> Node:
    b, n, d = x.shape
    heads = []
    for name in ("wq", "wk", "wv"):
        projected = x @ turned(arg(f"{name}{layer}", d, d))
        split = OPS["reshape"](projected, shape=(b, n, 2, d // 2))
        heads.append(OPS["transpose"](split, perm=(0, 2, 1, 3)))
    joined = OPS["transpose"](OPS["attention"](*heads, causal=True), perm=(0, 2, 1, 3))
    return x + OPS["reshape"](joined, shape=(b, n, d)) @ turned(arg(f"wo{layer}", d, d))


def transformer(layers: int) -> Node:
    """Embedding, layers of attention and MLP, loss."""
    ids, targets = (arg(name, 2, 5, dtype=t.i32) for name in ("ids", "targets"))
    table = arg("table", 7, 4)
    x = OPS["take"](table, ids, axis=0) + arg("positions", 5, 4)
    for layer in range(layers):
        x = attention_block(OPS["layer_norm"](x, G, B), layer)
        x = x + mlp(OPS["layer_norm"](x, G, B))
    return OPS["cross_entropy"](x @ turned(table), targets)


def test_a_transformer() -> None:
    after = fused(CLEAN.run(traced(transformer(layers=2))))
    # a layer: a norm that q, k and v read; output projection, attention, two products of the MLP,
    # of which the first makes its norm; and another norm with the embedding
    assert kinds(after) == {"row": 3, "contraction": 13, "special": 2, "reduce": 1}


def test_the_gradient_of_a_transformer() -> None:
    after = fused(gradient(transformer(layers=2)))
    found = kinds(after)
    # attention of each layer, its gradient, and that of the embedding
    assert found["special"] == 5
    assert found.get("map", 0) <= 4
    large = [body for body in bodies(after) if classify(body).kind == "row"]
    losses = [body for body in large if any(n.op.name == "log" for n in body.nodes)]
    assert [len(body.outputs) for body in losses] == [2]  # loss and gradient of the logits


def test_the_activation_stores_what_its_gradient_needs_once() -> None:
    (first,) = (b for b in bodies(fused(gradient(OPS["mse"](mlp(X), Y)))) if "sigmoid" in b.name)
    assert classify(first).kind == "contraction"
    assert len(first.outputs) == 2  # the activation and its slope


def test_what_needs_nothing_later_is_computed_early() -> None:
    """However long the chain between: the backward pass of a deep network is far away."""
    w = arg("w", 4, 4)
    h = X @ w
    far = OPS["tanh"](h)
    for _ in range(FARTHEST + 1):
        far = far @ w
    slope = 1.0 - OPS["square"](OPS["tanh"](h))
    graph = graph_of(OPS["sum"](far, axes=(0,)), slope)
    first = next(n for n in fused(graph).nodes if n.op.kind == "fused")
    assert len(first.attrs["body"].outputs) == 2


def test_an_optimiser_step_is_one_kernel_with_three_results() -> None:
    w, g, m, v = (arg(name, 6, 4) for name in "wgmv")
    first = m * 0.9 + g * 0.1
    second = v * 0.99 + g * g * 0.01
    new = w - arg("rate") * (first / (OPS["sqrt"](second) + 1e-8) + w * 0.01)
    graph = graph_of(new, first, second, aliases=((4, 0), (1, 1), (3, 2)))
    assert [graph.inputs[i].attrs["name"] for i, _ in graph.aliases] == ["w", "m", "v"]
    after = fused(graph)
    assert kinds(after) == {"map": 1}
    assert len(bodies(after)[0].outputs) == 3
    assert after.aliases == graph.aliases


def test_an_update_of_a_donated_weight_stays_out_of_its_gradients_matmul() -> None:
    w, rate = arg("w", 4, 4), arg("rate")
    graph = graph_of(w - rate * (turned(X) @ Y), aliases=((1, 0),))
    assert graph.inputs[1] is w
    assert kinds(fused(graph)) == {"contraction": 1, "map": 1}
    assert kinds(fused(graph_of(w - rate * (turned(X) @ Y)))) == {"contraction": 1}


def test_what_others_need_is_not_computed_where_their_input_is_overwritten() -> None:
    w, pos = arg("a", 4), arg("b", 4)
    rates = OPS["exp"](w) + 1.0  # small and of the shape of the update, but needed before it
    angles = OPS["cos"](OPS["reshape"](pos, shape=(4, 1)) * rates)
    graph = graph_of(angles @ angles, pos + 1.0, aliases=((1, 1),))
    after = fused(graph)
    update = after.outputs[1]
    assert update.op.name == "add" and update.inputs[0] is after.inputs[1]
    apart = graph_of(angles @ angles, pos + 1.0)
    assert kernels(fused(apart)) == kernels(after) - 1


def test_in_place_slices_are_left_alone() -> None:
    cache, update, at = arg("cache", 6, 4), arg("new", 1, 4), arg("at", dtype=t.i64)
    zero = OPS["const"](value=0, dtype=t.i64)

    def step(base: Node) -> Node:
        return OPS["update_slice"](base, OPS["tanh"](update) * 2.0, at, zero)

    donated = graph_of(step(step(cache)), aliases=((1, 0),))
    assert [n.op.name for n in fused(donated).nodes].count("update_slice") == 2
    # else it is read element by element, and a tanh for each element of the cache is too many
    assert kinds(fused(graph_of(step(cache)))) == {"map": 2}


def test_a_slice_written_in_place_takes_its_update_through_views() -> None:
    cache, new, at = arg("cache", 6, 4), arg("new", 4, 2), arg("at", dtype=t.i64)
    zero = OPS["const"](value=0, dtype=t.i64)
    written = OPS["update_slice"](cache, turned(new), at, zero)
    assert kinds(fused(graph_of(written, aliases=((1, 0),)))) == {"map": 1}
    own = OPS["slice"](cache, starts=(0, 0), stops=(2, 4), steps=(1, 1))  # else read while written
    moved = OPS["update_slice"](cache, own, at, zero)
    assert kinds(fused(graph_of(moved, aliases=((1, 0),)))) == {"map": 2}


def test_views_are_copied_into_readers_unless_they_are_results() -> None:
    view = turned(X)
    both = fused(graph_of(view @ Y, OPS["tanh"](view)))
    assert kinds(both) == {"contraction": 1, "map": 1}
    assert kernels(fused(graph_of(view, OPS["tanh"](view)))) == 1
    mask = OPS["le"](OPS["iota"](shape=(6, 4), axis=0, dtype=t.i32), 2)
    masked = [OPS["select"](mask, x, x * 2.0) for x in (X @ turned(arg("w", 4, 4)), X)]
    assert kinds(fused(graph_of(*masked))) == {"contraction": 1, "map": 1}


def test_costly_work_is_not_repeated() -> None:
    column = OPS["exp"](G + B)
    assert kernels(fused(graph_of(X * column))) == 2
    assert kernels(fused(graph_of(X * (G + B)))) == 1
    square = arg("q", 4, 4)
    wave = OPS["sin"](square + G)
    assert kernels(fused(graph_of(wave + turned(wave)))) == 2
    cheap = square + G
    assert kernels(fused(graph_of(cheap + turned(cheap)))) == 1
    for _ in range(12):
        cheap = cheap + turned(cheap)  # 2^12 places, if it were one kernel
    assert kernels(fused(graph_of(cheap))) > 3


def test_values_that_readers_compute_more_cheaply_are_not_stored() -> None:
    h = X @ turned(UP)
    p = arg("p", 6, 8)
    total = OPS["sum"](h * p, axes=(1,), keep=True)
    after = fused(graph_of((h - total) * p))
    assert kinds(after) == {"contraction": 1, "row": 1}
    assert [len(body.outputs) for body in bodies(after)] == [1, 1]


def test_reductions_that_read_the_same_arrays_share_a_kernel() -> None:
    dy, unit = arg("dy", 5, 6, 64), arg("unit", 5, 6, 64)
    sums = [OPS["sum"](x, axes=(0, 1)) for x in (dy * unit, dy)]
    assert kinds(fused(graph_of(*sums))) == {"reduce": 1}


def test_a_diamond_through_another_kernel_stays_acyclic() -> None:
    # softmax lies between the two elementwise readers of h, on the way from one to the other
    h = OPS["tanh"](X @ turned(arg("w", 4, 4)))
    row = OPS["softmax"](turned(h), axis=1)
    graph = graph_of(h * turned(row) + h)
    assert kinds(fused(graph)) == {"contraction": 1, "row": 1, "map": 1}
    through = OPS["argmax"](h, axis=1)
    again = h + OPS["reshape"](OPS["cast"](through, dtype=t.f32), shape=(6, 1))
    assert kinds(fused(graph_of(again))) == {"contraction": 1, "special": 1, "map": 1}


def test_a_long_chain_becomes_several_kernels() -> None:
    x = X
    for i in range(3000):
        x = OPS["tanh"](x) if i % 2 else x + Y
    after = Fuse()(graph_of(x))
    assert kernels(after) == 3000 // MOST_NODES
    assert {len(body.nodes) for body in bodies(after)} == {MOST_NODES + 2}  # and the inputs


def test_kernels_have_few_operands() -> None:
    total = X
    for i in range(100):
        total = total + arg(f"x{i:03}", 6, 4)
    assert kernels(fused(graph_of(total))) == 5


def test_a_composite_without_a_kernel_is_left_alone() -> None:
    graph = Graph("f", (X,), (OPS["tanh"](OPS["gelu"](X + 1.0) * 2.0),))
    after = Fuse()(graph)
    assert [n.op.name for n in after.nodes if n.op.kind != "leaf"] == ["add", "gelu", "fused"]


def test_names_and_places() -> None:
    place = Loc("model.py", 7, scope="h.0.mlp")
    z = OPS["tanh"]((X @ turned(UP)).at(place) + WIDE)
    (node,) = (n for n in fused(graph_of(z)).nodes if n.op.kind == "fused")
    assert (node.attrs["body"].name, node.loc) == ("matmul_add_tanh", place)
    long = X
    for name in ("sin", "cos", "tanh", "sigmoid", "floor", "exp", "square", "sqrt", "abs", "log"):
        long = OPS[name](long)
    assert bodies(fused(graph_of(long)))[0].name == "sin_cos_tanh_sigmoid_floor_exp_square"


def test_explain() -> None:
    product = X @ turned(UP)
    total = OPS["sum"](product, axes=(1,), keep=True)
    graph = graph_of(product - total, turned(X))
    assert explain(graph, product, total) == (
        "sum : f32[6, 1] does not fit beside matmul : f32[6, 8]"
    )
    assert explain(graph, total, graph.outputs[0]) == "%2 and %3 are in one kernel"
    assert explain(graph, X, product) == "%x is not computed, it is input"
    assert explain(graph, product.inputs[1], product) == (
        "%0 is computed by every kernel that reads it"
    )
    with pytest.raises(IRError, match="not in graph f"):
        explain(graph, Y, product)
    h = OPS["tanh"](product)
    through = OPS["argmax"](h, axis=1)
    last = h + OPS["reshape"](OPS["cast"](through, dtype=t.f32), shape=(6, 1))
    assert explain(graph_of(last), h, last) == (
        "%4 also depends on %1 through %3, which is outside the kernel; "
        "%2 is also read by %3 outside the group"
    )


def random_graph(data: st.DataObject) -> Graph:
    """A graph of a dozen or two ops over small arrays of two sizes."""
    pool = [X, Y, G, B, arg("q", 4, 4), arg("s")]

    def pick(accept=lambda n: True) -> Node:
        found = [n for n in pool if accept(n)]
        return found[data.draw(st.integers(0, len(found) - 1))]

    def matrix(n: Node) -> bool:
        return n.type.rank == 2

    makers = {
        "unary": lambda: OPS[data.draw(st.sampled_from(("tanh", "neg", "exp", "square")))](pick()),
        "scale": lambda: pick(matrix) * pick(lambda n: n.shape == ()) + 0.5,
        "bias": lambda: (
            pick(lambda n: n.shape in ((6, 4), (4, 4))) + pick(lambda n: n.shape == (4,))
        ),
        "pair": lambda: (x := pick(matrix)) - pick(lambda n: n.shape == x.shape),
        "row": lambda: OPS["sum"](pick(matrix), axes=(1,), keep=True),
        "column": lambda: OPS["max"](pick(matrix), axes=(0,)),
        "total": lambda: OPS["sum"](pick()),
        "softmax": lambda: OPS["softmax"](pick(matrix), axis=1),
        "turn": lambda: turned(pick(matrix)),
        "flip": lambda: OPS["flip"](pick(matrix), axes=(0,)),
        "matmul": lambda: (x := pick(matrix)) @ turned(pick(lambda n: n.shape[1:] == x.shape[1:])),
        "spread": lambda: OPS["broadcast"](pick(lambda n: n.shape == (4,)), shape=(6, 4)),
    }
    for _ in range(data.draw(st.integers(3, 20))):
        pool.append(makers[data.draw(st.sampled_from(sorted(makers)))]())
    made = pool[6:]
    count = data.draw(st.integers(1, 3))
    return graph_of(*made[-count:])


@settings(max_examples=60, derandomize=True)
@given(data=st.data())
def test_random_graphs(data: st.DataObject) -> None:
    graph = random_graph(data)
    assert kernels(fused(graph)) <= kernels(graph)
