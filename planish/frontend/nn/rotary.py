"""Rotary positions of models that were stretched to contexts longer than they were trained on.

    rope_factors({"rope_type": "linear", "factor": 4.0}, base=10000.0, width=64)     # f32 [32]

The words are those of Hugging Face's config.json; "factors" says the numbers themselves, as GGUF
has them. The angle of pair i of a head is position * base^(-2i / width) / factors[i].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from planish.ir.errors import DataError

# The kinds, and what each of them says
SCALINGS: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
    "factors": ("factors",),
}  # fmt: skip


def rope_factors(scaling: Any, base: float, width: int) -> np.ndarray | None:
    """What the angles of each pair are divided by, f32 [width / 2]; None where nothing is scaled.

    DataError for what is no scaling: another kind, a number that is missing or not positive.
    """
    if scaling is None:
        return None
    kind = _checked(scaling, width // 2)
    if kind == "factors":
        return np.asarray(scaling["factors"], np.float32)
    if kind == "linear":
        return np.full(width // 2, scaling["factor"], np.float32)
    return _llama3(scaling, base ** (np.arange(width // 2) / (width // 2))).astype(np.float32)


def _llama3(scaling: Mapping[str, Any], inverse: np.ndarray) -> np.ndarray:
    """Llama 3's: long waves by `factor`, short ones not, and those between by something between."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = scaling["original_max_position_embeddings"] / (2 * math.pi * inverse)
    kept = np.clip((waves - low) / (high - low), 0, 1)
    return 1 / (kept + (1 - kept) / scaling["factor"])


def _checked(scaling: Any, pairs: int) -> str:
    """The kind of a scaling; refused where it is none."""
    kind = scaling.get("rope_type") if isinstance(scaling, Mapping) else None
    if not isinstance(kind, str) or kind not in SCALINGS:
        known = ", ".join(SCALINGS)
        raise DataError(f"rope_scaling has a rope_type, one of {known}; got {scaling!r:.80}")
    said = {"rope_type", *SCALINGS[kind]}
    if scaling.keys() != said:
        listed = ", ".join(sorted(said))
        raise DataError(f"rope_scaling of {kind} says {listed}; got {', '.join(scaling)}")
    numbers = scaling["factors"] if kind == "factors" else [scaling[x] for x in SCALINGS[kind]]
    if not isinstance(numbers, (list, tuple)) or (kind == "factors" and len(numbers) != pairs):
        raise DataError(f"rope_scaling: factors are {pairs} numbers, got {numbers!r:.60}")
    if wrong := [x for x in numbers if not _is_positive(x)]:
        raise DataError(f"rope_scaling of {kind} has positive numbers, got {wrong[0]!r:.60}")
    if kind == "llama3" and not scaling["low_freq_factor"] < scaling["high_freq_factor"]:
        raise DataError(
            f"rope_scaling: low_freq_factor={scaling['low_freq_factor']} is below "
            f"high_freq_factor={scaling['high_freq_factor']}"
        )
    return kind


def _is_positive(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and 0 < x < math.inf
