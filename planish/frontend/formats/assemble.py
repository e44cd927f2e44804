"""A model from the weights of a file that has names and layouts of its own.

A plan says for each of our parameters which weights of the file it is made of. Everything is
checked, and every mistake listed, before the first weight is read; a model is whole or not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.nn.layers import BLANK
from planish.ir import types as t
from planish.ir.errors import ArtifactError, PlanishError


@dataclass(frozen=True)
class Part:
    """A weight of a file: one of ours, or `rows` of its rows; `turned` where it is [in, out]."""

    name: str
    rows: int | None = None
    turned: bool = False


@dataclass(frozen=True)
class Stored:
    """A weight of a file: its type, and how to read it."""

    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], np.ndarray]


LARGEST = 1 << 28  # of any size in a configuration; those of the largest models are far below
Plan = Mapping[str, tuple[Part, ...]]


def stored(arrays: Mapping[str, np.ndarray]) -> dict[str, Stored]:
    """Arrays, as weights of a file."""
    return {name: Stored(x.shape, x.dtype, partial(_same, x)) for name, x in arrays.items()}


def _same(array: np.ndarray) -> np.ndarray:
    return array


def assemble(
    cls: type, path: Path, config: Mapping[str, Any], plan: Callable[[Any], Plan],
    weights: Mapping[str, Stored], ignored: str = "",
) -> Any:  # fmt: skip
    """A model of class `cls` with this configuration; ArtifactError lists all that is wrong.

    `plan` is asked about the model without weights; names may be there that match `ignored`.
    """
    model = blank(cls, path, config, len(weights))
    own, parts = dict(model.named_parameters()), plan(model)
    wrong = [x for name, p in own.items() for x in _mistakes(p.array.shape, parts[name], weights)]
    used = {part.name for listed in parts.values() for part in listed}
    wrong += [f"unexpected: {x}" for x in weights if x not in used and not re.fullmatch(ignored, x)]
    if wrong:
        raise ArtifactError(
            f"{path}: the weights do not fit the configuration:\n  " + "\n  ".join(sorted(wrong))
        )
    for name, parameter in own.items():
        parameter.array = _made(parts[name], weights).astype(np.float32, copy=False)
    return model


def blank(cls: type, path: Path, config: Mapping[str, Any], arrays: int) -> Any:
    """A model whose weights take no memory yet; refused where no file could hold it."""
    for name, value in config.items():
        if isinstance(value, int) and value > LARGEST and name != "seed":
            raise ArtifactError(f"{path}: {name}={value} is more than {LARGEST:,}")
    layers = config.get("num_layers")
    if isinstance(layers, int) and layers > arrays:
        raise ArtifactError(f"{path}: {layers} layers, but only {arrays} arrays")
    try:
        model = cls(**{**config, "seed": BLANK})
        model.config["seed"] = config.get("seed", 0)  # type: ignore[attr-defined]
    except (PlanishError, TypeError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    return model


def parted(plan: Plan, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Part, np.ndarray]]:
    """The weights of a file that is to be written: which of ours, and which rows of it."""
    for name, array in arrays.items():
        at = 0
        for part in plan[name]:
            rows = array[at : at + (part.rows or len(array))]
            at += len(rows)
            yield name, part, rows


def _mistakes(
    shape: tuple[int, ...], parts: tuple[Part, ...], weights: Mapping[str, Stored]
) -> list[str]:
    """What is wrong with the weights that one of ours, of this shape, is made of."""
    wrong = []
    for part in parts:
        found = weights.get(part.name)
        wanted = shape if part.rows is None else (part.rows, *shape[1:])
        wanted = wanted[::-1] if part.turned else wanted
        if found is None:
            wrong.append(f"missing: {part.name}")
        elif found.shape != wanted:
            wrong.append(f"wrong shape: {part.name} is {list(wanted)}, got {list(found.shape)}")
        elif not t.dtype(found.dtype).is_float:
            wrong.append(f"wrong dtype: {part.name} holds floats, got {t.dtype(found.dtype)}")
    return wrong


def _made(parts: tuple[Part, ...], weights: Mapping[str, Stored]) -> np.ndarray:
    read = [weights[part.name].read() for part in parts]
    arrays = [x.T if part.turned else x for part, x in zip(parts, read, strict=True)]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
