"""Threads: a pool for each thread count, made when first needed, asleep when there is no work.

Workers are Python threads that stay inside one native call (`planish_worker`), so that handing
them work takes no interpreter lock and no Python. One program runs on a pool at a time. A forked
child starts without pools, because its parent's threads did not come along.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from typing import Any

from planish.ir.later import later
from planish.runtime.memory import ALIGN, aligned
from planish.runtime.target import Target, kept_in_cache
from planish.runtime.version import llvm_version

elf = later("planish.runtime.elf")
llvm = later("planish.runtime.llvm")
sync = later("planish.runtime.codegen.sync")

_LINES = 4  # of memory that the functions of a pool use


class Pool:
    """`threads` - 1 workers and the caller, who is thread 0."""

    def __init__(self, library: Any, threads: int) -> None:
        self.threads = threads
        self._library = library
        self._memory = aligned(_LINES * ALIGN)
        self._address = self._memory.ctypes.data
        self._lock = threading.Lock()
        self._run = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
        )(library.address("planish_run"))
        self._wake = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address("planish_rouse"))
        self._workers = [
            threading.Thread(target=self._work, args=(n,), name=f"planish-{n}", daemon=True)
            for n in range(1, threads)
        ]
        started = 0
        try:
            for worker in self._workers:
                worker.start()
                started += 1
        except RuntimeError as error:  # "can't start new thread": no memory for its stack
            self._workers = self._workers[:started]
            self.stop()
            raise MemoryError(f"cannot start {threads - 1} threads: {error}") from None

    def _work(self, number: int) -> None:
        work = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
        work(self._library.address("planish_worker"))(self._address, number)

    def run(self, job: int, argument: int) -> None:
        """Run the function at address `job` as job(argument, thread, threads) on all threads."""
        with self._lock:
            self._run(self._address, job, argument, self.threads)

    def wake(self) -> None:
        """Let workers that sleep wake up, and look for work for a while; do not wait for them, nor
        for a run of somebody else, who has woken them already."""
        self._wake(self._address)

    def stop(self) -> None:
        """Let the workers end."""
        stop = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._library.address("planish_stop"))
        stop(self._address)
        for worker in self._workers:
            worker.join(timeout=1.0)


class Pools:
    """The pools of this process, by thread count."""

    def __init__(self) -> None:
        self._pools: dict[int, Pool] = {}
        self._library: Any = None
        self._lock = threading.Lock()

    def get(self, threads: int, library: Any = None) -> Pool:
        """The pool with so many threads; `library` has its functions, if they are there already."""
        pool = self._pools.get(threads)
        if pool is not None:
            return pool
        with self._lock:
            if self._library is None:
                self._library = library or _functions()
            if threads not in self._pools:
                self._pools[threads] = Pool(self._library, threads)
            return self._pools[threads]

    def prepare(self) -> None:
        """Make the functions of a pool, for programs that will run soon."""
        with self._lock:
            if self._library is None:
                self._library = _functions()

    def forget(self) -> None:
        """In a forked child: the threads are the parent's."""
        self._pools = {}
        self._lock = threading.Lock()

    def stop(self) -> None:
        """End all workers, before the interpreter does."""
        for pool in self._pools.values():
            pool.stop()
        self._pools = {}


def _functions() -> Any:
    """The functions of a pool, in memory."""
    return elf.loaded([pool_object(Target.host())], Target.host())


def pool_object(target: Target) -> bytes:
    """The functions of a pool as an object file."""
    text, facts = sync.pool_text(target), (target.triple, target.cpu, target.feature_text)
    parts = ("pool", text, *facts, llvm_version())
    return kept_in_cache(parts, lambda: llvm.compile_text(text, target))


POOLS = Pools()
atexit.register(POOLS.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOLS.forget)
