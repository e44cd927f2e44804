"""Gradients of your own function, compiled, and checked against finite differences.

    python examples/gradients.py

Logistic regression: two clouds of points, the loss and its gradient as one program.
"""

import argparse

import numpy as np

import planish as pl
import planish.numpy as pnp
from planish import nn


def loss(weights, x, y):
    """The mean cross entropy of labels y [N] given x [N, D], with weights {"w": [D], "b": []}."""
    logits = x @ weights["w"] + weights["b"]
    penalty = 1e-3 * pnp.sum(weights["w"] ** 2)
    return nn.functional.binary_cross_entropy_with_logits(logits, y) + penalty


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=200)
options = parser.parse_args()

rng = np.random.default_rng(0)
y = (np.arange(1000) % 2).astype(np.float32)
x = rng.standard_normal((1000, 8), np.float32) + y[:, None]
weights = {"w": np.zeros(8, np.float32), "b": np.float32(0)}

step = pl.compile(pl.value_and_grad(loss), weights, x, y)
for i in range(options.steps):
    value, gradient = step(weights, x, y)
    weights = {name: weights[name] - 0.5 * gradient[name] for name in weights}
    if i % 50 == 0:
        print(f"step {i:3}  loss {value:.4f}")
right = np.mean((x @ weights["w"] + weights["b"] > 0) == (y == 1))
print(f"{right:.1%} of the points are on their side")

# The gradient along one direction, and the same by central differences in float64
direction = rng.standard_normal(8)
ahead, behind = (
    pl.interpret(loss, {**weights, "w": weights["w"] + h * direction}, x, y, dtype="f64")
    for h in (1e-5, -1e-5)
)
found = step(weights, x, y)[1]["w"] @ direction
wanted = (ahead - behind) / 2e-5
print(f"gradient {found:.6f}, by differences {wanted:.6f}")
np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
