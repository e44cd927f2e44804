"""Programs: arguments checked, results right, state updated in place, errors with all names."""

from __future__ import annotations

import re
import signal
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.errors import CompileError, DataError, DTypeError, ShapeError, TokenError
from planish.ir.loops import For, Kernel, Store
from planish.runtime import llvm
from planish.runtime.build import modules_of
from planish.runtime.codegen import sync
from planish.runtime.codegen.steps import Modules
from planish.runtime.elf import loaded
from planish.runtime.interpret import run_plan
from planish.runtime.plan import Plan, Step
from planish.runtime.program import Program
from planish.runtime.slots import Limit
from planish.runtime.target import Target
from tests.ir.nests import I, J, n
from tests.runtime.plans import B, chain, counter, elementwise, embedding, slot, view

RNG = np.random.default_rng(0)


def rand(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def add() -> Program:
    return Program(chain(2), threads=1)


@pytest.fixture(scope="module")
def count() -> Program:
    return Program(counter(), threads=1)


@pytest.fixture(scope="module")
def table() -> Program:
    return Program(embedding(), threads=1)


def test_one_program_serves_every_size(add: Program) -> None:
    for rows in (1, 7, 64):
        x = rand(rows, 40)
        np.testing.assert_allclose(add(x), x + 1 + 1)
        np.testing.assert_array_equal(add(x), run_plan(add.plan, x)[0])


def test_a_size_without_maximum_grows_the_arena() -> None:
    program = Program(chain(3, rows=Dim("N")), threads=1)
    bound = program.bind(rand(3, 40))
    for rows in (3, 500, 20):
        x = rand(rows, 40)
        np.testing.assert_array_equal(program(x), x + 1 + 1 + 1)
    np.testing.assert_array_equal(bound.run(), bound.arguments.arrays[0] + 1 + 1 + 1)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((), ShapeError, r"chain takes 1 arguments \(x: f32\[B, 40\]\), got 0"),
        ((None,), DTypeError, r"argument 0 \(x\): expected an array f32\[B, 40\], got NoneType"),
        (([[1.0]],), DTypeError, "got list"),
        (("text",), DTypeError, "got str"),
        ((np.zeros((2, 40)),), DTypeError, r"expected f32, got float64; .*x.astype\('float32'\)"),
        ((np.zeros((2, 40), bool),), DTypeError, "expected f32, got bool"),
        ((np.zeros(40, np.float32),), ShapeError, r"got float32\[40\]: rank 2 is not 1"),
        ((np.zeros((2, 41), np.float32),), ShapeError, "expected size 40, got 41"),
        ((np.zeros((65, 40), np.float32),), ShapeError, "B is 65, its maximum is 64"),
        ((np.ma.masked_array(np.zeros((2, 40), np.float32)),), DTypeError, "masked"),
    ],
)
def test_wrong_arguments(add: Program, given: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        add(*given)


def test_sizes_must_agree_between_arguments(count: Program) -> None:
    with pytest.raises(ShapeError, match="B is 2 in one argument"):
        count(rand(2, 40), rand(3, 40))


def test_compound_sizes_are_solved_and_checked() -> None:
    x, y = slot("input", 0, "x", 2 * B + 1, 4), slot("output", 0, "y", B, 4)
    kernel = elementwise(lambda v: v, y, out=y).kernel
    copy = replace(elementwise(lambda v: v, y, out=y), kernel=kernel, args=(x, y))
    program = Program(Plan("half", (x,), (y,), (), (), (copy,)), threads=1)
    assert program(rand(7, 4)).shape == (3, 4)
    with pytest.raises(ShapeError, match="'B' is unknown"):
        program(rand(6, 4))


def test_limits_say_their_reason() -> None:
    plan = replace(chain(1), limits=(Limit(B, 8, "the context of the model"),))
    with pytest.raises(ShapeError, match="B is 9, at most 8: the context of the model"):
        Program(plan, threads=1)(rand(9, 40))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[::-1], lambda x: np.asfortranarray(x), lambda x: x.astype(">f4"),
        lambda x: np.broadcast_to(x[:1], x.shape), lambda x: x.copy(order="F")[:, ::-1],
    ],
)  # fmt: skip
def test_any_layout_is_right(add: Program, change: object) -> None:
    x = change(rand(5, 40))  # type: ignore[operator]
    np.testing.assert_allclose(add(x), np.asarray(x, np.float32) + 1 + 1)


