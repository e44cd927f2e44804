"""Helpers that run jobs beside the thread that makes them: native calls, or NumPy on large arrays.

with Crew(threads) as crew:
    for part in parts:
        crew.add(lambda: work(part))
    crew.finish()
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType

Job = Callable[[], object]

# Seconds that a helper waits for the interpreter between two native calls, at most. Python's own
# 5 ms are long beside the two calls of LLVM that make a module.
HAND_OVER = 2e-4


class Crew:
    """`threads` - 1 helpers, started with the first jobs, and the caller once it has made all.

    Where the system has no room for a thread, fewer do the work: jobs are waited for, not helpers,
    as one that has no memory to begin with never tells (`threading.Thread.start` would wait for it
    forever). As long as there are helpers, the interpreter goes from thread to thread as often as
    `HAND_OVER` says.
    """

    def __init__(self, threads: int) -> None:
        self._most = threads - 1
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._helpers = 0
        self._waited = 0  # jobs that helpers may have taken
        self._done = threading.Semaphore(0)  # how many of those are done
        self._error: BaseException | None = None
        self._interval = 0.0  # that was there before ours

    def add(self, job: Job) -> None:
        """Run `job` soon, in any order, on any thread."""
        self._jobs.put(job)
        self._waited += 1
        if self._helpers < self._most:
            self._hasten()
            try:
                _thread.start_new_thread(self._help, (self._jobs,))
            except RuntimeError:  # no memory for its stack, or Python is ending
                self._most = 0
            else:
                self._helpers += 1

    def finish(self) -> None:
        """Help with what is left, and wait for the others; raises what a job raised."""
        while self._error is None and (job := self._next()):
            self._run(job)
        self._end()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end()

    def _next(self) -> Job | None:
        try:
            job = self._jobs.get_nowait()
        except Empty:
            return None
        self._waited -= 1
        return job

    def _help(self, jobs: SimpleQueue[Job | None]) -> None:
        for job in iter(jobs.get, None):
            if self._error is None:
                self._run(job)
            self._done.release()

    def _run(self, job: Job) -> None:
        try:
            job()
        except BaseException as error:  # it is raised where `finish` is called
            self._error = error

    def _end(self) -> None:
        while self._next():  # nobody wants them any more
            pass
        while self._helpers:
            self._jobs.put(None)
            self._helpers -= 1
        self._jobs = SimpleQueue()  # the other has a word for each, whether or not it lives
        while self._waited:
            self._done.acquire()
            self._waited -= 1
        if self._interval:
            sys.setswitchinterval(self._interval)
            self._interval = 0.0

    def _hasten(self) -> None:
        """Shorten the interval if nobody has, who will set it back."""
        if (interval := sys.getswitchinterval()) > HAND_OVER:
            self._interval = interval
            sys.setswitchinterval(HAND_OVER)
