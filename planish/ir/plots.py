"""Plots need matplotlib, an optional extra: refused before work is put into one."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from planish.ir.errors import UnsupportedError

KINDS = (".svg", ".png", ".pdf")


def need_plot(path: str | os.PathLike[str]) -> Path:
    """The path of a plot; UnsupportedError without matplotlib, or for other kinds of files."""
    target = Path(path)
    if target.suffix.lower() not in KINDS:
        raise UnsupportedError(f"a plot is a {', '.join(KINDS)} file, not {target.name!r}")
    if find_spec("matplotlib") is None:
        raise UnsupportedError("plots need matplotlib: pip install 'planish[plot]'")
    return target
