"""Optimisers as graph code, and learning-rate schedules as functions of the step.

An optimiser's `update` is written in ordinary expressions, so it becomes part of the training
graph, or of any traced function, or computes at once on NumPy arrays:

    state = optimizer.init(params)
    params, state = optimizer.update(params, grads, state, step, lr)     # step counts from 1

Parameters, gradients and state are dicts by name; state names are a slot and a parameter's name.
A schedule gives the learning rate of a step, counted from 0; it runs on the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from planish.frontend.shapes import dtype_of
from planish.frontend.tensor import apply
from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.node import OPS, Node

Arrays: TypeAlias = dict[str, Any]  # name -> Node, Tensor or NumPy array

NORM_EPS = 1e-6  # added to the norm that gradients are clipped by, as PyTorch does


def _op(name: str, *operands: Any, **attrs: Any) -> Any:
    """An op on nodes, on tensors, or at once on arrays."""
    if any(isinstance(x, Node) for x in operands):
        return OPS[name](*operands, **attrs)
    # np.float64 is a Python float too, and those would be computed in f32
    kept = [np.asarray(x) if isinstance(x, np.generic) else x for x in operands]
    return apply(name, *kept, **attrs)


def _scalar(x: Any, dtype: t.DType) -> Any:
    """A scalar in this dtype."""
    if isinstance(x, (int, float)):
        return np.asarray(x, dtype.numpy)
    found = x.dtype if isinstance(x, Node) else dtype_of(x)
    return x if found == dtype else _op("cast", x, dtype=dtype)


@dataclass(frozen=True)
class Optimizer:
    """What optimisers have in common.

    Weight decay leaves parameters of rank below 2 (biases, norms) alone, as nanoGPT does, unless
    `decay_all` is set. With `keep_zeros`, numbers of parameters of rank 2 and more that are 0 stay
    0: so a pruned model is trained.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    decay_all: bool = False
    keep_zeros: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """The arrays that are kept for each parameter, by name."""
        return ()

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name == "betas":
                listed = tuple(value)
                object.__setattr__(self, "betas", listed)
                if len(listed) != 2 or not all(0 <= beta < 1 for beta in listed):
                    raise DataError(f"betas are two numbers of 0 <= beta < 1, got {value!r}")
            elif not isinstance(value, Real) or not 0 <= float(value) < math.inf:
                raise DataError(f"{option.name} is a finite number of at least 0, got {value!r}")

    def init(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The state before the first step: zeros."""
        return {
            f"{slot}.{name}": np.zeros(x.shape, x.dtype)
            for name, x in params.items()
            for slot in self.slots
        }

    def update(
        self, params: Mapping[str, Any], grads: Mapping[str, Any], state: Mapping[str, Any],
        step: Any, lr: Any,
    ) -> tuple[Arrays, Arrays]:  # fmt: skip
        """New parameters and new state; `step` is a scalar that counts from 1."""
        scalars = self.common(step, lr)
        new_params: Arrays = {}
        new_state: Arrays = {}
        for name, p in params.items():
            own = {slot: state[f"{slot}.{name}"] for slot in self.slots}
            new_params[name], own = self.changed(p, grads[name], own, scalars)
            new_state.update((f"{slot}.{name}", x) for slot, x in own.items())
        return new_params, new_state

    def common(self, step: Any, lr: Any) -> Arrays:
        """The scalars that all parameters share, in the dtype of the rate."""
        rate = lr.dtype if isinstance(lr, Node) else dtype_of(lr)
        return self.scalars(_scalar(step, rate), _scalar(lr, rate))

    def changed(self, p: Any, g: Any, state: Arrays, scalars: Arrays) -> tuple[Any, Arrays]:
        """One parameter and its state after an update."""
        decay = self.weight_decay if self.decay_all or len(p.shape) >= 2 else 0.0
        new, state = self.rule(p, g, state, scalars, decay)
        return self.masked(new, p), state

    def masked(self, x: Any, p: Any) -> Any:
        """`x`, a gradient or a new value, with zeros where those of the parameter are kept."""
        if not self.keep_zeros or len(p.shape) < 2:
            return x
        return _op("select", _op("eq", p, 0.0), 0.0, x)

    def scalars(self, step: Any, lr: Any) -> Arrays:
        """What is computed once for all parameters."""
        return {"lr": lr}

    def rule(
        self, p: Any, g: Any, state: Arrays, scalars: Arrays, decay: float
    ) -> tuple[Any, Arrays]:
        """The new parameter and its new state, from its gradient."""
        raise NotImplementedError


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015); weight decay is added to the gradient.

        m <- b1 m + (1 - b1) g          v <- b2 v + (1 - b2) g^2
        p <- p - lr m' / (sqrt(v') + eps),   m' = m / (1 - b1^t),   v' = v / (1 - b2^t)

    1 - b^t is computed as -expm1(t log b), which keeps its digits in float32 while t is small.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    @property
    def slots(self) -> tuple[str, ...]:
        """Running means of the gradient and of its square."""
        return "m", "v"

    def scalars(self, step: Any, lr: Any) -> Arrays:
        """The rate with the correction of m in it, and what corrects sqrt(v)."""
        first, second = (_correction(beta, step) for beta in self.betas)
        return {"rate": lr / first, "scale": 1.0 / _op("sqrt", second)}

    def rule(
        self, p: Any, g: Any, state: Arrays, scalars: Arrays, decay: float
    ) -> tuple[Any, Arrays]:
        g = self.decayed_gradient(p, g, decay)
        b1, b2 = self.betas
        m = state["m"] * b1 + g * (1 - b1)
        v = state["v"] * b2 + g * g * (1 - b2)
        change = scalars["rate"] * m / (_op("sqrt", v) * scalars["scale"] + self.eps)
        return self.decayed(p, scalars, decay) - change, {"m": m, "v": v}

    def decayed_gradient(self, p: Any, g: Any, decay: float) -> Any:
        """The gradient with that of the weight decay."""
        return g + p * decay if decay else g

    def decayed(self, p: Any, scalars: Arrays, decay: float) -> Any:
        """The parameter before Adam's own step."""
        return p


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay apart: first p <- p (1 - lr decay) (Loshchilov and Hutter, 2019)."""

    weight_decay: float = 0.01

    def decayed_gradient(self, p: Any, g: Any, decay: float) -> Any:
        """The gradient itself."""
        return g

    def scalars(self, step: Any, lr: Any) -> Arrays:
        """Adam's, and what is left of a parameter that decays."""
        return {**super().scalars(step, lr), "left": 1.0 - lr * self.weight_decay}

    def decayed(self, p: Any, scalars: Arrays, decay: float) -> Any:
        """The parameter, a little smaller."""
        return p * scalars["left"] if decay else p


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent (Sutskever et al., 2013); weight decay is added to the gradient.

    b <- mu b + g          p <- p - lr b,   by Nesterov's rule p - lr (g + mu b)
    """

    momentum: float = 0.0
    nesterov: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """The momentum, where there is one."""
        return ("b",) if self.momentum else ()

    def rule(
        self, p: Any, g: Any, state: Arrays, scalars: Arrays, decay: float
    ) -> tuple[Any, Arrays]:
        g = g + p * decay if decay else g
        if not self.momentum:
            return p - scalars["lr"] * g, {}
        b = state["b"] * self.momentum + g
        g = g + b * self.momentum if self.nesterov else b
        return p - scalars["lr"] * g, {"b": b}


def _correction(beta: float, step: Any) -> Any:
    """1 - beta^step."""
    return -_op("expm1", step * math.log(beta)) if beta else step * 0.0 + 1.0


def clip_by_global_norm(grads: Mapping[str, Any], limit: float | None) -> tuple[Arrays, Any]:
    """Gradients scaled down so that the norm of all together is at most `limit`, and the norm.

    Pascanu, Mikolov and Bengio (2013). Without a limit only the norm is computed.
    """
    scale, norm = clipping(grads, limit)
    return {name: g if scale is None else g * scale for name, g in grads.items()}, norm


def clipping(grads: Mapping[str, Any], limit: float | None) -> tuple[Any, Any]:
    """What `clip_by_global_norm` multiplies gradients by, None without a limit; and their norm."""
    total: Any = 0.0
    for g in grads.values():
        total = _op("sum", g * g) + total
    norm = _op("sqrt", total)
    if limit is None:
        return None, norm
    if not (limit > 0 and math.isfinite(limit)):
        raise DataError(f"gradients are clipped to a positive norm, got clip={limit!r}")
    return _op("minimum", limit / (norm + NORM_EPS), 1.0), norm


def need_optimizer(optimizer: object, schedule: object) -> Optimizer:
    """The optimizer; DataError where it is none, or the schedule is: names are not looked up."""
    if not isinstance(optimizer, Optimizer):
        raise DataError(f"optimizer is one of pl.optim, such as AdamW(lr=1e-3), got {optimizer!r}")
    if schedule is not None and not callable(schedule):
        raise DataError(
            f"schedule is a function of the steps done, as in pl.optim, got {schedule!r}"
        )
    return optimizer


# Schedules


@dataclass(frozen=True)
class Constant:
    """The same rate at every step, after `warmup` steps of growing."""

    lr: float
    warmup: int = 0

    def __call__(self, step: int) -> float:
        return self.lr * _warming(step, self.warmup)


@dataclass(frozen=True)
class Linear:
    """From `lr` straight down to `min_lr` at `steps`, after `warmup` steps of growing."""

    lr: float
    min_lr: float
    warmup: int
    steps: int

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * _warming(step, self.warmup)
        return self.lr + (self.min_lr - self.lr) * _done(step, self.warmup, self.steps)


@dataclass(frozen=True)
class Cosine:
    """From `lr` down to `min_lr` at `steps` along half a cosine (Loshchilov and Hutter, 2017).

    Before that, `warmup` steps grow linearly; the conventions are nanoGPT's.
    """

    lr: float
    min_lr: float
    warmup: int
    steps: int

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * _warming(step, self.warmup)
        wave = 0.5 * (1 + math.cos(math.pi * _done(step, self.warmup, self.steps)))
        return self.min_lr + (self.lr - self.min_lr) * wave


def _warming(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / (warmup + 1))


def _done(step: int, warmup: int, steps: int) -> float:
    """How much of the way is behind, from 0 to 1."""
    return min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))


constant, linear, cosine = Constant, Linear, Cosine
