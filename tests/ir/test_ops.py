"""Every op against itself: `infer`, `ref`, loop meaning, gradient and expansion agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.ir import ops  # noqa: F401 - fills the op table
from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import DTypeError, GradientError, IRError, PlanishError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.ops.base import Composite, make
from planish.ir.types import TensorType
from planish.passes.autodiff import vjp
from tests.ir.pull import has_loops, run_loops
from tests.sample import Sample
from tests.samples import SAMPLES

STRUCTURAL = {"input", "param", "const", "size", "fused", "get"}
NAMES = sorted(OPS.keys() - STRUCTURAL)
each = pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.id)


def inputs_of(sample: Sample, dtype: t.DType | None = None) -> tuple[Node, ...]:
    """An input node per operand; floats at `dtype` if it is given."""

    def kind(x: np.ndarray) -> TensorType:
        found = t.dtype(x.dtype)
        return TensorType(dtype if dtype and found.is_float else found, x.shape)

    return tuple(OPS["input"](name=f"x{i}", type=kind(x)) for i, x in enumerate(sample.args))


def graph_of(sample: Sample, dtype: t.DType | None = None) -> Graph:
    """The graph of one call."""
    inputs = inputs_of(sample, dtype)
    return Graph("one", inputs, (OPS[sample.op](*inputs, **sample.attrs),))


def agree(found: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> None:
    """Same dtype, shape and values; bf16 and its kin are compared as float64."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    if t.dtype(found.dtype).is_float:
        found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_allclose(found, wanted, rtol, atol)


def operands(node: Node, sample: Sample) -> list[np.ndarray]:
    """The values of a node's operands, which `prepare` may have wrapped in casts."""
    inputs = graph_of(sample).inputs
    same = len(inputs) == len(node.inputs)
    if same and all(x.op.name == "input" for x in node.inputs):
        return list(sample.args)
    given = tuple(x for x in _leaves(node) if x.op.name == "input")
    arrays = [sample.args[int(x.attrs["name"][1:])] for x in given]
    return list(evaluate(Graph("operands", given, node.inputs), *arrays))


def _leaves(node: Node) -> list[Node]:
    return [x for x in Graph("all", (), (node,)).nodes if not x.inputs]


def test_every_op_has_a_sample() -> None:
    sampled = {s.op for s in SAMPLES}
    assert sampled <= set(NAMES)
    assert set(NAMES) - sampled == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_op_states_what_it_is(name: str) -> None:
    op = OPS[name]
    assert op.__class__.__doc__ and not op.__class__.__doc__.startswith("Everything known")
    has_rule = type(op).vjp is not Node and "vjp" in {
        n for cls in type(op).__mro__[:-2] for n in vars(cls)
    }
    assert has_rule or op.no_vjp or isinstance(op, Composite)


@each
def test_infer_agrees_with_ref(sample: Sample) -> None:
    evaluate(graph_of(sample), *sample.args)  # refuses a value that is not of the inferred type
    wide = [x.astype(np.float64) if t.dtype(x.dtype).is_float else x for x in sample.args]
    evaluate(graph_of(sample), *wide, dtype="f64")


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if has_loops(graph_of(s).outputs[0])], ids=lambda s: s.id
)
def test_loops_agree_with_ref(sample: Sample) -> None:
    graph = graph_of(sample)
    (node,) = graph.outputs
    (wanted,) = evaluate(graph, *sample.args)
    found = run_loops(node, operands(node, sample), {}, wanted.shape)
    agree(found, wanted, sample.rtol, sample.atol)


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if isinstance(OPS[s.op], Composite)], ids=lambda s: s.id
)
def test_expansion_agrees_with_ref(sample: Sample) -> None:
    graph = graph_of(sample)
    (node,) = graph.outputs
    meant = node.op.expand(*node.inputs, **node.attrs)  # type: ignore[attr-defined]
    assert meant.type == node.type
    (wanted,) = evaluate(graph, *sample.args)
    (found,) = evaluate(Graph("meant", graph.inputs, (meant,)), *sample.args)
    agree(found, wanted, sample.rtol, sample.atol)


def differentiable(sample: Sample) -> bool:
    """Whether there is a gradient to check."""
    kinds = [t.dtype(x.dtype).is_float for x in sample.args]
    result = graph_of(sample).outputs[0].dtype.is_float
    return sample.grad and any(kinds) and result and OPS[sample.op].no_vjp is None


def slope(graph: Graph, arrays: list[np.ndarray], i: int, dy: np.ndarray, way: np.ndarray) -> float:
    """The central difference of sum(dy * graph(arrays)) along `way` in operand `i`."""
    step = 1e-6
    ends = []
    for sign in (1, -1):
        moved = [x + sign * step * way if n == i else x for n, x in enumerate(arrays)]
        (y,) = evaluate(graph, *moved, dtype="f64")
        ends.append(float(np.sum(dy * y)))
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if differentiable(s)], ids=lambda s: s.id)
def test_gradient_agrees_with_differences(sample: Sample) -> None:
    graph = graph_of(sample, t.f64)
    rng = np.random.default_rng(1)
    arrays = [x.astype(np.float64) if t.dtype(x.dtype).is_float else x for x in sample.args]
    (y,) = evaluate(graph, *arrays, dtype="f64")
    dy = rng.standard_normal(y.shape)
    for i, x in enumerate(graph.inputs):
        if not x.dtype.is_float:
            continue
        way = rng.standard_normal(x.shape)
        try:
            backward = vjp(graph, [f"x{i}"])
        except GradientError as error:
            assert "no gradient" in str(error)
            continue
        found = evaluate(backward, *arrays, dy, dtype="f64")[1]
        assert found.shape == x.shape
        stopped = sample.op == "stop_gradient"
        wanted = 0.0 if stopped else slope(graph, arrays, i, dy, way)
        np.testing.assert_allclose(np.sum(found * way), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if differentiable(s)], ids=lambda s: s.id)
