"""What a person at a terminal sees and does during long work: a progress bar, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from planish.ir.later import later

rich = later("rich.progress")

Report = Callable[[int, str], None]  # (steps done, a few words)
INTERVAL = 0.1  # seconds between two pictures of the bar


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block has ended, so that what the block changes is changed whole."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    waiting: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def progress_bar(title: str, total: int, wanted: bool | None = None) -> Iterator[Report]:
    """A bar on standard error; without `wanted`, only where that is a terminal."""
    console = rich.Console(stderr=True) if wanted or sys.stderr.isatty() else None
    if console is None or not (console.is_terminal if wanted is None else wanted):
        yield lambda done, words: None
        return
    columns: tuple[Any, ...] = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TextColumn("{task.completed}/{task.total}"),
        rich.TextColumn("{task.fields[words]}"),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
    )
    # no thread of its own: it would take time from the threads that compute
    with rich.Progress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task(title, total=total, words="")
        last = 0.0

        def report(done: int, words: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= INTERVAL or done >= total:
                last = now
                bar.update(task, completed=done, words=words, refresh=True)

        yield report
