"""The head of a language model by chunks of rows: the same numbers in less memory."""

from __future__ import annotations

import numpy as np
import pytest

import planish as pl
from planish.frontend.optim import AdamW
from planish.frontend.step import loss_graph, training_graph
from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import PlanishError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.loop_text import kernel_text
from planish.ir.node import OPS, Node
from planish.ir.types import TensorType
from planish.passes.autodiff import grad
from planish.passes.chunk import Chunk
from planish.passes.fuse import Fuse
from planish.passes.mixed import mixed
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import CLEAN, pipeline
from planish.runtime.lower import lower
from planish.runtime.memory import plan_memory
from planish.runtime.program import Program
from planish.runtime.target import Target

RNG = np.random.default_rng(0)
WORDS, WIDTH = 97, 8


def leaf(name: str, *shape, dtype: t.DType = t.f32) -> Node:
    return OPS["input"](name=name, type=TensorType(dtype, shape))


def head(*lead, words: int = WORDS, bias: bool = False) -> Graph:
    """Loss and gradients of a head: of the rows, the matrix and a bias."""
    x, y = leaf("x", *lead, WIDTH), leaf("y", *lead, dtype=t.i32)
    w, b = leaf("w", words, WIDTH), leaf("b", words)
    logits = x @ OPS["transpose"](w, perm=(1, 0))
    loss = OPS["cross_entropy"](logits + b if bias else logits, y)
    inputs = (x, w, b, y) if bias else (x, w, y)
    return CLEAN.run(grad(Graph("head", inputs, (loss,)), ("x", "w", "b")[: 2 + bias]))


def arrays(graph: Graph) -> list[np.ndarray]:
    """Inputs; the first target does not count."""
    found = []
    for x in graph.inputs:
        ids = x.dtype == t.i32
        made = RNG.integers(0, WORDS, x.shape) if ids else RNG.standard_normal(x.shape)
        found.append(made.astype(x.dtype.numpy))
    found[-1].flat[0] = -100
    return found


def products(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if n.op.name == "matmul"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "lead, rows", [((12,), 4), ((2, 6), 3), ((3, 5), 4), ((1, 7), 2), ((9,), 1)]
)
def test_loss_and_gradients(lead: tuple[int, ...], rows: int, bias: bool) -> None:
    graph = head(*lead, bias=bias)
    after = Chunk(rows * WORDS * 4)(graph)
    chunks = -(-int(np.prod(lead)) // rows)
    assert chunks <= len(products(after)) // 3 <= 2 * chunks
    given = arrays(graph)
    want, found = (evaluate(g, *given, dtype="f64") for g in (graph, after))
    for a, b in zip(want, found, strict=True):
        np.testing.assert_allclose(b, a, 1e-10, 1e-14)


def test_native_and_refusal() -> None:
    """As without chunks at 1 and 2 threads; a target outside the words is refused."""
    graph = head(4, 8)
    given, target = arrays(graph), Target.host()
    plan = lower(Fuse()(Chunk(8 * WORDS * 4)(graph)), target)
    found = [Program(plan, target, threads=n)(*given) for n in (1, 2)]
    for a, b, want in zip(*found, evaluate(graph, *given), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, want, 1e-4, 1e-6)
    given[-1][3, 7] = WORDS
    with pytest.raises(PlanishError, match="target id"):
        Program(plan, target)(*given)


@pytest.mark.parametrize("before", [Pipeline(), Pipeline(mixed)])
def test_memory(before: Pipeline) -> None:
    """Chunks follow each other in the memory of one, and equal ones are equal kernels."""
    rows, words = 64, 999
    whole = before.run(head(rows, words=words))
    plans = [
        lower(Fuse()(Chunk(limit)(whole)), Target.parse("znver4"))
        for limit in (1 << 40, 16 * words * 4, 4 * words * 4)
    ]
    peaks = [plan_memory(plan).peak for plan in plans]
    weight = words * WIDTH * 4  # its gradient, and what is packed of it
    assert peaks[0] > 1.5 * rows * words * 4
    assert peaks[1] < 2.5 * 16 * words * 4 + 5 * weight
    assert peaks[2] < 2.5 * 4 * words * 4 + 5 * weight
    count = [
        len({kernel_text(s.kernel, "k") for s in p.steps if "after" not in s.label}) for p in plans
    ]
    assert count[1] == count[2] < count[0] + 7


def test_what_stays_whole() -> None:
    """Few words, unknown sizes, logits that are a result, rows that depend on all others."""
    small = head(12)
    assert Chunk()(small) is small
    x, w = leaf("x", 12, WIDTH), leaf("w", WIDTH, WORDS)
    logits = x @ w
    total = OPS["sum"](logits)
    limit = Chunk(4 * WORDS * 4)
    for outputs in (
        (logits, total),
        (OPS["sum"](logits / total),),
        (OPS["argmax"](logits, axis=1),),
    ):
        graph = Graph("f", (x, w), outputs)
        assert limit(graph) is graph
    some = leaf("x", Dim("T", max=12), WIDTH) @ w
    graph = Graph("f", (some.inputs[0], w), (OPS["sum"](some),))
    assert limit(graph) is graph


def test_a_model_with_many_words() -> None:
    """Where the named pipelines split: training, and the loss alone."""
    words, batch = 40_000, 1024
    model = pl.TinyGPT(words, embed_dim=8, num_layers=1, num_heads=1, max_seq_len=batch)
    graph = training_graph(model, AdamW(), 1, batch)
    for name in ("train", "train_bf16"):
        plan = lower(pipeline(name).run(graph), Target.parse("znver4"))
        logits = [x for x in plan.temps if x.type.shape[-1:] == (words,) and x.type.rank == 2]
        assert logits and all(x.type.size * 4 <= 1 << 26 for x in logits)
    plan = lower(pipeline("O2").run(loss_graph(model, 1, batch)), Target.parse("znver4"))
    assert max(x.type.size for x in plan.temps) * 4 <= 1 << 26


def test_gradients_that_an_update_reads_stay_whole() -> None:
    """An update has several results, none of them a row of what it reads."""
    model = pl.TinyGPT(40, embed_dim=8, num_layers=1, num_heads=1, max_seq_len=8)
    graph = CLEAN.run(training_graph(model, AdamW(), 1, 8))
    (size,) = {4 * x.type.size for x in graph.inputs if x.attrs["name"] == "wte.weight"}
    assert any(not isinstance(x.type, TensorType) for x in graph.nodes)
    assert Chunk(size // 2)(graph) is graph