def test_unaligned_and_read_only_arrays_are_right(add: Program) -> None:
    raw = np.zeros(5 * 40 * 4 + 1, np.uint8)
    x = raw[1:].view(np.float32).reshape(5, 40)
    x.flags.writeable = False
    assert (add(x) == 2).all()


def test_numbers_are_scalars() -> None:
    x, y = slot("input", 0, "x", 1, 1), slot("output", 0, "y", 1, 1)
    step = elementwise(lambda v: v * 2.0, x, out=y)
    scalar = replace(x, type=x.type.with_shape(()))
    program = Program(
        Plan("f", (scalar,), (y,), (), (), (replace(step, args=(scalar, y)),)), threads=1
    )
    assert program(1.5) == 3 and program(2) == 4 and program(np.float32(3)) == 6
    with pytest.raises(DTypeError, match="got bool"):
        program(True)


class Elsewhere:
    """An array of another library, on a device."""

    device = "cuda:0"

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self) -> object:
        raise BufferError("on a device")


class Wrapped:
    """An array of another library, in main memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.array


def test_arrays_of_other_libraries(add: Program) -> None:
    assert (add(Wrapped(np.zeros((2, 40), np.float32))) == 2).all()
    with pytest.raises(
        DTypeError, match=r"expected f32\[B, 40\] in main memory, got an array on cuda:0"
    ):
        add(Elsewhere())


class Exported:
    """An array of another library that speaks DLPack only."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__(**options)  # type: ignore[call-overload]


def test_arrays_by_dlpack(add: Program) -> None:
    assert (add(Exported(np.zeros((2, 40), np.float32))) == 2).all()


def test_long_repeats_let_signals_through(count: Program) -> None:
    state, x = np.zeros((64, 40), np.float32), np.ones((64, 40), np.float32)
    bound = count.bind(state, x)
    old = signal.signal(signal.SIGALRM, lambda *_: bool(1 / 0))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(ZeroDivisionError):
            bound.run(repeat=10**9)
    finally:
        signal.signal(signal.SIGALRM, old)
    reached = float(state[0, 0])
    assert reached > 0
    bound.run()
    assert (state == reached + 1).all()


def test_results_can_go_to_given_arrays(add: Program) -> None:
    x, out = rand(3, 40), np.zeros((3, 40), np.float32)
    assert add(x, out=[out]) is out
    np.testing.assert_allclose(out, x + 1 + 1)


def test_wrong_places_for_results(add: Program) -> None:
    x, memory = rand(3, 40), np.zeros((5, 40), np.float32)
    with pytest.raises(ShapeError, match="has 1 outputs, out has 0"):
        add(x, out=[])
    with pytest.raises(ShapeError, match=r"out\[0\] \(y\): expected f32\[B, 40\], here \[3, 40\]"):
        add(x, out=[memory])
    with pytest.raises(DTypeError, match="expected f32, got float64"):
        add(x, out=[np.zeros((3, 40))])
    with pytest.raises(DataError, match="must be writable and contiguous"):
        add(x, out=[np.zeros((3, 80), np.float32)[:, ::2]])
    with pytest.raises(ValueError, match="out 0 overlaps argument 0, and one is written"):
        add(memory[:3], out=[memory[2:]])


def test_state_is_updated_in_place(count: Program) -> None:
    state, x = rand(3, 40), rand(3, 40)
    old = state.copy()
    new, twice = count(state, x)
    assert new is state
    np.testing.assert_array_equal(state, old + x)
    np.testing.assert_array_equal(twice, 2 * (old + x))


