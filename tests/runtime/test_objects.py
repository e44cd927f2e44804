"""Objects for artifacts: code under other names still runs, and is hidden from others."""

from __future__ import annotations

import ctypes

import pytest

from planish.ir.errors import ArtifactError
from planish.runtime import objects
from planish.runtime.elf import SYMTAB, UNDEFINED, loaded
from planish.runtime.llvm import compile_text
from planish.runtime.target import Target

FIRST = """declare i64 @k0_twice(i64)
define i64 @planish_main(i64 %x) {
  %y = call i64 @k0_twice(i64 %x)
  %z = add i64 %y, 1
  ret i64 %z }"""
SECOND = """define i64 @k0_twice(i64 %x) {
  %y = shl i64 %x, 1
  ret i64 %y }"""
NEW = {"planish_main": "a_much_longer_main", "k0_twice": "a_k0_twice"}


def objects_of(*texts: str) -> list[bytes]:
    return [compile_text(text, Target.host()) for text in texts]


def test_renamed_objects_call_each_other_by_their_new_names() -> None:
    codes = [objects.renamed(x, NEW, {"a_much_longer_main"}) for x in objects_of(FIRST, SECOND)]
    both = loaded([*codes, *objects_of(FIRST, SECOND)], Target.host())
    for name in ("a_much_longer_main", "planish_main"):
        assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(both.address(name))(20) == 41


def test_only_what_is_shown_is_seen_outside() -> None:
    seen = {}
    for code in objects_of(FIRST, SECOND):
        new = objects.renamed(code, NEW, {"a_much_longer_main"})
        for _, name, (_, _, other, section, _, _) in objects._Tables(memoryview(new)).symbols(
            SYMTAB
        ):
            if section != UNDEFINED:
                seen[name] = other
    assert seen == {"a_much_longer_main": 0, "a_k0_twice": objects.HIDDEN}


def test_names_that_an_object_defines() -> None:
    assert objects.defined(objects_of(FIRST)[0]) == ["planish_main"]


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "riscv64"])
def test_data_is_found_again(arch: str) -> None:
    before, after = objects.data_object(arch, "mine_artifact", 5, 64)
    whole = memoryview(before + b"hello" + after)
    at, size = objects.found(whole, "_artifact")
    assert bytes(whole[at : at + size]) == b"hello" and at % 64 == 0
    with pytest.raises(ArtifactError, match="not a program of planish"):
        objects.found(whole, "other")
