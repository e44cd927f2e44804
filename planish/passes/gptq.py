"""Move weights to where `quantize` will round them, each error made good by those not yet rounded.

    %w = param : f32[8, 64]
    %0 = matmul(%x, transpose(%w)) : f32[2, 8]
becomes the same graph, in which %w holds multiples of the scales of its groups; so

    pl.calibrate(model, "expand,gptq{bits=4},quantize{bits=4},cse,fold,simplify,fuse", tokens)

quantizes without further loss. Columns are rounded in order; the error of one, seen through the
second moments of what the weight multiplies, is subtracted from the columns after it (Frantar et
al., "GPTQ: accurate post-training quantization for generative pre-trained transformers", 2023).
The column that had a group's largest magnitude when its scale was chosen is rounded to the largest
integer, so that `quantize` finds the same scale again.

Only weights that are read transposed, as those of Linear are, and of which no rows are taken.
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
from planish.passes.quantize import Quantize
from planish.passes.readers import products, reads_rows

BLOCK = 128  # columns of which errors reach the rest of the matrix at once
DAMPING = 0.01  # of the mean second moment: directions in which nothing was seen stay tame


@dataclass(frozen=True)
class Gptq:
    """Round the weights that `quantize` with the same options will choose; see the module."""

    bits: int = 4
    group: int = 0
    skip: str = ""
    calibration: str = ""  # names what it was bound to
    weights: Mapping[str, np.ndarray] | None = field(
        default=None, compare=False, repr=False, metadata={"bound": True}
    )

    def __post_init__(self) -> None:
        self.like()  # refuses options that it does not take

    def like(self) -> Quantize:
        """The pass that comes after."""
        return Quantize(bits=self.bits, group=self.group, skip=self.skip)

    def __call__(self, graph: Graph) -> Graph:
        names = {name for name, _ in self.chosen(graph)}
        known = self.weights or {}
        if missing := sorted(names - known.keys()):
            raise DataError(
                f"gptq: no calibration for {missing[0]}; pl.quantize and pl.calibrate take "
                "calibration text"
            )
        rounded = {name: known[name] for name in names}
        return replace(graph, params={**graph.params, **rounded}) if names else graph

    def reasons(self, graph: Graph) -> dict[str, str]:
        """For each weight why it stays as it is; "" where it, or its integers, do not."""
        return self.like().reasons(graph)

    def told(self, graph: Graph) -> dict[str, str]:
        """Of each weight that becomes integers whether it is rounded here, and if not, why."""
        done, nodes = {name for name, _ in self.chosen(graph)}, graph.param_nodes
        changed = [name for name, reason in self.reasons(graph).items() if not reason]
        linear = {
            n for n in changed if any(u.op.name == "transpose" for u in graph.users[nodes[n]])
        }
        return {
            name: "gptq" if name in done else "rounded to nearest, not by gptq: "
            + ("rows of it are taken" if any(map(reads_rows, graph.users[nodes[name]]))
               else "it is not known yet" if name in linear else "it is not read transposed")
            for name in changed
        }  # fmt: skip

    def chosen(self, graph: Graph) -> list[tuple[str, Node]]:
        """The products by weights that are rounded here."""
        names = {name for name, reason in self.reasons(graph).items() if not reason}
        nodes = graph.param_nodes
        tables = {x for x in names if any(map(reads_rows, graph.users[nodes[x]]))}
        found = products(graph, (names - tables) & graph.params.keys())
        return [(name, x) for name, x in found if _is_linear(x.inputs[1])]

    @property
    def is_bound(self) -> bool:
        """Whether it has seen what it needs to see."""
        return self.weights is not None

    def calibrate(self, graph: Graph, samples: Samples) -> Gptq:
        """Bound to the weights that it will put in place."""
        if self.weights is not None:
            return self
        found = self.chosen(graph)
        check_all_finite("gptq", graph, {name for name, _ in found})
        moments: dict[str, np.ndarray] = {}
        for arrays in samples.values(graph, [node.inputs[0] for _, node in found]):
            for (name, _), x in zip(found, arrays, strict=True):
                rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
                moments[name] = moments.get(name, 0.0) + rows.T @ rows
        levels = (t.i4 if self.bits == 4 else t.i8).most
        size = self.like().group_size if self.bits == 4 else 0
        rounded = {
            name: compensated(graph.params[name], moments[name], levels, size) for name in moments
        }
        return replace(self, weights=rounded, calibration=digest(rounded))


def _is_linear(b: Node) -> bool:
    """Whether a matrix is a stored one, read transposed."""
    return b.op.name == "transpose" and b.inputs[0].op.name == "param"


def compensated(w: np.ndarray, moments: np.ndarray, levels: int, size: int) -> np.ndarray:
    """Weights [N, K] on the grid of their groups of `size` columns (0: of all), where moments
    [K, K] are sums of the products of what they multiply."""
    left, out = w.astype(np.float64), np.zeros(w.shape)
    spread = inverse_root(moments)
    k = w.shape[1]
    size = size or k
    step = min(size, BLOCK)
    for start in range(0, k, step):
        end = min(start + step, k)
        if start % size == 0:
            group = np.abs(left[:, start : start + size])
            pivot = start + group.argmax(1)
            scale = np.where(group.max(1) > 0, group.max(1) / levels, 1.0)
            # what `quantize` will find again; of groups it keeps bf16
            kept = t.bf16 if levels == t.i4.most else t.f32
            scale = scale.astype(np.float32).astype(kept.numpy).astype(np.float64)
        errors = np.zeros((len(w), end - start))
        for at in range(start, end):
            column = left[:, at]
            q = np.clip(np.rint(column / scale), -levels, levels)
            largest = (pivot == at) & (column != 0) & (group.max(1) > 0)
            q = np.where(largest, np.copysign(levels, column), q)
            out[:, at] = q * scale
            errors[:, at - start] = (column - out[:, at]) / spread[at, at]
            left[:, at + 1 : end] -= np.outer(errors[:, at - start], spread[at, at + 1 : end])
        left[:, end:] -= errors @ spread[start:end, end:]
    return out.astype(np.float32)


def inverse_root(moments: np.ndarray) -> np.ndarray:
    """The upper Cholesky factor of the inverse of the moments, damped."""
    mean = float(np.diag(moments).mean())
    damped = moments + np.eye(len(moments)) * (DAMPING * mean if mean > 0 else 1.0)
    return np.linalg.cholesky(np.linalg.inv(damped)).T
