"""The verifier: what it refuses, with which words."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import IRError
from planish.ir.graph import Graph
from planish.ir.node import Attrs, Loc
from planish.ir.ops.elementwise import add, tanh
from planish.ir.ops.leaf import fused, get, input_, param, size_of
from planish.ir.types import TensorType
from planish.ir.verify import Verifier, verify


def arg(name, dtype=t.f32, *shape):
    return input_(name=name, type=TensorType(dtype, shape or (2,)))


def test_a_good_graph_is_returned():
    x = arg("x")
    a = arg("a")
    body = Graph("two", (a,), (tanh(a), add(a, a)))
    both = fused(x, body=body)
    w = param(name="w", type=TensorType(t.f32, (2,)))
    g = Graph(
        "f",
        (x,),
        (add(get(both, index=1), w), get(both, index=0)),
        {"w": np.ones(2, np.float32)},
        ((0, 1),),
    )
    assert verify(g) is g


def test_a_wrong_type_is_shown_with_its_neighbours_the_source_line_and_the_pass():
    x, y = arg("x"), arg("y")
    first = add(x, y)
    wrong = replace(tanh(first), type=TensorType(t.f32, (3,)), loc=Loc("/a/model.py", 41, "f"))
    g = Graph("f", (x, y), (wrong,))
    with pytest.raises(IRError) as info:
        verify(g, after="fuse (4 of 6)")
    assert str(info.value).splitlines()[:3] == [
        "after pass fuse (4 of 6): tanh gives f32[2], its type says f32[3]",
        "    %0 = add(%x, %y) : f32[2]",
        "    %1 = tanh(%0) : f32[3]        <-- here  (model.py:41)",
    ]


def broken(**changes):
    x, y = arg("x"), arg("y")
    z = add(x, y)
    return replace(Graph("f", (x, y), (z, tanh(z))), **changes)


def with_attr(value):
    x = arg("x", t.f32, 2)
    return Graph("f", (x,), (replace(tanh(x), attrs=Attrs({"axis": value})),))


def in_a_body():
    a, stray, x = arg("a"), arg("stray"), arg("x")
    return Graph("f", (x,), (fused(x, body=Graph("inner", (a,), (add(a, stray),))),))


def two_maxima():
    x, y = arg("x", t.f32, Dim("T", 4)), arg("y", t.f32, Dim("T", 8))
    return Graph("f", (x, y), (tanh(x), tanh(y)))


def unbound():
    x = arg("x", t.f32, Dim("T"))
    return Graph("f", (x,), (size_of(size=Dim("K") + 1),))


def mixed_params():
    x = arg("x")
    w = [param(name="w", type=TensorType(t.f32, (n,))) for n in (1, 2)]
    return Graph("f", (x,), (add(add(x, w[0]), w[1]),))


def wrong_array(array, name="w"):
    x = arg("x")
    w = param(name="w", type=TensorType(t.f32, (2,)))
    return Graph("f", (x,), (add(x, w),), {name: array})


X, STRAY = arg("x"), arg("stray")


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        (Graph("f", (X, arg("x")), (X,)), "two inputs of f are called 'x'"),
        (Graph("f", (X, X), (X,)), "two inputs of f are called 'x'"),
        (Graph("f", (X,), (add(X, STRAY),)), "input 'stray' is not in the signature of f"),
        (broken(treedef=("a",)), r"2 outputs, but the keys \(a\)"),
        (broken(aliases=((2, 0),)), r"alias \(2, 0\) is outside the signature"),
        (broken(aliases=((0, 0), (0, 1))), "input 'x' is donated twice"),
        (broken(aliases=((0, 0), (1, 0))), "output 0 is given storage twice"),
        (
            Graph("f", (X, arg("n", t.i32, 2)), (X,), {}, ((1, 0),)),
            r"input 'n' of type i32\[2\] cannot be the storage of output 0 of type f32\[2\]",
        ),
        (with_attr(1), "tanh has no attribute 'axis'"),
        (with_attr(np.float64(1)), "attribute axis of tanh is a float64"),
        (with_attr((1, (np.int64(1),))), "attribute axis of tanh is a tuple"),
        (in_a_body(), "in @inner: input 'stray' is not in the signature of inner"),
        (Graph("f", (X,), (fused(X, body=Graph("g", (STRAY,), (STRAY, STRAY))),)), "use get"),
        (two_maxima(), "size T has two maxima, 4 and 8"),
        (unbound(), "size K is not the size of an input's axis by itself"),
        (mixed_params(), r"param 'w' is also read as f32\[1\]"),
        (wrong_array(np.ones(3, np.float32)), r"param 'w' has an array of type f32\[3\]"),
        (wrong_array(np.ones(2)), r"param 'w' has an array of type f64\[2\]"),
        (wrong_array(np.ones(2), "v"), "param 'w' has no array"),
    ],
)
def test_a_broken_rule_is_refused(graph, text):
    with pytest.raises(IRError, match=text):
        verify(graph)


def test_weights_may_be_absent_unless_strict():
    w = param(name="w", type=TensorType(t.f32, (2,)))
    g = Graph("f", (), (tanh(w),))
    assert verify(g) is g
    with pytest.raises(IRError, match="param 'w' has no array"):
        verify(g, strict=True)


def test_a_verifier_keeps_no_graph_and_so_no_weights():
    """Of the graphs between passes, each may have weights of its own."""
    verifier, x = Verifier(), arg("x")
    graph = Graph("f", (x,), (tanh(x),), {"w": np.ones(2, np.float32)})
    seen = weakref.ref(verifier.verify(graph))
    del graph
    gc.collect()
    assert seen() is None
