"""`planish cache`: what is kept of compiled programs, and how to be rid of it."""

from __future__ import annotations

from typing import Any

import click

from planish.frontend.cli.common import examples, json_text
from planish.frontend.cli.table import facts_text
from planish.runtime.cache import LIMIT, cache_at
from planish.runtime.target import cache_folder


@click.group(epilog=examples("planish cache info", "planish cache clear"), no_args_is_help=False)
def command() -> None:
    """Compiled programs that are kept, so that the next process need not compile them.

    PLANISH_CACHE names another folder, or says off.
    """


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Where they are, how many, and how large."""
    folder = cache_folder()
    sizes = [facts.st_size for _, facts in cache_at(folder).entries()]
    found: dict[str, Any] = {
        "folder": None if folder is None else str(folder),
        "entries": len(sizes),
        "bytes": sum(sizes),
        "limit": LIMIT,
    }
    print(json_text(found) if as_json else facts_text(found))


@command.command()
def clear() -> None:
    """Remove them all."""
    print(f"{cache_at(cache_folder()).clear():,} removed")
