"""Times register tiles of the matrix product on given shapes; decides nothing.

    python benchmarks/tune.py [--shapes 256x384x1536,64x128x512] [--forms weight,int8,nn,tn,nt]
                              [--tiles 4x6,2x12] [--threads 1] [--seconds 1] [--json out.json]

A shape is rows x depth x columns (M x K x N); a tile is vectors per row x rows, see
planish/runtime/kernels/tiles.py. 2x4x2 reads two panels of weights side by side, as products of few
rows do (planish/runtime/kernels/beside.py). Forms: `weight` multiplies by a weight, packed when the
program is compiled, `int8` by one of bytes, quantization of the rows included; in the others both
are activations, `t` marks one that is stored transposed. Programs take turns, the best run counts:
what is asked is what the tile can do. `*` is what planish chooses now.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from turns import processor

import planish as pl
from planish import nn
from planish.ir.types import f32
from planish.runtime.kernels import beside, tiles
from planish.runtime.program import Bound
from planish.runtime.target import Target

FORMS = ("weight", "int8", "nn", "tn", "nt")
# Of nano, baby and gpt2: QKV, projection and MLP of a prefill, the head, one row
SHAPES = "64x128x384,64x128x512,64x512x128,256x384x1152,256x384x1536,256x1536x384,1x384x1536"
HEIGHTS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28)
Tile = tuple[int, ...]  # vectors, rows, panels side by side if somebody asks


@contextmanager
def only(tile: Tile | None) -> Iterator[None]:
    """Inside, planish knows this tile alone; None leaves it its choice."""
    before = tiles.tiles, beside.panels_beside
    if tile:
        tiles.tiles = lambda *_: (tile[:2],)
    if tile and tile[2:]:
        beside.panels_beside = lambda gemm: tile[2]
    try:
        yield
    finally:
        tiles.tiles, beside.panels_beside = before


def candidates() -> list[Tile]:
    """Tiles whose accumulators, vectors of B and one broadcast fit into the registers."""
    registers = Target.host().vector_registers
    return [(v, h) for v in (1, 2, 4) for h in HEIGHTS if v * h + v + 1 <= registers]


def program(shape: tuple[int, int, int], form: str, tile: Tile | None, threads: int) -> Bound:
    """A product alone, compiled with the tile and bound to random operands."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    # the user's cache knows nothing of tiles: it would give the same program for all of them
    options: dict[str, Any] = {"threads": threads, "cache": False}
    with only(tile):
        if form in ("weight", "int8"):
            layer = nn.Linear(k, n, bias=False)
            layer.load_state_dict({"weight": np.ascontiguousarray(b.T)})
            passes = "int8" if form == "int8" else "O2"
            compiled = pl.compile(layer, pl.spec((m, k)), pipeline=passes, **options)
            return checked(compiled.bind(a), a @ b, 1e-2 if form == "int8" else 1e-4)
        given = [x.T.copy() if way == "t" else x for x, way in zip((a, b), form, strict=True)]

        def product(x, y):  # type: ignore[no-untyped-def]
            return (x.T if form[0] == "t" else x) @ (y.T if form[1] == "t" else y)

        specs = [pl.spec(x.shape) for x in given]
        return checked(pl.compile(product, *specs, **options).bind(*given), a @ b)


def checked(bound: Bound, want: np.ndarray, size: float = 1e-4) -> Bound:
    """What is timed must be right."""
    error = np.abs(np.asarray(bound.run()) - want).max()
    if error > size * np.abs(want).max() * np.sqrt(want.size):
        raise SystemExit(f"a product is wrong by {error:.3g}")
    return bound


def timed(programs: dict[Tile | None, Bound], seconds: float) -> dict[Tile | None, float]:
    """The shortest time of a run of each, in turns."""
    best = dict.fromkeys(programs, float("inf"))
    until = time.perf_counter() + seconds * len(programs)
    while time.perf_counter() < until:
        for tile, bound in programs.items():
            for _ in range(3):
                start = time.perf_counter()
                bound.run()
                best[tile] = min(best[tile], time.perf_counter() - start)
    return best


def measured(options: argparse.Namespace, shape: tuple[int, int, int], form: str) -> list[dict]:
    """The rows of one shape in one form, printed."""
    m, k, n = shape
    tiles: list[Tile | None] = [None, *options.tiles]
    programs = {tile: program(shape, form, tile, options.threads) for tile in tiles}
    best = timed(programs, options.seconds)
    lanes = Target.host().lanes(f32)
    print(f"{m} x {k} x {n}, {form}")
    rows = []
    for tile, seconds in sorted(best.items(), key=lambda item: item[1]):
        speed = 2 * m * k * n / seconds / 1e9
        label = "*" if tile is None else "x".join(map(str, tile))
        size = "" if tile is None else f"{tile[1]} rows x {tile[0] * lanes} columns"
        print(f"  {label:6}{size:24}{1e6 * seconds:10.1f} us{speed:9.1f} GFLOP/s")
        rows.append({"shape": shape, "form": form, "tile": tile, "us": 1e6 * seconds})
    return rows


def sizes(text: str) -> list[tuple[int, ...]]:
    """ "2x3,4x5" as tuples."""
    return [tuple(int(x) for x in word.split("x")) for word in text.split(",")]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=sizes, default=sizes(SHAPES))
    parser.add_argument("--forms", type=lambda text: text.split(","), default=["weight"])
    parser.add_argument("--tiles", type=sizes, default=candidates())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each tile")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := {*options.forms} - {*FORMS}:
        parser.error(f"forms are {', '.join(FORMS)}, got {', '.join(unknown)}")
    print(f"{processor()}, {options.threads} threads, {Target.host().core}")
    rows = [r for s in options.shapes for f in options.forms for r in measured(options, s, f)]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
