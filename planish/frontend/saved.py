"""Programs, generators and steps of training in files: libraries (.so) and bundles (.bundle)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from planish.frontend.compiled import BUNDLE, Compiled, program_of
from planish.ir.later import later
from planish.runtime.artifact import read_shared

if TYPE_CHECKING:
    from planish.frontend.saved_generator import SavedGenerator
    from planish.frontend.saved_step import SavedStep

bundle = later("planish.frontend.bundle")  # and with it checkpoints and models
saved_generator = later("planish.frontend.saved_generator")
saved_step = later("planish.frontend.saved_step")


def load(
    path: str | os.PathLike[str], threads: int | None = None
) -> Compiled | SavedGenerator | SavedStep:
    """The program, generator or step of training in a library, or the best program in a bundle.

    Weights stay in the file, but those of a bundle are packed for the program. ArtifactError if it
    is none or damaged, TargetError if this processor cannot run it. Loading a program is running
    its author's code: load those that you trust.
    """
    file = Path(path)
    if file.suffix == BUNDLE:
        return bundle.load_bundle(file, threads)
    found = read_shared(file)
    if found.is_program or found.facts["kind"] == "function":
        return program_of(found, threads)
    if found.facts["kind"] == "step":
        return saved_step.SavedStep(found, threads)
    return saved_generator.SavedGenerator(found, threads)
