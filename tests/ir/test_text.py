"""The text form of graphs: what it looks like, and that it is read back."""

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.draw import dot
from planish.ir.graph import Graph
from planish.ir.node import OPS, Loc
from planish.ir.ops.base import const
from planish.ir.ops.elementwise import add, tanh
from planish.ir.ops.leaf import fused, get, input_, param, size_of
from planish.ir.parse import parse
from planish.ir.text import graph_text, line_of
from planish.ir.types import TensorType
from planish.ir.verify import verify
from tests.samples import SAMPLES


def arg(name, dtype=t.f32, *shape):
    return input_(name=name, type=TensorType(dtype, shape or (2,)))


def weight(name, *shape):
    return param(name=name, type=TensorType(t.f32, shape))


def same(graph):
    """Check that the text is read back to the same text, with locations and without."""
    for locs in (False, True):
        text = graph_text(graph, locs)
        assert graph_text(parse(text, graph.params), locs) == text
    return str(graph)


def two(name="two", extra=()):
    a = arg("a")
    return Graph(name, (a,), (tanh(a), add(a, a), *(a for _ in extra)))


def test_a_graph_prints_and_reads_back():
    length = Dim("T", max=256)
    x, b = arg("x", t.f32, Dim("B"), length), arg("b", t.f32, length)
    y = tanh(add(x, b)).at(Loc("/home/me/model.py", 41, "forward", "h.0.mlp"))
    w = weight("h.fc.weight", 1)
    g = Graph(
        "mlp",
        (x, b),
        (add(y, 0.5), add(b, w), size_of(size=2 * length + 1)),
        {"h.fc.weight": np.ones(1, np.float32)},
        ((1, 1),),
        ("loss", "0", "a key"),
    )
    assert same(g) == (
        'graph mlp[B, T<=256](%x: f32[B, T], %b: f32[T] donate=1) -> (loss, 0, "a key") {\n'
        "  %0 = add(%x, %b) : f32[B, T]\n"
        "  %1 = tanh(%0) : f32[B, T]\n"
        "  %c0 = const 0.5 : f32[]\n"
        "  %2 = add(%1, %c0) : f32[B, T]\n"
        "  %h.fc.weight = param : f32[1]\n"
        "  %3 = add(%b, %h.fc.weight) : f32[T]\n"
        "  %4 = size(size=2*T+1) : i64[]\n"
        "  return %2, %3, %4\n"
        "}"
    )
    read = parse(graph_text(g, locs=True))
    assert read.aliases == g.aliases and read.treedef == g.treedef
    assert any(
        line.startswith("  %1 = tanh(%0) : f32[B, T]  ")
        and line.endswith("  # model.py:41 h.0.mlp")
        for line in graph_text(g, locs=True).splitlines()
    )
    assert read.outputs[0].inputs[0].loc == Loc("model.py", 41, "", "h.0.mlp")


@pytest.mark.parametrize("value", [0.1, -0.0, 1e-300, 1e30, float("nan"), float("-inf"), 3.0])
def test_floats_print_exactly(value):
    g = Graph("f", (), (const(value, t.f64),))
    read = parse(same(g)).outputs[0].attrs["value"]
    assert repr(read) == repr(value)


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [(True, t.boolean, "True"), (-5, t.i8, "-5"), (2**63 - 1, t.i64, str(2**63 - 1))],
)
def test_integers_and_bools_keep_their_kind(value, dtype, text):
    g = Graph("f", (), (const(value, dtype),))
    assert f"const {text} : {dtype}[]" in same(g)
    assert type(parse(str(g)).outputs[0].attrs["value"]) is type(value)


@pytest.mark.parametrize(
    "name",
    ['q"uote', "new\nline", "nul\0", "100%", "a # b", "", "0", "é", "\ud800", "a.b", "\\", "{"],
)
def test_odd_names_are_escaped(name):
    x, w = arg(name), weight(name, 2)
    body = Graph(name, (x,), (tanh(x),))
    g = Graph(name, (x,), (add(fused(x, body=body), w),), treedef=(name,))
    text = same(g)
    assert text.isascii() and len(text.splitlines()) == 11
    read = parse(text)
    assert (read.name, read.inputs[0].attrs["name"], read.treedef) == (name, name, (name,))
    assert list(read.param_nodes) == [name]


