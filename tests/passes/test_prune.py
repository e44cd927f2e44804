"""Pruning as a pass: what it refuses, which weights it takes, and what it reports."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.types import TensorType
from planish.passes.calibrate import Samples
from planish.passes.masks import Pattern
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import CLEAN
from planish.passes.prune import Prune, norms_seen
from planish.passes.sparsity import Zeros

RNG = np.random.default_rng(0)


def dense(*weights: np.ndarray, turned: bool = False) -> Graph:
    """x @ w.T for each weight w [N, K]; or x @ w for each w [K, N], where `turned`."""
    width = weights[0].shape[0 if turned else 1]
    x = OPS["input"](name="x", type=TensorType(t.f32, (3, width)))
    params = {f"w{i}": w.astype(np.float32) for i, w in enumerate(weights)}
    nodes = [OPS["param"](name=n, type=TensorType(t.f32, w.shape)) for n, w in params.items()]
    seen = nodes if turned else [OPS["transpose"](w, perm=(1, 0)) for w in nodes]
    return Graph("f", (x,), tuple(OPS["matmul"](x, w) for w in seen), params)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def pruned(w: np.ndarray, **options: object) -> np.ndarray:
    return Prune(**options)(dense(w)).params["w0"]  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [-0.1, 1.5, np.nan, np.inf, True, "0.5", None])
def test_row_38_a_ratio_that_is_no_share_is_refused(ratio: object) -> None:
    """BAD_INPUT 38: before anything is changed."""
    with pytest.raises(DataError, match="prune: ratio is a share between 0 and 1"):
        Prune(ratio)  # type: ignore[arg-type]
    model = pl.TinyGPT(9, embed_dim=8, num_layers=1, num_heads=2, max_seq_len=4)
    before = {n: x.copy() for n, x in model.state_dict().items()}
    with pytest.raises(DataError, match="prune: ratio"):
        pl.prune(model, ratio)  # type: ignore[arg-type]
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ratio": 0.5, "method": "random"}, "method is one of magnitude, wanda, got 'random'"),
        ({"ratio": 0.5, "scope": "layer"}, "scope is one of tensor, row, global, got 'layer'"),
        ({"pattern": "4:2"}, "pattern is N:M with N < M.*got '4:2'"),
        ({"ratio": 0.5, "pattern": "16x"}, "pattern is N:M.*got '16x'"),
        ({"ratio": 0.5, "pattern": "0x4"}, "pattern is N:M.*got '0x4'"),
        ({"ratio": 0.7, "pattern": "2:4"}, "takes 0.5 of each group, not ratio=0.7; leave ratio"),
        ({"ratio": "0.5", "pattern": "2:4"}, "ratio is a share between 0 and 1.*got '0.5'"),
        ({"pattern": "2:4", "scope": "global"}, "leave scope='global' out"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Prune(**options)


def test_what_matches_nothing_or_is_no_number_is_refused() -> None:
    w = normal(4, 6)
    with pytest.raises(DataError, match="skip='head' matches no weight of w0"):
        pruned(w, ratio=0.5, skip="head")
    w[1, 2] = np.nan
    with pytest.raises(DataError, match=r"prune: w0 has nan at \[1, 2\].*skip='w0'"):
        pruned(w, ratio=0.5)
    with pytest.raises(DataError, match="wanda needs text"):
        pruned(w, ratio=0.5, method="wanda")


@pytest.mark.parametrize("ratio, count", [(0, 0), (0.3, 7), (0.5, 12), (1, 24)])
def test_the_weakest_of_a_tensor(ratio: float, count: int) -> None:
    w = normal(4, 6)
    after = pruned(w, ratio=ratio)
    gone = after != w
    assert gone.sum() == count and not after[gone].any()
    order = np.abs(w).ravel().argsort()
    np.testing.assert_array_equal(np.flatnonzero(gone), np.sort(order[:count]))


def test_of_equal_ones_and_of_zeros_the_first_go() -> None:
    w = np.ones((3, 4), np.float32)
    w[1] = 0
    after = pruned(w, ratio=0.5)
    np.testing.assert_array_equal(after, [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(pruned(0 * w, ratio=0.5), 0 * w)


def test_rows_and_all_tensors_together() -> None:
    w = normal(4, 8) * np.float32([[1], [1], [1], [1e-3]])
    assert (pruned(w, ratio=0.25) == 0).sum(1).tolist() == [0, 0, 0, 8]
    assert (pruned(w, ratio=0.25, scope="row") == 0).sum(1).tolist() == [2, 2, 2, 2]
    small = normal(2, 8) * 1e-3
    after = Prune(0.2, scope="global")(dense(normal(8, 8), small)).params
    assert (after["w1"] == 0).all() and not (after["w0"] == 0).any()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("n, m", [(2, 4), (4, 8), (1, 4)])
def test_n_of_m_inputs_of_an_output_stay(n: int, m: int, turned: bool) -> None:
    w = normal(5, 19)  # the last group is not whole
    graph = dense(w.T if turned else w, turned=turned)
    after = Prune(pattern=f"{n}:{m}")(graph).params["w0"]
    after = after.T if turned else after
    for start in range(0, 19, m):
        group, old = after[:, start : start + m], w[:, start : start + m]
        kept = min(n, group.shape[1])
        assert ((group != 0).sum(1) == kept).all()
        np.testing.assert_array_equal(np.abs(group).max(1), np.abs(old).max(1))


def test_the_groups_that_lose_least_are_the_first() -> None:
    w = normal(4, 8)
    w[:2] *= 1e-3
    part, more = pruned(w, ratio=0.25, pattern="2:4"), pruned(w, ratio=0.375, pattern="2:4")
    assert ((part[:2] == 0).reshape(-1, 4).sum(1) == 2).all() and (part[2:] != 0).all()
    assert (more == 0).sum() == 12 and (more[part == 0] == 0).all()
    # what was pruned to a part, then to all, is what was pruned at once
    np.testing.assert_array_equal(pruned(more, pattern="2:4"), pruned(w, pattern="2:4"))
    np.testing.assert_array_equal(pruned(w, ratio=0.0, pattern="2:4"), w)
    rounded = pruned(normal(2, 9), ratio=0.667, pattern="1:3")
    assert ((rounded == 0).reshape(-1, 3).sum(1) == 2).all()


def test_blocks_go_as_a_whole() -> None:
    w = normal(32, 10)
    w[16:, 3] *= 1e-3
    after = pruned(w, ratio=0.05, pattern="16x1")
    assert (after[16:, 3] == 0).all() and (after == 0).sum() == 16
    edge = pruned(normal(5, 7), ratio=0.5, pattern="2x4")  # 3 by 2 blocks, of which 3 go
    units = Pattern.parse("2x4").units(edge != 0)
    assert set(np.unique(units)) <= {0, 1} and (units == 0).sum() == 3
    both = Prune(0.5, scope="global", pattern="2x4")(dense(edge, normal(5, 7))).params
    assert (both["w0"] == 0).all() or (both["w0"] == 0).sum() >= 3


def test_wanda_takes_what_multiplies_little() -> None:
    w, x = np.ones((4, 6), np.float32), normal(3, 6)
    x[:, 2] = 1e-3
    graph = dense(w)
    norms = norms_seen(graph, Samples(((x,), (x,))))
    np.testing.assert_allclose(norms["w0"], np.sqrt(2 * np.square(x).sum(0)), 1e-6)
    after = Prune(1 / 6, "wanda", "row").run(graph, norms).params["w0"]
    assert (after[:, 2] == 0).all() and (after == 0).sum() == 4
    again = pl.prune(graph, 1 / 6, method="wanda", scope="row", tokens=(x,))
    np.testing.assert_array_equal(again.params["w0"], after)


def test_wanda_as_a_pass_is_bound_to_text() -> None:
    """As `pl.prune` does it; its text alone is refused where nothing is known."""
    graph, x = dense(normal(4, 6), normal(5, 6)), normal(3, 6)
    options = Prune(0.5, "wanda", "row")
    recipe = Pipeline.parse("prune{ratio=0.5,method=wanda,scope=row}")
    bound = recipe.calibrated(graph, Samples(((x,), (2 * x,))))
    for name, array in bound.run(graph).params.items():
        norms = norms_seen(graph, Samples(((x,), (2 * x,))))
        np.testing.assert_array_equal(array, options.run(graph, norms).params[name])
    assert bound != recipe and bound.calibrated(graph, Samples(())) == bound
    with pytest.raises(DataError, match=r"wanda needs text to see what w0 multiplies: pl\.cali"):
        Pipeline.parse(str(bound)).run(graph)


def test_wanda_is_nearer_than_magnitude_where_inputs_differ() -> None:
    x = normal(64, 32) * np.float32(10) ** RNG.uniform(-2, 0, 32).astype(np.float32)
    input_ = OPS["input"](name="x", type=TensorType(t.f32, (64, 32)))
    weight = OPS["param"](name="w", type=TensorType(t.f32, (32, 16)))
    graph = Graph("f", (input_,), (OPS["matmul"](input_, weight),), {"w": normal(32, 16)})
    (want,) = evaluate(graph, x)
    errors = [
        np.abs(
            evaluate(pl.prune(graph, 0.5, method=m, scope="row", tokens=(x,)), x)[0] - want
        ).mean()
        for m in ("magnitude", "wanda")
    ]
    assert errors[1] < 0.5 * errors[0]


def model() -> pl.TinyGPT:
    return pl.TinyGPT(
        vocab_size=65, embed_dim=48, num_layers=2, num_heads=4, max_seq_len=24, dropout=0.0, seed=0
    )


def test_a_model_stays_one_and_the_given_one_as_it_was() -> None:
    given = model()
    before = {n: x.copy() for n, x in given.state_dict().items()}
    made = pl.prune(given, 0.7, skip="wte")
    assert made.config == given.config and list(made.state_dict()) == list(before)
    for name, array in made.state_dict().items():
        np.testing.assert_array_equal(given.state_dict()[name], before[name])
        is_weight = name.endswith("weight") and name.startswith("h.") and array.ndim == 2
        assert ((array == 0).mean() > 0.69) == is_weight or not before[name].any(), name
    assert len(made.generate([1, 2], 3, temperature=0.0)) == 3


@pytest.mark.parametrize("count", [7, 24, 200])  # shorter than the context, one, several pieces
def test_wanda_of_a_model(count: int) -> None:
    tokens = RNG.integers(0, 65, count)
    made = pl.prune(model(), 0.5, method="wanda", tokens=tokens)
    assert abs((made.h[0].mlp.c_fc.weight.array == 0).mean() - 0.5) < 0.01
    plain = pl.prune(model(), 0.5)
    assert (made.h[0].mlp.c_fc.weight.array != plain.h[0].mlp.c_fc.weight.array).any()


def test_where_nothing_can_be_pruned_it_says_why() -> None:
    small = pl.quantize(model())
    message = r"prune: nothing to change: .*wte.weight.quantize and 9 more stay: it is i8; prune "
    with pytest.raises(DataError, match=message + "what is float, before it is quantized"):
        pl.prune(small, 0.9)
    with pytest.raises(DataError, match="the graph has no weights"):
        Prune(0.5)(pl.trace(lambda x: x * 2.0, pl.spec((2, 2))))
    # what is asked to stay is no mistake; nor is a part that is integers, which the report names
    assert (pruned(normal(4, 4), ratio=0.5, skip="*") != 0).all()
    part, seen = pl.quantize(model(), skip="h.0.mlp.c_fc"), Zeros()
    after = Pipeline(Prune(0.5)).run(part, observe=(seen,))
    assert (after.params["h.0.mlp.c_fc.weight"] == 0).mean() == 0.5
    reasons = {x.reason for x in seen.found if x.name.endswith("quantize")}
    assert reasons == {"stays: it is i8; prune what is float, before it is quantized"}


def test_wanda_of_a_model_needs_text() -> None:
    with pytest.raises(DataError, match="needs tokens"):
        pl.prune(model(), 0.5, method="wanda")
    with pytest.raises(DataError, match="got none"):
        pl.prune(model(), 0.5, method="wanda", tokens=np.zeros(0, np.int32))


def test_the_report_has_every_weight_with_its_reason() -> None:
    seen = Zeros()
    graph = CLEAN.run(pl.trace(model(), pl.spec((1, "T"), "i32")))
    Pipeline.parse('prune{ratio=0.6,skip="h.1.mlp*"}').run(graph, observe=(seen,))
    found = {x.name: x for x in seen.found}
    assert set(found) == set(graph.params) and len(seen.records()) == len(found)
    assert abs(found["wte.weight"].zeros - 0.6) < 0.001 and 0.7 < found["wte.weight"].kept < 1
    assert found["wte.weight"].reason == "magnitude, by tensor"
    assert found["wpe.weight"].reason == "stays: nothing is multiplied by it"
    assert found["h.1.mlp.c_fc.weight"].reason == "stays: its name matches 'h.1.mlp*'"
    assert found["h.1.mlp.c_fc.weight"].zeros == 0 and found["h.1.mlp.c_fc.weight"].kept == 1
    assert found["ln_f.weight"].reason == "stays: it has 1 axes, not 2"
    line = next(x for x in str(seen).splitlines() if x.startswith("h.0.attn.c_attn.weight"))
    assert line.split()[1:3] == ["144x48", "0.600"]


def test_the_pass_as_text() -> None:
    options = Prune(0.7, "wanda", "global", "16x1", "lm_head")
    assert Pipeline.parse(str(Pipeline(options))).passes == (options,)
    assert str(Pipeline(Prune(0.7))) == "prune{ratio=0.7}"
    assert Pipeline.parse('prune{pattern="2:4"}').passes == (Prune(pattern="2:4"),)
