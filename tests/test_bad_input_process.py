"""Threads, forks, Ctrl-C, memory and NaN: one test for each row of the table, by its number.

What could take the test process down runs in a process of its own.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

import planish as pl
from tests.frontend.small import TEXT, TOKENS, small_model, small_trainer
from tests.refusal import refusal, says

ROOT = Path(__file__).resolve().parent.parent
X = np.arange(12, dtype=np.float32).reshape(3, 4)


def run_python(code: str) -> str:
    """What a new Python process prints; it must end by itself, and well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", dedent(code)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("threads", [1, 2])
def test_row_57_two_threads_on_one_function(threads: int) -> None:
    program = pl.compile(lambda x: (x @ x.T + 1).sum(axis=0), pl.spec((3, 4)), threads=threads)
    wanted = [program(X + i) for i in range(4)]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(100):
            if not np.array_equal(program(X + i), wanted[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert not wrong and not any(worker.is_alive() for worker in workers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_row_58_fork_after_compile() -> None:
    printed = run_python("""
        import os, warnings
        import numpy as np
        import planish as pl

        x = np.ones((64, 64), np.float32)
        program = pl.compile(lambda x: x @ x, x, threads=2)
        wanted = program(x)
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        child = os.fork()
        again = np.array_equal(program(x), wanted)
        fresh = np.array_equal(pl.compile(lambda x: x @ x + 1, x, threads=2)(x), wanted + 1)
        if child:
            _, status = os.waitpid(child, 0)
            print(again, fresh, os.waitstatus_to_exitcode(status))
        else:
            os._exit(0 if again and fresh else 1)
    """)
    assert printed.split() == ["True", "True", "0"]


CTRL_C = """
    import os, signal, threading, time
    import numpy as np
    import planish as pl
    from tests.frontend.small import TOKENS, same_state, small_model, small_trainer

    sent = []

    def interrupt():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    def interrupted(call):
        threading.Timer(0.3, interrupt).start()
        try:
            call()
        except KeyboardInterrupt:
            print(time.perf_counter() - sent[-1])
        else:
            print("missed")
"""


def test_row_59_ctrl_c_in_generation() -> None:
    printed = run_python(
        dedent(CTRL_C)
        + dedent("""
        model = small_model()
        wanted = model.generate([1, 2], 4, seed=1)
        interrupted(lambda: model.generate([1, 2], 10**9, sliding_window=True))
        print(np.array_equal(model.generate([1, 2], 4, seed=1), wanted))
    """)
    )
    seen, same = printed.split()
    assert float(seen) < 2 and same == "True"


def test_row_59_ctrl_c_in_training() -> None:
    printed = run_python(
        dedent(CTRL_C)
        + dedent("""
        trainer = small_trainer(backend="native", threads=2)
        trainer.fit(TOKENS, 1)
        interrupted(lambda: trainer.fit(TOKENS, 10**9))
        trainer.fit(TOKENS, 2)
        whole = small_trainer(backend="native", threads=2)
        whole.fit(TOKENS, trainer.steps)
        print(trainer.steps > 3, same_state(trainer, whole))
    """)
    )
    seen, *same = printed.split()
    assert float(seen) < 2 and same == ["True", "True"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("spare", [0, 4, 16, 320])
@pytest.mark.usefixtures("uncached")
def test_row_60_out_of_memory(spare: int) -> None:
    """With `spare` MiB left, a call ends well or with MemoryError, and what was made still works.

    LLVM ends the process where it finds no memory, so it must not be asked then.
    """
    printed = run_python(f"""
        import resource
        import numpy as np
        import planish as pl
        import planish.numpy as pnp

        x = np.ones((64, 64), np.float32)
        warm = pl.compile(lambda x: x + 1, x, threads=1)
        large = pl.compile(lambda x: pnp.broadcast_to(x, (2**15, 64, 64)) * 2, x, threads=1)
        inside = pl.compile(lambda x: ((x @ x.T) @ x).sum(), pl.spec(("T", 64)), threads=1)
        warm(x)
        model = pl.TinyGPT(65, 32, 1, 2, 16)

        def tried(call):
            try:
                call()
                print("done")
            except MemoryError as error:
                print(bool(str(error)))

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + ({spare} << 20), limits[1]))
        tried(lambda: large(x))
        tried(lambda: inside(np.ones((30_000, 64), np.float32)))
        tried(lambda: pl.compile(model, pl.spec((1, 16), "i32"), threads=2))
        resource.setrlimit(resource.RLIMIT_AS, limits)
        pl.compile(model, pl.spec((1, 16), "i32"), threads=2)(np.zeros((1, 16), np.int32))
        print((warm(x) == 2).all())
    """)
    *tried, works = printed.split()
    assert tried == ["True", "True", "done" if spare == 320 else "True"] and works == "True"


def test_row_62_a_loss_that_becomes_nan(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    trainer = small_trainer(schedule=lambda step: 1e-2 if step < 3 else 1e30)
    text = refusal(ValueError, lambda: trainer.fit(TEXT, 9, checkpoint=path, checkpoint_every=3))
    says(text, "at step", "the weights are still those before this step", "learning rate")
    good = small_trainer()
    good.resume(path)
    assert good.steps == 3 and all(np.isfinite(x).all() for x in good.snapshot().weights.values())

    model = small_model()
    weight = model.wte.weight.array.copy()
    weight[0, 0] = math.nan
    model.wte.weight.array = weight
    with pytest.warns(RuntimeWarning, match="loss is nan at step 1"):
        small_trainer(model).fit(TOKENS, 1, nan="warn")
