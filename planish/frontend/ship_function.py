"""Writing compiled functions for C: a library, an object file, a header.

pl.compile(f, pl.spec((pl.Dim("B", max=64), 8))).save("f.so", prefix="f_")      # and f.h
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planish.frontend.ship import EMITS, check_names
from planish.ir.later import later
from planish.runtime.artifact import level_name

shipping = later("planish.runtime.ship.function")


def save_function(
    program: Any, path: Path, weights: str, prefix: str, more: Mapping[str, Any]
) -> None:
    """Write a program; what the arguments mean stands at `Compiled.save`, `more` are its facts."""
    check_names(path, weights, prefix)
    levels = {level_name(program.target): {shipping.CALL: program}}
    shipped = shipping.ShippedFunction(levels=levels, more=more, prefix=prefix)
    if path.suffix == EMITS["header"]:
        shipped.save_header(path)
    else:
        shipped.save(path, inside=weights == "embed")
