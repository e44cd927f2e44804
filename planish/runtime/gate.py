"""Locks and forks: nobody forks while a thread is in native code that keeps locks."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from types import TracebackType


class Gate:
    """`with gate:` around native code; any number of threads may be inside, but for a fork none.

    A forked child has only the thread that forked, and finds the gate open and `lock` free.
    """

    def __init__(self, lock: AbstractContextManager) -> None:
        self._lock = lock
        self._change = threading.Condition(threading.Lock())
        self._inside: list[int] = []  # threads
        self._forks = 0  # that wait
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before, after_in_parent=self._parent, after_in_child=self._child
            )

    def __enter__(self) -> None:
        mine = threading.get_ident()
        with self._change:
            while self._forks and mine not in self._inside:
                self._change.wait()
            self._inside.append(mine)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with self._change:
            self._inside.remove(threading.get_ident())
            self._change.notify_all()

    def _before(self) -> None:
        self._change.acquire()
        self._forks += 1
        mine = threading.get_ident()
        while any(thread != mine for thread in self._inside):
            self._change.wait()
        self._lock.__enter__()

    def _parent(self) -> None:
        self._lock.__exit__(None, None, None)
        self._forks -= 1
        self._change.notify_all()
        self._change.release()

    def _child(self) -> None:
        self._lock.__exit__(None, None, None)
        mine = threading.get_ident()
        self._inside = [thread for thread in self._inside if thread == mine]
        self._forks = 0
        self._change.release()
        self._change = threading.Condition(threading.Lock())


class ProcessLock:
    """A lock that a forked child finds open, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            self._lock, self._process = threading.Lock(), os.getpid()
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._lock.release()
