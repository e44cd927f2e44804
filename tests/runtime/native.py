"""Run one kernel natively and on the loop interpreter, and compare what they leave in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Mapping

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import TargetError
from planish.ir.graph import Graph
from planish.ir.loop_eval import run_kernel
from planish.ir.loop_verify import DOTS
from planish.ir.loops import Kernel, Scalar, walk
from planish.runtime import llvm
from planish.runtime.codegen.kernel import kernel_function
from planish.runtime.codegen.sync import FAIL
from planish.runtime.codegen.turn import TURN, turn_module
from planish.runtime.elf import loaded
from planish.runtime.lower import lower
from planish.runtime.memory import aligned
from planish.runtime.plan import Plan
from planish.runtime.target import Target

SCRATCH = 1 << 20
VECTORS = ("amx", "avx", "bmi", "f16c", "fma", "gfni", "sse4.", "ssse")


def targets(kernel: Kernel) -> list[Target]:
    """This machine, and the older ones that it can be and that know the kernel's dtypes."""
    found = [Target.host()]
    older = ["x86-64-v3", "x86-64-v2"]
    dots = {x.op for x in walk(kernel.body) if isinstance(x, Scalar) and x.op in DOTS}
    if dots:
        older += ["znver4", "x86-64-v4"]  # as one instruction, and as others of 512 bits
    if any(b.dtype == t.f16 for b in kernel.params):
        older.remove("x86-64-v2")
    for target in map(Target.parse, older):
        try:
            target.require_host()
        except TargetError:
            continue
        if vectors(target) not in map(vectors, found):  # else it is this machine by another name
            found.append(target)
    return found


def here(name: str) -> Target:
    """A processor whose code runs here; the test is skipped where it does not."""
    target = Target.parse(name)
    try:
        target.require_host()
    except TargetError:
        pytest.skip(f"no {name}")
    return target


def vectors(target: Target) -> frozenset[str]:
    """The features that vector code is made of; those of cryptography, say, are left out."""
    return frozenset(x for x in target.features if x.startswith(VECTORS))


def code_of(plan: Plan, target: Target) -> Hashable:
    """What code is made of: the kernels of a plan, and the instructions there are for them."""
    return tuple(step.kernel for step in plan.steps), vectors(target)


def need_other_code(graph: Graph, target: Target) -> None:
    """Skip a test of a target that is this machine by another name, of which there is a test."""
    wanted, ours = (code_of(lower(graph, x), x) for x in (target, Target.host()))
    if target != Target.host() and wanted == ours:
        pytest.skip(f"{target} has the kernels and vectors of this machine")


def module_text(kernel: Kernel, target: Target) -> str:
    """The kernel as a module with one exported function."""
    declarations: dict[str, str] = {}
    function = kernel_function(kernel, kernel.dims, "k0_test", target, declarations)
    names = [f"ptr %p{i}" for i in range(len(kernel.params))]
    names += [f"i64 %d{i}" for i in range(len(kernel.dims))]
    given = ", ".join([*names, "i64 %thread", "i64 %threads", "ptr %scratch", "ptr %status"])
    entry = f"define void @planish_entry({given}) {{\n  call void @k0_test({given})\n  ret void\n}}"
    texts = [turn_module(x) if x.startswith(TURN) else y for x, y in declarations.items()]
    return "\n".join([function, entry, *texts, FAIL])


def assembly(kernel: Kernel, target: Target) -> list[str]:
    """The instructions of the kernel."""
    text = llvm.assembly_text(module_text(kernel, target), target).split("k0_test:")[1]
    lines = [line.strip() for line in text.split(".Lfunc_end")[0].splitlines()]
    return [line for line in lines if line and not line.startswith((".", "#"))]


def run_native(
    kernel: Kernel,
    arrays: list[np.ndarray],
    dims: Mapping[str, int],
    target: Target,
    threads: int = 1,
) -> tuple[int, ...]:
    """Run on each thread's share in turn; returns the status."""
    library = loaded([llvm.compile_text(module_text(kernel, target), target)], target)
    function = ctypes.CFUNCTYPE(None)(library.address("planish_entry"))
    scratch, status = aligned(SCRATCH), np.zeros(4, np.int64)
    for thread in range(threads):
        numbers = [dims[d] for d in kernel.dims] + [thread, threads]
        function(
            *[ctypes.c_void_p(a.ctypes.data) for a in arrays],
            *[ctypes.c_int64(x) for x in numbers],
            ctypes.c_void_p(scratch.ctypes.data),
            ctypes.c_void_p(status.ctypes.data),
        )
    return tuple(status.tolist())


def check(
    kernel: Kernel,
    *arrays: np.ndarray,
    dims: Mapping[str, int] | None = None,
    rtol: float = 1e-6,
    threads: int = 1,
) -> list[np.ndarray]:
    """Native code on every target leaves what the interpreter leaves; returns the interpreter's."""
    dims = dims or {}
    want = [a.copy() for a in arrays]
    status: list[tuple[int, int, int]] = []
    run_kernel(kernel, want, dims, status)
    for target in targets(kernel):
        got = [a.copy() for a in arrays]
        failed = run_native(kernel, got, dims, target, threads)
        for x, y in zip(got, want, strict=True):
            assert_close(x, y, rtol)
        assert failed[0] == bool(status)
        assert not status or failed[1:] in status
    return want


def assert_close(got: np.ndarray, want: np.ndarray, rtol: float) -> None:
    """Equal, or close if they are floats."""
    if want.dtype.kind in "iub":
        np.testing.assert_array_equal(got, want)
    else:
        pair = got.astype(np.float64), want.astype(np.float64)
        np.testing.assert_allclose(*pair, rtol=rtol, atol=rtol)
