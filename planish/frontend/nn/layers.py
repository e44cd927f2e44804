"""The simple layers: Linear, Embedding, normalisations, Dropout, activations, losses.

Weights start as in GPT-2: normal with standard deviation 0.02, biases 0, norms 1. `rng` is a NumPy
Generator; without one, a fresh generator is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.frontend.nn import functional as F
from planish.frontend.nn.module import Module
from planish.frontend.tensor import Parameter
from planish.ir.errors import DataError

STD = 0.02  # of initial weights, GPT-2's
BLANK = object()  # as `rng`: weights are about to be loaded, so make none


def normal(shape: tuple[int, ...], std: float, rng: Any) -> Parameter:
    """A parameter of normally distributed numbers."""
    if rng is BLANK:
        return Parameter.blank(shape)
    rng = rng if rng is not None else np.random.default_rng()
    array = rng.standard_normal(shape, np.float32)
    array *= np.float32(std)  # in place: embeddings are large
    return Parameter(array)


def filled(width: int, value: float, rng: Any = None) -> Parameter:
    """A parameter [width] of one value."""
    return Parameter.blank((width,)) if rng is BLANK else Parameter(np.full(width, value, "f4"))


class Linear(Module):
    """y = x @ weight.T + bias, with weight [out, in] as in PyTorch.

    >>> import numpy as np
    >>> from planish import nn
    >>> nn.Linear(3, 5)(np.ones((2, 3), np.float32)).shape
    (2, 5)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, std: float = STD,
        rng: np.random.Generator | None = None,
    ):  # fmt: skip
        self.weight = normal((out_features, in_features), std, rng)
        self.bias = filled(out_features, 0.0, rng) if bias else None

    def forward(self, x: Any) -> Any:
        """[..., in] -> [..., out]"""
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """Rows of a table [N, C]; an index outside raises TokenError at run time, called `what`."""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, what: str = "index", std: float = STD,
        rng: np.random.Generator | None = None,
    ):  # fmt: skip
        self.weight = normal((num_embeddings, embedding_dim), std, rng)
        self.what = what

    def forward(self, indices: Any) -> Any:
        """[...] integers -> [..., width]"""
        return F.embedding(indices, self.weight, self.what)


class LayerNorm(Module):
    """Mean 0 and variance 1 along the last axis, then times weight plus bias."""

    def __init__(self, width: int, eps: float = 1e-5, bias: bool = True, rng: Any = None):
        self.weight = filled(width, 1.0, rng)
        self.bias = filled(width, 0.0, rng) if bias else None
        self.eps = eps

    def forward(self, x: Any) -> Any:
        """[..., width] -> [..., width]"""
        return F.layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Root mean square 1 along the last axis, then times weight."""

    def __init__(self, width: int, eps: float = 1e-5, rng: Any = None):
        self.weight = filled(width, 1.0, rng)
        self.eps = eps

    def forward(self, x: Any) -> Any:
        """[..., width] -> [..., width]"""
        return F.rms_norm(x, self.weight, self.eps)


class Dropout(Module):
    """In training and given a key: elements set to 0 with probability `rate`, the others scaled."""

    def __init__(self, rate: float = 0.5):
        self.rate = check_rate(rate)

    def forward(self, x: Any, key: Any = None) -> Any:
        """The same shape; `x` itself in evaluation, without a key, or at rate 0."""
        return F.dropout(x, self.rate, key) if self.training and key is not None else x

    def extra_repr(self) -> str:
        """The rate."""
        return str(self.rate)


def check_rate(rate: float) -> float:
    """A probability below 1; refused otherwise."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise DataError(f"a dropout rate is a number of 0 <= rate < 1, got {rate!r}")
    return float(rate)


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return F.relu(x)


class SiLU(Module):
    """x * sigmoid(x)."""

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return F.silu(x)


class GELU(Module):
    """x * Phi(x); "tanh" is GPT-2's approximation, "none" uses erf."""

    def __init__(self, approximate: str = "tanh"):
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return F.gelu(x, self.approximate)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return F.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return F.sigmoid(x)


class Softmax(Module):
    """exp(x) over its sum along an axis."""

    def __init__(self, axis: int = -1):
        self.axis = axis

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return F.softmax(x, self.axis)


class CrossEntropyLoss(Module):
    """The mean of -log softmax(logits)[target], without the targets that are `ignore_index`."""

    def __init__(self, ignore_index: int | None = -100):
        self.ignore_index = ignore_index

    def forward(self, logits: Any, targets: Any) -> Any:
        """[..., classes] and [...] -> a scalar"""
        return F.cross_entropy(logits, targets, self.ignore_index)


class MSELoss(Module):
    """The mean squared difference."""

    def forward(self, x: Any, y: Any) -> Any:
        """Two arrays of one shape -> a scalar"""
        return F.mse_loss(x, y)


class BCEWithLogitsLoss(Module):
    """The mean binary cross entropy of sigmoid(logits)."""

    def forward(self, logits: Any, targets: Any) -> Any:
        """Two arrays of one shape -> a scalar"""
        return F.binary_cross_entropy_with_logits(logits, targets)
