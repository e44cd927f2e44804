"""Which LLVM is there: a part of every key of the cache, told without loading it."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from planish.ir.later import later

metadata = later("importlib.metadata")


@cache
def llvm_version() -> str:
    """What llvmlite says of itself in its own file: `importlib.metadata` takes 3 ms to import."""
    found = find_spec("llvmlite")
    file = Path(found.origin).with_name("_version.py") if found and found.origin else None
    return file.read_text() if file and file.is_file() else metadata.version("llvmlite")
