"""The loader of object files: against LLVM's own, and against damage."""

from __future__ import annotations

import ctypes
import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.errors import ArtifactError, CompileError
from planish.runtime.elf import Code, loaded
from planish.runtime.llvm import Library, compile_text, compile_texts
from planish.runtime.target import Target

pytestmark = pytest.mark.skipif(
    Target.host().arch != "x86_64" or "linux" not in Target.host().triple,
    reason="the loader is for x86-64 on Linux",
)

# A constant that LLVM puts beside the code, a call to another module, one to the C library
FIRST = """declare double @planish_g(double)
declare i32 @abs(i32)
define double @planish_f(double %x, i32 %n) {
  %y = call double @planish_g(double %x)
  %m = call i32 @abs(i32 %n)
  %z = sitofp i32 %m to double
  %w = fadd double %y, %z
  %v = fmul double %w, 0x400921FB54442D18
  ret double %v }"""
SECOND = """define double @planish_g(double %x) {
  %y = fadd double %x, 0x3FB999999999999A
  ret double %y }"""


@pytest.fixture(scope="module")
def objects() -> tuple[bytes, ...]:
    return compile_texts([FIRST, SECOND], Target.host())


def called(code: Code | Library) -> float:
    kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_int32)
    return kind(code.address("planish_f"))(1.5, -7)


def test_code_means_what_it_means_to_llvm(objects: tuple[bytes, ...]) -> None:
    ours = loaded(objects, Target.host())
    assert isinstance(ours, Code)
    assert called(ours) == called(Library(objects, Target.host())) == 3.141592653589793 * 8.6


def test_the_order_of_objects_does_not_matter(objects: tuple[bytes, ...]) -> None:
    assert called(Code(objects[::-1])) == called(Code(objects))


def test_code_lives_as_long_as_its_object(objects: tuple[bytes, ...]) -> None:
    many = [Code(objects) for _ in range(50)]
    places = {code.address("planish_f") for code in many}
    assert len(places) == 50
    last = many.pop()
    del many
    gc.collect()
    assert called(last) == 3.141592653589793 * 8.6


def test_what_nobody_defines_is_named(objects: tuple[bytes, ...]) -> None:
    with pytest.raises(CompileError, match="code needs planish_g, which this process lacks"):
        Code(objects[:1])
    with pytest.raises(CompileError, match="code has no planish_h"):
        Code(objects).address("planish_h")
    with pytest.raises(ArtifactError, match="defines planish_g twice"):
        Code([*objects, objects[1]])


def test_other_processors_and_formats_are_refused() -> None:
    arm = compile_text("define void @planish_f() { ret void }", Target.parse("aarch64"))
    for data in (arm, b"", b"\x7fELF", b"MZ" + bytes(500), bytes(64)):
        with pytest.raises(ArtifactError, match="damaged machine code"):
            Code([data])


@settings(max_examples=300)
@given(st.data())
def test_damage_is_refused_or_does_nothing(objects: tuple[bytes, ...], data: st.DataObject) -> None:
    """The contents of sections are a checksum's business, all else is checked: never a crash."""
    damaged = bytearray(objects[0])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for candidate in (bytes(damaged), bytes(damaged[:cut])):
        try:
            Code([candidate, objects[1]])
        except (ArtifactError, CompileError, MemoryError):
            continue
