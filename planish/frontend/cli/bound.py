"""The option --calibrate: text for recipes that look at some before they run.

They see the first half of it, as those of `planish compress` do, so that what that command prints
makes here what it has measured there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from planish.frontend.auto import BUDGET
from planish.frontend.cli.common import File
from planish.frontend.cli.recipes import AUTO
from planish.frontend.compress import named_recipe
from planish.frontend.judge import halves
from planish.frontend.text import read_text
from planish.frontend.tokenizers.base import Tokenizer
from planish.ir.errors import DataError
from planish.passes.pipeline import Pipeline, pass_text
from planish.passes.pipelines import pipeline

Recipe = str | Pipeline

calibrate_option = click.option(
    "--calibrate", type=File, metavar="FILE",
    help="Text for passes that look at some; they see its first half, as with compress --text.",
)  # fmt: skip


def bound(
    model: Any, recipes: Sequence[str], text: Path | None, tokenizer: Tokenizer | None,
    threads: int | None = None, option: str = "--pipeline",
) -> list[Recipe]:  # fmt: skip
    """Recipes, those bound to a text that look at one: what reads them needs no text any more.

    UsageError where one does and there is no text, or none does and there is one.
    """
    looking = {x: by for x in recipes if (by := what_looks(x))}
    if text is None:
        if looking:
            by = next(iter(looking.values()))
            raise click.UsageError(f"{option}: {by} looks at text first; name it: --calibrate FILE")
        return list(recipes)
    if not looking:
        raise click.UsageError(f"--calibrate: no pass of {', '.join(recipes)} looks at text")
    if tokenizer is None:
        raise DataError(f"the model has no tokenizer, so it cannot read {text}")
    seen = halves(model, tokenizer.encode(read_text(text)))[0]
    return [
        named_recipe(model, x, seen, BUDGET, "", threads)[1] if x in looking else x for x in recipes
    ]


def what_looks(recipe: str) -> str:
    """What of a recipe looks at text, "" where nothing does."""
    if recipe == AUTO:
        return AUTO
    steps = pipeline(recipe).passes
    return next((pass_text(x) for x in steps if not getattr(x, "is_bound", True)), "")
