"""Pictures of what `compare.py` and `scaling.py` have measured. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contestant import OURS

# contestant -> colour, the same in all pictures
COLOURS = {
    "planish": "#c2410c", "torch": "#1f2937", "torch.compile": "#4b5563",
    "torch.compile-max": "#9ca3af", "onnxruntime": "#0e7490", "jax": "#6d28d9",
    "onnxruntime-weights": "#67b3c4", "openvino": "#15803d", "llama.cpp": "#a16207",
    "zentorch": "#be185d",
}  # fmt: skip
ACROSS = 3  # panels beside each other


def new_figure(**options: Any) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "planish"})
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained", **options)


def plot_rows(rows: list[dict], where: dict, path: Path) -> None:
    """A panel for each config, workload and dtype: a bar of the median for each contestant."""
    panels: dict[str, list[dict]] = {}
    for row in rows:
        panels.setdefault(f"{row['config']} {row['workload']} {row['dtype']}", []).append(row)
    across = min(ACROSS, max(1, len(panels)))
    down = max(1, -(-len(panels) // across))
    figure, axes = new_figure(
        nrows=down, ncols=across, squeeze=False, figsize=(3.6 * across, 0.6 + 1.6 * down)
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, group) in zip(axes.flat, panels.items(), strict=False):
        bars(axis, title, group)
    figure.suptitle(f"{where['cpu']}, {where['threads']} threads, {where['date']}: ms, median")
    save(figure, path)


def bars(axis: Any, title: str, group: list[dict]) -> None:
    """One panel, the fastest on top."""
    group = sorted(group, key=lambda row: -row["median_ms"])
    names = [row["contestant"] + (" (noisy)" if row["noisy"] else "") for row in group]
    values = [row["median_ms"] for row in group]
    drawn = axis.barh(names, values, color=[colour(row["contestant"]) for row in group])
    axis.bar_label(drawn, [f"{v:,.{max(0, 2 - len(str(int(v))) + 1)}f}" for v in values], padding=2)
    if roof := group[0]["roof_ms"]:
        axis.axvline(roof, color="black", linestyle=":", linewidth=1)
        below = {"transform": axis.get_xaxis_transform(), "ha": "center", "va": "top"}
        axis.text(roof, -0.02, "roof", fontsize=7, **below)
    axis.set_title(title)
    axis.margins(x=0.18)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelbottom=False, bottom=False)


def colour(name: str) -> str:
    """Of a contestant."""
    return COLOURS.get(name, COLOURS[OURS])


def lines(
    path: Path, title: str, axis_names: tuple[str, str], series: dict[str, list[tuple]],
    roofs: dict[str, list[tuple]], logarithmic: bool = True,
) -> None:  # fmt: skip
    """Points over a size, a line for each contestant; roofs dotted."""
    figure, axis = new_figure(figsize=(5.2, 3.4))
    from matplotlib.ticker import LogLocator

    for name, points in series.items():
        look = {"color": colour(name.split(",")[0]), "linestyle": "--" if "," in name else "-"}
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, **look)
    for name, points in roofs.items():
        axis.plot(*zip(*points, strict=True), color="black", linestyle=":", label=name)
    if logarithmic:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        sizes = sorted({x for points in (*series.values(), *roofs.values()) for x, _ in points})
        axis.set_xticks(sizes, [f"{x:,}" for x in sizes])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # some in less than a decade, too
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    else:
        axis.set_ylim(bottom=0)
    axis.set_xlabel(axis_names[0])
    axis.set_ylabel(axis_names[1])
    axis.set_title(title, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=7)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a file; an .svg carries no date, so that equal pictures are equal files."""
    figure.savefig(path, **({"metadata": {"Date": None}} if path.suffix == ".svg" else {}))


def speedups(
    path: Path, title: str, groups: dict[str, dict[str, float]], roof: dict[str, float]
) -> None:
    """Bars in groups, a dash above each group for the roof."""
    figure, axis = new_figure(figsize=(5.2, 3.4))
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    width = 0.8 / max(1, len(names))
    for n, name in enumerate(names):
        places = [g - 0.4 + width * (n + 0.5) for g, x in enumerate(groups.values()) if name in x]
        heights = [group[name] for group in groups.values() if name in group]
        drawn = axis.bar(places, heights, width, color=colour(name), label=name)
        axis.bar_label(drawn, [f"{h:.2f}" for h in heights], padding=1, fontsize=7)
    for g, what in enumerate(groups):
        axis.hlines(roof[what], g - 0.45, g + 0.45, color="black", linestyle=":",
                    label="roof" if g == 0 else None)  # fmt: skip
    axis.set_xticks(range(len(groups)), [what.replace(" ", "\n") for what in groups])
    axis.set_ylabel("times faster")
    axis.set_title(title, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=7, loc="outside lower center", ncols=len(names) + 1)
    save(figure, path)
