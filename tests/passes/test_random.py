"""Random graphs through random lists of passes, against the interpreter."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import PlanishError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.ops.base import const
from planish.ir.types import TensorType
from planish.passes.autodiff import grad
from planish.passes.example import example_arrays
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES
from tests.golden import check_gradients

B = Dim("B", 7)
SMOOTH = ("tanh", "neg", "square", "sigmoid", "softmax", "silu", "sin")
UNARY = (*SMOOTH, "exp", "abs", "stop_gradient")
BINARY = ("add", "sub", "mul")
SHAPES = ((-1,), (-1, 3), (1, -1))
NUMBERS = (0.0, 1.0, -1.0, 2.0, 0.5, 0.3)
PASSES = ("simplify", "fold", "cse", "expand", "pushup", "remat{budget=1}")


class Builder:
    """Grows a graph by drawn choices; every array has shape [B, 4, 3] or a part of it."""

    def __init__(self, draw: st.DrawFn, unary: tuple[str, ...] = UNARY):
        self.draw, self.unary = draw, unary
        self.inputs = tuple(
            OPS["input"](name=name, type=TensorType(t.f32, shape))
            for name, shape in (("x", (B, 4, 3)), ("y", (4, 3)), ("z", (B, 4, 1)))
        )
        rng = np.random.default_rng(0)
        self.params = {
            name: rng.standard_normal(shape).astype(np.float32)
            for name, shape in (("w", (3, 3)), ("b", (3,)))
        }
        made = [
            OPS["param"](name=n, type=TensorType(t.f32, x.shape)) for n, x in self.params.items()
        ]
        self.nodes: list[Node] = [*self.inputs, *made]

    def pick(self) -> Node:
        return self.draw(st.sampled_from(self.nodes))

    def number(self) -> Node:
        return const(self.draw(st.sampled_from(NUMBERS)), t.f32)

    def step(self) -> Node:
        x = self.pick()
        rank = x.type.rank
        match self.draw(st.sampled_from("uubbncrtsmwl" if rank else "ubnw")):
            case "u":
                return OPS[self.draw(st.sampled_from(self.unary))](x)
            case "b":
                return OPS[self.draw(st.sampled_from(BINARY))](x, self.pick())
            case "n":
                number = self.number()
                first = self.draw(st.booleans())
                op = OPS[self.draw(st.sampled_from(BINARY))]
                return op(number, x) if first else op(x, number)
            case "c":
                return OPS["concat"](x, self.pick(), axis=self.draw(st.integers(0, rank - 1)))
            case "r":
                axes = self.draw(st.sets(st.integers(0, rank - 1)))
                return OPS["sum"](x, axes=tuple(sorted(axes)), keep=self.draw(st.booleans()))
            case "t":
                return OPS["transpose"](x, perm=self.draw(st.permutations(range(rank))))
            case "s":
                axis = self.draw(st.integers(0, rank - 1))
                size = x.shape[axis]
                start = self.draw(st.sampled_from((0, size - 1)))
                starts = tuple(start if a == axis else 0 for a in range(rank))
                stops = tuple(start + 1 if a == axis else s for a, s in enumerate(x.shape))
                return OPS["slice"](x, starts=starts, stops=stops)
            case "m":
                return OPS["matmul"](x, self.nodes[3])
            case "w":
                return OPS["broadcast"](x, shape=(B, 4, 3))
            case _:
                return OPS["reshape"](x, shape=self.draw(st.sampled_from(SHAPES)))

    def grow(self, steps: int) -> None:
        for _ in range(steps):
            try:
                self.nodes.append(self.step())
            except PlanishError:
                continue  # the operands did not fit: a graph that nobody could have written

    def graph(self) -> Graph:
        chosen = self.draw(st.lists(st.sampled_from(self.nodes[5:] or self.nodes), max_size=3))
        return Graph("random", self.inputs, (self.nodes[-1], *chosen), self.params)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    builder = Builder(draw)
    builder.grow(draw(st.integers(1, 12)))
    return builder.graph()


@st.composite
def losses(draw: st.DrawFn) -> Graph:
    builder = Builder(draw, SMOOTH)
    builder.grow(draw(st.integers(1, 8)))
    total = OPS["sum"](OPS["tanh"](builder.nodes[-1]))
    return Graph("random", builder.inputs, (total,), builder.params)


def same(before: Graph, after: Graph) -> None:
    arrays = example_arrays(before)
    expected = evaluate(before, *arrays, dtype="f64")
    found = evaluate(after, *arrays, dtype="f64")
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, 1e-5, 1e-5 * max(1.0, np.abs(a).max(initial=0.0)))


QUICK = settings(
    max_examples=200,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@QUICK
@given(graphs(), st.lists(st.sampled_from(PASSES), min_size=1, max_size=5), st.booleans())
def test_passes_keep_the_numbers(graph: Graph, passes: list[str], fused: bool):
    pipeline = Pipeline.parse(",".join(passes) + (",expand,fuse" if fused else ""))
    same(graph, pipeline.run(graph))


@settings(QUICK, max_examples=50)
@given(losses(), st.sampled_from(sorted(PIPELINES)))
def test_gradients_of_random_graphs(graph: Graph, pipeline: str):
    wrt = ("x", "y", "z", "w", "b")
    after = grad(graph, wrt)
    check_gradients(graph, after, wrt)
    same(after, PIPELINES[pipeline].run(after))