def test_state_that_cannot_be_updated_is_refused(count: Program) -> None:
    x = rand(3, 40)
    fixed = rand(3, 40)
    fixed.flags.writeable = False
    for state in (fixed, rand(3, 80)[:, ::2], rand(3, 40).astype(">f4")):
        with pytest.raises(DataError, match=r"argument 0 \(state\) is updated in place"):
            count(state, x)
    with pytest.raises(DataError, match="overlaps"):
        count(x, x)


def test_the_interpreter_leaves_state_alone(count: Program) -> None:
    state, x = rand(3, 40), rand(3, 40)
    old = state.copy()
    new, _ = run_plan(count.plan, state, x)
    np.testing.assert_array_equal(state, old)
    np.testing.assert_array_equal(new, old + x)


@pytest.mark.parametrize("bad", [50, 2**31 - 1, -1, -(2**31)])
def test_token_out_of_range(table: Program, bad: int) -> None:
    tokens = np.array([1, 2, bad, 3], np.int32)
    message = rf"token id: index {bad} at position 2 of tokens is outside 0 <= index < 50"
    for run in (table, lambda *xs: run_plan(table.plan, *xs)):
        with pytest.raises(TokenError, match=message):
            run(tokens)
    with pytest.raises(IndexError):
        table(tokens)
    np.testing.assert_array_equal(table(tokens[:2]), table.plan.params[0][[1, 2]])


@pytest.mark.parametrize("dtype", [np.float32, bool, np.int64, np.uint32])
def test_tokens_of_another_dtype_are_refused(table: Program, dtype: type) -> None:
    with pytest.raises(TypeError, match="expected i32, got"):
        table(np.zeros(3, dtype))


@pytest.mark.parametrize("wrong", [0, -1, 1.5])
def test_repeat_must_be_a_count(add: Program, wrong: object) -> None:
    with pytest.raises(ValueError, match="repeat must be"):
        add.bind(rand(2, 40)).run(wrong)  # type: ignore[arg-type]


def modules(program: Program) -> Modules:
    return modules_of(program.plan, program.target)


def test_equal_kernels_are_compiled_once() -> None:
    program = Program(chain(6), threads=1)
    assert len(program.kernels) == 6 and len(set(modules(program).symbols)) == 1


def test_pointers_are_read_once() -> None:
    """Before the first step, however many read or write a slot, and however often they run."""
    before, steps = modules(Program(chain(6), threads=1)).main().split("again:")
    assert before.count("load ptr, ptr %r") == 7 and "load ptr" not in steps


def test_kernels_that_differ_in_names_are_one_function() -> None:
    x, y = slot("input", 0, "x", 64, 40), slot("output", 0, "y", 64, 40)
    between = slot("temp", 0, "t", 64, 40)
    rows, out = view("rows", between), view("sums", y)
    inner = For(J, n(40), "vector", (Store(out, (I, J), rows[I, J] + 1.0),), 16)
    kernel = Kernel("g", (rows, out), ("sums",), (), (For(I, n(64), "parallel", (inner,)),))
    steps = elementwise(lambda v: v + 1.0, x, out=between), Step(kernel, (between, y), "g")
    program = Program(Plan("names", (x,), (y,), (between,), (), steps), threads=2)
    first, second = modules(program).symbols
    assert first == second and re.fullmatch(r"k\d+_f", first)
    given = rand(64, 40)
    assert np.array_equal(program(given), given + np.float32(1) + np.float32(1))


