"""Threads: pools, concurrent callers, fork, interpreter exit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from planish.ir.errors import DataError, TargetError
from planish.runtime import target as machine
from planish.runtime.pool import POOLS
from planish.runtime.program import Program
from planish.runtime.target import Target, thread_count
from tests.runtime.plans import chain, counter

ROOT = Path(__file__).resolve().parents[2]


def big(rows: int = 64, columns: int = 4096) -> tuple[Program, np.ndarray]:
    """A program whose steps are worth two threads."""
    program = Program(chain(3, columns=columns), threads=2)
    return program, np.ones((rows, columns), np.float32)


def test_two_threads_give_what_one_gives() -> None:
    program, x = big()
    one = Program(chain(3, columns=4096), threads=1)
    np.testing.assert_array_equal(program(x), one(x))
    assert (program(x) == 4).all()


def test_three_threads_share_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 3)
    program = Program(chain(5, columns=4096), threads=3)
    assert program.threads == 3
    x = np.ones((64, 4096), np.float32)
    for _ in range(20):
        assert (program(x) == 6).all()


def test_repeated_runs_keep_their_order() -> None:
    program = Program(counter(4096), threads=2)
    state, x = np.zeros((64, 4096), np.float32), np.ones((64, 4096), np.float32)
    bound = program.bind(state, x)
    bound.run(repeat=50)
    assert (state == 50).all() and (bound.outputs[1] == 100).all()


def test_callers_on_several_threads_are_all_served() -> None:
    program, x = big()
    other = Program(chain(2, columns=4096), threads=2)

    def call(k: int) -> bool:
        mine = np.full_like(x, k)
        return bool((program(mine) == k + 3).all() and (other(mine) == k + 2).all())

    with ThreadPoolExecutor(8) as workers:
        assert all(workers.map(call, range(40)))


def test_sleeping_workers_are_woken() -> None:
    program, x = big()
    for _ in range(3):
        assert (program(x) == 4).all()
        time.sleep(0.01)  # longer than they spin


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_workers_are_woken_before_there_is_work() -> None:
    program, x = big()
    for pause in (0.0, 0.01, 0.0):
        time.sleep(pause)
        program.wake()
        assert (program(x) == 4).all()
    program.wake()
    time.sleep(0.01)  # they sleep again
    assert (program(x) == 4).all()
    with POOLS.get(2)._lock:
        program.wake()  # while another runs
    Program(chain(3, columns=4096), threads=1).wake()


def test_a_forked_child_runs_and_compiles() -> None:
    program, x = big()
    bound = program.bind(x)
    bound.run()
    child = os.fork()
    if child == 0:
        good = (bound.run() == 4).all() and (program(x) == 4).all()
        good = good and (Program(chain(2, columns=4096), threads=2)(x) == 3).all()
        os._exit(0 if good else 1)
    assert wait(child) == 0
    assert (program(x) == 4).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_other_threads_compile_and_run() -> None:
    program, x = big()
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            program(x)
            Program(chain(2), threads=1)

    worker = threading.Thread(target=busy)
    worker.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                good = (program(x) == 4).all() and Program(chain(1), threads=1) is not None
                os._exit(0 if good else 1)
            assert wait(child) == 0
    finally:
        stop.set()
        worker.join()


def test_a_child_forgets_where_the_parents_threads_were() -> None:
    program, x = big()
    bound = program.bind(x)
    bound.run()
    bound._space.barrier[:] = 1  # as a fork in the middle of a run may leave it
    bound._space.status[0] = 1
    bound._space.process = -1
    assert (bound.run() == 4).all()


def wait(child: int, seconds: float = 20.0) -> int:
    """The exit code of a child; a hanging one is ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1


SCRIPT = """
import numpy as np
from planish.runtime.program import Program
from tests.runtime.plans import chain
program = Program(chain(3, columns=4096), threads=2)
x = np.ones((64, 4096), np.float32)
print(int(program(x).sum()))
"""


def test_the_interpreter_exits_cleanly() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{64 * 4096 * 4}\n", "")


def test_pools_are_made_once() -> None:
    assert POOLS.get(2) is POOLS.get(2)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "two"])
def test_thread_counts_are_refused_by_name(wrong: object) -> None:
    with pytest.raises(DataError, match=r"threads must be a whole number of at least 1, got"):
        thread_count(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5"])
def test_environment_is_refused_by_name(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_THREADS", wrong)
    with pytest.raises(ValueError, match="PLANISH_THREADS must be a whole number of at least 1"):
        thread_count()


def test_more_threads_than_cores_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 2)
    assert thread_count(64) == 2
    monkeypatch.setenv("PLANISH_THREADS", "99")
    assert thread_count() == 2
    assert thread_count(1) == 1


def test_the_quota_of_a_control_group_counts(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert machine._cgroup_quota(membership, tmp_path) == 1.5
    membership.write_text("0::/\n")
    assert machine._cgroup_quota(membership, tmp_path) is None


def test_the_memory_of_a_control_group_counts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "memory.max").write_text("1048576\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("4096\n")
    membership = tmp_path / "cgroup"
    for text, least in (("0::/a\n", 1 << 20), ("5:cpu,memory:/\n", 4096), ("0::/\n", 1 << 63)):
        membership.write_text(text)
        assert min(machine._cgroup_memory(membership, tmp_path)) == least
    assert 1 << 24 < machine.memory_limit() <= 1 << 63


def test_unknown_targets_are_refused_with_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'pentium'; known are host, x86-64, "):
        Target.parse("pentium")
    assert Target.parse("aarch64:neoverse-n1").arch == "aarch64"


def test_code_for_another_processor_does_not_run() -> None:
    other = "aarch64" if Target.host().arch == "x86_64" else "x86-64"
    program = Program(chain(2), target=other)
    with pytest.raises(TargetError, match="cannot run on"):
        program(np.zeros((2, 40), np.float32))


def test_missing_features_are_named() -> None:
    host = Target.host()
    other = Target("wish", host.triple, host.cpu, host.features | {"avx9000"})
    with pytest.raises(TargetError, match="code for wish needs avx9000"):
        other.require_host()
