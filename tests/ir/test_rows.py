"""What is computed row by row is the same for some rows at a time; what is not is left whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from planish.ir import rows
from planish.ir import types as t
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.ops.quantize import quantize, scale_of
from planish.ir.types import TensorType

M, K = 12, 8


def graph_of(make: Callable[[Node], tuple[Node, ...]], shape: tuple[int, ...] = (M, K)) -> Graph:
    x = OPS["input"](name="x", type=TensorType(t.f32, shape))
    return Graph("made", (x,), make(x))


def rounded(x: Node, axis: int, kind: t.DType = t.i8) -> tuple[Node, ...]:
    scale = scale_of(x, (axis,), kind)
    return quantize(x, scale, dtype=kind), scale


def grouped(x: Node) -> tuple[Node, ...]:
    return rounded(OPS["reshape"](x, shape=(x.shape[0], 2, x.shape[1] // 2)), 2, t.i4)


BY_ROWS = {
    "channels": lambda x: rounded(x, 1),
    "groups": grouped,
    "twice": lambda x: (OPS["exp"](x) * 2.0 + x,),
}
WHOLE = {
    "a scale for each column": lambda x: rounded(x, 0),
    "a scale for all": lambda x: (*rounded(x, 0)[:1], OPS["max"](x, axes=(0, 1), keep=True)),
    "sums, whose order matters": lambda x: (OPS["sum"](x, axes=(1,), keep=True),),
    "transposed": lambda x: (OPS["transpose"](x, perm=(1, 0)),),
    "rows that are merged": lambda x: (OPS["reshape"](x, shape=(M // 2, 2 * K)),),
    "a row that meets a column": lambda x: (x + OPS["reshape"](x, shape=(1, M, K)),),
}


@pytest.mark.parametrize("name", BY_ROWS)
@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_some_rows_at_a_time(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PIECE", piece)
    x = np.random.default_rng(0).standard_normal((7, K), np.float32)
    x[3] = 0
    known = rows.by_rows(graph_of(BY_ROWS[name]))
    assert str(rows.ROWS) in str(known.inputs[0].type)
    results = [rows.empty(y, [x], known.inputs) for y in known.outputs]
    seen: list[np.ndarray] = []
    work = list(rows.jobs(known, [x], results, seen.append))
    assert len(work) == {1: 7, 100: 3, 1 << 20: 1}[piece]
    for job in reversed(work):
        job()
    assert sum(len(y) for y in seen) == 7
    for found, want in zip(results, evaluate(graph_of(BY_ROWS[name], (7, K)), x), strict=True):
        assert found.dtype == want.dtype and found.tobytes() == want.tobytes()


@pytest.mark.parametrize("name", WHOLE)
def test_rows_that_depend_on_each_other(name: str) -> None:
    graph = graph_of(WHOLE[name])
    assert rows.by_rows(graph) is graph
    x = np.random.default_rng(0).standard_normal((M, K), np.float32)
    results = [rows.empty(y, [x], graph.inputs) for y in graph.outputs]
    (job,) = rows.jobs(graph, [x], results, lambda x: None)
    job()
    for found, want in zip(results, evaluate(graph, x), strict=True):
        assert np.array_equal(found, want)


def test_what_is_read_is_checked() -> None:
    def refuse(x: np.ndarray) -> None:
        raise ValueError(f"{x.shape}")

    known, x = rows.by_rows(graph_of(BY_ROWS["channels"])), np.ones((5, K), np.float32)
    (job,) = rows.jobs(known, [x], [np.empty((5, K), np.int8), np.empty((5, 1), "f4")], refuse)
    with pytest.raises(ValueError, match=r"\(5, 8\)"):
        job()
