"""Linking object files into libraries and programs, with the linker that is there.

`cc`, `ld`, then `python -m ziglang` are tried in this order; a program for itself needs a C
compiler's start-up code, which `ld` alone has not. Programs that run where they are compiled need
none of them. For another architecture it is `aarch64-linux-gnu-gcc`, say. The environment variable
CC names a compiler to take instead: one of another name, or with options.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from planish.ir.errors import LinkError
from planish.runtime.target import compiler_wanted, machine_arch

SHOWN = 400  # characters of what a linker says
INSTALL = (
    "install one with `pip install 'planish[link]'`, or a C compiler (Debian: {}), or name it in CC"
)
# What each linker is told for a kind of result; none where it cannot make it
FLAGS: dict[str, dict[str, list[str]]] = {
    "cc": {
        "library": ["-nostartfiles", "-shared", "-Wl,-Bsymbolic,-z,noexecstack"],
        "object": ["-nostdlib", "-r"],
        "program": ["-Wl,-z,noexecstack"],
    },
    "ld": {
        "library": ["-shared", "-Bsymbolic", "--eh-frame-hdr", "-z", "noexecstack"],
        "object": ["-r"],
    },
    "zig": {
        "library": ["ld.lld", "-shared", "-Bsymbolic", "--eh-frame-hdr", "-z", "noexecstack"],
        "object": ["ld.lld", "-r"],
        "program": ["cc", "-target", "{}-linux-gnu", "-Wl,-z,noexecstack"],
    },
}


def linker(kind: str = "library", arch: str | None = None, soname: str = "") -> list[str]:
    """The command that links for an architecture, by default this machine's.

    `soname` is the name under which programs look for a library. LinkError says what to install
    where nothing links.
    """
    arch = arch or machine_arch()
    named = [f"-soname={soname}"] if soname else []
    through = ["-Xlinker", *named] if named else []
    if wanted := _words(compiler_wanted()):
        return [*wanted, *FLAGS["cc"][kind], *through]
    is_other = arch != machine_arch()
    compiler, plain = (f"{arch}-linux-gnu-{x}" for x in ("gcc", "ld")) if is_other else ("cc", "ld")
    for name, flags, more in ((compiler, FLAGS["cc"], through), (plain, FLAGS["ld"], named)):
        found = shutil.which(name)
        if found and kind in flags:
            return [found, *flags[kind], *more]
    if importlib.util.find_spec("ziglang") is not None:
        made = [x.format(arch) for x in FLAGS["zig"][kind]]
        return [sys.executable, "-m", "ziglang", *made, *named]
    tried = f"{compiler} nor ziglang" if kind == "program" else f"{compiler}, {plain} nor ziglang"
    package = f"gcc-{arch.replace('_', '-')}-linux-gnu" if is_other else "gcc"
    where = f"for {arch}" if is_other else "here"
    raise LinkError(f"no linker {where}: neither {tried}; {INSTALL.format(package)}")


def _words(command: str) -> list[str]:
    """The words of what CC says."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise LinkError(f"CC is {command}, which is no command: {error}") from error


def link(
    folder: Path, objects: Sequence[str], out: Path, kind: str, arch: str, soname: str = ""
) -> None:
    """Link objects, files in `folder`, into a library, an object or a program, in one step.

    The folder is on the file system of `out`. LinkError says what the linker said.
    """
    # run there: names of files, which a library may hold, are the same every time
    command = [*linker(kind, arch, soname), "-o", "out", *objects]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LinkError(f"{command[0]} cannot be run: {error.strerror}") from error
    made = folder / "out"
    if done.returncode or not made.is_file():
        told = " ".join((done.stderr or done.stdout or "it said nothing").split())
        raise LinkError(f"{command[0]} failed with code {done.returncode}: {told[:SHOWN]}")
    os.replace(made, out)