def test_gradient_has_the_type_of_its_operand(sample: Sample) -> None:
    for dtype in (t.f32, t.f16, t.bf16):
        graph = graph_of(sample, dtype)
        names = [x.attrs["name"] for x in graph.inputs if x.dtype.is_float]
        for name in names:
            try:
                found = vjp(graph, [name]).outputs[1]
            except GradientError as error:
                assert "no gradient" in str(error)
            else:
                assert found.type == graph.inputs[int(name[1:])].type, dtype


T = Dim("T", max=9)
STRANGE = [
    TensorType(t.boolean, ()),
    TensorType(t.f32, ()),
    TensorType(t.f32, (0,)),
    TensorType(t.f16, (2, 3)),
    TensorType(t.bf16, (5, 1, 4)),
    TensorType(t.u32, (7,)),
    TensorType(t.u8, (2, 2)),
    TensorType(t.i4, (3,)),
    TensorType(t.i64, (2, 3, 4, 5, 6)),
    TensorType(t.f32, (T, 3)),
    TensorType(t.f64, (T + 1,)),
]
ODD: list[Any] = [
    None, "x", "", -99, 0, 10**19, 1.5, float("nan"), True, (), (0, 0), (99,), (-1, -1, -1), [1],
    (1.5,), ("a",), t.i8, T, (T,), b"x", 2j, object(), {1: 2}, np.int64(3), np.zeros(2), (None,),
]  # fmt: skip


def refused_or_made(op: Any, types: tuple, attrs: dict, must_refuse: bool = False) -> None:
    """Make the node in both ways; any exception but a PlanishError fails the test."""
    for way in (lambda xs: op(*xs, **attrs), lambda xs: make(op, xs, attrs)):
        inputs = tuple(OPS["input"](name=f"x{i}", type=x) for i, x in enumerate(types))
        try:
            way(inputs)
        except PlanishError as error:
            assert str(error)
        else:
            assert not must_refuse, f"{op.name} took {types} {attrs}"


def first_samples() -> list[Sample]:
    """One sample per op, rank and number of operands."""
    kinds = {(s.op, len(s.args), s.args[0].ndim if s.args else 0): s for s in reversed(SAMPLES)}
    return list(kinds.values())


@pytest.mark.parametrize("sample", first_samples(), ids=lambda s: s.id)
def test_bad_operands_are_refused(sample: Sample) -> None:
    op = OPS[sample.op]
    node = graph_of(sample).outputs[0]
    types, attrs = tuple(x.type for x in node.inputs), dict(node.attrs)
    fixed = op.arity is not None
    refused_or_made(op, (*types, STRANGE[1]), attrs, must_refuse=fixed)
    refused_or_made(op, types[:-1], attrs, must_refuse=fixed and bool(types))
    refused_or_made(op, (), attrs, must_refuse=bool(types))
    for i in range(len(types)):
        for strange in STRANGE:
            refused_or_made(op, (*types[:i], strange, *types[i + 1 :]), attrs)
    for strange in STRANGE:
        refused_or_made(op, (strange,) * len(types), attrs)


@pytest.mark.parametrize("sample", first_samples(), ids=lambda s: s.id)
def test_bad_attributes_are_refused(sample: Sample) -> None:
    op = OPS[sample.op]
    node = graph_of(sample).outputs[0]
    types, attrs = tuple(x.type for x in node.inputs), dict(node.attrs)
    refused_or_made(op, types, {**attrs, "colour": 1}, must_refuse=True)
    for name in attrs:
        refused_or_made(op, types, {k: v for k, v in attrs.items() if k != name})
        for odd in ODD:
            refused_or_made(op, types, {**attrs, name: odd})


@pytest.mark.parametrize("name", NAMES)
def test_operands_that_are_no_arrays_are_refused(name: str) -> None:
    op = OPS[name]
    sample = next(s for s in SAMPLES if s.op == name)
    node = graph_of(sample).outputs[0]
    for strange in ("x", None, 2j, [1, 2], np.zeros(2), object()):
        if node.inputs:
            with pytest.raises(PlanishError):
                op(*[strange] * len(node.inputs), **node.attrs)


def test_attributes_are_named_when_missing() -> None:
    x = OPS["input"](name="x", type=TensorType(t.f32, (2,)))
    with pytest.raises(IRError, match="cast needs 'dtype'"):
        OPS["cast"](x)


@pytest.mark.parametrize("dtype", [t.f16, t.bf16, t.f64], ids=str)
def test_thresholds_are_of_f32(dtype):
    x = OPS["input"](name="x", type=TensorType(dtype, (2, 5)))
    with pytest.raises(DTypeError, match="kth_largest takes f32"):
        OPS["kth_largest"](x, 3)
    with pytest.raises(DTypeError, match="nucleus takes f32"):
        OPS["nucleus"](x, 0.5)
    key = OPS["input"](name="key", type=TensorType(t.u32, (2,)))
    drawn = OPS["sample"](x, key, 1.0, 5, 1.0)  # casts
    assert drawn.inputs[0].dtype == t.f32 and drawn.type == TensorType(t.i32, (2,))
