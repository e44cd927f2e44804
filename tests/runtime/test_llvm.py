"""What LLVM objects need: an order in which they end, and words where LLVM refuses a module."""

from __future__ import annotations

import gc

import pytest

from planish.ir.errors import CompileError
from planish.runtime.llvm import Library, compile_text
from planish.runtime.target import Target

TEXT = "define i64 @planish_f(i64 %x) {\n  ret i64 %x\n}\n"


def test_code_in_a_cycle_is_collected() -> None:
    host = Target.host()
    code = compile_text(TEXT, host)
    for _ in range(5):
        cycle: list[object] = [Library(code, host)]
        cycle.append(cycle)
        del cycle
    assert gc.collect() > 0


@pytest.mark.parametrize("text", ["define", TEXT.replace("ret i64 %x", "ret i64 %y")])
def test_a_module_that_llvm_refuses_is_kept_in_a_file(text: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(CompileError, match="a fault of planish") as caught:
        compile_text(text, Target.host())
    (kept,) = tmp_path.glob("*.ll")
    assert str(kept) in str(caught.value) and text in kept.read_text()
