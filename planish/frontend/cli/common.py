"""What commands share: options, examples in their help, notes for the person at the terminal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from planish.ir.files import need_place

File = click.Path(path_type=Path)

model_argument = click.argument("model", type=File)
threads_option = click.option(
    "--threads", type=int, metavar="N", help="Threads to use.  [default: all cores]"
)


def pipeline_option(default: str = "O2") -> Callable[[Any], Any]:
    """The option --pipeline."""
    return click.option(
        "--pipeline",
        default=default,
        show_default=True,
        metavar="P",
        help="Passes to run: O0, O1, O2, or a list such as simplify,cse,expand,fuse.",
    )


def examples(*lines: str) -> str:
    """The end of a help text."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def note(text: str) -> None:
    """Tell the person at the terminal; a script sees nothing."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def json_text(facts: Any) -> str:
    """Facts as JSON, which has no NaN and no infinity: those become null."""

    def plain(x: Any) -> Any:
        if isinstance(x, dict):
            return {name: plain(item) for name, item in x.items()}
        if isinstance(x, (list, tuple)):
            return [plain(item) for item in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(plain(facts), indent=2)


def need_folder_of(path: Path) -> None:
    """Refuse a file that cannot be written, before work is put into it."""
    try:
        need_place(path)
    except OSError as error:
        raise click.UsageError(str(error)) from error
