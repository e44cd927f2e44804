"""Heads and channels that go: the graph is that of a smaller model, whatever it is a graph of."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend.next_token import graphs
from planish.frontend.quantize import forward
from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.parse import parse
from planish.passes.calibrate import Samples
from planish.passes.example import with_example_params
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import CLEAN, pipeline
from planish.passes.shrink import Shrink
from planish.passes.sparsity import Shapes
from planish.passes.units import units

KINDS = {
    "gpt2": {},
    "llama": {
        "positions": "rope", "norm": "rms", "mlp": "swiglu", "num_kv_heads": 2, "bias": False
    },
}  # fmt: skip
TOKENS = np.random.default_rng(1).integers(0, 19, 96)


def model(kind: str = "gpt2") -> pl.TinyGPT:
    return pl.TinyGPT(19, 16, 2, 4, 16, dropout=0.0, hidden_dim=32, **KINDS[kind])  # type: ignore


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["magnitude", "activation", "taylor"])
def test_the_graph_of_a_smaller_model(kind: str, method: str) -> None:
    """That of forward, and those of generation, by their text; caches are smaller, too."""
    made = model(kind)
    options = {"heads": 0.5, "channels": 0.25, "method": method}
    small = pl.prune(made, **options, tokens=TOKENS)
    step = pl.calibrate(made, Pipeline(Shrink(**options)), TOKENS)
    after, expected = step.run(forward(made)), forward(small)
    assert str(after) == str(expected)
    assert after.params.keys() == expected.params.keys()
    for name, x in expected.params.items():
        assert np.array_equal(after.params[name], x), name
    for name, graph in graphs(made, 1, 16).items():
        assert str(step.run(graph)) == str(graphs(small, 1, 16)[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"heads": 0.5, "channels": 0.25}], ids=str)
def test_layers_go_with_their_caches(kind: str, options: dict[str, float]) -> None:
    """The graph computes what the smaller model does, and has its signature."""
    made = pl.TinyGPT(19, 16, 3, 4, 16, dropout=0.0, hidden_dim=32, **KINDS[kind])  # type: ignore
    state = made.state_dict()
    made.load_state_dict(  # h.1 is least, and goes
        {n: x * np.float32(0.5) if n.startswith("h.1.") else x for n, x in state.items()}
    )
    step, small = Shrink(**options, layers=0.4), pl.prune(made, **options, layers=0.4)
    after, ids = step(forward(made)), TOKENS[:16].reshape(1, 16).astype(np.int32)
    assert {x.split(".")[1] for x in after.params if x.startswith("h.")} == {"0", "2"}
    assert np.array_equal(evaluate(after, ids)[0], evaluate(forward(small), ids)[0])
    for name, graph in graphs(made, 1, 16).items():
        found, expected = step(graph), graphs(small, 1, 16)[name]
        assert (found.treedef, found.aliases) == (expected.treedef, expected.aliases)
        for part in ("inputs", "outputs"):
            types = [[x.type for x in getattr(y, part)] for y in (found, expected)]
            assert types[0] == types[1]
    seen = Shapes()
    Pipeline(step).run(forward(made), (seen,))
    lost = [x for x in seen.found if x.reason == "its layer goes"]
    assert {x.name.split(".")[1] for x in lost} == {"1"} and {x.after for x in lost} == {()}


@pytest.mark.parametrize("text", ["heads=0.5", "channels=0.75", "heads=0.5,channels=0.5"])
def test_it_composes_and_prints(text: str) -> None:
    """With zeros, with integers, with both: as those of the smaller model; and as text."""
    made = model()
    shares = {k: float(v) for k, v in (x.split("=") for x in text.split(","))}
    small = forward(pl.prune(made, **shares))
    for rest in ("int8", "prune{ratio=0.7},sparse_int8", "bf16,cse,fold,simplify,fuse"):
        recipe = pipeline(f"shrink{{{text}}},{rest}")
        assert Pipeline.parse(str(recipe)) == recipe
        found, expected = (p.run(g) for p, g in ((recipe, forward(made)),
                                                 (pipeline(rest), small)))  # fmt: skip
        assert str(found) == str(expected)
        for name, x in expected.params.items():
            assert np.array_equal(found.params[name], x), name


def test_it_generates() -> None:
    made = model("llama")
    recipe = pipeline("shrink{heads=0.5,channels=0.5},O2")
    small = pl.prune(made, heads=0.5, channels=0.5)
    found = made.generate([1, 2, 3], 8, temperature=0, pipeline=recipe)
    assert np.array_equal(found, small.generate([1, 2, 3], 8, temperature=0))


def test_what_is_reported() -> None:
    """A line for each matrix that something is multiplied by: what it was, is, and why so."""
    found = Shapes()
    pipeline("shrink{heads=0.25},O2").run(forward(model()), (found,))
    lines = {x["name"]: x for x in found.records()}
    assert len(lines) == 9 and str(found).startswith("layer")
    qkv, up = lines["h.0.attn.c_attn.weight"], lines["h.0.mlp.c_fc.weight"]
    assert (qkv["shape"], qkv["after"], qkv["reason"]) == ((48, 16), (36, 16), "1 of 4 heads")
    assert lines["h.1.attn.c_proj.weight"]["after"] == (16, 12) and 0.7 < qkv["kept"] < 1
    assert up["reason"] == "stays: layer_norm computes across what it multiplies"
    assert lines["h.0.mlp.c_proj.weight"]["reason"] == "stays: channels=0" and up["kept"] == 1


UP = "%w = param : f32[4, 8]\n%0 = matmul(%x, %w) : f32[2, 8]\n"
RELU = f"{UP}%1 = relu(%0) : f32[2, 8]\n"
DOWN = "%v = param : f32[8, 4]\n%2 = matmul(%1, %v) : f32[2, 4]\nreturn %2"
ONES = "%c = const 1.0 : f32[]\n%1 = broadcast(%c, shape=(2, 8)) : f32[2, 8]\n"


def body(lines: str) -> Graph:
    text = f"graph f(%x: f32[2, 4], %y: f32[2, 8]) {{\n{lines}\n}}"
    return with_example_params(parse(text))


@pytest.mark.parametrize(
    "lines, why",
    [
        (RELU + DOWN, ""),
        (f"{RELU}{DOWN}, %0", "what it multiplies is an output, too"),
        (f"{RELU}{DOWN}, %1", "what it multiplies is an output, too"),
        (f"{RELU}%3 = exp(%0) : f32[2, 8]\n{DOWN}, %3", "exp reads what it multiplies, too"),
        (f"{UP}%1 = softmax(%0, axis=1) : f32[2, 8]\n{DOWN}", "softmax computes across"),
        (f"{UP}%1 = add(%0, %y) : f32[2, 8]\n{DOWN}", "what it multiplies is an input"),
        (ONES + DOWN, "no product by a weight makes what it multiplies"),
    ],
)
def test_what_is_no_channel_says_why(lines: str, why: str) -> None:
    (found,) = [x.why for x in units(body(lines)) if x.name == "v"]
    assert found.startswith(why) and bool(found) == bool(why)


def test_all_that_is_left() -> None:
    """Channels of zeros go first, and what is left computes the same."""
    graph = body(RELU + DOWN)
    params = {n: x.copy() for n, x in graph.params.items()}
    params["w"][:, [1, 4, 6]] = params["v"][[1, 4, 6]] = 0
    graph = Graph("f", graph.inputs, graph.outputs, params)
    after = Shrink(channels=0.375)(graph)
    x, y = (np.random.default_rng(0).standard_normal((2, n)).astype(np.float32) for n in (4, 8))
    assert after.params["w"].shape == (4, 5)
    np.testing.assert_allclose(evaluate(after, x, y)[0], evaluate(graph, x, y)[0], 1e-6, 1e-6)


@pytest.mark.parametrize(
    "text, message",
    [
        ("shrink{heads=0.5,method=random}", "method is one of magnitude, activation, taylor"),
        ("shrink{heads=1.5}", "shrink: heads is a share between 0 and 1"),
        ("shrink{layers=-1}", "shrink: layers is a share between 0 and 1"),
        ("shrink{layers=0.9}", "layers=0.9 leaves none of 2; at least one must stay"),
        ("shrink{heads=1.0}", "heads=1.0 leaves none of 4; at least one must stay"),
        ("shrink{heads=0.5,method=taylor}", "shrink: taylor needs text to see what h.0.attn"),
        ("int8,shrink{heads=0.5}", "must not run after|must run before"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(pl.PlanishError, match=message):
        pipeline(text).run(forward(model()))


def test_after_its_time_it_finds_none() -> None:
    late = Pipeline(*CLEAN.passes, *pipeline("quantize,cse,fold,simplify").passes)
    with pytest.raises(DataError, match=r"shrink: heads=0.5 finds none .* stands before expand"):
        Shrink(heads=0.5)(late.run(forward(model())))
    with pytest.raises(DataError, match=r"shrink: layers=0.5 finds none: no additions"):
        Shrink(layers=0.5)(body(RELU + DOWN))
    with pytest.raises(DataError, match="taylor takes a graph from tokens"):
        Shrink(channels=0.5, method="taylor").calibrate(body(RELU + DOWN), Samples(()))
