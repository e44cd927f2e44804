"""Python's garbage collector waits while programs are made.

Graphs, plans and loops are many small objects that stay. The collector would look through all of
them again and again, and through all that the process holds besides, and find nothing to free.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection inside; the collector is then as it was before. Also a decorator."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