def test_a_name_that_looks_like_a_generated_one_keeps_apart():
    x = arg("c0")
    g = Graph("f", (x, arg("0")), (add(tanh(x), 1.0), add(weight("w", 2), weight("w", 2))))
    text = same(g)
    assert "%c1 = const 1.0" in text and '%"0": f32[2]' in text
    assert '%w.1 = param(name="w") : f32[2]' in text


def test_bodies_print_once_and_different_ones_get_their_own_name():
    x = arg("x")
    shared = two()
    y = get(fused(x, body=shared), index=0)
    y = get(fused(y, body=shared), index=0)
    y = get(fused(y, body=two()), index=0)  # equal text
    y = get(fused(y, body=two(extra="z")), index=1)
    y = get(fused(y, body=two("f")), index=1)  # the name of the caller
    text = same(Graph("f", (x,), (y,)))
    heads = [line for line in text.splitlines() if line.startswith("graph")]
    assert heads == [
        "graph two(%a: f32[2]) {",
        "graph two_1(%a: f32[2]) {",
        "graph f_1(%a: f32[2]) {",
        "graph f(%x: f32[2]) {",
    ]
    assert text.count("fused @two(") == 3 and "%0 = fused @two(%x) : (f32[2], f32[2])" in text


def test_bodies_nest():
    x, a = arg("x"), arg("a")
    middle = Graph("middle", (a,), (get(fused(a, body=two()), index=1),))
    text = same(Graph("f", (x,), (fused(x, body=middle),)))
    assert text.index("graph two(") < text.index("graph middle(") < text.index("graph f(")


def test_sizes_named_like_keywords_are_told_apart():
    x = arg("x", t.f32, Dim("f32"), Dim("None"), Dim("inf"))
    sizes = [size_of(size=s) for s in x.shape]
    text = same(Graph("f", (x,), (*sizes, size_of(size=3), size_of(size=Dim("f32") * 2))))
    assert "size(size=size(None))" in text and "size(size=3)" in text


def test_long_signatures_break_into_lines():
    xs = tuple(arg(f"argument{i}") for i in range(40))
    text = same(Graph("f", xs, xs))
    assert max(map(len, text.splitlines())) <= 100
    assert "graph f(\n  %argument0: f32[2],\n" in text
    assert same(Graph("empty", (), ())) == "graph empty() {\n  return\n}"


def test_line_of_shows_neighbours_and_marks_the_line():
    x = arg("x")
    a = tanh(x)
    b = tanh(a).at(Loc("m.py", 3))
    g = Graph("f", (x,), (tanh(b),))
    assert line_of(g, b).splitlines() == [
        "    %0 = tanh(%x) : f32[2]",
        "    %1 = tanh(%0) : f32[2]     <-- here  (m.py:3)",
        "    %2 = tanh(%1) : f32[2]",
    ]
    assert line_of(g, x) == "    %x: f32[2]     <-- here"
    assert line_of(g, tanh(tanh(x))) == "    %? = tanh(%?) : f32[2]     <-- here"


def test_a_long_chain_prints_and_reads_back():
    y = x = arg("x")
    for _ in range(5000):
        y = add(y, y)
    same(Graph("f", (x,), (y,)))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.id)
def test_every_op_prints_and_reads_back(sample):
    kinds = [TensorType(t.dtype(a.dtype), a.shape) for a in sample.args]
    xs = [input_(name=f"x{i}", type=kind) for i, kind in enumerate(kinds)]
    g = Graph("f", tuple(xs), (OPS[sample.op](*xs, **sample.attrs),))
    same(verify(g))
    assert dot(g).startswith("digraph")
