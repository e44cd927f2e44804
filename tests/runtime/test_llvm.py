"""What LLVM objects need: an order in which they end, words where LLVM refuses a module, several
modules at once, forks meanwhile."""

from __future__ import annotations

import _thread
import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from planish.ir.errors import CompileError
from planish.runtime.crew import HAND_OVER, Crew
from planish.runtime.gate import Gate
from planish.runtime.llvm import Library, compile_text, compile_texts
from planish.runtime.target import Target
from tests.runtime.test_pool import wait

TEXT = "define i64 @planish_f(i64 %x) {\n  ret i64 %x\n}\n"


def chain(length: int) -> Iterator[str]:
    """Modules, each with a function that adds 1 to what the one of the next module returns."""
    for i in range(length):
        yield f"""declare i64 @k{i + 1}_f(i64)
            define i64 @k{i}_f(i64 %x) {{
            %y = call i64 @k{i + 1}_f(i64 %x)
            %z = add i64 %y, 1
            ret i64 %z }}"""
    yield f"define i64 @k{length}_f(i64 %x) {{ ret i64 %x }}"


def called(codes: tuple[bytes, ...]) -> int:
    library = Library(codes, Target.host())
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(library.address("k0_f"))(100)


def ended(before: int) -> bool:
    """Whether no more threads than `before` are left: those of a crew end when they find it out."""
    late = time.monotonic() + 5
    while _thread._count() > before and time.monotonic() < late:
        time.sleep(0.001)
    return _thread._count() <= before


def test_functions_of_several_modules_call_each_other() -> None:
    codes = compile_texts(chain(20), Target.host())
    assert len(codes) == 21 and called(codes) == 120
    assert codes == tuple(compile_text(text, Target.host()) for text in chain(20))


def test_many_threads_compile_at_once() -> None:
    with ThreadPoolExecutor(6) as workers:
        found = list(
            workers.map(lambda n: called(compile_texts(chain(n), Target.host())), range(18))
        )
    assert found == [100 + n for n in range(18)]


@pytest.mark.usefixtures("uncached")
def test_one_core_compiles_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_THREADS", "1")
    before = _thread._count()
    assert called(compile_texts(chain(3), Target.host())) == 103
    assert ended(before)


@pytest.mark.usefixtures("uncached")
def test_a_module_that_is_refused_ends_the_others(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = _thread._count()
    with pytest.raises(CompileError, match="a fault of planish"):
        compile_texts([*chain(10), "define", *chain(10)], Target.host())
    assert ended(before)
    assert called(compile_texts(chain(4), Target.host())) == 104


@pytest.mark.usefixtures("uncached")
def test_an_error_of_who_makes_the_texts_ends_the_work() -> None:
    def texts() -> Iterator[str]:
        yield from chain(5)
        raise KeyboardInterrupt

    before = _thread._count()
    with pytest.raises(KeyboardInterrupt):
        compile_texts(texts(), Target.host())
    assert ended(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_helpers_compile() -> None:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            compile_texts(chain(12), Target.host())

    workers = [threading.Thread(target=busy) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if called(compile_texts(chain(9), Target.host())) == 109 else 1)
            assert wait(child) == 0
    finally:
        stop.set()
        for worker in workers:
            worker.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_thread_may_fork_inside_the_gate() -> None:
    gate = Gate(threading.RLock())
    with gate:
        child = os.fork()
        if child == 0:
            with gate:
                pass
            os._exit(0)
    assert wait(child) == 0
    with gate:
        pass


def test_a_crew_runs_all_jobs_and_raises_what_one_raises() -> None:
    done: list[int] = []
    for threads in (1, 2, 5):
        with Crew(threads) as crew:
            for k in range(50):
                crew.add(lambda k=k: done.append(k))
            crew.finish()
    assert sorted(done) == sorted([*range(50)] * 3)
    with Crew(2) as crew:
        crew.add(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            crew.finish()


def test_a_crew_sets_the_interval_of_the_interpreter_back() -> None:
    before, seen = sys.getswitchinterval(), []
    with Crew(2) as crew:
        crew.add(lambda: seen.append(sys.getswitchinterval()))
        with Crew(3) as other:
            other.add(lambda: None)
        crew.add(lambda: seen.append(sys.getswitchinterval()))
        crew.finish()
    assert seen == [pytest.approx(HAND_OVER)] * 2
    assert sys.getswitchinterval() == before


def test_a_crew_does_not_wait_for_a_helper_that_never_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One without memory for its first call ends at once, and only the system knows."""
    monkeypatch.setattr("planish.runtime.crew._thread.start_new_thread", lambda *_: 1)
    done: list[int] = []
    with Crew(3) as crew:
        for start in (0, 5):
            for k in range(start, start + 5):
                crew.add(lambda k=k: done.append(k))
            crew.finish()
        crew.add(lambda: 1 // 0)
        crew.add(lambda: done.append(-1))
        with pytest.raises(ZeroDivisionError):
            crew.finish()
    assert done == [*range(10)]


def test_a_crew_without_room_for_threads_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def refuse(*given: object) -> int:
        tried.append(given)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("planish.runtime.crew._thread.start_new_thread", refuse)
    done: list[int] = []
    with Crew(3) as crew:
        crew.add(lambda: done.append(1))
        crew.add(lambda: done.append(2))
        crew.finish()
    assert done == [1, 2] and len(tried) == 1


def test_code_in_a_cycle_is_collected() -> None:
    host = Target.host()
    code = compile_text(TEXT, host)
    for _ in range(5):
        cycle: list[object] = [Library([code], host)]
        cycle.append(cycle)
        del cycle
    assert gc.collect() > 0


@pytest.mark.parametrize("text", ["define", TEXT.replace("ret i64 %x", "ret i64 %y")])
def test_row_35_a_module_that_llvm_refuses_is_kept_in_a_file(
    text: str, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(CompileError, match="a fault of planish") as caught:
        compile_text(text, Target.host())
    (kept,) = tmp_path.glob("*.ll")
    assert str(kept) in str(caught.value) and text in kept.read_text()
