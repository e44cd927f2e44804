"""Linking object files into shared libraries, with the linker that is there.

`cc`, `ld`, then `python -m ziglang ld.lld` are tried in this order. Programs that run where
they are compiled need none of them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from planish.ir.errors import LinkError

SHOWN = 400  # characters of what a linker says
INSTALL = "install one with `pip install 'planish[link]'`, or a C compiler (Debian: gcc)"


def linker() -> list[str]:
    """The command that links a shared library; LinkError says what to install where none does."""
    flags = ["-shared", "-Bsymbolic", "-z", "noexecstack"]
    if found := shutil.which("cc"):
        return [found, "-nostartfiles", "-shared", "-Wl,-Bsymbolic,-z,noexecstack"]
    if found := shutil.which("ld"):
        return [found, *flags]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "ld.lld", *flags]
    raise LinkError(f"no linker here: neither cc, ld nor ziglang; {INSTALL}")


def link_shared(folder: Path, objects: Sequence[str], out: Path) -> None:
    """Link objects, files in `folder`, into the shared library `out`, replaced in one step.

    The folder is on the file system of `out`. LinkError says what the linker said.
    """
    # run there: names of files, which a library may hold, are the same every time
    command = [*linker(), "-o", "out.so", *objects]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LinkError(f"{command[0]} cannot be run: {error.strerror}") from error
    made = folder / "out.so"
    if done.returncode or not made.is_file():
        told = " ".join((done.stderr or done.stdout or "it said nothing").split())
        raise LinkError(f"{command[0]} failed with code {done.returncode}: {told[:SHOWN]}")
    os.replace(made, out)
