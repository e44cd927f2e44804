"""Move outliers of what follows a norm into the weights that it is multiplied by.

    %gamma = param : f32[64]
    %beta = param : f32[64]
    %0 = layer_norm(%x, %gamma, %beta, eps=1e-05) : f32[2, 64]
    %w = param : f32[8, 64]
    %1 = transpose(%w, perm=(1, 0)) : f32[64, 8]
    %2 = matmul(%0, %1) : f32[2, 8]
becomes the same graph, in which %gamma and %beta are divided by a factor for each channel, and the
columns of %w are multiplied by it. A channel in which activations are large leaves few steps of an
integer to all others; a weight has a scale for each output, and bears it better (Xiao et al.,
"SmoothQuant: accurate and efficient post-training quantization for large language models", 2023).

    pl.calibrate(model, "smooth,expand,quantize{mode=static},cse,fold,simplify,fuse", tokens)

The factor is the largest magnitude of the channel, seen on some text, to the power of `alpha`, over
that of the weights to the power of 1 - `alpha`; of the powers of 2 the nearest, so that products
stay what they were, bit by bit. Channels in which all is 0 stay.

It runs before `expand`, which takes norms apart. A norm that is read by more than products, or a
weight that more reads than one norm's products, stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.ir.node import Node
from planish.passes.calibrate import Samples, digest
from planish.passes.finite import check_all_finite

NORMS = ("layer_norm", "rms_norm")
MOST = 2.0**40  # a larger factor would leave the range of f32 with what it multiplies


@dataclass(frozen=True)
class Place:
    """A norm, its weights, and the weights that it is multiplied by, with the axis of its channels
    in each."""

    norm: Node
    own: tuple[str, ...]
    read: dict[str, int]


@dataclass(frozen=True)
class Smooth:
    """Move outliers of activations (`alpha` 1: all they are) into weights; see the module."""

    alpha: float = 0.5
    calibration: str = ""  # names what it was bound to
    factors: Mapping[str, np.ndarray] | None = field(
        default=None, compare=False, repr=False, metadata={"bound": True}
    )

    def __post_init__(self) -> None:
        number = isinstance(self.alpha, (int, float)) and not isinstance(self.alpha, bool)
        if not number or not 0 <= self.alpha <= 1:
            raise DataError(f"smooth: alpha is a number between 0 and 1, got {self.alpha!r}")

    def __call__(self, graph: Graph) -> Graph:
        params, known = dict(graph.params), self.factors or {}
        for place in places(graph):
            for name in (*place.own, *place.read):
                if name not in known:
                    raise DataError(
                        f"smooth: no calibration for {name}; pl.calibrate takes calibration text"
                    )
            for name in place.own:
                params[name] = _fixed(params[name] / known[name])
            for name, axis in place.read.items():
                factor = known[name] if axis else known[name][:, None]
                params[name] = _fixed(params[name] * factor)
        return replace(graph, params=params) if places(graph) else graph

    @property
    def is_bound(self) -> bool:
        """Whether it has seen what it needs to see."""
        return self.factors is not None

    def calibrate(self, graph: Graph, samples: Samples) -> Smooth:
        """Bound to the factors of norms and of what reads them."""
        if self.factors is not None:
            return self
        found = places(graph)
        check_all_finite("smooth", graph, {n for place in found for n in (*place.own, *place.read)})
        seen = [np.zeros(place.norm.shape[-1], np.float32) for place in found]
        for arrays in samples.values(graph, [place.norm for place in found]):
            for most, x in zip(seen, arrays, strict=True):
                np.maximum(most, np.abs(x.reshape(-1, x.shape[-1])).max(0, initial=0), out=most)
        factors = {}
        for place, most in zip(found, seen, strict=True):
            sizes = [np.abs(graph.params[n]).max(1 - axis) for n, axis in place.read.items()]
            factor = factor_of(most, np.max(sizes, 0), self.alpha)
            factors.update(dict.fromkeys((*place.own, *place.read), factor))
        return replace(self, factors=factors, calibration=digest(factors))


def factor_of(activations: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """For each channel the power of 2 by which activations become smaller, and weights larger."""
    x, w = activations.astype(np.float64), weights.astype(np.float64)
    there = np.isfinite(x) & (x > 0) & (w > 0)
    raw = np.where(there, x, 1.0) ** alpha / np.where(there, w, 1.0) ** (1 - alpha)
    nearest = np.exp2(np.rint(np.log2(np.clip(raw, 1 / MOST, MOST))))
    return np.where(there, nearest, 1.0).astype(np.float32)


def places(graph: Graph) -> list[Place]:
    """The norms with weights of their own, read by nothing but products by weights of f32."""
    return [x for node in graph.nodes if node.op.name in NORMS and (x := _place(graph, node))]


def _place(graph: Graph, norm: Node) -> Place | None:
    own = norm.inputs[1:]
    users = graph.users[norm]
    if not own or norm in graph.outputs or not users:
        return None
    if not all(_is_weight(graph, x, 1) and graph.users[x] == (norm,) for x in own):
        return None
    read: dict[str, int] = {}
    for user in users:
        if user.op.name != "matmul" or user.inputs[0] is not norm:
            return None
        b = user.inputs[1]
        param = b.inputs[0] if b.op.name == "transpose" else b
        readers = (b,) if param is not b else (user,)
        if not _is_weight(graph, param, 2) or graph.users[param] != readers:
            return None
        if graph.users[b] != (user,):
            return None
        read[param.attrs["name"]] = int(param is not b)
    return Place(norm, tuple(x.attrs["name"] for x in own), read)


def _is_weight(graph: Graph, x: Node, rank: int) -> bool:
    is_param = x.op.name == "param" and x.attrs["name"] in graph.params
    return is_param and x.type.rank == rank and x.dtype == t.f32 and x not in graph.outputs


def _fixed(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
