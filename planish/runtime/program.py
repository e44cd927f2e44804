"""A compiled program: NumPy arrays in, NumPy arrays out, one native call between."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from planish.ir.errors import DataError, ShapeError, TargetError, TokenError
from planish.ir.later import later
from planish.runtime.arguments import (
    Arguments,
    address,
    bind_arguments,
    output_arrays,
    token_message,
)
from planish.runtime.gate import ProcessLock
from planish.runtime.image import Image
from planish.runtime.memory import ALIGN, aligned, plan_memory
from planish.runtime.pool import POOLS
from planish.runtime.scratch import scratch_bytes
from planish.runtime.target import Target, need_memory, thread_count

if TYPE_CHECKING:
    from planish.ir.loops import Kernel
    from planish.runtime.plan import Plan
    from planish.runtime.profile import Profile, Work
    from planish.runtime.recording import Span
    from planish.runtime.roof import Roof

build = later("planish.runtime.build")  # and with it LLVM
elf = later("planish.runtime.elf")
profiling = later("planish.runtime.profile")
recording = later("planish.runtime.recording")


class Program:
    """Native code for a plan. Calls from several threads wait for each other.

    `memory` is the memory plan, `image` what runs: the object files and what they want. Where the
    image came from a cache, the `plan` is made again when something asks for it.
    """

    def __init__(
        self, plan: Plan, target: str | Target | None = None, threads: int | None = None
    ) -> None:
        self._begin(build.build(plan, Target.parse(target)), plan.params, lambda: plan, threads)

    @classmethod
    def of(
        cls, image: Image, params: Sequence[np.ndarray], plan: Callable[[], Plan],
        threads: int | None = None, library: Any = None,
    ) -> Self:  # fmt: skip
        """A program that was built before, with its params; `plan` makes its plan again.

        `library` is its code where that is in memory already, with the functions of a pool.
        """
        self = cls.__new__(cls)
        self._begin(image, params, plan, threads)
        self._library = self.pool = library
        return self

    def _begin(
        self, image: Image, params: Sequence[np.ndarray], plan: Callable[[], Plan],
        threads: int | None,
    ) -> None:  # fmt: skip
        self.image, self.params = image, tuple(params)
        self.target, self.dims = image.target, image.dims
        self.threads = thread_count(threads)
        self.memory = plan_memory(image)
        self._planned = plan
        self._lock = ProcessLock()
        self._pace: dict[tuple[int, ...], float] = {}  # sizes -> seconds of a run, of the last call
        self._space: _Space | None = None
        self._library: Any = None
        self.pool: Any = None  # the library that has the functions of a pool, where one is known
        self._entry: tuple[int, Callable[[int, int, int], None]] | None = None
        self._weights = [address(x) for x in self.params]

    @property
    def plan(self) -> Plan:
        """The kernels in order, and what each reads and writes."""
        plan = self._planned()
        self._planned = lambda: plan
        return plan

    def __call__(
        self, *arrays: object, out: Sequence[object] | None = None
    ) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run once; donated arguments are updated in place, and results go to `out` if given."""
        return self.bind(*arrays, out=out).run()

    def bind(self, *arrays: object, out: Sequence[object] | None = None) -> Bound:
        """Check arguments and prepare a call that can be run many times."""
        arguments = bind_arguments(self.image, arrays)
        return Bound(self, arguments, *output_arrays(self.image, arguments, out))

    def wake(self) -> None:
        """Let threads that sleep wake up: a program is about to run."""
        if self.threads > 1:
            POOLS.get(self.threads, self.pool).wake()

    def space(self, binding: dict[str, int]) -> _Space:
        """Memory for temporaries and scratch, large enough for `binding`; grows when needed."""
        memory = self.memory if self.memory.fixed else plan_memory(self.image, binding)
        scratch = max((scratch_bytes(x, binding) for x in self.image.scratch), default=0)
        scratch += self.image.private
        space = self._space
        if space is None or space.arena.nbytes < memory.arena or space.stride < scratch:
            old = (space.arena.nbytes, space.stride) if space else (0, 0)
            arena, scratch = max(memory.arena, old[0]), max(scratch, old[1])
            sizes = [f"for {name}={size}" for name, size in binding.items()]
            need_memory(arena + scratch * self.threads, "the memory of", self.image.name, *sizes)
            space = _Space(arena, scratch, self.threads)
            self._space = space
        return space

    def entry(self) -> tuple[int, Callable[[int, int, int], None]]:
        """The main function: its address, and as something to call."""
        if self._entry is None:
            if self._library is None:
                self.target.require_host()
                self._library = elf.loaded(self.image.code, self.target)
            at = self._library.address("planish_main")
            self._entry = at, _MAIN(at)
        return self._entry

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernel of each step."""
        return tuple(step.kernel for step in self.plan.steps)

    @property
    def llvm_ir(self) -> str:
        """The modules after LLVM's passes."""
        return build.ir(self.plan, self.target)

    @property
    def assembly(self) -> str:
        """The modules as assembly."""
        return build.assembly(self.plan, self.target)

    def explain(self) -> str:
        """A table of the steps: label, kernel, what it writes, bytes it touches."""
        return build.explain(self.plan, self.target, self.threads)

    def profile(self, *arrays: object, repeat: int = 10, roof: Roof | None = None) -> Profile:
        """The time of each step, FLOPs, bytes, and their share of what `roof` allows.

        Donated arguments are updated `repeat` + 4 times.
        """
        return self.bind(*arrays).profile(repeat, roof)


