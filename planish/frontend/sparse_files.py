"""Arrays with many zeros in files: a bit for each number, and those that are not 0.

    NAME.mask     i64[ceil(n / 64)]
    NAME.values   in the dtype of the array, as many as bits are 1

and in the metadata `planish.bitmaps`, JSON: {NAME: shape}. -0.0 and NaN are kept, so that what is
loaded is bitwise what was saved. Everything is checked before memory is asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from planish.ir.errors import ArtifactError
from planish.ir.ops.sparse import WORD, bitmap_bytes, bits_of, is_kept, mask_of
from planish.runtime.target import need_memory

LEAST = 1 << 12  # elements of an array that is worth it
SAVING = 0.1  # of its bytes
KEY = "planish.bitmaps"
LONGEST = 8  # axes


def without_zeros(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What is written instead of these arrays, and the metadata that says so, if any."""
    found: dict[str, np.ndarray] = {}
    shapes: dict[str, list[int]] = {}
    for name, array in arrays.items():
        parts = (f"{name}.mask", f"{name}.values")
        if not pays(array) or any(x in arrays for x in parts):
            found[name] = array
            continue
        kept = is_kept(array)
        found.update(zip(parts, (mask_of(kept), array[kept]), strict=True))
        shapes[name] = list(array.shape)
    return found, {KEY: json.dumps(shapes)} if shapes else {}


def pays(array: np.ndarray) -> bool:
    """Whether an array gets smaller by enough."""
    small = array.size < LEAST or array.dtype.itemsize not in (1, 2, 4, 8) or array.dtype == bool
    return not small and bitmap_bytes(array) <= (1 - SAVING) * array.nbytes


def with_zeros(path: Path, arrays: Mapping[str, np.ndarray], shapes: Any) -> dict[str, np.ndarray]:
    """The arrays that were written; ArtifactError where the parts of one do not fit each other."""
    if not isinstance(shapes, dict):
        raise ArtifactError(f"{path}: the list of bitmaps is no list of names with shapes")
    found = dict(arrays)
    parts = {name: _parts(path, name, shape, found) for name, shape in shapes.items()}
    total = sum(size * values.itemsize for _, values, size in parts.values())
    need_memory(total, "the weights in", path)
    for name, (mask, values, size) in parts.items():
        array = np.zeros(size, values.dtype)
        array[bits_of(mask)[:size]] = values
        array.flags.writeable = False
        found[name] = array.reshape(shapes[name])
    return found


def _parts(
    path: Path, name: str, shape: Any, arrays: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Mask, values and size of an array, taken away; refused where they are not of its shape."""
    if not isinstance(shape, list) or len(shape) > LONGEST or not all(map(_is_size, shape)):
        raise ArtifactError(f"{path}: {name} has the shape {shape!r:.60}")
    size = math.prod(shape)
    mask, values = (arrays.pop(f"{name}.{x}", None) for x in ("mask", "values"))
    if mask is None or values is None or name in arrays:
        raise ArtifactError(f"{path}: {name} is stored without its zeros, but not so, or twice")
    if mask.dtype != np.int64 or mask.shape != (-(-size // WORD),) or values.ndim != 1:
        raise ArtifactError(
            f"{path}: {name} {shape} has a mask i64[{-(-size // WORD)}], got "
            f"{mask.dtype}{list(mask.shape)} and values {values.dtype}{list(values.shape)}"
        )
    kept = int(np.bitwise_count(mask.view(np.uint64)).sum(dtype=np.int64))
    outside = size % WORD and int(mask[-1].view(np.uint64)) >> size % WORD
    if kept != len(values) or outside:
        raise ArtifactError(f"{path}: {name} has {len(values)} values for a mask of {kept} bits")
    return mask, values, size


def _is_size(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= 0
