"""Answers of the networkx views, on graphs small enough to see them."""

import subprocess
import sys

import pytest

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.graph import Graph
from planish.ir.ops.elementwise import add, tanh
from planish.ir.ops.leaf import input_
from planish.ir.types import TensorType
from planish.ir.views import (
    digraph,
    dominators,
    interference_colouring,
    is_convex,
    longest_path,
    min_cut,
    quotient_is_acyclic,
)

#      x - a - b - c - d      and a - e - d
X = input_(name="x", type=TensorType(t.f32, (2,)))
A = tanh(X)
B = tanh(A)
C = tanh(B)
E = tanh(A)
D = add(C, E)
G = Graph("g", (X,), (D,))


def test_a_view_is_over_positions():
    view = digraph(G)
    assert list(view.nodes) == list(range(6))
    assert view.number_of_edges() == 6 and all(a < b for a, b in view.edges)


def test_the_longest_path_follows_the_cost():
    assert longest_path(G) == (X, A, B, C, D)
    assert longest_path(G, lambda node: 9 if node is E else 1) == (X, A, E, D)
    assert longest_path(Graph("f", (X,), (X,))) == (X,)
    assert longest_path(Graph("f", (), ())) == ()


def test_convexity_and_quotients():
    assert is_convex(G, [A, B, C]) and is_convex(G, [C, E]) and is_convex(G, [B, E, C, D])
    assert not is_convex(G, [A, C])
    assert not is_convex(G, [A, E, D])
    assert quotient_is_acyclic(G, [[B, C], [A, E]])
    # each group is convex, but each would wait for the other
    p, q = tanh(X), tanh(X)
    r, s = tanh(q), tanh(p)
    crossed = Graph("crossed", (X,), (r, s))
    assert is_convex(crossed, [p, r]) and is_convex(crossed, [q, s])
    assert not quotient_is_acyclic(crossed, [[p, r], [q, s]])
    with pytest.raises(IRError, match="in two groups"):
        quotient_is_acyclic(G, [[A, B], [A, C], [B, C]])


def test_the_minimum_cut_is_the_cheapest_set_of_nodes():
    edges = [("x", "a"), ("a", "b"), ("a", "c"), ("b", "y"), ("c", "y")]
    cost = {"x": None, "a": 5, "b": 2, "c": 2, "y": None}
    assert min_cut(edges, cost, ["x"], ["y"]) == (4, ("b", "c"))
    assert min_cut(edges, {**cost, "a": 3}, ["x"], ["y"]) == (3, ("a",))
    assert min_cut(edges, {**cost, "a": 4}, ["x"], ["y"]) == (4, ("b", "c"))  # nearest to the sinks
    assert min_cut([], {"x": 1, "y": 1}, ["x"], ["y"]) == (0, ())
    with pytest.raises(IRError, match="no node to cut"):
        min_cut(edges, dict.fromkeys(cost), ["x"], ["y"])


def test_a_cut_of_a_training_sized_graph_is_found():
    # a ladder: forward nodes 0..n, backward node i reads forward node i and backward node i+1
    n = 1500
    edges = [(("f", i), ("f", i + 1)) for i in range(n)]
    edges += [(("f", i), ("b", i)) for i in range(n)] + [(("b", i + 1), ("b", i)) for i in range(n)]
    names = {name: (None if name[0] == "b" else 3 + name[1] % 7) for e in edges for name in e}
    cost, cut = min_cut(edges, names, [("f", 0)], [("b", 0)])
    assert cost == 3 and cut == (("f", 0),)


def test_colours_differ_where_ranges_meet():
    ranges = [(4, 6), (0, 2), (1, 5), (2, 3), (6, 7)]
    colours = interference_colouring(ranges)
    for i, a in enumerate(ranges):
        for j, b in enumerate(ranges[:i]):
            if a[0] <= b[1] and b[0] <= a[1]:
                assert colours[i] != colours[j]
    assert len(set(colours)) == 3  # at step 2
    assert interference_colouring([]) == []


def test_dominators():
    assert dominators(G) == {X: None, A: X, B: A, C: B, E: A, D: A}
    y = input_(name="y", type=X.type)
    assert dominators(Graph("f", (X, y), (add(X, y),)))[y] is None


def test_importing_the_ir_does_not_import_networkx():
    code = "import sys, planish.ir.parse, planish.ir.evaluate; print('networkx' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"