class _Space:
    """What a program needs besides its arguments; one run at a time uses it."""

    def __init__(self, arena: int, scratch: int, threads: int) -> None:
        self.stride = scratch
        self.arena = aligned(arena)
        self.scratch = aligned(scratch * threads)
        self.barrier = aligned(threads * ALIGN)
        self.status = (ctypes.c_int64 * 4)()
        self.process = os.getpid()

    def recover(self) -> None:
        """In a forked child: forget where the parent's threads were when it forked."""
        self.barrier.fill(0)
        ctypes.memset(self.status, 0, ctypes.sizeof(self.status))
        self.process = os.getpid()


class Bound:
    """A program with its arguments: `run` is one native call. `outputs` are the results."""

    def __init__(
        self, program: Program, arguments: Arguments, outputs: list[np.ndarray], places: list[int]
    ) -> None:
        self.program = program
        self.arguments = arguments
        self.outputs = tuple(outputs)
        with program._lock:
            self._main, self._alone = program.entry()
            self._space = program.space(arguments.binding)
        self._table = self._pointers(places)
        self._dims = np.array([arguments.binding[d] for d in program.dims] or [0], np.int64)
        space = self._space
        self._call = (ctypes.c_int64 * 8)(
            address(self._table), address(self._dims), 1, address(space.scratch), space.stride,
            ctypes.addressof(space.status), address(space.barrier), 0,
        )  # fmt: skip
        self._address = ctypes.addressof(self._call)
        self._key = tuple(self._dims.tolist())

    def _pointers(self, places: list[int]) -> np.ndarray:
        program = self.program
        arena = address(self._space.arena)
        memory = program.memory
        if not memory.fixed:
            memory = plan_memory(program.image, self.arguments.binding)
        temps = [arena + life.offset for life in memory.lives]
        table = [*self.arguments.addresses, *places, *program._weights, *temps]
        return np.array(table or [0], np.uint64)

    def resize(self, **sizes: int) -> None:
        """Run with other symbolic sizes from now on, none larger than those of the arguments.

        What has such a size along its first axis, beside ones, then counts as if it ended there;
        arrays stay where they are, and `outputs` keep their shapes. ShapeError for other sizes.
        """
        for name, size in sizes.items():
            most = self.arguments.binding[name]
            if not 1 <= size <= most:
                raise ShapeError(f"{name} is {size}, the arguments have room for 1 to {most}")
            self._dims[self.program.dims.index(name)] = size
        self._key = tuple(self._dims.tolist())

    def run(self, repeat: int = 1) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run `repeat` times; TokenError where an index was outside its table.

        Many runs are one native call, as long as that does not keep Ctrl-C waiting.
        """
        self._run(repeat)
        return self.outputs[0] if len(self.outputs) == 1 else self.outputs

    def within(self, seconds: float) -> int:
        """How many runs take so long, at least 1: by the last call with these sizes, if any."""
        pace = self.program._pace.get(self._key)
        return max(1, int(seconds / pace)) if pace else 1

    def _run(self, repeat: int) -> None:
        _check_repeat(repeat)
        with self.program._lock:
            while repeat > 0:
                chunk = min(repeat, self.within(NATIVE_SECONDS))
                start = time.perf_counter()
                self._native(chunk)
                repeat -= chunk
                spent = max(time.perf_counter() - start, 1e-7)
                self.program._pace[self._key] = spent / chunk

    def _native(self, repeat: int) -> None:
        self._call[2] = repeat
        if self._space.process != os.getpid():
            self._space.recover()
        if self.program.threads == 1:
            self._alone(self._address, 0, 1)
        else:
            POOLS.get(self.program.threads, self.program.pool).run(self._main, self._address)
        if self._space.status[0]:
            self._fail()

    def _fail(self) -> None:
        _, site, index, bound = self._space.status
        ctypes.memset(self._space.status, 0, ctypes.sizeof(self._space.status))
        image = self.program.image
        raise TokenError(token_message(image, site, index, bound, self.arguments.arrays))

    def times(self, repeat: int = 10, before: Callable[[], object] | None = None) -> np.ndarray:
        """Seconds of each step in each of `repeat` runs, after one run to warm up.

        `before` is called before each run, to set donated arguments back.
        """
        _check_repeat(repeat)
        steps = len(self.program.plan.steps)
        ticks = np.zeros((repeat + 1, steps + 1), np.int64)
        seconds = self._counted(list(ticks), before)
        passed = int(ticks[-1, 0] - ticks[0, 0])  # when the last step of a run ended
        return ticks[1:, 1:] * self._tick(passed, seconds)

    def recorded(self, before: Callable[[], object] | None = None) -> tuple[Span, ...]:
        """When each thread did each step in a run, after one to warm up and one to wake up."""
        steps, threads = len(self.program.plan.steps), self.program.threads
        runs = [recording.blank(steps, threads) for _ in range(3)]
        seconds = self._counted(runs, before)
        ends = [int(x[2 + steps]) for x in runs]  # of the last step, on the first thread
        tick = self._tick(ends[-1] - ends[0], seconds)
        return recording.spans(runs[-1], steps, threads, tick)

    def _counted(self, runs: list[np.ndarray], before: Callable[[], object] | None) -> float:
        """Run once for each array, which notes the time; seconds between the ends of the first
        and the last run."""
        clocks = []
        try:
            for row in runs:
                if before is not None:
                    before()
                self._call[7] = address(row)
                self._run(1)
                clocks.append(time.perf_counter())
                if len(clocks) == 1:
                    time.sleep(COUNTING)
        finally:
            self._call[7] = 0
        return clocks[-1] - clocks[0]

    def _tick(self, passed: int, seconds: float) -> float:
        """Seconds of a count of the clock that has counted so far."""
        if self.program.plan.steps and passed <= 0:
            raise TargetError(f"{self.program.target.arch} has no counter to profile with")
        return seconds / max(1, passed)

    def work(self) -> list[Work]:
        """What each step does, with the arguments as they are now."""
        program, binding = self.program, self.arguments.binding
        memory = program.memory if program.memory.fixed else plan_memory(program.plan, binding)
        return profiling.plan_work(program.plan, memory, self.arguments.arrays, binding)

    def profile(
        self, repeat: int = 10, roof: Roof | None = None,
        before: Callable[[], object] | None = None,
    ) -> Profile:  # fmt: skip
        """The time of each step, the median of `repeat` runs, and what it does in that time.

        One more run is recorded, see `recorded`.
        """
        if before is not None:
            before()
        program, work = self.program, self.work()
        seconds = np.median(self.times(repeat, before), axis=0)
        spans = self.recorded(before)
        return profiling.profile(program.plan, work, seconds, roof, program.threads, spans)


def _check_repeat(repeat: int) -> None:
    if not isinstance(repeat, int) or repeat < 1:
        raise DataError(f"repeat must be a whole number of at least 1, got {repeat!r}")


# Seconds in which the processor's counter is compared with the clock
COUNTING = 0.01

# A signal is seen between native calls.
NATIVE_SECONDS = 0.05

_MAIN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
