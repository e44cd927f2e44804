"""Pipelines as values and text; observers, comparison, bisection."""

import numpy as np
import pytest

from planish.ir.errors import IRError, ParseError, PlanishError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.parse import parse
from planish.passes.bisect import bisect
from planish.passes.compare import compare, interpreted, largest_error
from planish.passes.cse import cse
from planish.passes.example import example_arrays, with_example_params
from planish.passes.expand import Expand
from planish.passes.fold import fold
from planish.passes.observe import Differences, Dump, FiniteValues, SameValues, Times
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES, Before, Not, check_order, pipeline
from planish.passes.simplify import simplify

TEXT = """graph f[T<=9](%x: f32[T, 4]) {
  %w = param : f32[4, 4]
  %c0 = const 1.0 : f32[]
  %0 = mul(%x, %c0) : f32[T, 4]
  %1 = matmul(%0, %w) : f32[T, 4]
  %2 = gelu(%1, approximate="tanh") : f32[T, 4]
  %3 = gelu(%1, approximate="tanh") : f32[T, 4]
  %4 = add(%2, %3) : f32[T, 4]
  return %4
}"""


@pytest.fixture
def graph() -> Graph:
    return with_example_params(parse(TEXT))


def wrong(graph: Graph) -> Graph:
    """A pass that changes the numbers."""
    return graph.with_outputs(tuple(OPS["neg"](x) for x in graph.outputs))


def broken(graph: Graph) -> Graph:
    """A pass that leaves an input outside the signature."""
    x = graph.inputs[0]
    return graph.with_outputs((OPS["add"](OPS["input"](name="y", type=x.type), x),))


@pytest.mark.parametrize("name", PIPELINES)
def test_named_pipelines_print_and_parse(name: str):
    text = str(PIPELINES[name])
    assert Pipeline.parse(text) == PIPELINES[name] and str(Pipeline.parse(text)) == text
    assert pipeline(name) is PIPELINES[name]


def test_pipelines_add_and_compare():
    one = Pipeline(simplify, fold) + Pipeline(cse)
    assert one == Pipeline.parse(" simplify, fold ,cse")
    assert hash(one) == hash(Pipeline.parse(str(one)))
    assert Pipeline.parse("") == Pipeline()
    text = 'expand{keep=[]},grad{wrt=[h.0.w,"a b"],output=1},remat{budget=1000}'
    assert str(Pipeline.parse(text)) == text
    assert Pipeline.parse("expand{keep=[attention,attention_grad]}") == Pipeline(Expand())
    assert Pipeline.parse("expand{}") == Pipeline(Expand())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simplify,foldd", "unknown pass 'foldd'; did you mean 'fold'? known: grad, "),
        ("expand{kep=[]}", "unknown option of expand 'kep'; did you mean 'keep'? known: keep"),
        ("cse{bits=9}", "unknown option of cse 'bits'; known: none"),
        ("grad", "grad needs wrt, as in grad{wrt=...}"),
        ("cse,", "expected 'word', found 'the end'"),
        ("cse fold", "expected 'end', found 'fold'"),
        ("expand{keep=[attention", "expected ',', found 'the end'"),
        ("cse;fold", "cannot read ';fold'"),
    ],
)
def test_row_24_bad_pipelines_are_refused_with_choices(text: str, message: str):
    with pytest.raises(ParseError) as caught:
        Pipeline.parse(text)
    assert message in str(caught.value) and isinstance(caught.value, ValueError)


def test_an_unknown_pipeline_is_refused_with_all_names():
    with pytest.raises(ParseError, match=r"unknown pipeline or pass 'O7'; .*known: O0, O1, O2"):
        pipeline("O7")


def test_order_constraints_name_the_pass():
    with pytest.raises(IRError, match="pipeline mine: simplify must run before cse"):
        check_order("mine", Pipeline.parse("cse,simplify"))
    with pytest.raises(IRError, match="pipeline mine: cse must not run after remat"):
        check_order("mine", Pipeline.parse("cse,remat,cse"))
    assert Before("a", "b") != Not("a", "b")


@pytest.mark.parametrize("name", PIPELINES)
def test_named_pipelines_keep_the_numbers(name: str, graph: Graph):
    xs = example_arrays(graph)
    before = evaluate(graph, *xs, dtype="f64")
    after = evaluate(PIPELINES[name].run(graph), *xs, dtype="f64")
    # products of numbers rounded to 8 bits, of the largest in a row for int8, in a group for int4
    known = {"bf16": 0.02, "train_bf16": 0.02, "int8": 0.05, "sparse_int8": 0.05, "int4": 0.5}
    rounding = known.get(name.removesuffix("_cache"), 0)
    np.testing.assert_allclose(after[0], before[0], 1e-6, rounding)


