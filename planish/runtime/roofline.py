"""The roofline as a picture: operations a second over operations for each byte, both log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planish.ir.plots import need_plot
from planish.runtime.roof import Roof

LABELLED = 14  # kernels with a name: the slowest
_SPAN = 1e-2, 1e3  # operations for each byte, at least


def draw(path: str | Path, title: str, rows: Sequence[Any], roof: Roof | None) -> None:
    """Write the picture; a point for each kernel that computes, as large as its share of time."""
    need_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.5), layout="constrained")
    axes = figure.add_subplot(
        xscale="log",
        yscale="log",
        xlabel="FLOP / byte",
        ylabel="GFLOP/s",
        title=title if roof is None else f"{title}, {roof.threads} threads",
    )
    points = sorted((r for r in rows if r.flops and r.bytes), key=lambda r: -r.seconds)
    if roof is not None:
        _roof(axes, roof, [r.flops / r.bytes for r in points])
    whole = sum(r.seconds for r in rows) or 1.0
    for number, row in enumerate(points, 1):
        at, share = (row.flops / row.bytes, row.flop_rate / 1e9), row.seconds / whole
        name = f"{number}  {row.label}  {100 * share:.0f}%" if number <= LABELLED else None
        axes.scatter(*at, s=30 + 600 * share, alpha=0.6, zorder=3, label=name)
        if name:
            axes.annotate(str(number), at, ha="center", va="center", fontsize=7, zorder=4)
    axes.grid(True, which="major", lw=0.3)
    if points:
        figure.legend(loc="outside lower left", ncols=2, fontsize=7, markerscale=0.5, frameon=False)
    figure.savefig(path)


def _roof(axes: Any, roof: Roof, intensities: Sequence[float]) -> None:
    """Lines: the peaks, and below them the bandwidth of each level."""
    low, high = min([*intensities, _SPAN[0]]), max([*intensities, _SPAN[1]])
    peaks = [("FMA", roof.fma), ("bf16", roof.bf16), ("int8", roof.int8)]
    top = max(speed for _, speed in peaks if speed)
    for name, speed in peaks:
        if speed:
            axes.plot([low, high], [speed / 1e9] * 2, "k", lw=1)
            axes.annotate(f"{name} {speed / 1e9:.0f} GFLOP/s", (high, speed / 1e9), ha="right",
                          va="bottom", fontsize=8)  # fmt: skip
    for reading in roof.readings:
        corner = top / reading.speed
        line = [low * reading.speed / 1e9, top / 1e9]
        axes.plot([low, corner], line, "k", lw=1, ls="--", alpha=0.6)
        text = f"{reading.level} {reading.speed / 1e9:.0f} GB/s"
        axes.annotate(text, (low, line[0]), xytext=(4, 4), fontsize=8,
                      textcoords="offset points", rotation=45, rotation_mode="anchor",
                      transform_rotates_text=True)  # fmt: skip