def test_barriers_stand_where_steps_depend() -> None:
    rows = [slot("temp" if k else "input", max(0, k - 1), f"t{k}", 64, 4096) for k in range(3)]
    last = slot("output", 0, "y", 64, 4096)
    steps = tuple(elementwise(lambda v: v + 1.0, a, out=b) for a, b in pairwise([*rows, last]))
    same = Program(Plan("same", (rows[0],), (last,), tuple(rows[1:]), (), steps), threads=2)
    assert modules(same).schedule.meets == (False, False, False)  # each thread reads what it wrote
    wide = (slot("temp", 0, "t1", 64, 4096), slot("temp", 0, "t1", 128, 2048))
    ends = (slot("input", 0, "x", 64, 4096), slot("output", 0, "y", 128, 2048))
    steps = (
        elementwise(lambda v: v + 1.0, ends[0], out=wide[0]),
        elementwise(lambda v: v + 1.0, wide[1], out=ends[1]),
    )
    other = Program(Plan("other", ends[:1], ends[1:], wide[:1], (), steps), threads=2)
    # rows of another number are shared out otherwise
    assert modules(other).schedule.meets == (False, True)
    x, ys = (
        slot("input", 0, "x", 64, 4096),
        [slot("output", k, f"y{k}", 64, 4096) for k in range(3)],
    )
    steps = tuple(elementwise(lambda v: v + 1.0, x, out=y) for y in ys)
    apart = Program(Plan("apart", (x,), tuple(ys), (), (), steps), threads=2)
    assert modules(apart).schedule.meets == (False, False, False)
    serial = Program(chain(3, rows=64, columns=4096, kind="serial"), threads=2)
    assert modules(serial).schedule.meets == (False, False, False)
    assert (serial(np.zeros((64, 4096), np.float32)) == 3).all()


def test_reports() -> None:
    program = Program(chain(3, columns=4096), threads=2)
    lines = program.explain().splitlines()
    assert lines[0] == "chain: 3 steps, 1 kernels, 2 threads"
    assert lines[1].split() == ["step", "label", "kernel", "writes", "bytes", "runs", "meet"]
    assert "add0" in lines[2] and "f32[B, 4096]" in lines[2]
    profile = program.profile(rand(64, 4096), repeat=3)
    assert [row.label for row in profile.rows] == ["add0", "add1", "add2"]
    assert all(row.flops == 64 * 4096 and row.of_roof is None for row in profile.rows)
    assert "add1" in str(profile) and "us a run" in str(profile)
    assert "arena" in str(program.memory)
    assert "define" in program.llvm_ir and "planish_main" in program.assembly


def test_a_fault_of_the_compiler_leaves_the_module_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(CompileError, match=r"a fault of planish: (?s:.)*The module is in .*\.ll"):
        llvm.compile_text("define void @f() { nonsense }", Target.host())
    (file,) = tmp_path.iterdir()
    assert "nonsense" in file.read_text()


def test_code_that_calls_unknown_functions_is_not_loaded() -> None:
    text = """declare void @no_such_function()
        define void @planish_f() { call void @no_such_function()
        ret void }"""
    code = llvm.compile_text(text, Target.host())
    with pytest.raises(CompileError, match="code needs no_such_function"):
        loaded([code], Target.host())


@pytest.mark.parametrize(
    "triple", ["aarch64-apple-darwin", "aarch64-unknown-linux-gnu", "riscv64-unknown-linux-gnu"]
)
def test_waiting_compiles_for_other_machines(triple: str) -> None:
    target = Target("other", triple, "", frozenset())
    assert llvm.compile_text(sync.pool_text(target), target)


@pytest.mark.parametrize("name", ["aarch64", "neoverse-n1", "znver4", "x86-64", "x86-64-v2"])
def test_programs_compile_for_other_machines(name: str) -> None:
    assert Program(embedding(), target=name).image.code


def test_memory_that_cannot_be_had_is_a_memory_error() -> None:
    program = Program(chain(3, rows=1 << 40), threads=1)
    with pytest.raises(MemoryError):
        program.space({})


def test_names_with_quotes_and_newlines_are_escaped() -> None:
    plan = chain(1)
    name = 'a "quoted"\n%name\0'
    step = replace(plan.steps[0], kernel=replace(plan.steps[0].kernel, name=name))
    program = Program(replace(plan, name=name, steps=(step,)), threads=1)
    assert (program(np.zeros((2, 40), np.float32)) == 1).all()


def test_bool_and_half_outputs() -> None:
    x, y = slot("input", 0, "x", B, 20), slot("output", 0, "y", B, 20, dtype=t.boolean)
    program = Program(
        Plan("f", (x,), (y,), (), (), (elementwise(lambda v: v > 0.0, x, out=y),)), threads=1
    )
    array = rand(3, 20)
    np.testing.assert_array_equal(program(array), array > 0)
