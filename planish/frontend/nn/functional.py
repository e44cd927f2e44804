"""Layers as functions: what the modules of `nn` compute, with the parameters as arguments.

Operands are tensors while tracing, NumPy arrays otherwise; results have the operands' dtype (f32
where those are integers). ShapeError and DTypeError name both operands.
"""

from __future__ import annotations

from typing import Any

from planish.frontend.shapes import matmul, swapaxes
from planish.frontend.tensor import apply
from planish.ir import types as t


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x [..., in] @ weight.T + bias -> [..., out]; weight [out, in] as in PyTorch, bias [out]."""
    y = matmul(apply, x, swapaxes(apply, weight, 0, 1))
    return y if bias is None else apply("add", y, bias)


def embedding(indices: Any, weight: Any, what: str = "index") -> Any:
    """The rows of `weight` [N, C] at integer `indices` [...] -> [..., C].

    An index outside 0 <= i < N raises TokenError at run time, which calls it `what`.
    """
    return apply("take", weight, indices, axis=0, what=what)


def layer_norm(x: Any, weight: Any, bias: Any = None, eps: float = 1e-5) -> Any:
    """Mean 0 and variance 1 along the last axis, then times weight [C] plus bias [C]."""
    return apply("layer_norm", x, weight, *([] if bias is None else [bias]), eps=eps)


def rms_norm(x: Any, weight: Any, eps: float = 1e-5) -> Any:
    """Root mean square 1 along the last axis, then times weight [C]."""
    return apply("rms_norm", x, weight, eps=eps)


def dropout(x: Any, rate: float, key: Any) -> Any:
    """Elements set to 0 with probability `rate`, the others scaled up; `key` u32[2] decides."""
    return apply("dropout", x, key, rate=float(rate)) if rate else x


def relu(x: Any) -> Any:
    """max(x, 0)."""
    return apply("relu", x)


def silu(x: Any) -> Any:
    """x * sigmoid(x), also called swish."""
    return apply("silu", x)


def gelu(x: Any, approximate: str = "tanh") -> Any:
    """x * Phi(x); "tanh" is GPT-2's approximation, "none" uses erf."""
    return apply("gelu", x, approximate=approximate)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return apply("sigmoid", x)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return apply("tanh", x)


def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) over its sum along `axis`, without overflow; 0 in a row of minus infinities."""
    return apply("softmax", x, axis=axis)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """The logarithm of softmax."""
    return apply("log_softmax", x, axis=axis)


def one_hot(indices: Any, num_classes: int, dtype: Any = "f32") -> Any:
    """Integers [...] -> [..., num_classes]: 1 at the index and 0 elsewhere; all 0 outside."""
    return apply("one_hot", indices, size=num_classes, dtype=t.dtype(dtype))


def rope(
    x: Any, positions: Any, base: float = 10000.0, interleaved: bool = False, factors: Any = None
) -> Any:
    """Rotary position embedding of x [..., T, D] at integer positions [T].

    Angles are divided by `factors` [D / 2], where they are given.
    """
    given = () if factors is None else (factors,)
    return apply("rope", x, positions, *given, base=float(base), interleaved=interleaved)


def cross_entropy(logits: Any, targets: Any, ignore_index: int | None = -100) -> Any:
    """The mean of -log softmax(logits)[target] over the targets that are not `ignore_index`.

    logits [..., classes], integer targets [...] -> a scalar; TokenError for targets outside.
    """
    return apply("cross_entropy", logits, targets, ignore_index=ignore_index)


def mse_loss(x: Any, y: Any) -> Any:
    """The mean squared difference of two arrays of one shape, a scalar."""
    return apply("mse", x, y)


def binary_cross_entropy_with_logits(logits: Any, targets: Any) -> Any:
    """The mean binary cross entropy of sigmoid(logits) and targets between 0 and 1, a scalar."""
    return apply("bce_with_logits", logits, targets)


def scaled_dot_product_attention(
    q: Any, k: Any, v: Any, *, causal: bool = False, offset: Any = None, scale: float | None = None,
    dropout_rate: float = 0.0, key: Any = None, ends: Any = None,
) -> Any:  # fmt: skip
    """softmax(scale q k^T) v for q [B, H, T, D], k and v [B, G, S, D], H a multiple of G.

    With `causal`, query i sees keys j <= offset + i; without `offset` the queries are the last
    keys. With a key, weights drop out at `dropout_rate`. With `ends` [B], q [1, H, N, D] has the
    queries of B rows of different lengths, one after another, and `offset` is [B].
    """
    if ends is not None:
        given = {"causal": causal, "scale": scale, "ragged": True}
        return apply("attention", q, k, v, offset, ends, **given)
    drops = bool(dropout_rate) and key is not None
    operands = (q, k, v, *(() if offset is None else (offset,)), *((key,) if drops else ()))
    rate = {"dropout": float(dropout_rate)} if drops else {}
    return apply("attention", *operands, causal=causal, scale=scale, **rate)