def test_verification_names_the_pass_and_its_place(graph: Graph):
    with pytest.raises(IRError, match=r"after pass broken \(2 of 3\): input 'y' is not in the sig"):
        Pipeline(simplify, broken, cse).run(graph)


def test_an_error_inside_a_pass_is_noted_not_wrapped(graph: Graph):
    with pytest.raises(PlanishError) as caught:
        Pipeline.parse("cse,lift{names=[v]}").run(graph)
    assert caught.value.__notes__ == ["  in pass lift{names=[v]} (2 of 2)"]


def test_trace_yields_every_stage(graph: Graph):
    names = [name for name, _ in PIPELINES["O1"].trace(graph)]
    assert names == str(PIPELINES["O1"]).split(",")


def test_observers_see_every_pass(graph: Graph, tmp_path):
    times, differences = Times(), Differences()
    PIPELINES["O1"].run(graph, (times, differences, Dump(tmp_path), SameValues(), FiniteValues()))
    assert str(times).count("\n") == 5 and "simplify (1 of 6)" in str(differences)
    assert "- %0 = mul(%x, %c0) : f32[T, 4]" in str(differences)
    assert sorted(p.name for p in tmp_path.iterdir())[:2] == ["00-traced.ir", "01-simplify.ir"]
    parse((tmp_path / "06-cse.ir").read_text())


def test_a_pass_that_changes_numbers_is_caught(graph: Graph):
    with pytest.raises(IRError, match=r"after pass wrong \(2 of 2\): output 0 differs by"):
        Pipeline(cse, wrong).run(graph, (SameValues(),))


def test_the_first_node_that_is_not_finite_is_named():
    x = OPS["input"](name="x", type=parse(TEXT).inputs[0].type)
    graph = Graph("f", (x,), (OPS["exp"](OPS["log"](OPS["neg"](OPS["abs"](x)))),))
    with pytest.raises(IRError, match=r"after pass cse \(1 of 1\): log is not finite"):
        Pipeline(cse).run(graph, (FiniteValues(),))


def test_bisect_names_the_first_pass_that_breaks_a_check(graph: Graph):
    xs = example_arrays(graph)
    expected = evaluate(graph, *xs)[0]

    def same(after: Graph) -> bool:
        return np.allclose(evaluate(after, *xs)[0], expected)

    found = bisect(graph, Pipeline(simplify, fold, wrong, cse), same)
    assert found is not None and (found.name, found.position) == ("wrong", 3)
    assert bisect(graph, PIPELINES["O1"], same) is None
    assert bisect(graph, Pipeline(cse), lambda g: np.bool_(len(g.nodes) < 0)).position == 0
    assert str(bisect(graph, Pipeline(cse), lambda g: 1 / 0)) == (
        "the graph itself (0): ZeroDivisionError: division by zero"
    )
    crashed = bisect(graph, Pipeline(cse, broken), same)
    assert crashed is not None and crashed.position == 2 and crashed.after is None


def test_compare_counts_and_times(graph: Graph, tmp_path):
    table = compare(graph, ["O0", "O2"], example_arrays(graph), compile=interpreted, seconds=0)
    slow, fast = table.rows
    assert fast.kernels < slow.kernels and fast.bytes_moved < slow.bytes_moved
    assert fast.error < 1e-5 and fast.run_seconds > 0 and slow.flops >= fast.flops
    header, *lines = str(table).splitlines()
    assert header.split()[:3] == ["pipeline", "nodes", "kernels"] and len(lines) == 2
    assert table.records()[0]["pipeline"] == "O0"
    pytest.importorskip("matplotlib")
    table.plot(tmp_path / "table.svg")
    assert (tmp_path / "table.svg").stat().st_size > 1000


def test_compare_without_a_compiler_leaves_times_out(graph: Graph):
    table = compare(graph, [Pipeline(cse)], example_arrays(graph))
    assert table.rows[0].run_seconds is None and "run" not in str(table).splitlines()[0].split()


def test_largest_error_knows_infinities_and_nans():
    a = np.array([1.0, np.inf, np.nan, -4.0])
    assert largest_error([a], [a]) == 0.0
    assert largest_error([a], [np.array([1.0, np.inf, np.nan, -4.4])]) == pytest.approx(0.1)
    assert largest_error([a], [np.array([1.0, 2.0, np.nan, -4.0])]) == np.inf
