"""What zero points of weights would gain: the error of rounding with them and without.

    python benchmarks/zero_points.py MODEL

Symmetric integers have a scale, 0 being 0; asymmetric ones a zero, too, so that the smallest and
the largest of what shares a scale are the smallest and the largest integer. Of all matrices that
layers multiply by: `SQNR` is the power of the weights over that of the error, in dB, and `bits`
those of a weight with its part of scale (32 bits; of groups 16) and zero (8 bits).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import planish as pl
from planish.passes.layers import decibels
from planish.passes.quantize import GROUPS
from planish.passes.table import table_text

SCALE, OF_GROUP, ZERO = 32, 16, 8  # bits
HEAD = ("bits", "shares a scale", "symmetric", "bits", "asymmetric", "bits", "gain")


def rounded(rows: np.ndarray, bits: int, asymmetric: bool) -> np.ndarray:
    """Rows [N, K] of f32 as integers and back, each with a scale of its own, and a zero."""
    most = 2 ** (bits - 1) - 1
    if not asymmetric:
        scale = np.abs(rows).max(1, keepdims=True) / np.float32(most)
        scale[scale == 0] = 1
        return np.clip(np.rint(rows / scale), -most, most) * scale
    low, high = (f(rows, 1, keepdims=True, initial=0) for f in (np.min, np.max))
    scale = (high - low) / np.float32(2 * most)
    scale[scale == 0] = 1
    zero = -most - np.rint(low / scale)
    return (np.clip(np.rint(rows / scale) + zero, -most, most) - zero) * scale


def table(weights: list[np.ndarray]) -> Iterator[tuple[str, ...]]:
    """A row for each number of bits, and of weights [N, K] that share a scale."""
    for bits, group in ((8, 0), *((4, x) for x in GROUPS)):
        chosen = [w for w in weights if not group or w.shape[1] % group == 0]
        if not chosen:
            continue  # groups of so many divide no weight
        rows = [w.reshape(-1, group or w.shape[1]) for w in chosen]
        exact = np.concatenate([x.ravel() for x in rows])
        found = [
            decibels(exact, np.concatenate([rounded(x, bits, side).ravel() for x in rows])) or 0.0
            for side in (False, True)
        ]
        scales = sum(len(x) for x in rows) / exact.size
        scale = OF_GROUP if group else SCALE
        sizes = [bits + scales * x for x in (scale, scale + ZERO)]
        cells = [x for pair in zip(found, sizes, strict=True) for x in pair]
        shares = f"group of {group}" if group else "channel"
        yield str(bits), shares, *(f"{x:.2f}" for x in (*cells, found[1] - found[0]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    model, _ = pl.load_model(parser.parse_args().model)
    state = model.state_dict().items()
    print(table_text([HEAD, *table([x for n, x in state if n.startswith("h.") and x.ndim == 2])]))


if __name__ == "__main__":
    main()
