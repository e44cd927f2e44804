"""Pictures: frames, folded constants, escaping, and what is said where Graphviz is missing."""

import re
import shutil

import pytest

from planish.ir import draw as drawing
from planish.ir import types as t
from planish.ir.draw import dot, draw, quoted, scope_path
from planish.ir.errors import PlanishError, UnsupportedError
from planish.ir.graph import Graph
from planish.ir.node import OPS, Loc
from planish.ir.ops.elementwise import add, tanh
from planish.ir.ops.leaf import fused, get, input_, param
from planish.ir.types import TensorType


def arg(name):
    return input_(name=name, type=TensorType(t.f32, (4, 8)))


def layers(count=4, odd=""):
    """Layers of a matmul and a tanh, with scopes as a model has them."""
    x = y = arg("x" + odd)
    for i in range(count):
        scope = f"h.{i}{odd}"
        w = param(name=f"{scope}.fc.weight", type=TensorType(t.f32, (8, 8)))
        z = OPS["matmul"](y, OPS["transpose"](w, perm=(1, 0)))
        z = tanh(z.at(Loc("m.py", 3, "f", f"{scope}.fc"))).at(Loc("m.py", 4, "f", f"{scope}.act"))
        here = Loc("m.py", 5, "f", scope)
        y = add(add(y, z).at(here), 0.5).at(here)
    return Graph("model" + odd, (x,), (y,), aliases=((0, 0),))


def test_layers_have_frames_constants_are_folded_and_weights_are_notes():
    text = dot(layers(), "after fuse")
    assert re.findall(r"subgraph cluster_\d+ \{ label=\"([^\"]*)\"", text) == [
        "h.0", "h.1", "h.2", "h.3",
    ]  # fmt: skip
    assert 'label="model after fuse"' in text
    assert text.count('label="add(_, 0.5)"') == 4 and "const" not in text
    assert text.count('label="fc.weight\\nf32[8, 8]"') == 4
    assert text.count('[label="transpose"') == 4 and 'label="[4, 8]"' in text
    assert "%x\\nf32[4, 8]\\ndonated to output 0" in text
    assert 'tooltip="%3 = add : f32[4, 8]  m.py:5 h.0"' in text
    assert text == dot(layers(), "after fuse")


def test_a_kernel_is_a_frame_and_get_is_not_drawn():
    a, x = arg("a"), arg("x")
    body = Graph("two", (a,), (tanh(a), add(a, 1.0)))
    both = fused(x, body=body).at(Loc("m.py", 1, "f", "h.0"))
    text = dot(
        Graph("f", (x,), (get(both, index=1), get(both, index=0), x), treedef=("p", "q", "r"))
    )
    assert 'label="two  h.0"; style=filled' in text
    assert "get" not in text and 'label="p\\nf32[4, 8]"' in text
    edges = re.findall(r"(n\d+) -> (n\d+)", text)
    assert edges == [
        ("n0", "n1"), ("n0", "n2"), ("n2", "n3"), ("n1", "n4"), ("n0", "n5"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "odd", ['q"uote', "new\nline", "nul\0", "100%", "\\N", "&lt;", "é", "\ud800"]
)
def test_odd_names_are_escaped(odd, tmp_path):
    g = layers(1, odd)
    text = dot(g)
    assert "\0" not in text and text.encode()
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    assert '"' not in bare and odd not in bare
    if shutil.which("dot"):
        draw(g, tmp_path / "odd.svg")
        assert (tmp_path / "odd.svg").read_bytes().startswith(b"<?xml")


def test_quoting_and_scopes():
    assert quoted('a"b\\N&\n\0') == '"a\\"b\\\\N&amp;\\n\\\\x00"'
    assert scope_path("h.0.attn.proj") == ("h.0", "attn")
    assert scope_path("") == () and scope_path("ln_f") == ("ln_f",)


def test_a_dot_file_needs_nothing_and_other_pictures_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing.shutil, "which", lambda *args, **kwargs: None)
    layers().draw(tmp_path / "g.dot")
    assert (tmp_path / "g.dot").read_text() == dot(layers())
    with pytest.raises(PlanishError, match="pip install graphviz-pure") as info:
        layers().draw(tmp_path / "g.png")
    assert "\n" not in str(info.value) and not (tmp_path / "g.png").exists()
    with pytest.raises(UnsupportedError, match=r"\.dot, \.svg or \.png file, not 'g\.pdf'"):
        layers().draw(tmp_path / "g.pdf")
    with pytest.raises(UnsupportedError, match=r"a pipeline, such as pl.PIPELINES.+, not 'fuse'"):
        layers().draw(tmp_path / "g.dot", after="fuse")


def test_a_pass_may_run_first(tmp_path):
    def nothing(graph):
        return Graph(graph.name, graph.inputs, graph.inputs)

    layers().draw(tmp_path / "g.dot", after=nothing)
    text = (tmp_path / "g.dot").read_text()
    assert 'label="model after nothing"' in text and "matmul" not in text


@pytest.mark.parametrize("command", ["dot", "graphviz-pure"])
def test_svg_and_png_are_drawn(command, tmp_path, monkeypatch):
    path = shutil.which(command)
    if path is None:
        pytest.skip(f"{command} is not installed")
    monkeypatch.setattr(drawing.shutil, "which", lambda name, path=None: path_of.get(name))
    path_of = {command: path}
    layers().draw(tmp_path / "g.svg")
    layers().draw(tmp_path / "g.png")
    assert b"matmul" in (tmp_path / "g.svg").read_bytes()
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")


def test_a_failing_graphviz_is_reported(monkeypatch, tmp_path):
    if not shutil.which("dot"):
        pytest.skip("dot is not installed")
    with pytest.raises(PlanishError, match="failed"):
        drawing.render("digraph {", "svg")


def test_layers_visited_twice_are_drawn_in_parts_and_far_operands_are_references():
    x = y = arg("x")
    made = []
    for i in (*range(30), *reversed(range(30))):
        here = Loc("m.py", 1, "f", f"h.{i}")
        y = tanh(add(y, x if len(made) < 30 else made[i]).at(here)).at(here)
        made.append(y)
    text = dot(Graph("f", (x,), (y,)))
    assert 'label="h.0"' in text and 'label="h.0 (2)"' in text and "(3)" not in text
    assert 'label="%x", shape=plaintext' in text
    assert 'label="h.0 %1 tanh", shape=plaintext' in text
