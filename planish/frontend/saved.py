"""Programs in files: shared libraries (.so) and bundles (.bundle)."""

from __future__ import annotations

import os
from pathlib import Path

from planish.frontend.compiled import Compiled
from planish.frontend.compiled import load as load_shared
from planish.ir.later import later

bundle = later("planish.frontend.bundle")  # and with it checkpoints and models


def load(path: str | os.PathLike[str], threads: int | None = None) -> Compiled:
    """The program in a library that `save` wrote, or the best one in a bundle.

    Weights stay in the file, but those of a bundle are packed for the program. ArtifactError if it
    is none or damaged, TargetError if this processor cannot run it. Loading a program is running
    its author's code: load those that you trust.
    """
    file = Path(path)
    if file.suffix == ".bundle":
        return bundle.load_bundle(file, threads)
    return load_shared(file, threads)
