"""Write a pass of your own, put it into a pipeline, and compare that with others.

    python examples/own_pass.py

The pass changes numbers on purpose, and the column `error` says by how much.
"""

import argparse

import numpy as np

import planish as pl
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.ir.ops.activation import Gelu, gelu
from planish.passes.expand import Expand
from planish.passes.fuse import Fuse


def tanh_gelu(graph: Graph) -> Graph:
    """Approximate GELU.

    %0 = gelu(%x, approximate="none") : f32[4]
    becomes
    %0 = gelu(%x, approximate="tanh") : f32[4]
    """

    def step(node: Node) -> Node:
        match node:
            case Node(Gelu(), (x,)) if node.attrs["approximate"] == "none":
                return gelu(x, approximate="tanh")
        return node

    return graph.map(step)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--width", type=int, default=256)
width = parser.parse_args().width

mlp = pl.nn.Sequential(
    pl.nn.Linear(width, 4 * width), pl.nn.GELU("none"), pl.nn.Linear(4 * width, width)
)
x = np.random.default_rng(0).standard_normal((256, width), np.float32)
plain = pl.Pipeline(Expand(), Fuse())
pipelines = ["O0", plain, pl.Pipeline(tanh_gelu) + plain]

table = pl.compare(mlp, pipelines, x)
print(table)

# Which pass of a pipeline changes the numbers by more than rounding does?
graph = pl.trace(mlp, x)
wanted = pl.interpret(graph, x, dtype="f64")
found = pl.bisect(
    graph, pipelines[-1], lambda g: np.allclose(pl.interpret(g, x, dtype="f64"), wanted, 1e-9)
)
print(f"the numbers change in pass {found}")
