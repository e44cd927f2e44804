"""Ops of networks, where the sample table does not reach: conventions, refusals, sampling."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import AxisError, DTypeError, PlanishError, ShapeError, TokenError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.loops import Const, Var, scalar
from planish.ir.node import OPS
from planish.ir.ops.gather import take
from planish.ir.ops.indexing import guarded, iota, tril
from planish.ir.ops.linalg import matmul
from planish.ir.ops.sampling import kth_largest, kth_largest_by_bits, nucleus, nucleus_by_bits
from planish.ir.types import TensorType
from tests.samples_nn import NN_SAMPLES


def op_graph(name, arrays, attrs, expand=False):
    """One op, or its definition, on inputs like `arrays`."""
    inputs = tuple(
        OPS["input"](name=f"x{i}", type=TensorType(t.dtype(a.dtype), a.shape))
        for i, a in enumerate(map(np.asarray, arrays))
    )
    y = OPS[name](*inputs, **attrs)
    return Graph(name, inputs, (y.op.expand(*inputs, **y.attrs) if expand else y,))


def run(name, *arrays, **attrs):
    """One op on arrays, through the interpreter."""
    return evaluate(op_graph(name, arrays, attrs), *arrays)[0]


def expanded(name, *arrays, **attrs):
    """The definition of a composite on arrays."""
    return evaluate(op_graph(name, arrays, attrs, expand=True), *arrays)[0]


def arg(dtype, *shape):
    return OPS["input"](name="x", type=TensorType(dtype, shape))


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# indices


def test_an_index_outside_its_table_is_refused_with_its_place():
    table, ids = floats(65, 4), np.zeros((1, 4), np.int64)
    for bad in (70, 65, -1, 2**31, -(2**63)):
        ids[0, 3] = bad
        message = rf"token id {bad} at position \(0, 3\) is outside 0 <= id < 65"
        with pytest.raises(TokenError, match=message) as caught:
            run("take", table, ids, axis=0, what="token id")
        assert isinstance(caught.value, IndexError)
    with pytest.raises(TokenError, match=r"index 5 at position .* is outside 0 <= index < 3"):
        run("scatter_add", floats(3), np.array([0, 5]), floats(2))
    with pytest.raises(TokenError, match=r"index -1 at position \(1, 0\)"):
        run("take_along", floats(2, 3), np.array([[0], [-1]]), axis=1)


def test_float_and_bool_indices_are_refused():
    for dtype in (t.f32, t.boolean):
        with pytest.raises(DTypeError, match=f"take takes integer indices, got {dtype}"):
            take(arg(t.f32, 5, 2), arg(dtype, 3))


def test_an_index_into_nothing_is_refused_before_it_runs():
    with pytest.raises(ShapeError, match=r"axis 0 of f32.0, 2. is empty"):
        take(arg(t.f32, 0, 2), arg(t.i32, 3))


def test_compiled_code_guards_indices_with_the_same_words():
    i = Var("i", t.i32)
    wide = scalar("cast", i, dtype=t.i64)
    text = Const("token id", t.i64)
    assert guarded(i, 65, "token id") == scalar("guard", wide, Const(65, t.i64), text)
    assert guarded(Const(3, t.i32), 4, "index") == Const(3, t.i64)  # nothing to guard
    assert guarded(Const(4, t.i64), 4, "index") != Const(4, t.i64)


def test_positions_and_triangles_of_symbolic_size():
    length = Dim("T", max=9)
    x = arg(t.f32, length, length)
    graph = Graph("f", (x,), (tril(x), iota(shape=(length, 2), axis=0)))
    lower, places = evaluate(graph, np.ones((3, 3), np.float32))
    np.testing.assert_array_equal(lower, np.tri(3))
    np.testing.assert_array_equal(places, [[0, 0], [1, 1], [2, 2]])


def test_concat_names_what_differs():
    with pytest.raises(ShapeError, match=r"f32\[2, 3\] and f32\[4, 4\] differ beside axis 0"):
        OPS["concat"](arg(t.f32, 2, 3), arg(t.f32, 4, 4), axis=0)
    with pytest.raises(AxisError, match="axis 2 is outside an array of 2 axes"):
        OPS["concat"](arg(t.f32, 2, 3), arg(t.f32, 2, 3), axis=2)


# matmul


def test_matmul_names_both_shapes():
    x = arg(t.f32, 8, 3)
    with pytest.raises(ShapeError) as caught:
        matmul(x, x)
    assert str(caught.value) == "matmul(f32[8, 3], f32[8, 3]): inner sizes differ, 3 != 8"
    with pytest.raises(ShapeError, match="both need at least 2 axes"):
        matmul(x, arg(t.f32, 3))
    with pytest.raises(ShapeError, match="do not broadcast"):
        matmul(arg(t.f32, 2, 1, 1), arg(t.f32, 3, 1, 1))
    with pytest.raises(DTypeError, match="numbers"):
        matmul(arg(t.boolean, 2, 2), arg(t.boolean, 2, 2))


def test_the_gradient_of_a_shared_weight_is_one_product():
    x, w = arg(t.f32, Dim("B"), 5, 4), arg(t.f32, 4, 3)
    y = matmul(x, w)
    _, dw = y.op.vjp(y, y, x, w)
    assert dw.op.name == "matmul" and dw.shape == (4, 3)
    assert [operand.type.rank for operand in dw.inputs] == [2, 2]


def test_half_precision_products_add_up_in_single():
    x = np.full((1, 4096), 1.0, t.bf16.numpy)
    assert run("matmul", x, x.T)[0, 0] == 4096  # a bf16 sum would stop at 256


# softmax, losses


@pytest.mark.parametrize("dtype", [t.f64, t.f32, t.f16, t.bf16])
def test_softmax_is_safe_at_any_magnitude(dtype):
    big, inf = 3e4, math.inf
    rows = np.array([[big, big], [-inf, 0.0], [-inf, -inf], [math.nan, 0.0]]).astype(dtype.numpy)
    for y in (run("softmax", rows), expanded("softmax", rows)):
        assert y.dtype == dtype.numpy
        np.testing.assert_array_equal(y[:3].astype(float), [[0.5, 0.5], [0, 1], [0, 0]])
        assert np.isnan(y[3].astype(float)).all()
    y = run("softmax", np.float32([[1e30, 1e30]]))
    np.testing.assert_array_equal(y, [[0.5, 0.5]])


def test_ignored_targets_do_not_count():
    logits, targets = floats(3, 4), np.array([2, -100, 0])
    rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -(rows[0, 2] + rows[2, 0]) / 2
    for value in (run, expanded):
        np.testing.assert_allclose(value("cross_entropy", logits, targets), wanted, rtol=1e-6)
        every = value("cross_entropy", logits, np.array([1, 1, 1]), ignore_index=1)
        assert every == 0.0
    assert run("cross_entropy", logits, np.array([2, 9, 0]), ignore_index=9) == pytest.approx(
        wanted
    )


@pytest.mark.parametrize("value", [run, expanded])
@pytest.mark.parametrize(("ignore", "bad"), [(-100, -1), (-100, 4), (None, -100), (-1, -100)])
def test_a_target_that_is_neither_class_nor_ignored_is_refused(value, ignore, bad):
    targets = np.array([[0, 3, bad]])
    with pytest.raises(TokenError, match=rf"target id {bad} at position \(0, 2.*0 <= id < 4"):
        value("cross_entropy", floats(1, 3, 4), targets, ignore_index=ignore)


def test_losses_name_the_shapes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"got f32\[2, 3, 4\] and i32\[2\]"):
        OPS["cross_entropy"](arg(t.f32, 2, 3, 4), arg(t.i32, 2))
    with pytest.raises(ShapeError, match="two arrays of one shape"):
        OPS["mse"](arg(t.f32, 2, 3), arg(t.f32, 2))


def test_layer_norm_refuses_a_weight_of_another_width():
    with pytest.raises(ShapeError, match=r"layer_norm takes x .*; got f32\[2, 8\], f32\[4\]"):
        OPS["layer_norm"](arg(t.f32, 2, 8), arg(t.f32, 4), arg(t.f32, 4))


# rope


def test_rotary_scores_depend_on_distance_alone():
    q, k = floats(1, 1, 8), floats(1, 1, 8, seed=1)
    for interleaved in (False, True):
        scores = []
        for shift in (0, 5):
            turned = [
                run("rope", x, np.array([at + shift]), interleaved=interleaved)
                for x, at in ((q, 7), (k, 3))
            ]
            scores.append((turned[0] * turned[1]).sum())
        np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_the_two_rotary_conventions_are_one_up_to_order():
    x, places = floats(2, 3, 6), np.array([0, 4, 9])
    order = [0, 2, 4, 1, 3, 5]  # pairs (2i, 2i + 1) to (i, i + 3)
    halves = run("rope", x[..., order], places)
    np.testing.assert_allclose(run("rope", x, places, interleaved=True)[..., order], halves)


def test_factors_slow_the_angles_of_pairs_down():
    x, places = floats(2, 3, 6), np.array([0, 4, 8])
    slow = run("rope", x, places, np.full(3, 4, np.float32))
    np.testing.assert_allclose(slow, run("rope", x, places // 4), rtol=1e-6)
    with pytest.raises(ShapeError, match=r"takes factors \[3\] once, got f32\[6\]"):
        OPS["rope"](arg(t.f32, 3, 6), arg(t.i32, 3), arg(t.f32, 6))


def test_rope_refuses_odd_widths_and_foreign_positions():
    with pytest.raises(ShapeError, match="D even"):
        OPS["rope"](arg(t.f32, 3, 5), arg(t.i32, 3))
    with pytest.raises(ShapeError, match=r"of shape \[3\] or \[2, 3\], got i32\[4\]"):
        OPS["rope"](arg(t.f32, 2, 3, 4), arg(t.i32, 4))
    with pytest.raises(DTypeError, match="integer"):
        OPS["rope"](arg(t.f32, 3, 4), arg(t.f32, 3))


# thresholds and sampling

ROWS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(width=32, allow_nan=False),
)


@settings(max_examples=60)
@given(ROWS, st.integers(-1, 8))
def test_the_kth_largest_needs_no_sort(rows, k):
    np.testing.assert_array_equal(kth_largest_by_bits(rows, k), kth_largest.ref(rows, np.array(k)))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=7), st.floats(-0.1, 1.5))
def test_the_nucleus_needs_no_sort(counts, p):
    probs = np.array([counts], np.float32) / np.float32(64)  # sums are exact
    np.testing.assert_array_equal(nucleus_by_bits(probs, p), nucleus.ref(probs, np.array(p)))


def draw(logits, seed=0, temperature=1.0, top_k=1000, top_p=1.0, min_p=()):
    logits = np.asarray(logits, np.float32)
    key = np.array([0, seed], np.uint32)
    operands = (logits, key, np.float32(temperature), np.int32(top_k), np.float32(top_p))
    operands += tuple(map(np.float32, min_p))
    ids = run("sample", *operands)
    np.testing.assert_array_equal(expanded("sample", *operands), ids)
    return ids


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 9e-7])
def test_cold_sampling_is_greedy_with_ties_to_the_lowest_id(temperature):
    rows = [[0.0, 3.0, 3.0, -1.0], [1e30, -1e30, 0.0, 1e30]]
    for seed in range(5):
        assert draw(rows, seed, temperature, top_p=0.3).tolist() == [1, 0]


def test_sampling_repeats_for_a_key_and_varies_with_it():
    rows = np.zeros((8, 50), np.float32)
    one, same, other = draw(rows, 1), draw(rows, 1), draw(rows, 2)
    assert one.tolist() == same.tolist() != other.tolist()
    assert one.dtype == np.int32 and len(set(one.tolist())) > 1  # rows differ too


def test_top_k_and_top_p_bound_the_choice():
    row = np.log(np.array([0.05, 0.4, 0.1, 0.3, 0.15], np.float32))
    rows = np.tile(row, (400, 1))
    assert set(draw(rows, top_k=2).tolist()) == {1, 3}
    assert set(draw(rows, top_p=0.69).tolist()) == {1, 3}
    assert set(draw(rows, top_p=0.71).tolist()) == {1, 3, 4}
    assert set(draw(rows, top_k=1, temperature=50.0).tolist()) == {1}
    assert set(draw(rows, top_p=0.0).tolist()) == {1}
    assert set(draw(rows, top_k=4, top_p=0.75).tolist()) == {1, 3, 4}  # of what top-k kept
    assert set(draw(rows, temperature=5.0).tolist()) == {0, 1, 2, 3, 4}


def test_min_p_keeps_what_is_about_as_likely_as_the_likeliest():
    rows = np.tile(np.log(np.array([0.05, 0.4, 0.1, 0.3, 0.15], np.float32)), (400, 1))
    assert set(draw(rows, min_p=[0.7]).tolist()) == {1, 3}
    assert set(draw(rows, min_p=[0.3]).tolist()) == {1, 3, 4}
    assert set(draw(rows, min_p=[1.0]).tolist()) == {1}
    assert set(draw(rows, min_p=[0.7], temperature=4.0).tolist()) == {1, 2, 3, 4}
    np.testing.assert_array_equal(draw(rows, min_p=[0.0]), draw(rows))


def test_frequencies_follow_the_probabilities():
    p = np.array([0.5, 0.25, 0.125, 0.125], np.float32)
    ids = draw(np.tile(np.log(p), (4000, 1)), seed=3)
    np.testing.assert_allclose(np.bincount(ids, minlength=4) / 4000, p, atol=0.03)
    hot = draw(np.tile(np.log(p), (4000, 1)), seed=3, temperature=2.0)
    softer = np.sqrt(p) / np.sqrt(p).sum()
    np.testing.assert_allclose(np.bincount(hot, minlength=4) / 4000, softer, atol=0.03)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_without_a_choice_give_minus_one(temperature):
    rows = [[1.0, math.nan, 2.0], [-math.inf] * 3, [math.inf, 0.0, 0.0], [0.0, 9.0, 0.0]]
    assert draw(rows, temperature=temperature, top_k=1).tolist() == [-1, -1, -1, 1]
    assert draw([[0.0, 1.0]], temperature=math.nan).tolist() == [-1]


def test_masked_ids_are_never_drawn():
    row = [0.0, -math.inf, 0.0, -math.inf]
    assert set(draw([row] * 200).tolist()) == {0, 2}


# refusals

NAMES = sorted({sample.op for sample in NN_SAMPLES})
OPERANDS = (
    arg(t.f32),
    arg(t.f32, 3),
    arg(t.i64, 3, 2),
    arg(t.boolean, 2, 2),
    arg(t.f32, 2, 0, 4),
)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_operands_are_refused_never_a_crash(name):
    attrs = {"pad": {"low": (1,), "high": (1,)}, "one_hot": {"size": 3}, "iota": {"shape": (2,)}}
    attrs["dynamic_slice"] = {"sizes": (1, 1)}
    for operand, count in itertools.product(OPERANDS, (0, 1, 2, 3, 4, 6)):
        try:
            OPS[name](*[operand] * count, **attrs.get(name, {}))
        except PlanishError as error:
            assert str(error)
